//! Routed experts, second half: down projection, and the weighted sum of a row's experts.

use checkpoint::Activations;

use super::mxfp4::{Activated, RowTiles, Weights, has_form_of_one, many_rows_launch};
use super::route::Choice;
use super::sort::{Sorted, groups, slots};
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Platform, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    h: u64,
    h_scales: u64,
    weights: u64,
    weight_scales: u64,
    pairs: u64,
    groups: u64,
    group_count: u64,
    y: u64,
    hidden: u32,
    width: u32,
}

fn name(form: Activations, tiles: RowTiles) -> &'static str {
    match (form, tiles) {
        (Activations::Mxfp4, RowTiles::Few) => "experts_down_mxfp4_16",
        (Activations::Mxfp4, _) => "experts_down_mxfp4_64",
        (Activations::Mxfp8, RowTiles::Few) => "experts_down_mxfp8_16",
        (Activations::Mxfp8, _) => "experts_down_mxfp8_64",
        (Activations::Bf16, RowTiles::Few) => "experts_down_bf16_16",
        (Activations::Bf16, RowTiles::Some) => "experts_down_bf16_32",
        (Activations::Bf16, RowTiles::Many) => "experts_down_bf16_64",
    }
}

/// `y[pair] = h[slot] d^T` with the pair and the expert of each slot of `sorted`, which has groups
/// of `tiles`. `h` is by slot; `weights` has each of `experts` experts' `[hidden, width]`; `y` is
/// BF16 `[rows * top_k, hidden]`, rounded to nearest, half to even.
///
/// # Errors
/// Buffers that are too small, shapes that do not fit one another, an odd hidden size, a failed
/// device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn experts_down(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    sorted: &Sorted,
    top_k: usize,
    tiles: RowTiles,
    h: Activated<'_>,
    experts: usize,
    weights: Weights<'_>,
    y: &Memory,
) -> Result<(), Error> {
    let tiles = tiles.of_groups(h.form, stream.device().platform());
    let name = name(h.form, tiles);
    check_shape(name, h.width == weights.cols, "input and weights must have the same width")?;
    check_shape(name, weights.rows.is_multiple_of(2), "the hidden size must be even")?;
    let (pairs, row_tiles) = (rows.bound * top_k, tiles.count(stream.device().platform()));
    h.check_room(name, slots(pairs, experts))?;
    weights.check_room(name, experts)?;
    check_room(name, "y", y, pairs * weights.rows * 2)?;
    check_room(name, "pairs", &sorted.pairs, slots(pairs, experts) * 4)?;
    let args = Args {
        h: h.codes.ptr(),
        h_scales: h.scales.ptr(),
        weights: weights.codes.ptr(),
        weight_scales: weights.scales.ptr(),
        pairs: sorted.pairs.ptr(),
        groups: sorted.groups.ptr(),
        group_count: sorted.group_count.ptr(),
        y: y.ptr(),
        hidden: weights.rows as u32,
        width: h.width as u32,
    };
    let (device, groups) = (stream.device(), groups(pairs, experts, row_tiles));
    let blocks = weights.rows.div_ceil(256);
    let (grid, threads) = match tiles {
        RowTiles::Few => ([blocks as u32, groups as u32, 1], 4 * device.wave() as u32),
        RowTiles::Some | RowTiles::Many => many_rows_launch(device, blocks, groups),
    };
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows and
    // `experts` experts, and `sort` made slots and groups of no more.
    unsafe { stream.launch(kernels.get(name), grid, threads, &args) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RowArgs {
    h: u64,
    h_scales: u64,
    weights: u64,
    weight_scales: u64,
    chosen: u64,
    factors: u64,
    out: u64,
    rows: u64,
    top_k: u32,
    hidden: u32,
    width: u32,
}

/// Choices of a row that [`experts_down_of_rows`] takes at most.
pub(crate) const CHOICES: usize = 8;

/// `out[r] += sum_k w_k h[r, k] d_k^T`, k ascending, with the experts and weights of `choice`: what
/// [`experts_down`] and [`experts_combine`] make, to the bit, for up to four rows. `h` is by pair;
/// `weights` has each of `experts` experts' `[hidden, width]`; `out` is f32 `[rows, hidden]`.
///
/// On CUDA it reads `choice`, `rows.count` and `out` while the launch before is under way: that was
/// `experts_gate_up` by pair, which waits for all that wrote them.
///
/// # Errors
/// Buffers that are too small, shapes that do not fit one another, more than 8 choices, a failed
/// device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn experts_down_of_rows(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    choice: Choice<'_>,
    top_k: usize,
    h: Activated<'_>,
    experts: usize,
    weights: Weights<'_>,
    out: &Memory,
) -> Result<(), Error> {
    let device = stream.device();
    // Two of them fit a processor.
    let one = has_form_of_one(device, rows, weights.rows.div_ceil(2 * 32));
    let name = match h.form {
        Activations::Mxfp4 if one => "experts_down_mxfp4_1",
        Activations::Mxfp4 => "experts_down_mxfp4_4",
        Activations::Mxfp8 if one => "experts_down_mxfp8_1",
        Activations::Mxfp8 => "experts_down_mxfp8_4",
        Activations::Bf16 if one => "experts_down_bf16_1",
        Activations::Bf16 => "experts_down_bf16_4",
    };
    check_shape(name, h.width == weights.cols, "input and weights must have the same width")?;
    check_shape(name, (1..=CHOICES).contains(&top_k), "there must be 1 to 8 choices")?;
    let pairs = rows.bound * top_k;
    h.check_room(name, pairs)?;
    weights.check_room(name, experts)?;
    check_room(name, "chosen", choice.experts, pairs * 4)?;
    check_room(name, "factors", choice.weights, pairs * 4)?;
    check_room(name, "out", out, rows.bound * weights.rows * 4)?;
    let args = RowArgs {
        h: h.codes.ptr(),
        h_scales: h.scales.ptr(),
        weights: weights.codes.ptr(),
        weight_scales: weights.scales.ptr(),
        chosen: choice.experts.ptr(),
        factors: choice.weights.ptr(),
        out: out.ptr(),
        rows: rows.count,
        top_k: top_k as u32,
        hidden: weights.rows as u32,
        width: h.width as u32,
    };
    // 16 * ROW_TILES of the kernel.
    let columns = if device.platform() == Platform::Hip || one { 32 } else { 64 };
    let grid = [weights.rows.div_ceil(columns) as u32, rows.bound as u32, 1];
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows and
    // `experts` experts.
    unsafe { stream.launch(kernels.get(name), grid, (CHOICES * device.wave()) as u32, &args) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineArgs {
    y: u64,
    weights: u64,
    out: u64,
    rows: u64,
    top_k: u32,
    hidden: u32,
}

/// `out[r] += sum_k weights[r, k] * y[r, k]`, k ascending. `y` is BF16 `[rows, top_k, hidden]`,
/// `weights` f32 `[rows, top_k]`, `out` f32 `[rows, hidden]`.
///
/// # Errors
/// Buffers that are too small, a hidden size that is not a multiple of 4, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn experts_combine(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    y: &Memory,
    weights: &Memory,
    top_k: usize,
    hidden: usize,
    out: &Memory,
) -> Result<(), Error> {
    const NAME: &str = "experts_combine";
    check_shape(NAME, hidden.is_multiple_of(4), "the hidden size must be a multiple of 4")?;
    check_room(NAME, "y", y, rows.bound * top_k * hidden * 2)?;
    check_room(NAME, "weights", weights, rows.bound * top_k * 4)?;
    check_room(NAME, "out", out, rows.bound * hidden * 4)?;
    let args = CombineArgs {
        y: y.ptr(),
        weights: weights.ptr(),
        out: out.ptr(),
        rows: rows.count,
        top_k: top_k as u32,
        hidden: hidden as u32,
    };
    let grid = [hidden.div_ceil(1024) as u32, rows.bound as u32, 1];
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(NAME), grid, 256, &args) }
}
