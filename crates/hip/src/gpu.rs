//! A rank's device with all that the verbs need, and when they run: at once, recorded into a graph,
//! or not at all because a recorded graph does.

use std::collections::HashMap;
use std::time::Duration;

use checkpoint::{Activations, Config};
use model::{Batch, CacheFormat, CacheShape, DeviceError, Limits};

use crate::collective::Communicator;
use crate::device::{Device, Memory};
use crate::input::Input;
use crate::kernels::ranks::Parts;
use crate::kernels::{self, Rows, attention, attention_prompt};
use crate::modules::Kernels;
use crate::moe::{Moe, Quantized};
use crate::peers::Peers;
use crate::prompts;
use crate::sampler::Sampler;
use crate::staging::Staging;
use crate::steps::Steps;
use crate::stream::{Graph, Stream};
use crate::sys::Platform;
use crate::weights::Dense;

/// Bytes of pinned memory that are filled at once while weights are loaded: several experts.
const STAGING: usize = 16 << 20;

/// How partial sums are added over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllReduce {
    /// In rank order, whatever the batch. Of few rows (and 2, 4 or 8 ranks) by one kernel that
    /// reads or writes the other ranks' memory, the same sums as [`AllReduce::Ordered`].
    OneShot,
    /// In rank order, of parts that the library has moved.
    Ordered,
    /// In the library's own order, which depends on the batch.
    Library,
}

/// How a rank runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What 4-bit weights multiply with.
    pub activations: Activations,
    /// What the KV cache holds.
    pub cache: CacheFormat,
    /// Most sequences in a batch.
    pub max_num_seqs: usize,
    /// Whether decode batches are recorded once and replayed.
    pub graphs: bool,
    /// How sums over ranks are taken.
    pub all_reduce: AllReduce,
    /// How long a step may take before the device counts as hung.
    pub watchdog: Duration,
}

/// Activations `[rows, width]`; f32, or bf16 where a matrix multiplies them next.
pub struct Buffer {
    pub(crate) memory: Memory,
    pub(crate) width: usize,
    pub(crate) rows: Rows,
}

/// What the verbs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Queue their work.
    Run,
    /// The same, but the stream records it, for decode batches up to this size.
    Record(usize),
    /// Nothing: the graph of a batch like this is running.
    Replay,
}

/// A linear layer's weights.
pub enum Weights {
    /// BF16.
    Dense(Dense),
    /// MXFP4.
    Quantized(Quantized),
}

impl Weights {
    /// Outputs.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Weights::Dense(w) => w.n,
            Weights::Quantized(w) => w.rows,
        }
    }
}

/// The KV cache, layers one after another.
pub(crate) struct Cache {
    pub(crate) memory: Memory,
    pub(crate) shape: CacheShape,
    pub(crate) format: CacheFormat,
    /// Bytes of a token in one layer.
    pub(crate) entry: usize,
}

impl Cache {
    /// Where a layer's part begins, in bytes.
    pub(crate) fn offset(&self, layer: usize) -> usize {
        layer * self.shape.blocks * self.shape.block_size * self.entry
    }
}

/// What attention needs beside its input and output.
pub(crate) struct Attention {
    /// bf16 `[rows, heads, nope + rope]`: see `rope_and_cache`.
    pub(crate) expanded: Memory,
    /// bf16 `[rows, heads, latent + rope]`.
    pub(crate) absorbed: Memory,
    /// bf16 `[rows, heads, latent]`.
    pub(crate) mixed: Memory,
    pub(crate) splits: attention::Workspace,
    /// Of sequences with prompts' rows that are taken together: bf16 `[max_model_len, latent]`,
    /// `[.., rope]`, and `[.., heads, nope + v]`.
    pub(crate) latents: Memory,
    pub(crate) ropes: Memory,
    pub(crate) keys_values: Memory,
    /// Width of the rotary key.
    pub(crate) rope: usize,
}

