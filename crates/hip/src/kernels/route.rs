//! The router: scores to experts and weights; and the shared experts' activation.

use model::RouterShape;

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

/// Experts that the kernel knows at most.
pub const MAX_EXPERTS: usize = 512;
/// Choices that it makes at most.
const MAX_TOP_K: usize = 32;
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    x: u64,
    bias: u64,
    chosen: u64,
    weights: u64,
    hidden: u64,
    experts: u32,
    top_k: u32,
    normalize: u32,
    scale: f32,
    width: u32,
    routing: u32,
}

/// Where a row's experts stand.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// u32 `[rows, top_k]`, ascending in a row.
    pub experts: &'a Memory,
    /// f32 `[rows, top_k]`.
    pub weights: &'a Memory,
}

/// The activation of what stands behind the logits.
#[derive(Clone, Copy)]
pub struct Hidden<'a> {
    /// bf16 `[rows, width]`; not touched if there are no columns.
    pub memory: &'a Memory,
    /// Columns: none if the logits stand alone.
    pub width: usize,
}

/// Chooses `shape.top_k` of `experts` for every row, and activates what stands behind its logits,
/// as [`model::Backend::route`] says. `x` is f32 `[rows, experts + 2 * hidden.width]`, `bias` f32
/// `[experts]`.
///
/// # Errors
/// Buffers that are too small, more experts or choices than the kernel knows, hidden units whose
/// number is no multiple of 4 or that stand behind experts whose number is none, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn route(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    x: &Memory,
    bias: &Memory,
    experts: usize,
    shape: RouterShape,
    out: Choice<'_>,
    hidden: Hidden<'_>,
) -> Result<(), Error> {
    const NAME: &str = "route";
    check_shape(NAME, experts <= MAX_EXPERTS, "there must be at most 512 experts")?;
    let choices = (1..=experts.min(MAX_TOP_K)).contains(&shape.top_k);
    check_shape(NAME, choices, "top_k must be 1 to 32, and at most the number of experts")?;
    let width = hidden.width;
    let aligned = width == 0 || (experts | width).is_multiple_of(4);
    check_shape(NAME, aligned, "experts before hidden units, and those, must be multiples of 4")?;
    check_room(NAME, "x", x, rows.bound * (experts + 2 * width) * 4)?;
    check_room(NAME, "bias", bias, experts * 4)?;
    check_room(NAME, "experts", out.experts, rows.bound * shape.top_k * 4)?;
    check_room(NAME, "weights", out.weights, rows.bound * shape.top_k * 4)?;
    check_room(NAME, "hidden", hidden.memory, rows.bound * width * 2)?;
    let routing = rows.bound.div_ceil(THREADS as usize / stream.device().wave());
    let args = Args {
        rows: rows.count,
        x: x.ptr(),
        bias: bias.ptr(),
        chosen: out.experts.ptr(),
        weights: out.weights.ptr(),
        hidden: hidden.memory.ptr(),
        experts: experts as u32,
        top_k: shape.top_k as u32,
        normalize: shape.normalize as u32,
        scale: shape.scale,
        width: width as u32,
        routing: routing as u32,
    };
    // One workgroup each that routes some rows; then, for each row, those that activate it.
    let (activating, across) = match width {
        0 => (0, 1),
        _ => (rows.bound, width.div_ceil(4 * THREADS as usize)),
    };
    let grid = [(routing + activating) as u32, across as u32, 1];
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(NAME), grid, THREADS, &args) }
}
