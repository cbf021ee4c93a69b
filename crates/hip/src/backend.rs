//! The verbs, each handed to the launcher of its name; and when they run: at once, recorded into a
//! graph, or not at all because a recorded graph does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use checkpoint::{Activations, Config, Encoded, Matrix};
use model::{
    Backend, Batch, CacheShape, DeviceError, HeadShape, Limits, OutputRow, RouterShape, RowOutput,
};

use crate::collective::Communicator;
use crate::device::{Device, Memory};
use crate::input::Input;
use crate::kernels::matmul::{Output, View};
use crate::kernels::ranks::Parts;
use crate::kernels::{self, Rows, attention, rope_and_cache};
use crate::modules::Kernels;
use crate::moe::{Experts, Moe, Quantized, Routing};
use crate::sampler::Sampler;
use crate::stream::{Graph, Stream};
use crate::weights::{Dense, LatentProjection, upload};

/// How a rank runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What 4-bit weights multiply with.
    pub activations: Activations,
    /// Most sequences in a batch.
    pub max_num_seqs: usize,
    /// Whether decode batches are recorded once and replayed.
    pub graphs: bool,
    /// Whether sums over ranks are taken in rank order, whatever the batch, or in the library's.
    pub ordered_sums: bool,
    /// How long a step may take before the device counts as hung.
    pub watchdog: Duration,
}

/// Activations `[rows, width]`; f32, or bf16 where a matrix multiplies them next.
pub struct Buffer {
    memory: Memory,
    width: usize,
    rows: Rows,
}

/// What the verbs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
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
    fn rows(&self) -> usize {
        match self {
            Weights::Dense(w) => w.n,
            Weights::Quantized(w) => w.rows,
        }
    }
}

/// The KV cache: bf16, layers one after another.
struct Cache {
    memory: Memory,
    shape: CacheShape,
}

impl Cache {
    /// Where a layer's part begins, in bytes.
    fn offset(&self, layer: usize) -> usize {
        2 * layer * self.shape.blocks * self.shape.block_size * self.shape.latent_dim
    }
}

/// What attention needs beside its input and output.
struct Attention {
    /// bf16 `[rows, heads, nope]`.
    nope: Memory,
    /// bf16 `[rows, heads, latent + rope]`.
    queries: Memory,
    /// bf16 `[rows, heads, latent]`.
    mixed: Memory,
    splits: attention::Workspace,
}

/// One rank on one GPU.
pub struct Gpu {
    options: Options,
    ranks: usize,
    group: Option<Communicator>,
    input: Input,
    /// Rounds of logits taken since the batch began.
    round: usize,
    mode: Mode,
    graphs: HashMap<usize, Graph>,
    /// Whether work was queued that nobody has waited for.
    queued: bool,
    cache: Option<Cache>,
    attention: Attention,
    products: kernels::matmul::Workspace,
    moe: Moe,
    sampler: Sampler,
    /// All ranks' parts of what is summed or gathered.
    gathered: Option<Memory>,
    kernels: Kernels,
    stream: Stream,
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
        let ranks = group.as_ref().map_or(1, Communicator::ranks);
        let rows = limits.max_num_batched_tokens;
        let heads = config.num_attention_heads / ranks;
        let bf16 = |width: usize| device.allocate(2 * rows * heads * width);
        let blocks = options.max_num_seqs * limits.max_model_len.div_ceil(limits.block_size);
        let stream = Stream::new(device)?;
        let attention = Attention {
            nope: bf16(config.qk_nope_head_dim)?,
            queries: bf16(config.latent_dim())?,
            mixed: bf16(config.kv_lora_rank)?,
            splits: attention::Workspace::new(device, heads, limits.max_model_len, rows)?,
        };
        let gathered = gathered_values(config, limits, ranks);
        Ok(Gpu {
            options,
            ranks,
            input: Input::new(device, rows, blocks)?,
            round: 0,
            mode: Mode::Run,
            graphs: HashMap::new(),
            queued: false,
            cache: None,
            attention,
            products: kernels::matmul::Workspace::new(device, &stream)?,
            moe: Moe::new(device, config, rows, ranks, options.activations)?,
            sampler: Sampler::new(device, config.vocab_size)?,
            gathered: group.is_some().then(|| device.allocate(4 * gathered)).transpose()?,
            group,
            kernels: Kernels::load(device)?,
            stream,
        })
    }

    /// The size of the graph that runs a decode batch, if one does.
    fn bucket(&self, batch: &Batch) -> Option<usize> {
        let rows = batch.tokens.len();
        let decode = batch.spans.len() == rows && batch.outputs.len() == rows;
        let buckets = decode_buckets(self.options.max_num_seqs);
        (self.options.graphs && decode).then(|| buckets.into_iter().find(|&size| size >= rows))?
    }

    /// Waits for the stream; gives up when the group fails or the watchdog's time is over.
    fn wait(&mut self) -> Result<(), DeviceError> {
        let start = Instant::now();
        while !self.stream.is_idle()? {
            let waited = start.elapsed();
            if waited > self.options.watchdog {
                let message = format!(
                    "a step has not ended within {} s (--watchdog-timeout)",
                    self.options.watchdog.as_secs()
                );
                return Err(self.give_up(message));
            }
            if let Some(Err(error)) = self.group.as_ref().map(Communicator::check) {
                return Err(self.give_up(error.to_string()));
            }
            // A decode step ends within milliseconds; what takes longer need not be caught at once.
            if waited > Duration::from_millis(20) {
                std::thread::sleep(Duration::from_micros(200));
            } else {
                std::hint::spin_loop();
            }
        }
        self.queued = false;
        Ok(())
    }

    fn give_up(&mut self, message: String) -> DeviceError {
        // What hangs in a collective ends, so that the stream can be destroyed.
        if let Some(group) = self.group.take() {
            group.abort();
        }
        DeviceError(message)
    }

    fn cache(&self) -> Result<&Cache, DeviceError> {
        self.cache.as_ref().ok_or_else(|| DeviceError("the KV cache is not allocated".into()))
    }

    /// All ranks' rows of `x`, one rank's after another's.
    fn gather(&self, x: &Buffer) -> Result<Parts<'_>, DeviceError> {
        let (Some(memory), Some(group)) = (&self.gathered, &self.group) else {
            return Err(DeviceError("the rank belongs to no group".into()));
        };
        let stride = x.rows.bound * x.width;
        group.all_gather(&self.stream, &x.memory, memory, stride)?;
        Ok(Parts { memory, stride, width: x.width, ranks: self.ranks })
    }
}

