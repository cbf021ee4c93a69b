//! What is fixed at start: sizes, and where every byte of a rank's memory goes.

use checkpoint::{Checkpoint, Config, Shape, Split};

use crate::CacheShape;

/// Sizes that a model is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in one sequence.
    pub max_model_len: usize,
    /// Most rows in one batch.
    pub max_num_batched_tokens: usize,
    /// Tokens in one KV block.
    pub block_size: usize,
    /// KV blocks.
    pub num_blocks: usize,
}

impl Limits {
    /// Rows whose logits are computed at a time; longer lists go in several rounds.
    pub const LOGIT_ROWS: usize = 256;

    /// The KV cache for `config` under these limits.
    pub fn cache(&self, config: &Config) -> CacheShape {
        CacheShape {
            layers: config.num_hidden_layers,
            blocks: self.num_blocks,
            block_size: self.block_size,
            latent_dim: config.latent_dim(),
        }
    }

    /// Values in one rank's activation buffers, all together.
    pub fn workspace_values(&self, config: &Config, ranks: usize) -> usize {
        let widths = Widths::new(config, ranks);
        let rows = self.max_num_batched_tokens;
        let per_row = 3 * widths.hidden
            + 2 * widths.q_latent
            + widths.q
            + widths.kv_a
            + widths.attention
            + widths.gate_up
            + widths.ffn;
        let logits = config.vocab_size + config.vocab_size / ranks + widths.hidden;
        rows * per_row + Limits::LOGIT_ROWS * logits
    }
}

/// Widths of one rank's activation buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Widths {
    pub(crate) hidden: usize,
    pub(crate) q_latent: usize,
    pub(crate) q: usize,
    pub(crate) kv_a: usize,
    pub(crate) attention: usize,
    /// A dense layer's gate and up, or the router's logits with the shared experts' behind them.
    pub(crate) gate_up: usize,
    /// The wider of the dense and the shared experts' FFN.
    pub(crate) ffn: usize,
}

impl Widths {
    pub(crate) fn new(config: &Config, ranks: usize) -> Widths {
        let heads = config.num_attention_heads / ranks;
        let dense = config.intermediate_size / ranks;
        let shared = config.moe_intermediate_size * config.n_shared_experts / ranks;
        Widths {
            hidden: config.hidden_size,
            q_latent: config.q_lora_rank,
            q: heads * config.qk_head_dim(),
            kv_a: config.latent_dim(),
            attention: heads * config.v_head_dim,
            gate_up: (2 * dense).max(config.n_routed_experts + 2 * shared),
            ffn: dense.max(shared),
        }
    }
}

/// Bytes of one rank's weights as the checkpoint stores them.
pub fn weight_bytes(checkpoint: &Checkpoint, ranks: usize) -> usize {
    let bytes = checkpoint.tensors().iter().map(|(spec, format)| {
        let elements = match spec.shape {
            Shape::Vector { len } => len,
            Shape::Matrix { rows, cols } => rows * cols,
        };
        match spec.split {
            Split::Replicated => format.bytes(elements),
            Split::Rows | Split::Cols => format.bytes(elements / ranks),
        }
    });
    bytes.sum()
}
