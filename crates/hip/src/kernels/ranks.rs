//! What is done with all ranks' parts once they are on this rank's device.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    parts: u64,
    out: u64,
    part_stride: u64,
    width: u32,
    ranks: u32,
}

/// All ranks' parts, side by side in one buffer.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// f32 `[ranks][.., width]`.
    pub memory: &'a Memory,
    /// Values from the start of one rank's part to the next one's.
    pub stride: usize,
    /// Values in a row of a part.
    pub width: usize,
    /// How many.
    pub ranks: usize,
}

fn launch(
    stream: &Stream,
    kernels: &Kernels,
    kernel: &'static str,
    rows: Rows,
    parts: Parts<'_>,
    out: &Memory,
    out_width: usize,
) -> Result<(), Error> {
    let Parts { memory, stride, width, ranks } = parts;
    let fits = width.is_multiple_of(4) && stride.is_multiple_of(4) && ranks > 0;
    check_shape(kernel, fits, "width and stride must be multiples of 4")?;
    check_shape(kernel, rows.bound * width <= stride, "a part has fewer rows")?;
    check_room(kernel, "parts", memory, ((ranks - 1) * stride + rows.bound * width) * 4)?;
    check_room(kernel, "out", out, rows.bound * out_width * 4)?;
    let args = Args {
        rows: rows.count,
        parts: memory.ptr(),
        out: out.ptr(),
        part_stride: stride as u64,
        width: width as u32,
        ranks: ranks as u32,
    };
    let grid = [width.div_ceil(1024) as u32, rows.bound as u32, 1];
    // SAFETY: the parameter is the kernels', the buffers have room.
    unsafe { stream.launch(kernels.get(kernel), grid, 256, &args) }
}

/// `out = parts[0] + parts[1] + ..`, in this order: f32 `[rows, width]`.
///
/// # Errors
/// Buffers that are too small, widths that are no multiples of 4, a failed device.
pub fn sum_ranks(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    parts: Parts<'_>,
    out: &Memory,
) -> Result<(), Error> {
    launch(stream, kernels, "sum_ranks", rows, parts, out, parts.width)
}

/// The parts' columns side by side: f32 `[rows, ranks * width]`.
///
/// # Errors
/// As [`sum_ranks`].
pub fn gather_columns(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    parts: Parts<'_>,
    out: &Memory,
) -> Result<(), Error> {
    let width = parts.ranks * parts.width;
    launch(stream, kernels, "gather_columns", rows, parts, out, width)
}
