//! Cache entries of sequences, one after another.

use model::CacheFormat;

use super::attention::{LATENT, ROPE};
use super::attention_prompt::{Chunk, keys};
use super::{check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

/// Entries that a workgroup moves.
const ENTRIES: usize = 32;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    list: u64,
    tables: u64,
    cache: u64,
    latents: u64,
    ropes: u64,
    count: u32,
    block_size: u32,
}

/// The buffers of [`gather_entries`].
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// Entries that `rope_and_cache` wrote, from [`Buffers::cache_offset`] on.
    pub cache: &'a Memory,
    /// What the entries are.
    pub format: CacheFormat,
    /// Where the layer's part of `cache` begins, in bytes.
    pub cache_offset: usize,
    /// bf16 `[keys, LATENT]`, written.
    pub latents: &'a Memory,
    /// bf16 `[keys, ROPE]`, written.
    pub ropes: &'a Memory,
}

/// Addresses in device memory.
#[derive(Clone, Copy)]
pub struct Places {
    /// The chunks' [`list`], at a multiple of 16.
    pub list: u64,
    /// Block numbers, u32: what [`Chunk::table`] counts from.
    pub tables: u64,
}

/// The chunks' sequences as the kernel reads them: the first of each one's workgroups, where its
/// entries begin in the results, how many they are, and where its blocks begin.
pub fn list(chunks: &[Chunk]) -> Vec<u32> {
    let (mut workgroup, mut start) = (0, 0);
    let mut words = Vec::with_capacity(4 * chunks.len());
    for chunk in chunks {
        words.extend([workgroup, start, chunk.keys(), chunk.table].map(|n| n as u32));
        workgroup += chunk.keys().div_ceil(ENTRIES);
        start += chunk.keys();
    }
    words
}

/// Copies the entries of each chunk's sequence up to the chunk's last row, one sequence's after
/// another's, from blocks of `block_size` entries; values of FP8 entries, which bf16 holds exactly.
///
/// # Errors
/// Buffers that are too small, a failed device.
pub fn gather_entries(
    stream: &Stream,
    kernels: &Kernels,
    chunks: &[Chunk],
    places: Places,
    buffers: Buffers<'_>,
    block_size: usize,
) -> Result<(), Error> {
    const NAME: &str = "gather_entries";
    check_shape(NAME, block_size > 0, "the block size must not be 0")?;
    let Buffers { cache, format, cache_offset, latents, ropes } = buffers;
    let kernel = match format {
        CacheFormat::Native | CacheFormat::Bf16 => NAME,
        CacheFormat::Fp8 => "gather_entries_fp8",
    };
    check_room(NAME, "latents", latents, keys(chunks) * LATENT * 2)?;
    check_room(NAME, "ropes", ropes, keys(chunks) * ROPE * 2)?;
    let args = Args {
        list: places.list,
        tables: places.tables,
        cache: cache.ptr() + cache_offset as u64,
        latents: latents.ptr(),
        ropes: ropes.ptr(),
        count: chunks.len() as u32,
        block_size: block_size as u32,
    };
    let workgroups: usize = chunks.iter().map(|chunk| chunk.keys().div_ceil(ENTRIES)).sum();
    let grid = [workgroups as u32, 1, 1];
    // SAFETY: the parameter is the kernel's; results have room, blocks are in the cache.
    unsafe { stream.launch(kernels.get(kernel), grid, 256, &args) }
}
