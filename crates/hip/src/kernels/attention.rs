//! Absorbed MLA over the paged latent cache.

use model::{CacheFormat, Limits};

use super::{Rows, check_room, check_shape};
use crate::tensor_map::{Element, TensorMap};
use crate::{Device, Error, Kernels, Memory, Platform, Stream};

/// Latent width of the kernels.
pub const LATENT: usize = 512;
/// Rotary width of the kernels.
pub const ROPE: usize = 64;
/// Rows of a launch at most: as many as decode graphs have. Tokens that are computed again may be
/// more, and then come in several launches, which share a workspace.
pub const MAX_ROWS: usize = Limits::LOGIT_ROWS;

/// Of `attention_split` on gfx950, over all tiles of heads: two workgroups are at once on each of
/// 256 compute units, and as many wait, to take their part of the splits where others have ended
/// early. Those that find nothing to do are few beside what runs, or run beside it.
const WORKGROUPS: usize = 2 * 2 * 256;
/// Keys that the kernels take at once; splits are multiples of it.
const TILE: usize = 32;

/// Splits of a row at most.
const fn max_splits(platform: Platform) -> usize {
    match platform {
        Platform::Hip => 128,
        Platform::Cuda => 64,
    }
}

/// `(keys, more)`: a row that sees `len` keys has `(len + more) / keys` splits, though not none and
/// not more than [`max_splits`]. On HIP as many as there can be while their means, written and read
/// again, are at most a twentieth of what a row of 16 heads needs: two from 1125 keys on in BF16,
/// from 1973 in FP8. A lone sequence waits the longest just below that. On CUDA so many that none
/// has more than 320 keys: a workgroup takes half as many keys at once as on HIP, and codes take
/// longer to become BF16 than to arrive.
const fn split_keys(format: CacheFormat, platform: Platform) -> (usize, usize) {
    match (format, platform) {
        (CacheFormat::Fp8, Platform::Hip) => (1012, 51),
        (_, Platform::Hip) => (576, 27),
        (_, Platform::Cuda) => (320, 319),
    }
}

/// Splits of a row that sees `len`, or fewer where their length, rounded up, leaves none for the
/// last.
fn split_count(len: usize, format: CacheFormat, platform: Platform) -> usize {
    let (keys, more) = split_keys(format, platform);
    ((len + more) / keys).clamp(1, max_splits(platform))
}

/// Keys in a split of a row that sees `len`, all but the last: `split_length` of kernels/mla.h.
fn split_length(len: usize, format: CacheFormat, platform: Platform) -> usize {
    len.div_ceil(split_count(len, format, platform) * TILE) * TILE
}

/// The splits of a launch's rows at `positions`, as [`Places::splits`] has them: first those that
/// begin rows, then the second ones, and so on, so that workgroups at work together are on many
/// rows, those of one sequence on the same keys; of rows of one length the shorter ones, the last,
/// end it. Empty on CUDA, whose workgroups find their splits themselves.
pub fn splits(positions: &[u32], format: CacheFormat, platform: Platform) -> Vec<u32> {
    let mut list = Vec::new();
    if platform == Platform::Cuda {
        return list;
    }
    let count = |&position: &u32| {
        let len = position as usize + 1;
        len.div_ceil(split_length(len, format, platform)) as u32
    };
    let mut left: Vec<(u32, u32)> = (0..).zip(positions.iter().map(count)).collect();
    for number in 0.. {
        left.retain(|&(_, splits)| number < splits);
        if left.is_empty() {
            break;
        }
        list.extend(left.iter().map(|&(row, _)| row << 16 | number));
    }
    list
}

/// Splits of so many rows, of sequences of up to `max_len` tokens, at most; 0 on CUDA, as
/// [`splits`] has none.
pub(crate) fn most_listed(max_len: usize, max_rows: usize, platform: Platform) -> usize {
    match platform {
        Platform::Hip => max_rows * most_splits(max_len, platform),
        Platform::Cuda => 0,
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    positions: u64,
    table_starts: u64,
    tables: u64,
    queries: u64,
    cache: u64,
    out: u64,
    partials: u64,
    sums: u64,
    heads: u32,
    block_size: u32,
    max_splits: u32,
    split: u32,
    split_more: u32,
    scale: f32,
    workgroups: u32,
    split_count: u64,
    splits: u64,
}

/// The parameter of CUDA's `attention_split`: `SplitArgs` of `kernels/arch/attention_split_sm90.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CudaArgs {
    entries: TensorMap,
    args: Args,
}

impl CudaArgs {
    /// Of `slots` entries in BF16.
    fn new(device: &Device, slots: usize, args: Args) -> Result<CudaArgs, Error> {
        /// Bytes of a line of an entry, and lines.
        const LINE: usize = 128;
        const LINES: usize = (LATENT + ROPE) * 2 / LINE;
        let elements = [LINE / 2, LINES, slots.max(1)];
        let (steps, sizes) = ([2, LINE, LINES * LINE], [LINE as u32 / 2, LINES as u32, 1]);
        let entries = TensorMap::new(device, Element::Bf16, args.cache, elements, steps, sizes)?;
        Ok(CudaArgs { entries, args })
    }
}

