//! The router: scores to experts and weights.

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
    logits: u64,
    bias: u64,
    chosen: u64,
    weights: u64,
    rows: u64,
    experts: u32,
    top_k: u32,
    normalize: u32,
    scale: f32,
}

/// Where a row's experts stand.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// u32 `[rows, top_k]`, ascending in a row.
    pub experts: &'a Memory,
    /// f32 `[rows, top_k]`.
    pub weights: &'a Memory,
}

/// Chooses `shape.top_k` of `experts` for every row, as [`model::Backend::route`] says. `logits` is
/// f32 `[rows, experts]`, `bias` f32 `[experts]`.
///
/// # Errors
/// Buffers that are too small, more experts or choices than the kernel knows, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn route(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    logits: &Memory,
    bias: &Memory,
    experts: usize,
    shape: RouterShape,
    out: Choice<'_>,
) -> Result<(), Error> {
    const NAME: &str = "route";
    check_shape(NAME, experts <= MAX_EXPERTS, "there must be at most 512 experts")?;
    let choices = (1..=experts.min(MAX_TOP_K)).contains(&shape.top_k);
    check_shape(NAME, choices, "top_k must be 1 to 32, and at most the number of experts")?;
    check_room(NAME, "logits", logits, rows.bound * experts * 4)?;
    check_room(NAME, "bias", bias, experts * 4)?;
    check_room(NAME, "experts", out.experts, rows.bound * shape.top_k * 4)?;
    check_room(NAME, "weights", out.weights, rows.bound * shape.top_k * 4)?;
    let args = Args {
        logits: logits.ptr(),
        bias: bias.ptr(),
        chosen: out.experts.ptr(),
        weights: out.weights.ptr(),
        rows: rows.count,
        experts: experts as u32,
        top_k: shape.top_k as u32,
        normalize: shape.normalize as u32,
        scale: shape.scale,
    };
    let waves = THREADS as usize / stream.device().wave();
    let grid = [rows.bound.div_ceil(waves) as u32, 1, 1];
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(NAME), grid, THREADS, &args) }
}
