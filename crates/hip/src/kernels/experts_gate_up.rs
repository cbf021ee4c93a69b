//! Routed experts, first half: gate and up projections, SwiGLU, quantization.

use checkpoint::Activations;

use super::mxfp4::{Activated, RowTiles, Weights, many_rows_launch};
use super::sort::{Sorted, groups, slots};
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    x: u64,
    x_scales: u64,
    weights: u64,
    weight_scales: u64,
    pairs: u64,
    groups: u64,
    group_count: u64,
    out: u64,
    out_scales: u64,
    top_k: u32,
    hidden: u32,
    width: u32,
}

fn name(form: Activations, tiles: RowTiles) -> &'static str {
    match (form, tiles) {
        (Activations::Mxfp4, RowTiles::Few) => "experts_gate_up_mxfp4_16",
        (Activations::Mxfp4, RowTiles::Many) => "experts_gate_up_mxfp4_64",
        (Activations::Mxfp8, RowTiles::Few) => "experts_gate_up_mxfp8_16",
        (Activations::Mxfp8, RowTiles::Many) => "experts_gate_up_mxfp8_64",
        (Activations::Bf16, RowTiles::Few) => "experts_gate_up_bf16_16",
        (Activations::Bf16, RowTiles::Many) => "experts_gate_up_bf16_64",
    }
}

/// `out[slot] = quantize(silu(x g^T) * (x u^T))` with the row and the expert of each slot of
/// `sorted`, which has groups of `tiles`. `weights`: of each of `experts` experts its gate and up
/// rows in turn ([`super::mxfp4::RowOrder::GateUp`]), of the width of `x`. `out` is by slot, in the
/// form of `x`.
///
/// # Errors
/// Buffers that are too small, shapes that do not fit one another, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn experts_gate_up(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    sorted: &Sorted,
    top_k: usize,
    tiles: RowTiles,
    x: Activated<'_>,
    experts: usize,
    weights: Weights<'_>,
    out: Activated<'_>,
) -> Result<(), Error> {
    let name = name(x.form, tiles);
    let fits = x.form == out.form && x.width == weights.cols && weights.rows == 2 * out.width;
    check_shape(name, fits, "input, weights and output must have the same form and sizes")?;
    let (pairs, row_tiles) = (rows.bound * top_k, tiles.count(stream.device().platform()));
    x.check_room(name, rows.bound)?;
    weights.check_room(name, experts)?;
    out.check_room(name, slots(pairs, experts))?;
    check_room(name, "pairs", &sorted.pairs, slots(pairs, experts) * 4)?;
    let args = Args {
        x: x.codes.ptr(),
        x_scales: x.scales.ptr(),
        weights: weights.codes.ptr(),
        weight_scales: weights.scales.ptr(),
        pairs: sorted.pairs.ptr(),
        groups: sorted.groups.ptr(),
        group_count: sorted.group_count.ptr(),
        out: out.codes.ptr(),
        out_scales: out.scales.ptr(),
        top_k: top_k as u32,
        hidden: x.width as u32,
        width: out.width as u32,
    };
    let (device, groups) = (stream.device(), groups(pairs, experts, row_tiles));
    let (grid, threads) = match tiles {
        RowTiles::Few => ([out.width as u32 / 32, groups as u32, 1], 8 * device.wave() as u32),
        RowTiles::Many => many_rows_launch(device, out.width.div_ceil(128), groups),
    };
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows and
    // `experts` experts, and `sort` made slots and groups of no more.
    unsafe { stream.launch(kernels.get(name), grid, threads, &args) }
}