/// Room for the sums of splits.
pub struct Workspace {
    partials: Memory,
    sums: Memory,
    max_splits: usize,
    /// On CUDA, where workgroups stay and take splits one after another: so many, one a processor.
    workgroups: Option<usize>,
}

/// Splits of a row of up to `len` keys at most, in any format: BF16 has the shortest.
fn most_splits(len: usize, platform: Platform) -> usize {
    split_count(len, CacheFormat::Bf16, platform)
}

impl Workspace {
    /// Bytes that [`Workspace::new`] takes on a device of `platform`.
    pub fn bytes(heads: usize, max_len: usize, max_rows: usize, platform: Platform) -> usize {
        max_rows.min(MAX_ROWS) * most_splits(max_len, platform) * heads * (2 * LATENT + 8)
    }

    /// Room for `heads` heads and sequences of up to `max_len` tokens, for up to `max_rows` rows in
    /// a batch.
    ///
    /// # Errors
    /// Too little memory, or a failed device.
    pub fn new(
        device: &Device,
        heads: usize,
        max_len: usize,
        max_rows: usize,
    ) -> Result<Workspace, Error> {
        let max_splits = most_splits(max_len, device.platform());
        let parts = max_rows.min(MAX_ROWS) * max_splits * heads;
        let partials = device.allocate(parts * LATENT * 2)?;
        let sums = device.allocate(parts * 2 * 4)?;
        let workgroups = match device.platform() {
            Platform::Hip => None,
            Platform::Cuda => Some(device.cuda_processors()?),
        };
        Ok(Workspace { partials, sums, max_splits, workgroups })
    }
}

/// Where a launch's rows stand among all, and in their sequences: addresses in device memory.
#[derive(Clone, Copy)]
pub struct Places {
    /// The first one's number in [`Buffers::queries`] and [`Buffers::out`].
    pub first_row: usize,
    /// A u32 for each row: its position.
    pub positions: u64,
    /// A u32 for each row: where its sequence's blocks begin in `tables`.
    pub table_starts: u64,
    /// Block numbers, u32.
    pub tables: u64,
    /// A u32: how many splits the rows have. Unused on CUDA, like the list.
    pub split_count: u64,
    /// A u32 for each: its row in the launch times 2^16, plus its number among the row's. See
    /// [`splits`].
    pub splits: u64,
}

/// The buffers of [`attention`].
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// bf16 `[rows, heads, LATENT + ROPE]`.
    pub queries: &'a Memory,
    /// Entries that `rope_and_cache` wrote, from [`Buffers::cache_offset`] on.
    pub cache: &'a Memory,
    /// What the entries are.
    pub format: CacheFormat,
    /// Where the layer's part of `cache` begins, in bytes.
    pub cache_offset: usize,
    /// bf16 `[rows, heads, LATENT]`, written.
    pub out: &'a Memory,
}

/// `out = sum_j softmax(scale * (q . entry_j))_j entry_j[..LATENT]` over each row's own position
/// and all before it. Tokens of `block_size` fill a block.
///
/// # Errors
/// More rows than [`MAX_ROWS`], buffers that are too small, a failed device.
#[expect(clippy::too_many_arguments, reason = "what the formula has, and where to work")]
pub fn attention(
    stream: &Stream,
    kernels: &Kernels,
    workspace: &Workspace,
    rows: Rows,
    places: Places,
    buffers: Buffers<'_>,
    heads: usize,
    block_size: usize,
    scale: f32,
) -> Result<(), Error> {
    const NAME: &str = "attention";
    check_shape(NAME, block_size > 0, "the block size must not be 0")?;
    check_shape(NAME, rows.bound <= MAX_ROWS, "a launch has 256 rows at most")?;
    let Buffers { queries, cache, format, cache_offset, out } = buffers;
    let (query, result) = (heads * (LATENT + ROPE) * 2, heads * LATENT * 2); // bytes of a row
    let first = places.first_row;
    check_room(NAME, "queries", queries, (first + rows.bound) * query)?;
    check_room(NAME, "out", out, (first + rows.bound) * result)?;
    let splits = workspace.max_splits;
    let (split, split_more) = split_keys(format, stream.device().platform());
    let head_tiles = heads.div_ceil(16);
    let workgroups = match workspace.workgroups {
        None => (rows.bound * splits).min((WORKGROUPS / head_tiles.max(1)).max(1)),
        Some(all) => (rows.bound * head_tiles * splits).min(all),
    } as u32;
    let args = Args {
        rows: rows.count,
        positions: places.positions,
        table_starts: places.table_starts,
        tables: places.tables,
        queries: queries.ptr() + (first * query) as u64,
        cache: cache.ptr() + cache_offset as u64,
        out: out.ptr() + (first * result) as u64,
        partials: workspace.partials.ptr(),
        sums: workspace.sums.ptr(),
        heads: heads as u32,
        block_size: block_size as u32,
        max_splits: splits as u32,
        split: split as u32,
        split_more: split_more as u32,
        scale: scale * std::f32::consts::LOG2_E,
        workgroups,
        split_count: places.split_count,
        splits: places.splits,
    };
    let parts = rows.bound * splits * heads;
    check_room(NAME, "the workspace", &workspace.partials, parts * LATENT * 2)?;
    check_room(NAME, "the workspace", &workspace.sums, parts * 2 * 4)?;
    // SAFETY: the parameters are the kernels'; buffers and the workspace have room, positions are
    // in the cache.
    unsafe {
        let kernel = kernels.get(match format {
            CacheFormat::Native | CacheFormat::Bf16 => "attention_split",
            CacheFormat::Fp8 => "attention_split_fp8",
        });
        match (workspace.workgroups, format) {
            (None, _) => stream.launch(kernel, [workgroups, head_tiles as u32, 1], 512, &args)?,
            (Some(_), CacheFormat::Fp8) => stream.launch(kernel, [workgroups, 1, 1], 384, &args)?,
            (Some(_), CacheFormat::Native | CacheFormat::Bf16) => {
                let bytes = cache.bytes().saturating_sub(cache_offset);
                let slots = bytes / (2 * (LATENT + ROPE));
                let args = CudaArgs::new(stream.device(), slots, args)?;
                stream.launch(kernel, [workgroups, 1, 1], 384, &args)?;
            }
        }
        if splits > 1 {
            let (merge, parts) = merge_form(rows.bound * heads, workspace.workgroups);
            let grid = [rows.bound as u32, heads as u32, parts];
            stream.launch(kernels.get(merge), grid, 128, &args)?;
        }
        Ok(())
    }
}