/// Values that a rank gathers from all at most.
fn gathered_values(config: &Config, limits: &Limits, ranks: usize) -> usize {
    let sums = limits.max_num_batched_tokens * config.hidden_size * ranks;
    sums.max(Limits::LOGIT_ROWS * config.vocab_size)
}

/// Bytes that [`Gpu::new`] takes beside the model's weights, buffers and KV cache.
pub fn scratch_bytes(config: &Config, limits: &Limits, ranks: usize, max_num_seqs: usize) -> usize {
    let rows = limits.max_num_batched_tokens;
    let heads = config.num_attention_heads / ranks;
    let per_head = config.qk_nope_head_dim + config.latent_dim() + config.kv_lora_rank;
    let blocks = max_num_seqs * limits.max_model_len.div_ceil(limits.block_size);
    let gathered = if ranks > 1 { gathered_values(config, limits, ranks) } else { 0 };
    2 * rows * heads * per_head
        + attention::Workspace::bytes(heads, limits.max_model_len, rows)
        + kernels::matmul::Workspace::BYTES
        + Moe::bytes(config, rows, ranks)
        + Sampler::bytes(config.vocab_size)
        + 4 * (gathered + blocks + 8 * rows)
}

/// Batch sizes that decode graphs are recorded for: a batch runs in the smallest that holds it.
pub fn decode_buckets(max_num_seqs: usize) -> Vec<usize> {
    let most = max_num_seqs.min(Limits::LOGIT_ROWS);
    let sizes = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256];
    let mut buckets: Vec<usize> = sizes.into_iter().filter(|&size| size < most).collect();
    buckets.push(most);
    buckets
}

impl Backend for Gpu {
    type Matrix = Weights;
    type Vector = Memory;
    type LatentProjection = LatentProjection;
    type Experts = Experts;
    type Buffer = Buffer;
    type Routing = Routing;