/// One rank on one GPU.
pub struct Gpu {
    pub(crate) options: Options,
    pub(crate) ranks: usize,
    pub(crate) input: Input,
    pub(crate) mode: Mode,
    /// Sizes of decode graphs, ascending.
    buckets: Vec<usize>,
    pub(crate) graphs: HashMap<usize, Graph>,
    pub(crate) steps: Steps,
    pub(crate) cache: Option<Cache>,
    pub(crate) attention: Attention,
    pub(crate) moe: Moe,
    pub(crate) sampler: Sampler,
    /// All ranks' parts of what is summed or gathered.
    pub(crate) gathered: Option<Memory>,
    pub(crate) kernels: Kernels,
    pub(crate) staging: Staging,
    pub(crate) stream: Stream,
    // Below what may use them until the stream has ended.
    pub(crate) peers: Option<Peers>,
    pub(crate) group: Option<Communicator>,
}

impl Gpu {
    /// A rank on `device`, as member of `group` if there are more, with all memory that a model
    /// of this shape will need beside its weights and buffers.
    ///
    /// # Errors
    /// A build without kernels, a device that refuses them, or too little memory.
    pub fn new(
        device: &Device,
        group: Option<Communicator>,
        config: &Config,
        limits: &Limits,
        options: Options,
    ) -> Result<Gpu, DeviceError> {
        check_heads(config)?;
        let ranks = group.as_ref().map_or(1, Communicator::ranks);
        let rows = limits.max_num_batched_tokens;
        let heads = config.num_attention_heads / ranks;
        let bf16 = |width: usize| device.allocate(2 * rows * heads * width);
        let of_keys = |width: usize| device.allocate(2 * limits.max_model_len * width);
        let sequences = options.max_num_seqs;
        let blocks = sequences * limits.max_model_len.div_ceil(limits.block_size);
        let splits = attention::most_listed(limits.max_model_len, rows, device.platform());
        let stream = Stream::new(device)?;
        let attention = Attention {
            expanded: bf16(config.qk_nope_head_dim + config.qk_rope_head_dim)?,
            absorbed: bf16(config.latent_dim())?,
            mixed: bf16(config.kv_lora_rank)?,
            splits: attention::Workspace::new(device, heads, limits.max_model_len, rows)?,
            latents: of_keys(config.kv_lora_rank)?,
            ropes: of_keys(config.qk_rope_head_dim)?,
            keys_values: of_keys(heads * (config.qk_nope_head_dim + config.v_head_dim))?,
            rope: config.qk_rope_head_dim,
        };
        let gathered = gathered_values(config, limits, ranks);
        let one_shot = options.all_reduce == AllReduce::OneShot && matches!(ranks, 2 | 4 | 8);
        let peers = group.as_ref().filter(|_| one_shot).map(|group| group.meet(&stream));
        Ok(Gpu {
            options,
            ranks,
            input: Input::new(device, rows, sequences, blocks, splits, limits.max_model_len)?,
            mode: Mode::Run,
            buckets: decode_buckets(limits, options.max_num_seqs),
            graphs: HashMap::new(),
            steps: Steps::new(device)?,
            cache: None,
            attention,
            moe: Moe::new(device, config, rows, ranks, options.activations)?,
            sampler: Sampler::new(device, &stream, config.vocab_size, rows)?,
            gathered: group.is_some().then(|| device.allocate(4 * gathered)).transpose()?,
            kernels: Kernels::load(device)?,
            staging: Staging::new(device, STAGING)?,
            stream,
            peers: peers.transpose()?,
            group,
        })
    }

    /// The size of the graph that runs a decode batch, if one does.
    pub(crate) fn bucket(&self, batch: &Batch) -> Option<usize> {
        let rows = batch.tokens.len();
        let decode = batch.generated_rows() == rows
            && batch.spans.len() == rows
            && batch.outputs.len() == rows;
        let mut buckets = self.buckets.iter().copied();
        (self.options.graphs && decode).then(|| buckets.find(|&size| size >= rows))?
    }

    pub(crate) fn cache(&self) -> Result<&Cache, DeviceError> {
        self.cache.as_ref().ok_or_else(|| DeviceError("the KV cache is not allocated".into()))
    }

    /// All ranks' rows of `x`, one rank's after another's.
    pub(crate) fn gather(&self, x: &Buffer) -> Result<Parts<'_>, DeviceError> {
        let (Some(memory), Some(group)) = (&self.gathered, &self.group) else {
            return Err(DeviceError("the rank belongs to no group".into()));
        };
        let stride = x.rows.bound * x.width;
        group.all_gather(&self.stream, &x.memory, memory, stride)?;
        Ok(Parts { memory, stride, width: x.width, ranks: self.ranks })
    }
}

