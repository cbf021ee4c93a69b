//! `out = x w^T` with an MXFP4 matrix.

use checkpoint::Activations;

use super::mxfp4::{Activated, RowTiles, Weights, many_rows_launch};
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    x: u64,
    x_scales: u64,
    w: u64,
    w_scales: u64,
    out: u64,
    rows: u64,
    n: u32,
    k: u32,
}

fn name(form: Activations, few: bool) -> &'static str {
    match (form, few) {
        (Activations::Mxfp4, true) => "matmul_mxfp4_mxfp4_16",
        (Activations::Mxfp4, false) => "matmul_mxfp4_mxfp4_64",
        (Activations::Mxfp8, true) => "matmul_mxfp4_mxfp8_16",
        (Activations::Mxfp8, false) => "matmul_mxfp4_mxfp8_64",
        (Activations::Bf16, true) => "matmul_mxfp4_bf16_16",
        (Activations::Bf16, false) => "matmul_mxfp4_bf16_64",
    }
}

/// `out = x w^T`: `x` is `[rows, w.cols]`, `out` f32 `[rows, w.rows]`. `tiles` changes the speed
/// alone; [`RowTiles::Some`] is as `Many`.
///
/// # Errors
/// Buffers that are too small, shapes that do not fit one another, a failed device.
pub fn matmul_mxfp4(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    tiles: RowTiles,
    x: Activated<'_>,
    w: Weights<'_>,
    out: &Memory,
) -> Result<(), Error> {
    let few = tiles == RowTiles::Few;
    let name = name(x.form, few);
    check_shape(name, x.width == w.cols, "input and weights must have the same width")?;
    x.check_room(name, rows.bound)?;
    w.check_room(name, 1)?;
    check_room(name, "out", out, rows.bound * w.rows * 4)?;
    let args = Args {
        x: x.codes.ptr(),
        x_scales: x.scales.ptr(),
        w: w.codes.ptr(),
        w_scales: w.scales.ptr(),
        out: out.ptr(),
        rows: rows.count,
        n: w.rows as u32,
        k: w.cols as u32,
    };
    let device = stream.device();
    let tiles = if few { RowTiles::Few } else { RowTiles::Many };
    let row_blocks = rows.bound.div_ceil(16 * tiles.count(device.platform()));
    let (grid, threads) = if few {
        ([w.rows.div_ceil(64) as u32, row_blocks as u32, 1], 8 * device.wave() as u32)
    } else {
        many_rows_launch(device, w.rows.div_ceil(256), row_blocks)
    };
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(name), grid, threads, &args) }
}
