//! Token embeddings.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    tokens: u64,
    table: u64,
    out: u64,
    width: u32,
}

/// `out[r] = table[tokens[r]]`: `table` is a matrix of `width` columns in
/// [the kernels' order](super::matmul::preshuffle), `tokens` the address of a u32 for each row,
/// `out` f32 `[rows, width]`.
///
/// # Errors
/// Buffers that are too small, a width that is no multiple of 32, a failed device.
pub fn embed(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    tokens: u64,
    table: &Memory,
    out: &Memory,
    width: usize,
) -> Result<(), Error> {
    check_shape("embed", width.is_multiple_of(32), "the width must be a multiple of 32")?;
    check_room("embed", "out", out, rows.bound * width * 4)?;
    let args =
        Args { rows: rows.count, tokens, table: table.ptr(), out: out.ptr(), width: width as u32 };
    // SAFETY: the parameter is the kernel's; `out` has room, tokens are inside of the table.
    unsafe { stream.launch(kernels.get("embed"), [rows.bound as u32, 1, 1], 256, &args) }
}
