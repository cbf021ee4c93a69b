//! The launchers: one file for each kernel file in `kernels/`, of the same name; `experts` launches
//! several.
//!
//! A launcher checks that its buffers are large enough for `rows.bound` rows and refuses shapes
//! that its kernel does not know. It trusts addresses of numbers in device memory (counts, tokens,
//! positions, slots, block tables), and those numbers.

pub mod all_reduce;
pub mod attention;
pub mod attention_prompt;
pub mod embed;
pub mod experts;
pub mod experts_down;
pub mod experts_gate_up;
pub mod gather_entries;
pub mod matmul;
pub mod matmul_mxfp4;
pub mod mxfp4;
pub mod quantize;
pub mod ranks;
pub mod rms_norm;
pub mod rope_and_cache;
pub mod route;
pub mod sample;
pub mod select;
pub mod sort;
pub mod swiglu;

use crate::{Error, Memory};

/// Workgroups that an H100 or H200 holds at once when each takes most of a processor.
pub(crate) const AT_ONCE: usize = 132;

/// How many rows a kernel computes. The true number stands in device memory, because a recorded
/// graph is replayed with fewer rows than it was recorded for.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Device address of the number, a u32.
    pub count: u64,
    /// What it does not exceed: decides the size of the grid.
    pub bound: usize,
}

/// Refuses a buffer of fewer than `bytes`.
pub(crate) fn check_room(
    kernel: &str,
    name: &str,
    memory: &Memory,
    bytes: usize,
) -> Result<(), Error> {
    match memory.bytes() >= bytes {
        true => Ok(()),
        false => Err(Error::Unfit(format!(
            "{kernel}: {name} has {} bytes, needed are {bytes}",
            memory.bytes()
        ))),
    }
}

/// Refuses a shape that the kernel does not know.
pub(crate) fn check_shape(kernel: &str, fits: bool, what: &str) -> Result<(), Error> {
    match fits {
        true => Ok(()),
        false => Err(Error::Unfit(format!("{kernel}: {what}"))),
    }
}
