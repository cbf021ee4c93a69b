//! Matrix products in BF16.

use super::{Rows, check_room, check_shape};
use crate::weights::bytes_of;
use crate::{Device, Error, Kernels, Memory, Stream};

/// Rows up to which `matmul_16` and `matmul_64` are taken.
const FEW: usize = 16;
const SOME: usize = 256;
/// Waves that a matrix's tiles are spread over at least, by cutting k into segments.
const TARGET_WAVES: usize = 640;
/// Slabs in the shortest segment: what the kernel for few rows loads at once.
const UNIT: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    x: u64,
    weights: u64,
    out: u64,
    partials: u64,
    counters: u64,
    x_stride: u32,
    x_batch: u32,
    out_stride: u32,
    out_batch: u32,
    n: u32,
    slabs: u32,
    segment: u32,
    row_blocks: u32,
}

/// Bytes of a tile of a bf16 matrix of `k` columns in the kernels' order.
pub fn tile_bytes(k: usize) -> usize {
    k.div_ceil(32) * 1024
}

/// Writes tile `tile` of a bf16 matrix `[.., k]` in the kernels' order: rows padded to 16 and
/// columns to 32 with zeros, tiles of 16 rows, in each the slabs of 32 columns, in each 64 chunks
/// of 8 values: chunk `16 * group + row` has columns `8 * group ..` of row `row`.
pub fn preshuffle(values: &[u16], k: usize, tile: usize, out: &mut [u8]) {
    out.fill(0);
    let rows = values.chunks_exact(k.max(1)).skip(16 * tile).take(16);
    for (row, values) in rows.enumerate() {
        for (i, chunk) in values.chunks(8).enumerate() {
            let chunk = bytes_of(chunk);
            out[(i * 16 + row) * 16..][..chunk.len()].copy_from_slice(chunk);
        }
    }
}

/// Matrices of one shape on the device, in the kernels' order, one after the other.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// `batch` times all tiles as [`preshuffle`] makes them.
    pub memory: &'a Memory,
    /// Rows of each: the product's columns.
    pub n: usize,
    /// Columns of each, a multiple of 32.
    pub k: usize,
    /// How many.
    pub batch: usize,
}

/// A side of a product: rows of `stride` values, in which batch `b`'s begin at `b * batch`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The values.
    pub memory: &'a Memory,
    /// Values from one row to the next.
    pub stride: usize,
    /// Values from one batch's columns to the next one's.
    pub batch: usize,
}

/// Type of a product's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// f32.
    F32,
    /// bf16, rounded to nearest even.
    Bf16,
}

/// Room for the sums of segments. Products on one stream share one.
pub struct Workspace {
    partials: Memory,
    counters: Memory,
}

/// Bytes of partial sums: with several segments, tiles * segments < TARGET_WAVES + tiles and tiles
/// < TARGET_WAVES.
const PARTIALS: usize = 2 * TARGET_WAVES * 16 * SOME * 4;
/// Bytes of counters: for each block of 64 rows at most one a tile.
const COUNTERS: usize = TARGET_WAVES * SOME / 64 * 4;

impl Workspace {
    /// Bytes that one takes.
    pub const BYTES: usize = PARTIALS + COUNTERS;

    /// Room for any product.
    ///
    /// # Errors
    /// Too little memory.
    pub fn new(device: &Device, stream: &Stream) -> Result<Workspace, Error> {
        let partials = device.allocate(PARTIALS)?;
        let counters = device.allocate(COUNTERS)?;
        stream.fill(&counters, 0)?;
        Ok(Workspace { partials, counters })
    }
}

/// Slabs in a segment: a function of the matrix alone.
fn segment(n: usize, k: usize, batch: usize) -> usize {
    let units = (k / 32).div_ceil(UNIT);
    let wanted = TARGET_WAVES.div_ceil(n.div_ceil(16) * batch).clamp(1, units.max(1));
    units.div_ceil(wanted) * UNIT
}

/// `out = x w^T` for each of a batch of matrices: `x` bf16 `[rows, k]`, `out` `[rows, n]`, both as
/// their views say. Sums in f32, in an order that depends on the matrix alone.
///
/// # Errors
/// Buffers that are too small, a `k` that is no multiple of 32, a failed device.
#[expect(clippy::too_many_arguments, reason = "both sides, the matrix and where to work")]
pub fn matmul(
    stream: &Stream,
    kernels: &Kernels,
    workspace: &Workspace,
    rows: Rows,
    x: View<'_>,
    weights: Weights<'_>,
    out: View<'_>,
    output: Output,
) -> Result<(), Error> {
    let Weights { memory, n, k, batch } = weights;
    let fits = k.is_multiple_of(32) && x.stride.is_multiple_of(8) && x.batch.is_multiple_of(8);
    check_shape("matmul", fits, "k must be a multiple of 32, strides multiples of 8")?;
    let inside = (batch - 1) * x.batch + k <= x.stride && (batch - 1) * out.batch + n <= out.stride;
    check_shape("matmul", inside, "the columns must lie inside of their rows")?;
    check_room("matmul", "weights", memory, batch * n.div_ceil(16) * k * 32)?;
    let size = if output == Output::F32 { 4 } else { 2 };
    check_room("matmul", "x", x.memory, rows.bound * x.stride * 2)?;
    check_room("matmul", "out", out.memory, rows.bound * out.stride * size)?;
    let (tiles, slabs, segment) = (n.div_ceil(16), k / 32, segment(n, k, batch));
    let segments = slabs.div_ceil(segment);
    let waves = 256 / stream.device().wave();
    // Whether the form for many rows would leave most of a GPU without work.
    let idle = |bound: usize| tiles.div_ceil(8) * bound.div_ceil(128) * batch < 64;
    let [form, tiles_each, row_blocks, parts] = match rows.bound {
        bound if bound <= FEW => [0, waves, 1, segments],
        bound if bound <= 64 || bound <= SOME && idle(bound) => {
            [1, 4, bound.div_ceil(64), segments]
        }
        bound => [2, 8, bound.div_ceil(128), 1],
    };
    let name = match output {
        Output::F32 => ["matmul_16", "matmul_64", "matmul_rows"][form],
        Output::Bf16 => ["matmul_16_bf16", "matmul_64_bf16", "matmul_rows_bf16"][form],
    };
    let args = Args {
        rows: rows.count,
        x: x.memory.ptr(),
        weights: memory.ptr(),
        out: out.memory.ptr(),
        partials: workspace.partials.ptr(),
        counters: workspace.counters.ptr(),
        x_stride: x.stride as u32,
        x_batch: x.batch as u32,
        out_stride: out.stride as u32,
        out_batch: out.batch as u32,
        n: n as u32,
        slabs: slabs as u32,
        segment: segment as u32,
        row_blocks: row_blocks as u32,
    };
    let grid = [tiles.div_ceil(tiles_each), row_blocks * parts, batch].map(|size| size as u32);
    // SAFETY: the parameter is the kernels', the buffers have room.
    unsafe { stream.launch(kernels.get(name), grid, 256, &args) }
}
