//! The gated activation.

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    gate_up: u64,
    out: u64,
    width: u32,
}

/// `out = silu(g) * u` for rows `[g | u]`: `gate_up` f32 `[rows, 2 * width]`, `out` bf16 `[rows,
/// width]`.
///
/// # Errors
/// Buffers that are too small, a width that is no multiple of 4, a failed device.
pub fn swiglu(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    gate_up: &Memory,
    out: &Memory,
    width: usize,
) -> Result<(), Error> {
    check_shape("swiglu", width.is_multiple_of(4), "the width must be a multiple of 4")?;
    check_room("swiglu", "gate_up", gate_up, rows.bound * width * 8)?;
    check_room("swiglu", "out", out, rows.bound * width * 2)?;
    let args =
        Args { rows: rows.count, gate_up: gate_up.ptr(), out: out.ptr(), width: width as u32 };
    let grid = [width.div_ceil(1024) as u32, rows.bound as u32, 1];
    // SAFETY: the parameter is the kernel's, the buffers have room.
    unsafe { stream.launch(kernels.get("swiglu"), grid, 256, &args) }
}