    fn matrix(&mut self, weights: Matrix) -> Result<Weights, DeviceError> {
        match weights.data {
            Encoded::Mxfp4 { .. } => {
                Ok(Weights::Quantized(Quantized::upload(&self.stream, &weights)?))
            }
            Encoded::Bf16(_) | Encoded::F32(_) => {
                Ok(Weights::Dense(Dense::upload(&self.stream, &weights)?))
            }
            Encoded::Int4 { .. } => Err(DeviceError(
                "INT4 weights run on the CPU alone; `moonrock quantize` makes MXFP4 of them".into(),
            )),
        }
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Memory, DeviceError> {
        upload(&self.stream, &values)
    }

    fn latent_projection(
        &mut self,
        kv_b: Matrix,
        shape: HeadShape,
    ) -> Result<LatentProjection, DeviceError> {
        LatentProjection::upload(&self.stream, &kv_b, shape)
    }

    fn new_experts(&mut self, count: usize) -> Result<Experts, DeviceError> {
        Ok(Experts::new(count))
    }

    fn add_expert(
        &mut self,
        experts: &mut Experts,
        gate_up: Matrix,
        down: Matrix,
    ) -> Result<(), DeviceError> {
        experts.add(&self.stream, &gate_up, &down)
    }

    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer, DeviceError> {
        let memory = self.stream.device().allocate(4 * rows * width)?;
        // Rows that a graph's padding leaves unwritten travel between ranks all the same.
        self.stream.fill(&memory, f32::NAN.to_bits())?;
        Ok(Buffer { memory, width, rows: self.input.rows() })
    }

    fn routing(&mut self, rows: usize, shape: RouterShape) -> Result<Routing, DeviceError> {
        Routing::new(self.stream.device(), rows, shape)
    }

    fn allocate_cache(&mut self, shape: CacheShape) -> Result<(), DeviceError> {
        let values = shape.layers * shape.blocks * shape.block_size * shape.latent_dim;
        let memory = self.stream.device().allocate(2 * values)?;
        self.cache = Some(Cache { memory, shape });
        Ok(())
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        if self.queued {
            self.wait()?;
        }
        let bucket = self.bucket(batch);
        let bound = bucket.unwrap_or(batch.tokens.len());
        let block_size = self.cache()?.shape.block_size;
        self.round = 0;
        self.queued = true;
        self.input.send(&self.stream, batch, bound, block_size)?;
        self.mode = match bucket {
            None => Mode::Run,
            Some(size) => match self.graphs.get(&size) {
                Some(graph) => {
                    // SAFETY: the memory is the model's, whose backend this is.
                    unsafe { self.stream.run(graph)? };
                    Mode::Replay
                }
                None => {
                    self.stream.begin_capture()?;
                    Mode::Record(size)
                }
            },
        };
        Ok(())
    }

    fn embed(&mut self, table: &Weights, out: &mut Buffer) -> Result<(), DeviceError> {
        let Weights::Dense(table) = table else {
            return Err(DeviceError("an embedding table in MXFP4 is not supported".into()));
        };
        (out.rows, out.width) = (self.input.rows(), table.k);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (rows, tokens) = (out.rows, self.input.tokens());
        let Gpu { stream, kernels, .. } = self;
        kernels::embed::embed(stream, kernels, rows, tokens, table.memory(), &out.memory, table.k)?;
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &Buffer,
        weight: &Memory,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        (out.rows, out.width) = (x.rows, x.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, .. }, width) = (self, x.width);
        let (x, out, rows) = (&x.memory, &out.memory, x.rows);
        Ok(kernels::rms_norm::rms_norm(stream, kernels, rows, x, weight, out, width, eps)?)
    }

