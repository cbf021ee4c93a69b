//! Routed experts, first half: gate and up projections, SwiGLU, quantization.

use checkpoint::Activations;

use super::mxfp4::{Activated, RowTiles, Weights, has_form_of_one, many_rows_launch};
use super::sort::{Sorted, groups, slots};
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

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
    chosen: u64,
    rows: u64,
}

/// Which pairs of row and choice a workgroup takes together. The results do not depend on it.
#[derive(Clone, Copy)]
pub enum Grouping<'a> {
    /// Each by itself, for up to four rows: u32 `[rows, top_k]`, their experts. A pair's slot is
    /// itself.
    ByPair(&'a Memory),
    /// Those of an expert, in groups of so many.
    Sorted(&'a Sorted, RowTiles),
}

fn name(form: Activations, grouping: Grouping<'_>, one: bool) -> &'static str {
    use Grouping::{ByPair, Sorted};
    match (form, grouping) {
        (Activations::Mxfp4, ByPair(_)) if one => "experts_gate_up_mxfp4_1",
        (Activations::Mxfp4, ByPair(_)) => "experts_gate_up_mxfp4_4",
        (Activations::Mxfp4, Sorted(_, RowTiles::Few)) => "experts_gate_up_mxfp4_16",
        (Activations::Mxfp4, Sorted(..)) => "experts_gate_up_mxfp4_64",
        (Activations::Mxfp8, ByPair(_)) if one => "experts_gate_up_mxfp8_1",
        (Activations::Mxfp8, ByPair(_)) => "experts_gate_up_mxfp8_4",
        (Activations::Mxfp8, Sorted(_, RowTiles::Few)) => "experts_gate_up_mxfp8_16",
        (Activations::Mxfp8, Sorted(..)) => "experts_gate_up_mxfp8_64",
        (Activations::Bf16, ByPair(_)) if one => "experts_gate_up_bf16_1",
        (Activations::Bf16, ByPair(_)) => "experts_gate_up_bf16_4",
        (Activations::Bf16, Sorted(_, RowTiles::Few)) => "experts_gate_up_bf16_16",
        (Activations::Bf16, Sorted(_, RowTiles::Some)) => "experts_gate_up_bf16_32",
        (Activations::Bf16, Sorted(_, RowTiles::Many)) => "experts_gate_up_bf16_64",
    }
}

/// `out[slot] = quantize(silu(x g^T) * (x u^T))` with the row and the expert of each slot of
/// `grouping`. `weights`: of each of `experts` experts its gate and up
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
    grouping: Grouping<'_>,
    top_k: usize,
    x: Activated<'_>,
    experts: usize,
    weights: Weights<'_>,
    out: Activated<'_>,
) -> Result<(), Error> {
    let device = stream.device();
    let grouping = match grouping {
        Grouping::Sorted(sorted, tiles) => {
            Grouping::Sorted(sorted, tiles.of_groups(x.form, device.platform()))
        }
        by_pair @ Grouping::ByPair(_) => by_pair,
    };
    let one = has_form_of_one(device, rows, out.width / 32 * top_k);
    let name = name(x.form, grouping, one);
    let fits = x.form == out.form && x.width == weights.cols && weights.rows == 2 * out.width;
    check_shape(name, fits, "input, weights and output must have the same form and sizes")?;
    let pairs = rows.bound * top_k;
    x.check_room(name, rows.bound)?;
    weights.check_room(name, experts)?;
    let mut args = Args {
        x: x.codes.ptr(),
        x_scales: x.scales.ptr(),
        weights: weights.codes.ptr(),
        weight_scales: weights.scales.ptr(),
        pairs: 0,
        groups: 0,
        group_count: 0,
        out: out.codes.ptr(),
        out_scales: out.scales.ptr(),
        top_k: top_k as u32,
        hidden: x.width as u32,
        width: out.width as u32,
        chosen: 0,
        rows: rows.count,
    };
    let few = |groups: usize| ([out.width as u32 / 32, groups as u32, 1], 8 * device.wave() as u32);
    let (grid, threads) = match grouping {
        Grouping::ByPair(chosen) => {
            out.check_room(name, pairs)?;
            check_room(name, "chosen", chosen, pairs * 4)?;
            args.chosen = chosen.ptr();
            few(pairs)
        }
        Grouping::Sorted(sorted, tiles) => {
            out.check_room(name, slots(pairs, experts))?;
            check_room(name, "pairs", &sorted.pairs, slots(pairs, experts) * 4)?;
            args.pairs = sorted.pairs.ptr();
            args.groups = sorted.groups.ptr();
            args.group_count = sorted.group_count.ptr();
            let groups = groups(pairs, experts, tiles.count(device.platform()));
            match tiles {
                RowTiles::Few => few(groups),
                RowTiles::Some | RowTiles::Many => {
                    many_rows_launch(device, out.width.div_ceil(128), groups)
                }
            }
        }
    };
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows and
    // `experts` experts, and `sort` made slots and groups of no more.
    unsafe { stream.launch(kernels.get(name), grid, threads, &args) }
}
