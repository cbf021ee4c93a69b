//! Token embeddings.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    tokens: Tokens,
    table: u64,
    out: u64,
    width: u32,
    vocab: u32,
}

/// Device addresses of the rows' tokens.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// A u32 for each row. Those of carried rows are written.
    pub ids: u64,
    /// A u32 for each row: where in `drawn` its token stands, or [`NONE`].
    pub carried: u64,
    /// What the batch before this one drew, u32.
    pub drawn: u64,
}

/// Of a row whose token is known.
pub const NONE: u32 = u32::MAX;

/// `out[r] = table[tokens[r]]`: `table` is a matrix of `[vocab, width]` in
/// [the kernels' order](super::matmul::preshuffle), `out` f32 `[rows, width]`.
///
/// # Errors
/// Buffers that are too small, a width that is no multiple of 32, a failed device.
pub fn embed(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    tokens: Tokens,
    table: &Memory,
    out: &Memory,
    [vocab, width]: [usize; 2],
) -> Result<(), Error> {
    check_shape("embed", width.is_multiple_of(32), "the width must be a multiple of 32")?;
    check_room("embed", "out", out, rows.bound * width * 4)?;
    let args = Args {
        rows: rows.count,
        tokens,
        table: table.ptr(),
        out: out.ptr(),
        width: width as u32,
        vocab: vocab as u32,
    };
    // SAFETY: the parameter is the kernel's; `out` has room, tokens are inside of the table.
    unsafe { stream.launch(kernels.get("embed"), [rows.bound as u32, 1, 1], 256, &args) }
}