    fn add_rms_norm(
        &mut self,
        residual: &mut Buffer,
        delta: &Buffer,
        weight: &Memory,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        (out.rows, out.width) = (residual.rows, residual.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        kernels::rms_norm::add_rms_norm(
            &self.stream,
            &self.kernels,
            out.rows,
            &residual.memory,
            &delta.memory,
            weight,
            &out.memory,
            out.width,
            eps,
        )?;
        Ok(())
    }

    fn matmul(&mut self, x: &Buffer, w: &Weights, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (x.rows, w.rows());
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, products, moe, .. }, rows) = (self, x.rows);
        match w {
            Weights::Quantized(w) => moe.matmul(stream, kernels, rows, &x.memory, w, &out.memory),
            Weights::Dense(w) => {
                let (x, out) = (whole(&x.memory, x.width), whole(&out.memory, out.width));
                let (w, form) = (w.view(), Output::F32);
                kernels::matmul::matmul(stream, kernels, products, rows, x, w, out, form)?;
                Ok(())
            }
        }
    }

    fn rope_and_cache(
        &mut self,
        layer: usize,
        shape: HeadShape,
        q: &mut Buffer,
        kv_a: &Buffer,
        norm: &Memory,
        eps: f32,
        table: &Memory,
    ) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let cache = self.cache()?;
        let buffers = rope_and_cache::Buffers {
            q: &q.memory,
            kv_a: &kv_a.memory,
            norm,
            table,
            q_nope: &self.attention.nope,
            queries: &self.attention.queries,
            cache: &cache.memory,
            cache_offset: cache.offset(layer),
        };
        rope_and_cache::rope_and_cache(
            &self.stream,
            &self.kernels,
            q.rows,
            self.input.positions(),
            self.input.slots(),
            shape,
            buffers,
            eps,
        )?;
        Ok(())
    }

    fn attention(
        &mut self,
        layer: usize,
        q: &Buffer,
        kv_b: &LatentProjection,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let HeadShape { heads, nope, rope, v, latent } = kv_b.shape;
        (out.rows, out.width) = (q.rows, heads * v);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (stream, kernels, products) = (&self.stream, &self.kernels, &self.products);
        let (cache, own, rows) = (self.cache()?, &self.attention, q.rows);
        let by_head = |memory, width| View { memory, stride: heads * width, batch: width };
        kernels::matmul::matmul(
            stream,
            kernels,
            products,
            rows,
            by_head(&own.nope, nope),
            kv_b.into.view(),
            by_head(&own.queries, latent + rope),
            Output::Bf16,
        )?;
        let places = attention::Places {
            positions: self.input.positions(),
            table_starts: self.input.starts(),
            tables: self.input.tables(),
        };
        let buffers = attention::Buffers {
            queries: &own.queries,
            cache: &cache.memory,
            cache_offset: cache.offset(layer),
            out: &own.mixed,
        };
        let block = cache.shape.block_size;
        attention::attention(
            stream,
            kernels,
            &own.splits,
            rows,
            places,
            buffers,
            heads,
            block,
            scale,
        )?;
        kernels::matmul::matmul(
            stream,
            kernels,
            products,
            rows,
            by_head(&own.mixed, latent),
            kv_b.out_of.view(),
            by_head(&out.memory, v),
            Output::Bf16,
        )?;
        Ok(())
    }

    fn swiglu(&mut self, gate_up: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (gate_up.rows, gate_up.width / 2);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, .. }, rows, width) = (self, out.rows, out.width);
        kernels::swiglu::swiglu(stream, kernels, rows, &gate_up.memory, &out.memory, width)?;
        Ok(())
    }

    fn clear(&mut self, like: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (like.rows, like.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        Ok(self.stream.fill(&out.memory, 0)?)
    }

    fn route(
        &mut self,
        logits: &Buffer,
        bias: &Memory,
        routing: &mut Routing,
    ) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay {
            return Ok(());
        }
        kernels::route::route(
            &self.stream,
            &self.kernels,
            logits.rows,
            &logits.memory,
            bias,
            logits.width,
            routing.shape,
            routing.choice(),
        )?;
        Ok(())
    }

    fn experts(
        &mut self,
        x: &Buffer,
        routing: &Routing,
        experts: &Experts,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, moe, .. }, rows) = (self, x.rows);
        moe.experts(stream, kernels, rows, &x.memory, routing, experts, &out.memory)
    }

    fn all_reduce(&mut self, x: &mut Buffer) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay || self.ranks == 1 {
            return Ok(());
        }
        match &self.group {
            Some(group) if !self.options.ordered_sums => {
                group.all_reduce(&self.stream, &x.memory, x.rows.bound * x.width)?;
            }
            _ => {
                let parts = self.gather(x)?;
                let (stream, kernels) = (&self.stream, &self.kernels);
                kernels::ranks::sum_ranks(stream, kernels, x.rows, parts, &x.memory)?;
            }
        }
        Ok(())
    }

    fn select(
        &mut self,
        x: &Buffer,
        _outputs: &[OutputRow],
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let round = self.round;
        self.round += 1;
        (out.rows, out.width) = (self.input.outputs(round), x.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (indices, rows, width) = (self.input.output_rows(round), out.rows, x.width);
        let Gpu { stream, kernels, .. } = self;
        let (x, out) = (&x.memory, &out.memory);
        Ok(kernels::select::select(stream, kernels, rows, indices, x, out, width)?)
    }

    fn gather_columns(&mut self, part: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (part.rows, self.ranks * part.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (stream, kernels) = (&self.stream, &self.kernels);
        // One rank's columns are put in place by the same kernel: a copy within the device.
        let own = part.rows.bound * part.width;
        let parts = match self.ranks {
            1 => Parts { memory: &part.memory, stride: own, width: part.width, ranks: 1 },
            _ => self.gather(part)?,
        };
        Ok(kernels::ranks::gather_columns(stream, kernels, part.rows, parts, &out.memory)?)
    }

    fn sample(
        &mut self,
        logits: &Buffer,
        outputs: &[OutputRow],
    ) -> Result<Vec<RowOutput>, DeviceError> {
        if let Mode::Record(size) = self.mode {
            let graph = self.stream.end_capture()?;
            // SAFETY: the memory is the model's, whose backend this is.
            unsafe { self.stream.run(&graph)? };
            self.graphs.insert(size, graph);
        }
        self.mode = Mode::Run;
        self.sampler.queue(&self.stream, &self.kernels, &logits.memory, outputs)?;
        self.wait()?;
        self.sampler.results(outputs)
    }
}

/// A buffer as one side of a product.
fn whole(memory: &Memory, width: usize) -> View<'_> {
    View { memory, stride: width, batch: 0 }
}
