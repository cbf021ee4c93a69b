//! Sorts (row, choice) pairs by expert, into the tiles that the expert matmuls take.

use super::route::MAX_EXPERTS;
use super::{Rows, check_room, check_shape};
use crate::{Device, Error, Kernels, Memory, Stream};

/// Pairs that the kernels count at most.
const MAX_PAIRS: usize = (1 << 19) - 1;
/// Pairs that `sort_few` takes.
const FEW_PAIRS: usize = 512;
/// Experts of a workgroup of `sort_many`.
const EXPERTS_EACH: usize = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    chosen: u64,
    rows: u64,
    bound: u32,
    top_k: u32,
    experts: u32,
    group_tiles: u32,
    pairs: u64,
    groups: u64,
    group_count: u64,
}

/// Pairs by expert. Experts have consecutive slots from a multiple of 16 on, in ascending order.
pub struct Sorted {
    /// u32 by slot: the pair that stands there, `row * top_k + k`. Slots between experts have none.
    pub pairs: Memory,
    /// `[expert, first slot, slots, 0]` by group.
    pub groups: Memory,
    /// How many groups there are.
    pub group_count: Memory,
}

/// Slots that `pairs` pairs of `experts` experts take at most.
pub fn slots(pairs: usize, experts: usize) -> usize {
    groups(pairs, experts, 1) * 16
}

/// Groups of up to `tiles` tiles of 16 pairs that `pairs` pairs of `experts` experts make at most:
/// each expert's last one may hold a single pair.
pub(crate) fn groups(pairs: usize, experts: usize, tiles: usize) -> usize {
    let size = 16 * tiles;
    (pairs + (size - 1) * experts.min(pairs)) / size
}

impl Sorted {
    /// Room for up to `pairs` pairs of `experts` experts.
    ///
    /// # Errors
    /// Too little memory.
    pub fn new(device: &Device, pairs: usize, experts: usize) -> Result<Sorted, Error> {
        Ok(Sorted {
            pairs: device.allocate(slots(pairs, experts) * 4)?,
            groups: device.allocate(groups(pairs, experts, 1) * 16)?,
            group_count: device.allocate(4)?,
        })
    }
}

/// Sorts `chosen`, u32 `[rows, top_k]` below `experts`, into groups of up to `group_tiles` tiles.
///
/// # Errors
/// Buffers that are too small, more experts or pairs than the kernels know, a failed device.
#[expect(clippy::too_many_arguments, reason = "sizes, and where to work")]
pub fn sort(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    chosen: &Memory,
    top_k: usize,
    experts: usize,
    group_tiles: usize,
    out: &Sorted,
) -> Result<(), Error> {
    const NAME: &str = "sort";
    let pairs = rows.bound * top_k;
    check_shape(NAME, experts <= MAX_EXPERTS, "there must be at most 512 experts")?;
    check_shape(NAME, pairs <= MAX_PAIRS, "there must be at most 524,287 pairs of row and expert")?;
    check_room(NAME, "chosen", chosen, pairs * 4)?;
    check_room(NAME, "pairs", &out.pairs, slots(pairs, experts) * 4)?;
    check_room(NAME, "groups", &out.groups, groups(pairs, experts, group_tiles) * 16)?;
    if pairs == 0 {
        return stream.fill(&out.group_count, 0);
    }
    let args = Args {
        chosen: chosen.ptr(),
        rows: rows.count,
        bound: pairs as u32,
        top_k: top_k as u32,
        experts: experts as u32,
        group_tiles: group_tiles as u32,
        pairs: out.pairs.ptr(),
        groups: out.groups.ptr(),
        group_count: out.group_count.ptr(),
    };
    let (kernel, workgroups) = match pairs <= FEW_PAIRS {
        true => ("sort_few", 1),
        false => ("sort_many", experts.div_ceil(EXPERTS_EACH)),
    };
    // SAFETY: the arguments are the kernels', the buffers have room for `rows.bound` rows.
    unsafe { stream.launch(kernels.get(kernel), [workgroups as u32, 1, 1], 512, &args) }
}