/// The kernel that merges the splits of so many rows and heads, and the parts of the columns that
/// it takes apart, where CUDA has `processors`. Of the form for few, which loads all means at once,
/// three workgroups fit a processor.
fn merge_form(merges: usize, processors: Option<usize>) -> (&'static str, u32) {
    match processors {
        Some(all) if 4 * merges <= all => ("attention_merge_few", 4),
        Some(all) if merges <= all => ("attention_merge_few", 2),
        Some(all) if merges <= 3 * all => ("attention_merge_few", 1),
        _ => ("attention_merge", 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `split_length` of kernels/mla.h says of itself.
    #[test]
    fn splits_are_of_one_length() {
        for platform in [Platform::Hip, Platform::Cuda] {
            for format in [CacheFormat::Native, CacheFormat::Bf16, CacheFormat::Fp8] {
                for len in 1..=150_000 {
                    let length = split_length(len, format, platform);
                    let count = split_count(len, format, platform);
                    assert!(length.is_multiple_of(TILE) && len.div_ceil(length) <= count);
                    assert!(
                        (length - TILE) * count < len,
                        "{len}: {length} is longer than need be"
                    );
                    assert!(count <= most_splits(len, platform));
                }
            }
        }
    }

    /// See [`split_keys`].
    #[test]
    fn means_are_a_twentieth_at_most() {
        const HEADS: usize = 16;
        let means = |splits| 2 * splits * HEADS * (2 * LATENT + 8);
        for (format, entry) in [(CacheFormat::Bf16, 1152), (CacheFormat::Fp8, 656)] {
            let mut borders = Vec::new();
            for len in 1..=150_000 {
                let needed = len * entry + HEADS * 2 * (LATENT + ROPE + LATENT);
                let splits = split_count(len, format, Platform::Hip);
                assert!(splits == 1 || 20 * means(splits) <= needed, "{len}: {splits}");
                let before = split_count(len.max(2) - 1, format, Platform::Hip);
                if splits > before {
                    borders.push(len);
                }
            }
            let expected = if entry == 1152 { [1125, 1701, 2277] } else { [1973, 2985, 3997] };
            assert_eq!(borders[..3], expected);
        }
        // On CUDA there are as few as can be of 320 keys.
        for (len, splits) in [(1, 1), (320, 1), (321, 2), (20_480, 64), (131_072, 64)] {
            assert_eq!(split_count(len, CacheFormat::Bf16, Platform::Cuda), splits);
        }
    }

    #[test]
    fn every_split_is_listed_once() {
        let list = |positions: &[u32]| splits(positions, CacheFormat::Bf16, Platform::Hip);
        let entries = |pairs: &[(u32, u32)]| -> Vec<u32> {
            pairs.iter().map(|&(row, number)| row * 65_536 + number).collect()
        };
        assert!(list(&[]).is_empty());
        let expected = [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (3, 2)];
        assert_eq!(list(&[1123, 1124, 0, 1919]), entries(&expected));
        assert_eq!(list(&[1 << 20]).len(), 128);
        assert_eq!(list(&[131_071; 256]).len(), most_listed(131_072, 256, Platform::Hip));
        assert!(splits(&[1000], CacheFormat::Bf16, Platform::Cuda).is_empty());
    }
}
