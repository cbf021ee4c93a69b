//! One rank's weights, read from the checkpoint part by part and uploaded at once. Experts, which
//! are nearly all of them, are read by all cores while those before them are uploaded.

use std::sync::mpsc;

use checkpoint::{Checkpoint, CheckpointError, Matrix};
use rayon::prelude::*;

use crate::{Backend, DeviceError, HeadShape, rope};

/// Why a rank's weights could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint is at fault.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device is at fault.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

pub(crate) struct Weights<B: Backend> {
    pub(crate) embed: B::Matrix,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) norm: B::Vector,
    pub(crate) head: B::Matrix,
    pub(crate) rope_table: B::Vector,
}

pub(crate) struct Layer<B: Backend> {
    pub(crate) input_norm: B::Vector,
    /// Rows of q_a, then of kv_a: one product of the same input.
    pub(crate) qkv_a: B::Matrix,
    pub(crate) q_a_norm: B::Vector,
    pub(crate) q_b: B::Matrix,
    pub(crate) kv_a_norm: B::Vector,
    pub(crate) kv_b: B::LatentProjection,
    pub(crate) o: B::Matrix,
    pub(crate) post_norm: B::Vector,
    pub(crate) ffn: Ffn<B>,
}

pub(crate) struct Mlp<B: Backend> {
    pub(crate) gate_up: B::Matrix,
    pub(crate) down: B::Matrix,
}

pub(crate) enum Ffn<B: Backend> {
    Dense(Mlp<B>),
    Moe { router: B::Matrix, bias: B::Vector, shared: Shared<B>, experts: B::Experts },
}

/// A layer's shared experts, as one MLP.
pub(crate) enum Shared<B: Backend> {
    None,
    /// The rows of gate and up stand behind the router's: one product of the same input.
    Stacked {
        down: B::Matrix,
    },
    Apart(Mlp<B>),
}

/// Experts that are read together, from as many places of the files at once. Three such groups are
/// in memory: one being read, one waiting, one being uploaded.
const GROUP: usize = 16;

/// Where one rank's parts are read from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    /// Hears the bytes of every matrix read.
    pub(crate) progress: &'a (dyn Fn(usize) + Sync),
}

impl Source<'_> {
    fn matrix(&self, module: &str) -> Result<Matrix, LoadError> {
        let matrix = self.checkpoint.matrix(module, self.rank, self.ranks)?;
        (self.progress)(matrix.bytes());
        Ok(matrix)
    }

    /// The rows of two matrices of a module, one's after the other's.
    fn stacked(&self, module: &str, [first, second]: [&str; 2]) -> Result<Matrix, LoadError> {
        let mut matrix = self.matrix(&format!("{module}.{first}"))?;
        if matrix.stack(&self.matrix(&format!("{module}.{second}"))?) {
            return Ok(matrix);
        }
        let problem = format!("{first} and {second} are stored in different formats");
        let (path, tensor) = (self.checkpoint.dir().to_owned(), module.to_owned());
        Err(CheckpointError::Tensor { path, tensor, problem }.into())
    }

    /// `[gate | up]`, and down.
    fn expert(&self, module: &str) -> Result<(Matrix, Matrix), LoadError> {
        let gate_up = self.stacked(module, ["gate_proj", "up_proj"])?;
        Ok((gate_up, self.matrix(&format!("{module}.down_proj"))?))
    }
}

