//! The forward pass (DeepSeek-V3's), once for every backend.

use std::ops::Range;
use std::sync::Arc;

use checkpoint::{Checkpoint, Config, LATENT_NORM_EPS};

use crate::limits::Widths;
use crate::weights::{Ffn, Layer, Loader, Mlp, Shared, Source, Weights};
use crate::{
    Backend, Batch, DeviceError, HeadShape, Limits, LoadError, RouterShape, RowOutput, rope,
};

/// One rank's share of a model on its device.
pub struct Model<B: Backend> {
    backend: B,
    weights: Weights<B>,
    work: Workspace<B>,
    heads: HeadShape,
    softmax_scale: f32,
    eps: f32,
}

/// Activations between verbs, allocated once.
struct Workspace<B: Backend> {
    residual: B::Buffer,
    normed: B::Buffer,
    delta: B::Buffer,
    qkv_a: B::Buffer,
    q_a_normed: B::Buffer,
    q: B::Buffer,
    attention: B::Buffer,
    routing: B::Routing,
    /// `[gate | up]`; in a layer with experts the router's logits, and perhaps these behind them.
    gate_up: B::Buffer,
    swiglu: B::Buffer,
    selected: B::Buffer,
    logits_part: B::Buffer,
    logits: B::Buffer,
}

impl<B: Backend> Workspace<B> {
    fn allocate(
        backend: &mut B,
        config: &Config,
        limits: &Limits,
        ranks: usize,
    ) -> Result<Self, DeviceError> {
        let widths = Widths::new(config, ranks);
        let rows = limits.max_num_batched_tokens;
        let routing = RouterShape {
            top_k: config.num_experts_per_tok,
            normalize: config.norm_topk_prob,
            scale: config.routed_scaling_factor,
        };
        Ok(Workspace {
            residual: backend.buffer(rows, widths.hidden)?,
            normed: backend.buffer(rows, widths.hidden)?,
            delta: backend.buffer(rows, widths.hidden)?,
            qkv_a: backend.buffer(rows, widths.q_latent + widths.kv_a)?,
            q_a_normed: backend.buffer(rows, widths.q_latent)?,
            q: backend.buffer(rows, widths.q)?,
            attention: backend.buffer(rows, widths.attention)?,
            routing: backend.routing(rows, routing)?,
            gate_up: backend.buffer(rows, widths.gate_up)?,
            swiglu: backend.buffer(rows, widths.ffn)?,
            selected: backend.buffer(Limits::LOGIT_ROWS, widths.hidden)?,
            logits_part: backend.buffer(Limits::LOGIT_ROWS, config.vocab_size / ranks)?,
            logits: backend.buffer(Limits::LOGIT_ROWS, config.vocab_size)?,
        })
    }
}

impl<B: Backend> Model<B> {
    /// Reads rank `rank` of `ranks`'s weights and allocates everything it will ever need.
    /// `progress` hears the bytes of every matrix read.
    ///
    /// # Errors
    /// A checkpoint that cannot be read or split, or a device out of memory.
    pub fn load(
        mut backend: B,
        checkpoint: &Checkpoint,
        rank: usize,
        ranks: usize,
        limits: &Limits,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Model<B>, LoadError> {
        let config = checkpoint.config();
        config.check_parallel(ranks)?;
        let heads = HeadShape {
            heads: config.num_attention_heads / ranks,
            nope: config.qk_nope_head_dim,
            rope: config.qk_rope_head_dim,
            v: config.v_head_dim,
            latent: config.kv_lora_rank,
        };
        let source = Source { checkpoint, rank, ranks, progress };
        let mut loader = Loader { backend: &mut backend, source };
        let weights = loader.weights(heads, limits.max_model_len)?;
        let work = Workspace::allocate(&mut backend, config, limits, ranks)?;
        backend.allocate_cache(limits.cache(config))?;
        Ok(Model {
            backend,
            weights,
            work,
            heads,
            softmax_scale: rope::softmax_scale(config),
            eps: config.rms_norm_eps,
        })
    }

    /// Begins a batch, up to the logits of its first outputs. Carried rows take what the batch
    /// before this one draws, whose results need not be there.
    ///
    /// # Errors
    /// A failed device or rank, or a batch with impossible carried rows or spans in a wrong order.
    pub fn compute(&mut self, batch: &Arc<Batch>) -> Result<(), DeviceError> {
        batch.check_order()?;
        self.backend.begin(batch)?;
        self.backend.embed(&self.weights.embed, &mut self.work.residual)?;
        let mut norm = &self.weights.layers[0].input_norm;
        let work = &mut self.work;
        self.backend.rms_norm(&work.residual, norm, self.eps, &mut work.normed)?;
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let work = &mut self.work;
            attention(
                &mut self.backend,
                layer,
                i,
                self.heads,
                self.softmax_scale,
                &self.weights.rope_table,
                work,
            )?;
            norm = &layer.post_norm;
            reduce_norm(&mut self.backend, norm, self.eps, work)?;
            ffn(&mut self.backend, &layer.ffn, work)?;
            let next = self.weights.layers.get(i + 1).map(|next| &next.input_norm);
            norm = next.unwrap_or(&self.weights.norm);
            reduce_norm(&mut self.backend, norm, self.eps, work)?;
        }
        match rounds(batch).next() {
            Some(outputs) => self.logits(outputs),
            None => Ok(()),
        }
    }

