//! A sequence's cache entries, one after another.

use model::CacheFormat;

use super::attention::{LATENT, ROPE};
use super::{check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

/// Entries that a workgroup moves.
const ENTRIES: usize = 32;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    table: u64,
    cache: u64,
    latents: u64,
    ropes: u64,
    len: u32,
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
    /// bf16 `[len, LATENT]`, written.
    pub latents: &'a Memory,
    /// bf16 `[len, ROPE]`, written.
    pub ropes: &'a Memory,
}

/// Copies the first `len` entries of a sequence, whose block numbers (u32) are at address `table`
/// in device memory, each of `block_size` entries; values of FP8 entries, which bf16 holds exactly.
///
/// # Errors
/// Buffers that are too small, a failed device.
pub fn gather_entries(
    stream: &Stream,
    kernels: &Kernels,
    table: u64,
    len: usize,
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
    check_room(NAME, "latents", latents, len * LATENT * 2)?;
    check_room(NAME, "ropes", ropes, len * ROPE * 2)?;
    let args = Args {
        table,
        cache: cache.ptr() + cache_offset as u64,
        latents: latents.ptr(),
        ropes: ropes.ptr(),
        len: len as u32,
        block_size: block_size as u32,
    };
    let grid = [len.div_ceil(ENTRIES) as u32, 1, 1];
    // SAFETY: the parameter is the kernel's; results have room, blocks are in the cache.
    unsafe { stream.launch(kernels.get(kernel), grid, 256, &args) }
}
