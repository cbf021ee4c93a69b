//! Rows of BF16 to MX blocks of 32.

use checkpoint::Activations;
use mx::BLOCK;

use super::mxfp4::Activated;
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    x: u64,
    codes: u64,
    scales: u64,
    rows: u64,
    width: u32,
}

/// `out = quantize(x)`: `x` is bf16 `[rows, out.width]`, `out.form` MXFP4 or MXFP8.
///
/// # Errors
/// Buffers that are too small, BF16 as the form, a width that is not a multiple of 32, a failed
/// device.
pub fn quantize(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    x: &Memory,
    out: Activated<'_>,
) -> Result<(), Error> {
    const NAME: &str = "quantize";
    let name = match out.form {
        Activations::Mxfp4 => "quantize_mxfp4",
        Activations::Mxfp8 => "quantize_mxfp8",
        Activations::Bf16 => return check_shape(NAME, false, "BF16 is not quantized to"),
    };
    check_shape(NAME, out.width.is_multiple_of(BLOCK), "the width must be a multiple of 32")?;
    check_room(NAME, "x", x, rows.bound * out.width * 2)?;
    out.check_room(NAME, rows.bound)?;
    let args = Args {
        x: x.ptr(),
        codes: out.codes.ptr(),
        scales: out.scales.ptr(),
        rows: rows.count,
        width: out.width as u32,
    };
    let grid = [(out.scale_words() * 128).div_ceil(256 * 8) as u32, rows.bound as u32, 1];
    // SAFETY: the arguments are the kernel's, the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(name), grid, 256, &args) }
}
