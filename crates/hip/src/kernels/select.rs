//! The rows whose logits are wanted.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    count: u64,
    indices: u64,
    x: u64,
    out: u64,
    width: u32,
}

/// `out[i] = x[indices[i]]`, rows of `width` bf16: `rows` counts those of `out`, `indices` is the
/// address of a u32 for each.
///
/// # Errors
/// An `out` that is too small, a width that is no multiple of 8, a failed device.
pub fn select(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    indices: u64,
    x: &Memory,
    out: &Memory,
    width: usize,
) -> Result<(), Error> {
    check_shape("select", width.is_multiple_of(8), "the width must be a multiple of 8")?;
    check_room("select", "out", out, rows.bound * width * 2)?;
    let args = Args { count: rows.count, indices, x: x.ptr(), out: out.ptr(), width: width as u32 };
    // SAFETY: the parameter is the kernel's; `out` has room, the indices are rows of `x`.
    unsafe { stream.launch(kernels.get("select"), [rows.bound as u32, 1, 1], 256, &args) }
}
