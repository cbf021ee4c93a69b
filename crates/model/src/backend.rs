//! The verbs a device must know. One rank's device is one [`Backend`].

use std::ops::Range;
use std::sync::Arc;

use checkpoint::Matrix;

use crate::{Batch, DeviceError, RowOutput};

/// Sizes of the paged KV cache of one rank. A token takes `latent_dim` values in each layer: the
/// normed latent (`kv_lora_rank`), then the rotary key (`qk_rope_head_dim`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// Blocks, shared by all sequences.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// Values per token and layer.
    pub latent_dim: usize,
}

/// How the KV cache holds values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheFormat {
    /// As the backend computes: F32 on the CPU, BF16 on a GPU.
    #[default]
    Native,
    /// BF16.
    Bf16,
    /// The latent in MXFP8: of what would be BF16, E4M3 with a power of two for each 32 values. The
    /// rotary key in BF16.
    Fp8,
}

/// Head sizes of one rank's share of the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Heads on this rank.
    pub heads: usize,
    /// Query/key width without position.
    pub nope: usize,
    /// Query/key width with rotary position.
    pub rope: usize,
    /// Value width.
    pub v: usize,
    /// Latent width.
    pub latent: usize,
}

/// How a router's scores become the experts' weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterShape {
    /// Experts per token.
    pub top_k: usize,
    /// Whether the chosen weights are divided by their sum (+ 1e-20).
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// One rank's device: its memory, and the forward pass's verbs.
///
/// Buffers are `[rows, width]`, row-major. `rows` follows the data: `embed` and `select` set it,
/// the other verbs give `out` as many rows as their input. A row's result depends on that row (and,
/// in attention, on its own sequence) alone, by an order of additions that its own shape fixes, so
/// a sequence's results are the same bits in any batch. Matrices in a 4-bit format multiply with
/// activations quantized as the backend was told at its creation; all others with the activations
/// as they are.
pub trait Backend: Sized + 'static {
    /// A linear layer's weight, in the backend's layout.
    type Matrix;
    /// Norm weights, router bias, rotary table: values in full precision.
    type Vector;
    /// A rank's `kv_b_proj`, ready for attention in the forms that the backend takes it in.
    type LatentProjection;
    /// A layer's routed experts.
    type Experts;
    /// Activations.
    type Buffer;
    /// Which experts each row goes to, with their weights.
    type Routing;

    /// Uploads a matrix.
    ///
    /// # Errors
    /// All verbs fail with [`DeviceError`] if the device does; set-up verbs also when memory runs
    /// out.
    fn matrix(&mut self, weights: Matrix) -> Result<Self::Matrix, DeviceError>;

    /// Uploads a vector.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector, DeviceError>;

    /// Uploads `kv_b_proj`, rows `head * (nope + v) + ..`, each `latent` wide.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn latent_projection(
        &mut self,
        kv_b: Matrix,
        shape: HeadShape,
    ) -> Result<Self::LatentProjection, DeviceError>;

    /// Makes room for a layer's routed experts.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn new_experts(&mut self, count: usize) -> Result<Self::Experts, DeviceError>;

    /// Adds the next expert: `gate_up` is `[2 * width, hidden]` (gate rows, then up rows), `down`
    /// `[hidden, width]`.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn add_expert(
        &mut self,
        experts: &mut Self::Experts,
        gate_up: Matrix,
        down: Matrix,
    ) -> Result<(), DeviceError>;

    /// A buffer for up to `rows` rows of `width` values.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn buffer(&mut self, rows: usize, width: usize) -> Result<Self::Buffer, DeviceError>;

    /// Room for the routing of up to `rows` rows.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn routing(&mut self, rows: usize, shape: RouterShape) -> Result<Self::Routing, DeviceError>;

    /// Allocates the KV cache; once, before the first batch.
    ///
    /// # Errors
    /// As [`Backend::matrix`].
    fn allocate_cache(&mut self, shape: CacheShape) -> Result<(), DeviceError>;

    /// Takes up a batch: token ids, positions, block tables and outputs of all following verbs, up
    /// to [`Backend::end`]. Carried rows take what the batch before this one drew, whose results
    /// may still be on their way. The spans are in order, as [`Batch::check_order`] has it.
    ///
    /// # Errors
    /// A failed device, or a batch with impossible carried rows.
    fn begin(&mut self, batch: &Arc<Batch>) -> Result<(), DeviceError>;

    /// `out[r] = table[token(r)]`.
    ///
    /// # Errors
    /// A failed device.
    fn embed(&mut self, table: &Self::Matrix, out: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// `out = weight * x * rsqrt(mean(x^2) + eps)`, row by row, of each row's first values, as many
    /// as `weight` has.
    ///
    /// # Errors
    /// A failed device.
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `residual += delta`, the ranks' `delta` added in rank order, then as [`Backend::rms_norm`]
    /// of `residual`. `delta` is used up.
    ///
    /// # Errors
    /// A failed device or rank.
    fn reduce_add_rms_norm(
        &mut self,
        residual: &mut Self::Buffer,
        delta: &mut Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = x w^T`: `x` is `[rows, w.cols]`, `out` `[rows, w.rows]`. Accumulates in f32.
    ///
    /// # Errors
    /// A failed device.
    fn matmul(
        &mut self,
        x: &Self::Buffer,
        w: &Self::Matrix,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Rotates the last `rope` values of every head of `q` (`[rows, heads * (nope + rope)]`) in
    /// place, and writes each row's cache entry: `rms_norm(kv_a[..latent])` and the rotated
    /// `kv_a[latent..]`, where `kv_a` are the last `latent + rope` values of the row. Pairs are
    /// neighbours, `(x[2i], x[2i+1])`; `table` holds `cos, sin` of every position and pair,
    /// `[positions, rope / 2, 2]`.
    ///
    /// # Errors
    /// A failed device.
    #[expect(clippy::too_many_arguments, reason = "one fused step of the published formula")]
    fn rope_and_cache(
        &mut self,
        layer: usize,
        shape: HeadShape,
        q: &mut Self::Buffer,
        kv_a: &Self::Buffer,
        norm: &Self::Vector,
        eps: f32,
        table: &Self::Vector,
    ) -> Result<(), DeviceError>;

    /// MLA over the paged cache, causal: with `c_j, k_j` the cached latent and rotary key of
    /// position `j`, per head `ql = q_nope W_UK`, `s_j = scale * (ql . c_j + q_rope . k_j)`,
    /// `out = W_UV sum_j softmax(s)_j c_j`: the absorbed form. The expanded one, which a backend
    /// may take for prompts' rows (see `Span::generated`), has `q_nope . (W_UK c_j)` for `ql . c_j`
    /// and sums `W_UV c_j`. `out` is `[rows, heads * v]`.
    ///
    /// # Errors
    /// A failed device.
    fn attention(
        &mut self,
        layer: usize,
        q: &Self::Buffer,
        kv_b: &Self::LatentProjection,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out = silu(g) * u` for rows `[g | u]`.
    ///
    /// # Errors
    /// A failed device.
    fn swiglu(&mut self, gate_up: &Self::Buffer, out: &mut Self::Buffer)
    -> Result<(), DeviceError>;

    /// Makes `out` as many rows of zeros as `like` has.
    ///
    /// # Errors
    /// A failed device.
    fn clear(&mut self, like: &Self::Buffer, out: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// Of rows `[logits | g | u]`, with a logit for each value of `bias`: scores `s =
    /// sigmoid(logits)`; the `top_k` largest of `s + bias` (lower index first among equals), with
    /// weights from `s` as [`RouterShape`] says; and `hidden = silu(g) * u`, without columns where
    /// the logits stand alone. The number of logits is a multiple of 4 where they do not.
    ///
    /// # Errors
    /// A failed device.
    fn route(
        &mut self,
        x: &Self::Buffer,
        bias: &Self::Vector,
        routing: &mut Self::Routing,
        hidden: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out[r] += sum_k w_k down_k(swiglu(gate_up_k(x[r])))`, experts in ascending order of index.
    ///
    /// # Errors
    /// A failed device.
    fn experts(
        &mut self,
        x: &Self::Buffer,
        routing: &Self::Routing,
        experts: &Self::Experts,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// `out[i] = x[row(outputs.start + i)]`: the rows of these outputs of the batch.
    ///
    /// # Errors
    /// A failed device.
    fn select(
        &mut self,
        x: &Self::Buffer,
        outputs: Range<usize>,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Puts the ranks' columns side by side, in rank order: `[rows, v]` each to `[rows, ranks *
    /// v]`.
    ///
    /// # Errors
    /// A failed device or rank.
    fn gather_columns(
        &mut self,
        part: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), DeviceError>;

    /// Draws or scores one token per row of `logits`, as these outputs of the batch want it. Waits
    /// for masks that are in the making.
    ///
    /// # Errors
    /// A failed device.
    fn sample(&mut self, logits: &Self::Buffer, outputs: Range<usize>) -> Result<(), DeviceError>;

    /// All of the batch has been queued.
    ///
    /// # Errors
    /// A failed device.
    fn end(&mut self) -> Result<(), DeviceError>;

    /// Takes the results of the oldest batch of those that were ended and not yet taken; `None` if
    /// the device has not come so far, or there is none. With `wait`, waits for the device.
    ///
    /// # Errors
    /// A failed device.
    fn results(&mut self, wait: bool) -> Result<Option<Vec<RowOutput>>, DeviceError>;
}