    /// Draws the batch that was computed. Waits for masks that are in the making.
    ///
    /// # Errors
    /// A failed device or rank.
    pub fn draw(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        for outputs in rounds(batch) {
            if outputs.start > 0 {
                self.logits(outputs.clone())?;
            }
            self.backend.sample(&self.work.logits, outputs)?;
        }
        self.backend.end()
    }

    /// As [`Backend::results`]; every rank has the same.
    ///
    /// # Errors
    /// A failed device.
    pub fn results(&mut self, wait: bool) -> Result<Option<Vec<RowOutput>>, DeviceError> {
        self.backend.results(wait)
    }

    /// `lm_head(normed)` of the rows of these outputs.
    fn logits(&mut self, outputs: Range<usize>) -> Result<(), DeviceError> {
        let (b, work) = (&mut self.backend, &mut self.work);
        b.select(&work.normed, outputs, &mut work.selected)?;
        b.matmul(&work.selected, &self.weights.head, &mut work.logits_part)?;
        b.gather_columns(&work.logits_part, &mut work.logits)
    }
}

/// A batch's outputs, as many at a time as there is room for their logits.
fn rounds(batch: &Batch) -> impl Iterator<Item = Range<usize>> {
    let count = batch.outputs.len();
    let starts = (0..count).step_by(Limits::LOGIT_ROWS);
    starts.map(move |start| start..count.min(start + Limits::LOGIT_ROWS))
}

/// `delta = Attn(normed)`, this rank's part.
fn attention<B: Backend>(
    b: &mut B,
    layer: &Layer<B>,
    index: usize,
    heads: HeadShape,
    scale: f32,
    rope_table: &B::Vector,
    work: &mut Workspace<B>,
) -> Result<(), DeviceError> {
    let eps = LATENT_NORM_EPS;
    b.matmul(&work.normed, &layer.qkv_a, &mut work.qkv_a)?;
    b.rms_norm(&work.qkv_a, &layer.q_a_norm, eps, &mut work.q_a_normed)?;
    b.matmul(&work.q_a_normed, &layer.q_b, &mut work.q)?;
    let (q, kv_a) = (&mut work.q, &work.qkv_a);
    b.rope_and_cache(index, heads, q, kv_a, &layer.kv_a_norm, eps, rope_table)?;
    b.attention(index, &work.q, &layer.kv_b, scale, &mut work.attention)?;
    b.matmul(&work.attention, &layer.o, &mut work.delta)
}

/// `delta = FFN(normed)`, this rank's part.
fn ffn<B: Backend>(b: &mut B, ffn: &Ffn<B>, work: &mut Workspace<B>) -> Result<(), DeviceError> {
    match ffn {
        Ffn::Dense(dense) => mlp(b, dense, work)?,
        Ffn::Moe { router, bias, shared, experts } => {
            b.matmul(&work.normed, router, &mut work.gate_up)?;
            b.route(&work.gate_up, bias, &mut work.routing, &mut work.swiglu)?;
            match shared {
                Shared::None => b.clear(&work.normed, &mut work.delta)?,
                Shared::Stacked { down } => b.matmul(&work.swiglu, down, &mut work.delta)?,
                Shared::Apart(shared) => mlp(b, shared, work)?,
            }
            b.experts(&work.normed, &work.routing, experts, &mut work.delta)?;
        }
    }
    Ok(())
}

/// `residual += delta`, summed over ranks; `normed` is its norm.
fn reduce_norm<B: Backend>(
    b: &mut B,
    norm: &B::Vector,
    eps: f32,
    work: &mut Workspace<B>,
) -> Result<(), DeviceError> {
    let (residual, delta) = (&mut work.residual, &mut work.delta);
    b.reduce_add_rms_norm(residual, delta, norm, eps, &mut work.normed)
}

/// `delta = down(swiglu(gate_up(normed)))`.
fn mlp<B: Backend>(b: &mut B, mlp: &Mlp<B>, work: &mut Workspace<B>) -> Result<(), DeviceError> {
    b.matmul(&work.normed, &mlp.gate_up, &mut work.gate_up)?;
    b.swiglu(&work.gate_up, &mut work.swiglu)?;
    b.matmul(&work.swiglu, &mlp.down, &mut work.delta)
}