/// Refuses a model whose heads have other widths than the kernels of attention know.
fn check_heads(config: &Config) -> Result<(), DeviceError> {
    let found = [
        ("qk_nope_head_dim", config.qk_nope_head_dim, attention_prompt::NOPE),
        ("qk_rope_head_dim", config.qk_rope_head_dim, attention::ROPE),
        ("v_head_dim", config.v_head_dim, attention_prompt::VALUE),
        ("kv_lora_rank", config.kv_lora_rank, attention::LATENT),
    ];
    match found.iter().find(|(_, found, known)| found != known) {
        None => Ok(()),
        Some((name, found, known)) => Err(DeviceError(format!(
            "{name} is {found} in config.json; the GPU kernels are made for {known}"
        ))),
    }
}

/// Values that a rank gathers from all at most.
fn gathered_values(config: &Config, limits: &Limits, ranks: usize) -> usize {
    let sums = limits.max_num_batched_tokens * config.hidden_size * ranks;
    sums.max(Limits::LOGIT_ROWS * config.vocab_size)
}

/// Bytes of KV cache that a token takes in all layers.
pub fn cache_bytes(config: &Config, format: CacheFormat) -> usize {
    let (latent, rope) = (config.kv_lora_rank, config.qk_rope_head_dim);
    config.num_hidden_layers * kernels::rope_and_cache::entry_bytes(format, latent, rope)
}

/// Bytes that [`Gpu::new`] takes on a device of `platform`, beside the model's weights, buffers and
/// KV cache.
pub fn scratch_bytes(
    config: &Config,
    limits: &Limits,
    ranks: usize,
    max_num_seqs: usize,
    platform: Platform,
) -> usize {
    let rows = limits.max_num_batched_tokens;
    let heads = config.num_attention_heads / ranks;
    let (nope, rope) = (config.qk_nope_head_dim, config.qk_rope_head_dim);
    let per_head = nope + rope + config.latent_dim() + config.kv_lora_rank;
    let per_key = config.latent_dim() + heads * (nope + config.v_head_dim);
    let blocks = max_num_seqs * limits.max_model_len.div_ceil(limits.block_size);
    let splits = attention::most_listed(limits.max_model_len, rows, platform);
    let prompts = prompts::most_words(max_num_seqs, rows);
    let gathered = if ranks > 1 { gathered_values(config, limits, ranks) } else { 0 };
    let peers = if ranks > 1 { Peers::bytes(ranks) } else { 0 };
    2 * (rows * heads * per_head + limits.max_model_len * per_key)
        + attention::Workspace::bytes(heads, limits.max_model_len, rows, platform)
        + Moe::bytes(config, rows, ranks)
        + Sampler::bytes(config.vocab_size, rows)
        + peers
        + 4 * (gathered + splits + blocks + prompts + 7 * rows + 64)
}

/// Batch sizes that decode graphs are recorded for: a batch runs in the smallest that holds it.
/// None has more rows than buffers have.
pub fn decode_buckets(limits: &Limits, max_num_seqs: usize) -> Vec<usize> {
    let most = max_num_seqs.min(limits.max_num_batched_tokens).min(Limits::LOGIT_ROWS);
    let sizes = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256];
    let mut buckets: Vec<usize> = sizes.into_iter().filter(|&size| size < most).collect();
    buckets.push(most);
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_graph_has_more_rows_than_a_batch() {
        let buckets = |max_num_batched_tokens, max_num_seqs| {
            let limits = Limits {
                max_model_len: 64,
                max_num_batched_tokens,
                block_size: 16,
                num_blocks: 1000,
            };
            decode_buckets(&limits, max_num_seqs)
        };
        assert_eq!(buckets(100, 256), [1, 2, 4, 8, 16, 32, 48, 64, 96, 100]);
        assert_eq!(buckets(8192, 5), [1, 2, 4, 5]);
        assert_eq!(buckets(8192, 1000).last(), Some(&Limits::LOGIT_ROWS));
    }
}
