//! Routed experts, both halves: the launches that a number of rows takes.

use super::experts_down::{CHOICES, experts_combine, experts_down, experts_down_of_rows};
use super::experts_gate_up::{Grouping, experts_gate_up};
use super::mxfp4::{Activated, RowTiles, Weights};
use super::route::Choice;
use super::sort::{Sorted, sort};
use super::{Rows, check_shape};
use crate::{Error, Kernels, Memory, Stream};

/// Rows whose pairs go to their experts one by one: of more too many would share one.
const FEW: usize = 4;

/// A layer's routed experts.
#[derive(Clone, Copy)]
pub struct Matrices<'a> {
    /// How many they are.
    pub count: usize,
    /// Of each the gate and up rows in turn ([`super::mxfp4::RowOrder::GateUp`]).
    pub gate_up: Weights<'a>,
    /// Of each `[hidden, width]`.
    pub down: Weights<'a>,
}

/// What the way through the experts takes beside input and output.
#[derive(Clone, Copy)]
pub struct Scratch<'a> {
    /// For all pairs.
    pub sorted: &'a Sorted,
    /// [`super::sort::slots`] rows, in the form of the input.
    pub hidden: Activated<'a>,
    /// BF16 `[rows, top_k, hidden]`.
    pub parts: &'a Memory,
}

/// Whether up to `rows` rows of `top_k` choices each are so few that nothing is sorted.
pub fn by_pair(rows: usize, top_k: usize) -> bool {
    rows <= FEW && top_k <= CHOICES
}

/// `out[r] += sum_k w_k down_k(swiglu(gate_up_k(x[r])))` with the experts and weights of `choice`,
/// `top_k` of each row, k ascending. `out` is f32 `[rows, hidden]`. The bits are the same whatever
/// the launches.
///
/// # Errors
/// Buffers that are too small, shapes that do not fit one another, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn experts(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    x: Activated<'_>,
    choice: Choice<'_>,
    top_k: usize,
    matrices: Matrices<'_>,
    scratch: Scratch<'_>,
    out: &Memory,
) -> Result<(), Error> {
    let Matrices { count, gate_up, down } = matrices;
    let Scratch { sorted, hidden, parts } = scratch;
    check_shape("experts", down.rows == x.width, "input and output must have the same width")?;
    if by_pair(rows.bound, top_k) {
        let grouping = Grouping::ByPair(choice.experts);
        experts_gate_up(stream, kernels, rows, grouping, top_k, x, count, gate_up, hidden)?;
        return experts_down_of_rows(
            stream, kernels, rows, choice, top_k, hidden, count, down, out,
        );
    }
    let platform = stream.device().platform();
    let tiles = RowTiles::for_rows(rows.bound * top_k, count).of_groups(x.form, platform);
    let group_tiles = tiles.count(platform);
    sort(stream, kernels, rows, choice.experts, top_k, count, group_tiles, sorted)?;
    let grouping = Grouping::Sorted(sorted, tiles);
    experts_gate_up(stream, kernels, rows, grouping, top_k, x, count, gate_up, hidden)?;
    experts_down(stream, kernels, rows, sorted, top_k, tiles, hidden, count, down, parts)?;
    experts_combine(stream, kernels, rows, parts, choice.weights, top_k, down.rows, out)
}
