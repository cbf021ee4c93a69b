//! RMS norm, alone and with the residual's addition.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

/// The widest row that the kernels hold in registers.
pub const MAX_WIDTH: usize = 8192;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    x: u64,
    weight: u64,
    out: u64,
    stride: u32,
    width: u32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AddArgs {
    rows: u64,
    residual: u64,
    delta: u64,
    weight: u64,
    out: u64,
    width: u32,
    eps: f32,
}

fn check(
    kernel: &str,
    rows: Rows,
    inputs: &[(&str, &Memory)],
    weight: &Memory,
    out: &Memory,
    [stride, width]: [usize; 2],
) -> Result<(), Error> {
    let fits = width.is_multiple_of(4) && width <= MAX_WIDTH;
    check_shape(kernel, fits, "the width must be a multiple of 4, at most 8192")?;
    let fits = stride.is_multiple_of(4) && stride >= width;
    check_shape(kernel, fits, "the stride must be a multiple of 4, at least the width")?;
    for (name, memory) in inputs {
        check_room(kernel, name, memory, rows.bound * stride * 4)?;
    }
    check_room(kernel, "weight", weight, width * 4)?;
    check_room(kernel, "out", out, rows.bound * width * 2)
}

/// `out = weight * x * rsqrt(mean(x^2) + eps)`, row by row: `x` f32 `[rows, stride]`, of which each
/// row's first `width` count, `weight` f32 `[width]`, `out` bf16 `[rows, width]`.
///
/// # Errors
/// Buffers that are too small, a width that is no multiple of 4 or beyond [`MAX_WIDTH`], a stride
/// that is no multiple of 4 or below the width, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has")]
pub fn rms_norm(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    x: &Memory,
    weight: &Memory,
    out: &Memory,
    [stride, width]: [usize; 2],
    eps: f32,
) -> Result<(), Error> {
    check("rms_norm", rows, &[("x", x)], weight, out, [stride, width])?;
    let args = Args {
        rows: rows.count,
        x: x.ptr(),
        weight: weight.ptr(),
        out: out.ptr(),
        stride: stride as u32,
        width: width as u32,
        eps,
    };
    // SAFETY: the parameter is the kernel's, the buffers have room.
    unsafe { stream.launch(kernels.get("rms_norm"), [rows.bound as u32, 1, 1], 256, &args) }
}

/// `residual += delta` (f32 `[rows, width]`), then [`rms_norm`] of `residual`.
///
/// # Errors
/// As [`rms_norm`].
#[expect(clippy::too_many_arguments, reason = "what the formula has")]
pub fn add_rms_norm(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    residual: &Memory,
    delta: &Memory,
    weight: &Memory,
    out: &Memory,
    width: usize,
    eps: f32,
) -> Result<(), Error> {
    let inputs = [("residual", residual), ("delta", delta)];
    check("add_rms_norm", rows, &inputs, weight, out, [width, width])?;
    let args = AddArgs {
        rows: rows.count,
        residual: residual.ptr(),
        delta: delta.ptr(),
        weight: weight.ptr(),
        out: out.ptr(),
        width: width as u32,
        eps,
    };
    // SAFETY: the parameter is the kernel's, the buffers have room.
    unsafe { stream.launch(kernels.get("add_rms_norm"), [rows.bound as u32, 1, 1], 256, &args) }
}