/// Hands one rank's parts to its backend.
pub(crate) struct Loader<'a, B: Backend> {
    pub(crate) backend: &'a mut B,
    pub(crate) source: Source<'a>,
}

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn weights(
        &mut self,
        heads: HeadShape,
        positions: usize,
    ) -> Result<Weights<B>, LoadError> {
        let layers = 0..self.source.checkpoint.config().num_hidden_layers;
        let table = rope::table(self.source.checkpoint.config(), positions);
        Ok(Weights {
            embed: self.matrix("model.embed_tokens")?,
            layers: layers.map(|i| self.layer(i, heads)).collect::<Result<_, _>>()?,
            norm: self.vector("model.norm.weight")?,
            head: self.matrix("lm_head")?,
            rope_table: self.backend.vector(table)?,
        })
    }

    fn layer(&mut self, layer: usize, heads: HeadShape) -> Result<Layer<B>, LoadError> {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let kv_b = self.source.matrix(&at("self_attn.kv_b_proj"))?;
        let qkv_a = self.source.stacked(&at("self_attn"), ["q_a_proj", "kv_a_proj_with_mqa"])?;
        Ok(Layer {
            input_norm: self.vector(&at("input_layernorm.weight"))?,
            qkv_a: self.backend.matrix(qkv_a)?,
            q_a_norm: self.vector(&at("self_attn.q_a_layernorm.weight"))?,
            q_b: self.matrix(&at("self_attn.q_b_proj"))?,
            kv_a_norm: self.vector(&at("self_attn.kv_a_layernorm.weight"))?,
            kv_b: self.backend.latent_projection(kv_b, heads)?,
            o: self.matrix(&at("self_attn.o_proj"))?,
            post_norm: self.vector(&at("post_attention_layernorm.weight"))?,
            ffn: self.ffn(layer)?,
        })
    }

    fn ffn(&mut self, layer: usize) -> Result<Ffn<B>, LoadError> {
        let at = |name: &str| format!("model.layers.{layer}.mlp{name}");
        let config = self.source.checkpoint.config();
        if !config.is_moe(layer) {
            return Ok(Ffn::Dense(self.mlp(&at(""))?));
        }
        let experts = self.experts(config.n_routed_experts, &at(".experts"))?;
        let mut router = self.source.matrix(&at(".gate"))?;
        let shared = match config.n_shared_experts {
            0 => Shared::None,
            _ => {
                let (gate_up, down) = self.source.expert(&at(".shared_experts"))?;
                let down = self.backend.matrix(down)?;
                match stack_behind(&mut router, &gate_up) {
                    true => Shared::Stacked { down },
                    false => Shared::Apart(Mlp { gate_up: self.backend.matrix(gate_up)?, down }),
                }
            }
        };
        Ok(Ffn::Moe {
            router: self.backend.matrix(router)?,
            bias: self.vector(&at(".gate.e_score_correction_bias"))?,
            shared,
            experts,
        })
    }

    fn experts(&mut self, count: usize, module: &str) -> Result<B::Experts, LoadError> {
        let mut experts = self.backend.new_experts(count)?;
        let source = self.source;
        std::thread::scope(|scope| -> Result<(), LoadError> {
            let (send, receive) = mpsc::sync_channel(1);
            scope.spawn(move || {
                for first in (0..count).step_by(GROUP) {
                    let group = (first..count.min(first + GROUP)).into_par_iter();
                    let read = group.map(|expert| source.expert(&format!("{module}.{expert}")));
                    // Nobody listens any more after a failure.
                    if send.send(read.collect::<Result<Vec<_>, _>>()).is_err() {
                        return;
                    }
                }
            });
            for group in receive {
                for (gate_up, down) in group? {
                    self.backend.add_expert(&mut experts, gate_up, down)?;
                }
            }
            Ok(())
        })?;
        Ok(experts)
    }

    fn mlp(&mut self, module: &str) -> Result<Mlp<B>, LoadError> {
        let (gate_up, down) = self.source.expert(module)?;
        Ok(Mlp { gate_up: self.backend.matrix(gate_up)?, down: self.backend.matrix(down)? })
    }

    fn matrix(&mut self, module: &str) -> Result<B::Matrix, LoadError> {
        let matrix = self.source.matrix(module)?;
        Ok(self.backend.matrix(matrix)?)
    }

    fn vector(&mut self, name: &str) -> Result<B::Vector, LoadError> {
        let values = self.source.checkpoint.vector(name)?;
        Ok(self.backend.vector(values)?)
    }
}

/// Appends the shared experts' rows to the router's, if formats are the same and the rows' values
/// then stand as [`Backend::route`] wants them. Returns whether it did.
fn stack_behind(router: &mut Matrix, gate_up: &Matrix) -> bool {
    router.rows.is_multiple_of(4) && router.stack(gate_up)
}

#[cfg(test)]
mod tests {
    use checkpoint::Encoded;

    use super::*;

    fn bf16(rows: usize, from: u16) -> Matrix {
        Matrix { rows, cols: 2, data: Encoded::Bf16((from..).take(2 * rows).collect()) }
    }

    #[test]
    fn rows_of_one_format_stand_behind_the_routers() {
        let mut router = bf16(4, 0);
        assert!(stack_behind(&mut router, &bf16(6, 8)));
        assert_eq!(router, bf16(10, 0));
    }

    #[test]
    fn others_stay_apart() {
        let gate_up = bf16(6, 8);
        let of_another_format = Matrix { rows: 4, cols: 2, data: Encoded::F32(vec![1.0; 8]) };
        for router in [of_another_format, bf16(6, 0)] {
            let mut kept = router.clone();
            assert!(!stack_behind(&mut kept, &gate_up));
            assert_eq!(kept, router);
        }
    }
}
