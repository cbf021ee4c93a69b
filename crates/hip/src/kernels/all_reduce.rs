//! The sum over ranks through peer memory, with the residual's addition and RMS norm.

use super::rms_norm::MAX_WIDTH;
use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Pinned, Stream};

/// Most ranks that the kernels know; they are made for 2, 4 and 8.
pub const MAX_RANKS: usize = 8;
/// Most rows: all workgroups must be resident at once, on every rank.
pub const MAX_ROWS: usize = 256;
/// Most rows for the form that writes to the peers, which moves twice the bytes but waits for one
/// way over the link alone. A launch's bound picks the form; both give the same bits.
pub const PUSH_ROWS: usize = 16;
/// Bytes of a rank's flags.
pub const FLAG_BYTES: usize = 4 * MAX_ROWS * MAX_RANKS;
/// Bytes of a rank's epochs.
pub const EPOCH_BYTES: usize = 4 * (MAX_ROWS + PUSH_ROWS * MAX_RANKS);

/// Bytes of the slots that the others write to on each of so many ranks.
pub const fn slot_bytes(ranks: usize) -> usize {
    2 * PUSH_ROWS * ranks * MAX_WIDTH * 8
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    parts: [u64; MAX_RANKS],
    flags: [u64; MAX_RANKS],
    slots: [u64; MAX_RANKS],
    own_part: u64,
    own_flags: u64,
    own_slots: u64,
    epochs: u64,
    stop: u64,
    residual: u64,
    weight: u64,
    out: u64,
    width: u32,
    rank: u32,
    eps: f32,
}

/// One rank's view of what all ranks launch together. What every rank calls by turns must be the
/// same.
#[derive(Clone, Copy)]
pub struct Twins<'a> {
    /// Ranks in the group: 2, 4 or 8.
    pub ranks: usize,
    /// Which of them this one is.
    pub rank: usize,
    /// Addresses of the ranks' partial sums, f32 `[rows, width]`.
    pub parts: [u64; MAX_RANKS],
    /// Addresses of the ranks' flags, [`FLAG_BYTES`] each, zero at first.
    pub flags: [u64; MAX_RANKS],
    /// Addresses of the ranks' slots, [`slot_bytes`] each, zero at first.
    pub slots: [u64; MAX_RANKS],
    /// This rank's epochs, [`EPOCH_BYTES`], zero at first.
    pub epochs: &'a Memory,
    /// Its first word ends all waiting, once it is not zero.
    pub stop: &'a Pinned,
}

/// `residual += parts[0] + parts[1] + ..` in this order, then RMS norm of `residual` as
/// [`rms_norm`](super::rms_norm::rms_norm). Waits on the device until all ranks have launched it
/// with the same number of rows; the parts may be written again after it.
///
/// # Errors
/// Buffers that are too small, a width that is no multiple of 4 or beyond [`MAX_WIDTH`], more than
/// [`MAX_ROWS`], ranks that there is no kernel for, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has")]
pub fn all_reduce_norm(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    twins: Twins<'_>,
    residual: &Memory,
    weight: &Memory,
    out: &Memory,
    width: usize,
    eps: f32,
) -> Result<(), Error> {
    let push = rows.bound <= PUSH_ROWS;
    let kernel = match (twins.ranks, push) {
        (2, true) => "all_reduce_norm_push_2",
        (4, true) => "all_reduce_norm_push_4",
        (8, true) => "all_reduce_norm_push_8",
        (2, false) => "all_reduce_norm_pull_2",
        (4, false) => "all_reduce_norm_pull_4",
        (8, false) => "all_reduce_norm_pull_8",
        _ => return check_shape("all_reduce_norm", false, "there must be 2, 4 or 8 ranks"),
    };
    // Which writes: a workgroup for each peer, and one that sums.
    let groups = if push { twins.ranks } else { 1 };
    let fits = width.is_multiple_of(4) && width <= MAX_WIDTH;
    check_shape(kernel, fits, "the width must be a multiple of 4, at most 8192")?;
    check_shape(kernel, rows.bound <= MAX_ROWS, "there may be at most 256 rows")?;
    check_room(kernel, "residual", residual, rows.bound * width * 4)?;
    check_room(kernel, "weight", weight, width * 4)?;
    check_room(kernel, "out", out, rows.bound * width * 2)?;
    check_room(kernel, "epochs", twins.epochs, EPOCH_BYTES)?;
    let args = Args {
        rows: rows.count,
        parts: twins.parts,
        flags: twins.flags,
        slots: twins.slots,
        own_part: twins.parts[twins.rank],
        own_flags: twins.flags[twins.rank],
        own_slots: twins.slots[twins.rank],
        epochs: twins.epochs.ptr(),
        stop: twins.stop.as_slice().as_ptr() as u64,
        residual: residual.ptr(),
        weight: weight.ptr(),
        out: out.ptr(),
        width: width as u32,
        rank: twins.rank as u32,
        eps,
    };
    // SAFETY: the parameter is the kernels', the buffers have room; `twins` describes memory of the
    // same sizes on the other ranks.
    unsafe { stream.launch(kernels.get(kernel), [rows.bound as u32, groups as u32, 1], 256, &args) }
}
