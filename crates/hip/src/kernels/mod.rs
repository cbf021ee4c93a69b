//! The launchers: one file for each kernel file in `kernels/`, of the same name.

/// How many rows a kernel computes. The true number stands in device memory, because a recorded
/// graph is replayed with fewer rows than it was recorded for.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Device address of the number, a u32.
    pub count: u64,
    /// What it does not exceed: decides the size of the grid.
    pub bound: usize,
}
