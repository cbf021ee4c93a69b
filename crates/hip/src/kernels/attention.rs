//! Absorbed MLA over the paged latent cache.

use model::{CacheFormat, Limits};

use super::{Rows, check_room, check_shape};
use crate::{Device, Error, Kernels, Memory, Platform, Stream};

/// Latent width of the kernels.
pub const LATENT: usize = 512;
/// Rotary width of the kernels.
pub const ROPE: usize = 64;
/// Rows up to which a row's keys are spread over workgroups: of a decode batch, whose rows share no
/// keys, so many that they fill a GPU on their own, and of others fewer.
const DECODE_ROWS: usize = Limits::LOGIT_ROWS;
const PROMPT_ROWS: usize = 64;
/// Rows that a workgroup takes together at most: of one sequence, at positions `GROUP * n ..`. No
/// tile of keys and no split ends between them.
pub const GROUP: usize = 4;

/// Splits of a row at most.
const fn max_splits(platform: Platform) -> usize {
    match platform {
        Platform::Hip => 128,
        Platform::Cuda => 64,
    }
}

/// Keys in a split at most, unless there would be more than [`max_splits`]: so many that a split's
/// mean, written and read again, is less than a twentieth of their bytes. On CUDA, where a
/// workgroup takes half as many keys at once and codes take longer to become BF16 than to arrive,
/// half as many, and no more in FP8.
const fn split_keys(format: CacheFormat, platform: Platform) -> usize {
    match (format, platform) {
        (CacheFormat::Fp8, Platform::Hip) => 1024,
        (_, Platform::Hip) => 640,
        (_, Platform::Cuda) => 320,
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    positions: u64,
    table_starts: u64,
    tables: u64,
    groups: u64,
    group_rows: u64,
    queries: u64,
    cache: u64,
    out: u64,
    partials: u64,
    sums: u64,
    heads: u32,
    block_size: u32,
    max_splits: u32,
    split: u32,
    scale: f32,
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
    len.div_ceil(split_keys(CacheFormat::Bf16, platform)).clamp(1, max_splits(platform))
}

impl Workspace {
    /// Bytes that [`Workspace::new`] takes on a device of `platform`.
    pub fn bytes(heads: usize, max_len: usize, max_rows: usize, platform: Platform) -> usize {
        max_rows.min(DECODE_ROWS) * most_splits(max_len, platform) * heads * (2 * LATENT + 8)
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
        let parts = max_rows.min(DECODE_ROWS) * max_splits * heads;
        let partials = device.allocate(parts * LATENT * 2)?;
        let sums = device.allocate(parts * 2 * 4)?;
        let workgroups = match device.platform() {
            Platform::Hip => None,
            Platform::Cuda => Some(device.cuda_processors()?),
        };
        Ok(Workspace { partials, sums, max_splits, workgroups })
    }
}

/// Where rows stand in their sequences, as addresses in device memory.
#[derive(Clone, Copy)]
pub struct Places {
    /// A u32 for each row: its position.
    pub positions: u64,
    /// A u32 for each row: where its sequence's blocks begin in `tables`.
    pub table_starts: u64,
    /// Block numbers, u32.
    pub tables: u64,
    /// How many groups the rows are in.
    pub groups: Rows,
    /// A u32 for each group: its first row; then the number of rows. The rows of a group are at
    /// neighbouring positions of one sequence, see [`GROUP`].
    pub group_rows: u64,
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
/// Buffers that are too small, a failed device.
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
    let Buffers { queries, cache, format, cache_offset, out } = buffers;
    let [split, many] = match format {
        CacheFormat::Native | CacheFormat::Bf16 => ["attention_split", "attention_rows"],
        CacheFormat::Fp8 => ["attention_split_fp8", "attention_rows_fp8"],
    };
    check_room(NAME, "queries", queries, rows.bound * heads * (LATENT + ROPE) * 2)?;
    check_room(NAME, "out", out, rows.bound * heads * LATENT * 2)?;
    let splits = workspace.max_splits;
    let args = Args {
        rows: rows.count,
        positions: places.positions,
        table_starts: places.table_starts,
        tables: places.tables,
        groups: places.groups.count,
        group_rows: places.group_rows,
        queries: queries.ptr(),
        cache: cache.ptr() + cache_offset as u64,
        out: out.ptr(),
        partials: workspace.partials.ptr(),
        sums: workspace.sums.ptr(),
        heads: heads as u32,
        block_size: block_size as u32,
        max_splits: splits as u32,
        split: split_keys(format, stream.device().platform()) as u32,
        scale: scale * std::f32::consts::LOG2_E,
    };
    let head_tiles = heads.div_ceil(16) as u32;
    let decodes = places.groups.bound == rows.bound;
    if rows.bound > if decodes { DECODE_ROWS } else { PROMPT_ROWS } {
        let grid = [places.groups.bound as u32, head_tiles, 1];
        // sm_90 has a form of its own for BF16.
        let threads = match (stream.device().platform(), many) {
            (Platform::Cuda, "attention_rows") => 384,
            _ => 256,
        };
        // SAFETY: the parameter is the kernel's; buffers have room, positions are in the cache.
        return unsafe { stream.launch(kernels.get(many), grid, threads, &args) };
    }
    let x = rows.bound as u32;
    let parts = rows.bound * splits * heads;
    check_room(NAME, "the workspace", &workspace.partials, parts * LATENT * 2)?;
    check_room(NAME, "the workspace", &workspace.sums, parts * 2 * 4)?;
    // SAFETY: as above; the workspace has room for all rows' splits.
    unsafe {
        let (grid, threads) = match workspace.workgroups {
            None => ([x, head_tiles, splits as u32], 512),
            Some(all) => ([(rows.bound * heads.div_ceil(16) * splits).min(all) as u32, 1, 1], 384),
        };
        stream.launch(kernels.get(split), grid, threads, &args)?;
        if splits > 1 {
            stream.launch(kernels.get("attention_merge"), [x, heads as u32, 1], 128, &args)?;
        }
        Ok(())
    }
}
