//! Matrix products in BF16.

use super::{Rows, check_room, check_shape};
use crate::weights::bytes_of;
use crate::{Error, Kernels, Memory, Platform, Stream};

/// Waves of a workgroup of the forms for few rows, and segments of k at most.
const WAVES: usize = 8;
/// Workgroups from which on a wave takes two tiles of weights rather than one.
const ENOUGH: usize = 200;
/// Rows up to which the forms for few rows may be taken.
const SOME: usize = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    rows: u64,
    x: u64,
    weights: u64,
    out: u64,
    x_stride: u32,
    x_batch: u32,
    out_stride: u32,
    out_batch: u32,
    n: u32,
    slabs: u32,
    log_segments: u32,
}

/// Bytes of a tile of a bf16 matrix of `k` columns in the kernels' order.
pub fn tile_bytes(k: usize) -> usize {
    k.div_ceil(32) * 1024
}

/// Writes tile `tile` of a bf16 matrix `[.., k]` in the kernels' order: rows padded to 16 and
/// columns to 32 with zeros, tiles of 16 rows, in each the slabs of 32 columns, in each 64 chunks
/// of 8 values: chunk `16 * group + row` has columns `8 * group ..` of row `row`. CUDA's kernels
/// want the pairs of a slab's columns elsewhere: see [`pair_place`].
pub fn preshuffle(values: &[u16], k: usize, tile: usize, platform: Platform, out: &mut [u8]) {
    out.fill(0);
    // What stands together in any case: a chunk, or a pair.
    let together = if platform == Platform::Hip { 8 } else { 2 };
    let rows = values.chunks_exact(k.max(1)).skip(16 * tile).take(16);
    for (row, values) in rows.enumerate() {
        for (i, part) in values.chunks(together).enumerate() {
            let (at, part) = (pair_place(platform, row, together * i), bytes_of(part));
            out[at..][..part.len()].copy_from_slice(part);
        }
    }
}

/// Where a tile has the values of row `row` (of 16) in `column`, which is even, and the next: a
/// number of bytes. CUDA's order is that of `weights_row` in `kernels/arch/sm90.h`.
pub fn pair_place(platform: Platform, row: usize, column: usize) -> usize {
    let (chunk, word) = (column / 8, column % 8 / 2);
    if platform == Platform::Hip {
        return (chunk * 16 + row) * 16 + 4 * word;
    }
    let (slab, group) = (chunk / 4, chunk % 4);
    let matrix = slab * 8 + row / 8 * 4 + word % 2 * 2 + group / 2;
    matrix * 128 + row % 8 * 16 + group % 2 * 8 + word / 2 * 4
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

/// The base-2 logarithm of the number of segments of k, of 4 slabs at least: a function of k alone.
fn log_segments(slabs: usize) -> u32 {
    (slabs / 4).clamp(1, WAVES).ilog2()
}

/// `out = x w^T` for each of a batch of matrices: `x` bf16 `[rows, k]`, `out` `[rows, n]`, both as
/// their views say. Sums in f32, in an order that depends on the matrix alone.
///
/// # Errors
/// Buffers that are too small, a `k` that is no multiple of 32, a failed device.
pub fn matmul(
    stream: &Stream,
    kernels: &Kernels,
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
    let (tiles, slabs) = (n.div_ceil(16), k / 32);
    let log_segments = log_segments(slabs);
    // Tiles that a workgroup of the forms for few rows takes when each wave takes one.
    let together = WAVES >> log_segments;
    let wide = tiles.div_ceil(together) * batch >= 2 * ENOUGH;
    // Tiles that a workgroup of the form for many rows takes.
    let many = if stream.device().platform() == Platform::Cuda { 12 } else { 8 };
    // Whether that form would leave most of a GPU without work.
    let idle = |bound: usize| tiles.div_ceil(many) * bound.div_ceil(128) * batch < 64;
    let height = match rows.bound {
        0..=16 => 16,
        17..=32 => 32,
        bound if bound <= 64 || bound <= SOME && idle(bound) => 64,
        _ => 128,
    };
    let names = match (height, wide) {
        (16, false) => ["matmul_16_1", "matmul_16_1_bf16"],
        (16, true) => ["matmul_16_2", "matmul_16_2_bf16"],
        (32, false) => ["matmul_32_1", "matmul_32_1_bf16"],
        (32, true) => ["matmul_32_2", "matmul_32_2_bf16"],
        (64, false) => ["matmul_64_1", "matmul_64_1_bf16"],
        (64, true) => ["matmul_64_2", "matmul_64_2_bf16"],
        _ => ["matmul_rows", "matmul_rows_bf16"],
    };
    let (width, threads) = match height {
        128 => (many, 256),
        _ => (together * if wide { 2 } else { 1 }, (WAVES * stream.device().wave()) as u32),
    };
    let grid = [tiles.div_ceil(width), rows.bound.div_ceil(height).max(1), batch];
    let args = Args {
        rows: rows.count,
        x: x.memory.ptr(),
        weights: memory.ptr(),
        out: out.memory.ptr(),
        x_stride: x.stride as u32,
        x_batch: x.batch as u32,
        out_stride: out.stride as u32,
        out_batch: out.batch as u32,
        n: n as u32,
        slabs: slabs as u32,
        log_segments,
    };
    // SAFETY: the parameter is the kernels', the buffers have room.
    unsafe {
        let kernel = kernels.get(names[usize::from(output == Output::Bf16)]);
        stream.launch(kernel, grid.map(|size| size as u32), threads, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds chunks as `WeightsRow` of `kernels/arch/sm90.h` does.
    #[test]
    fn cuda_finds_every_chunk() {
        const K: usize = 96;
        let values: Vec<u16> = (0..16 * K as u16).collect();
        let mut out = vec![0; tile_bytes(K)];
        preshuffle(&values, K, 0, Platform::Cuda, &mut out);
        let word = |place: usize, half: usize| {
            let at = 8 * place + 4 * half;
            [0, 2].map(|byte| u16::from_le_bytes([out[at + byte], out[at + byte + 1]]))
        };
        for row in 0..16 {
            for chunk in 0..K / 8 {
                let begin = (row / 8 * 32 + row % 8) * 2;
                let place = begin + chunk / 4 * 128 + chunk % 4 / 2 * 16 + chunk % 2;
                let words = [(place, 0), (place + 32, 0), (place, 1), (place + 32, 1)];
                let found = words.map(|(place, half)| word(place, half)).concat();
                assert_eq!(found, values[row * K + 8 * chunk..][..8], "row {row}, chunk {chunk}");
            }
        }
    }
}
