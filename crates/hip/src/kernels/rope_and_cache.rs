//! Rotary embedding of queries, and the rows' entries in the latent cache.

use model::{CacheFormat, HeadShape};

use super::{Rows, check_room, check_shape};
use crate::{Error, Kernels, Memory, Stream};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    positions: u64,
    slots: u64,
    q: u64,
    kv_a: u64,
    norm: u64,
    table: u64,
    generated: u64,
    expanded: u64,
    absorbed: u64,
    cache: u64,
    heads: u32,
    nope: u32,
    rope: u32,
    latent: u32,
    kv_stride: u32,
    eps: f32,
}

/// Bytes of a token's cache entry: BF16 `[latent + rope]`, or for FP8 E4M3 `[latent]`, E8M0
/// `[latent / 32]` and BF16 `[rope]`.
pub fn entry_bytes(format: CacheFormat, latent: usize, rope: usize) -> usize {
    match format {
        CacheFormat::Native | CacheFormat::Bf16 => 2 * (latent + rope),
        CacheFormat::Fp8 => latent + latent / 32 + 2 * rope,
    }
}

/// The buffers of [`rope_and_cache`].
#[derive(Clone, Copy)]
pub struct Buffers<'a> {
    /// f32 `[rows, heads, nope + rope]`.
    pub q: &'a Memory,
    /// f32 `[rows, kv_stride]`, of which each row's last `latent + rope` count.
    pub kv_a: &'a Memory,
    /// See [`Buffers::kv_a`].
    pub kv_stride: usize,
    /// f32 `[latent]`.
    pub norm: &'a Memory,
    /// f32 `[positions, rope / 2, 2]`: cosines and sines.
    pub table: &'a Memory,
    /// bf16 `[rows, heads, nope + rope]`, written: of generated rows only the nope.
    pub expanded: &'a Memory,
    /// bf16 `[rows, heads, latent + rope]`, of which generated rows' last `rope` are written.
    pub absorbed: &'a Memory,
    /// `[slots]` of [`entry_bytes`] from [`Buffers::cache_offset`] on, written.
    pub cache: &'a Memory,
    /// What an entry is.
    pub format: CacheFormat,
    /// Where the layer's part of `cache` begins, in bytes.
    pub cache_offset: usize,
}

/// Rotates the rows' queries and makes them bf16, and writes their cache entries: see
/// [`model::Backend::rope_and_cache`]. `positions` and `slots` are addresses of a u32 for each row,
/// `generated` is that of a u32: how many rows, the first ones, are of generated tokens.
///
/// # Errors
/// Buffers that are too small, widths that are no multiples of 4, a latent beyond 1024 or for FP8
/// no multiple of 512, a failed device.
#[expect(clippy::too_many_arguments, reason = "one fused step of the published formula")]
pub fn rope_and_cache(
    stream: &Stream,
    kernels: &Kernels,
    rows: Rows,
    positions: u64,
    slots: u64,
    generated: u64,
    shape: HeadShape,
    buffers: Buffers<'_>,
    eps: f32,
) -> Result<(), Error> {
    const NAME: &str = "rope_and_cache";
    let HeadShape { heads, nope, rope, latent, .. } = shape;
    let fits = [nope, rope, latent].iter().all(|width| width.is_multiple_of(4));
    check_shape(
        NAME,
        fits && latent <= 1024,
        "widths must be multiples of 4, latent at most 1024",
    )?;
    check_shape(NAME, rope <= 1024, "rope must be at most 1024")?;
    let Buffers { q, kv_a, kv_stride, norm, table, expanded, absorbed, cache, format, .. } =
        buffers;
    let kernel = match format {
        CacheFormat::Native | CacheFormat::Bf16 => NAME,
        CacheFormat::Fp8 => "rope_and_cache_fp8",
    };
    let fits = kernel == NAME || latent.is_multiple_of(512);
    check_shape(kernel, fits, "latent must be a multiple of 512")?;
    check_room(NAME, "q", q, rows.bound * heads * (nope + rope) * 4)?;
    let fits = kv_stride.is_multiple_of(4) && kv_stride >= latent + rope;
    check_shape(NAME, fits, "kv_a's stride must be a multiple of 4, at least latent + rope")?;
    check_room(NAME, "kv_a", kv_a, rows.bound * kv_stride * 4)?;
    check_room(NAME, "norm", norm, latent * 4)?;
    check_room(NAME, "expanded", expanded, rows.bound * heads * (nope + rope) * 2)?;
    check_room(NAME, "absorbed", absorbed, rows.bound * heads * (latent + rope) * 2)?;
    let args = Args {
        rows: rows.count,
        positions,
        slots,
        q: q.ptr(),
        kv_a: kv_a.ptr() + (4 * (kv_stride - latent - rope)) as u64,
        norm: norm.ptr(),
        table: table.ptr(),
        generated,
        expanded: expanded.ptr(),
        absorbed: absorbed.ptr(),
        cache: cache.ptr() + buffers.cache_offset as u64,
        heads: heads as u32,
        nope: nope as u32,
        rope: rope as u32,
        latent: latent as u32,
        kv_stride: kv_stride as u32,
        eps,
    };
    // SAFETY: the parameter is the kernel's; the buffers have room, positions are in the table and
    // slots in the cache.
    unsafe { stream.launch(kernels.get(kernel), [rows.bound as u32, 2, 1], 256, &args) }
}
