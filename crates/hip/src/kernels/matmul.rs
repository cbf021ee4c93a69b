//! Matrix products in BF16.

use super::{AT_ONCE, Rows, check_room, check_shape};
use crate::tensor_map::{Element, TensorMap};
use crate::weights::bytes_of;
use crate::{Error, Kernel, Kernels, Memory, Platform, Stream};

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

impl Output {
    /// Of a value.
    pub fn bytes(self) -> usize {
        match self {
            Output::F32 => 4,
            Output::Bf16 => 2,
        }
    }
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
    let size = output.bytes();
    check_room("matmul", "x", x.memory, rows.bound * x.stride * 2)?;
    check_room("matmul", "out", out.memory, rows.bound * out.stride * size)?;
    let (tiles, slabs) = (n.div_ceil(16), k / 32);
    let log_segments = log_segments(slabs);
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
    let name = |names: [&'static str; 2]| names[usize::from(output == Output::Bf16)];
    let many_rows = kernels.get(name(["matmul_rows", "matmul_rows_bf16"]));
    let platform = stream.device().platform();
    if let (Platform::Cuda, Some(cut)) = (platform, Cut::of(tiles, slabs, batch, rows.bound)) {
        let kernel = match cut.rows {
            64 => kernels.get(name(["matmul_rows_64", "matmul_rows_64_bf16"])),
            _ => many_rows,
        };
        return launch_cut(stream, kernel, cut, rows.bound, batch, args);
    }
    // Tiles that a workgroup of the forms for few rows takes when each wave takes one.
    let together = WAVES >> log_segments;
    let wide = tiles.div_ceil(together) * batch >= 2 * ENOUGH;
    // Whether HIP's form for many rows would leave most of a GPU without work.
    let idle = |bound: usize| tiles.div_ceil(8) * bound.div_ceil(128) * batch < 64;
    let height = match rows.bound {
        0..=16 => 16,
        17..=32 => 32,
        bound if bound <= 64 || bound <= SOME && idle(bound) => 64,
        _ => 128,
    };
    let kernel = match (height, wide) {
        (16, false) => kernels.get(name(["matmul_16_1", "matmul_16_1_bf16"])),
        (16, true) => kernels.get(name(["matmul_16_2", "matmul_16_2_bf16"])),
        (32, false) => kernels.get(name(["matmul_32_1", "matmul_32_1_bf16"])),
        (32, true) => kernels.get(name(["matmul_32_2", "matmul_32_2_bf16"])),
        (64, false) => kernels.get(name(["matmul_64_1", "matmul_64_1_bf16"])),
        (64, true) => kernels.get(name(["matmul_64_2", "matmul_64_2_bf16"])),
        _ => many_rows,
    };
    let (width, threads) = match height {
        128 => (8, 256),
        _ => (together * if wide { 2 } else { 1 }, (WAVES * stream.device().wave()) as u32),
    };
    let grid = [tiles.div_ceil(width), rows.bound.div_ceil(height).max(1), batch];
    // SAFETY: the parameter is the kernels', the buffers have room.
    unsafe { stream.launch(kernel, grid.map(|size| size as u32), threads, &args) }
}

/// Workgroups of CUDA's `matmul_rows` that an H200 holds at once in clusters; alone [`AT_ONCE`]. Of
/// `matmul_rows_64`, whose blocks have 64 rows of x rather than 128, it holds twice as many.
const AT_ONCE_IN_CLUSTERS: usize = 120;

/// How CUDA's `matmul_rows` cuts each product of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Rows of x of a block: 128, or 64 for `matmul_rows_64`.
    rows: usize,
    /// Rows of weights of a block.
    columns: usize,
    /// Workgroups that compute a block together.
    split: usize,
    /// All workgroups.
    workgroups: usize,
}

impl Cut {
    /// The cut that takes the least time, or none where a form for few rows is better.
    fn of(tiles: usize, slabs: usize, batch: usize, bound: usize) -> Option<Cut> {
        const FORMS: [(usize, &[usize]); 2] = [(64, &[32, 64, 96, 128]), (128, &[128, 144, 192])];
        if bound <= 32 {
            return None;
        }
        let splits: &[usize] = if log_segments(slabs) == 3 { &[1, 4, 8] } else { &[1] };
        let widths =
            FORMS.iter().flat_map(|&(rows, widths)| widths.iter().map(move |&w| (rows, w)));
        let cuts = widths.flat_map(|(rows, columns)| {
            let blocks = (16 * tiles).div_ceil(columns) * bound.div_ceil(rows);
            splits.iter().map(move |&split| {
                let turns = if split == 1 { AT_ONCE * 128 / rows / batch } else { usize::MAX };
                let workgroups = (blocks * split).min(turns.max(1));
                (Cut { rows, columns, split, workgroups }, blocks * batch)
            })
        });
        let (best, _) = cuts.min_by_key(|(cut, blocks)| cut.time(*blocks, slabs))?;
        Some(best)
    }

    /// Nanoseconds, about, of that many blocks: fitted to times on an H200.
    fn time(&self, blocks: usize, slabs: usize) -> usize {
        let Cut { rows, columns, split, .. } = *self;
        let (pairs, workgroups) = (slabs.div_ceil(2 * split), blocks * split);
        let at_once = if split == 1 { AT_ONCE } else { AT_ONCE_IN_CLUSTERS };
        let rounds = workgroups.div_ceil(at_once);
        if rows == 128 {
            let ends = [200, 4470, 3100][split / 4] + 25 * columns;
            return 2650 + rounds * (pairs * (147 * columns / 100 + 62) + ends);
        }
        // Two share a processor, which brings operands no faster, while each waits less.
        let turns = workgroups.div_ceil(2 * at_once);
        let brought = rounds * pairs * (64 + columns) * 126 / 100;
        let waited = turns * pairs * (149 + 3 * columns / 2);
        let ends = [525, 3275, 3800][split / 4] + 11 * columns;
        brought.max(waited) + (rounds + turns) * ends / 2
    }
}

/// The parameter of CUDA's `matmul_rows`: `RowsArgs` of `kernels/arch/matmul_rows_sm90.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RowsArgs {
    x: TensorMap,
    weights: TensorMap,
    args: Args,
    columns: u32,
    height: u32,
}
const _: () = assert!(size_of::<RowsArgs>() == 384);

/// Launches CUDA's `matmul_rows`, or `matmul_rows_64`.
fn launch_cut(
    stream: &Stream,
    kernel: Kernel,
    cut: Cut,
    bound: usize,
    batch: usize,
    args: Args,
) -> Result<(), Error> {
    let Args { x_stride, x_batch, n, slabs, .. } = args;
    let [stride, between, n, slabs] = [x_stride, x_batch, n, slabs].map(|size| size as usize);
    let (device, tiles) = (stream.device(), n.div_ceil(16));
    let x = TensorMap::new(
        device,
        Element::Bf16,
        args.x,
        [(batch - 1) * between + 32 * slabs, bound],
        [2, 2 * stride],
        [64, cut.rows as u32],
    )?;
    let weights = TensorMap::new(
        device,
        Element::Eight,
        args.weights,
        [128, tiles, slabs, batch],
        [8, 1024 * slabs, 1024, 1024 * slabs * tiles],
        [128, cut.columns as u32 / 16, 2, 1],
    )?;
    let height = bound.div_ceil(cut.rows) as u32;
    let args = RowsArgs { x, weights, args, columns: cut.columns as u32, height };
    let grid = [cut.workgroups as u32, 1, batch as u32];
    let threads = 2 * cut.rows as u32 + 128;
    // SAFETY: the parameter is the kernels'; the caller has seen that buffers have room.
    unsafe { stream.launch_clusters(kernel, grid, cut.split as u32, threads, &args) }
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

    /// The best of the cuts that were timed on an H200, or within 4 % of it.
    #[test]
    fn products_are_cut_as_was_measured() {
        let cuts = [
            ([128, 512, 16], 64, (64, 32, 1, 4)),
            ([128, 512, 16], 128, (64, 32, 1, 8)),
            ([128, 512, 16], 256, (64, 64, 1, 8)),
            ([128, 512, 16], 1024, (64, 128, 1, 16)),
            ([128, 512, 16], 4096, (128, 128, 1, 8)),
            ([512, 128, 16], 64, (64, 64, 1, 8)),
            ([512, 128, 16], 256, (64, 128, 1, 16)),
            ([512, 128, 16], 1024, (64, 128, 1, 16)),
            ([512, 128, 16], 4096, (64, 128, 1, 16)),
            ([1408, 7168, 1], 64, (64, 96, 8, 120)),
            ([1408, 7168, 1], 128, (128, 128, 8, 88)),
            ([1408, 7168, 1], 256, (128, 128, 4, 88)),
            ([1408, 7168, 1], 512, (128, 128, 4, 176)),
            ([1408, 7168, 1], 1024, (128, 128, 1, 88)),
            ([1408, 7168, 1], 2048, (128, 192, 1, 128)),
            ([1408, 7168, 1], 4096, (128, 192, 1, 132)),
            ([2112, 7168, 1], 64, (64, 96, 4, 88)),
            ([2112, 7168, 1], 128, (128, 144, 8, 120)),
            ([2112, 7168, 1], 256, (128, 144, 4, 120)),
            ([2112, 7168, 1], 512, (128, 128, 1, 68)),
            ([2112, 7168, 1], 1024, (128, 144, 1, 120)),
            ([2112, 7168, 1], 2048, (128, 144, 1, 132)),
            ([2112, 7168, 1], 4096, (128, 192, 1, 132)),
            ([3072, 1536, 1], 64, (64, 32, 1, 96)),
            ([3072, 1536, 1], 512, (64, 96, 1, 256)),
            ([3072, 1536, 1], 1024, (128, 192, 1, 128)),
            ([3072, 1536, 1], 2048, (128, 192, 1, 132)),
            ([7168, 512, 1], 64, (64, 64, 1, 112)),
            ([7168, 512, 1], 256, (64, 128, 1, 224)),
            ([7168, 512, 1], 512, (128, 128, 1, 132)),
            ([7168, 512, 1], 2048, (128, 128, 1, 132)),
            ([7168, 512, 1], 4096, (128, 128, 1, 132)),
            ([7168, 2048, 1], 64, (64, 32, 1, 224)),
            ([7168, 2048, 1], 128, (64, 64, 1, 224)),
            ([7168, 2048, 1], 256, (128, 128, 1, 112)),
            ([7168, 2048, 1], 512, (128, 128, 1, 132)),
            ([7168, 2048, 1], 1024, (128, 128, 1, 132)),
            ([7168, 2048, 1], 2048, (128, 128, 1, 132)),
            ([7168, 2048, 1], 4096, (128, 128, 1, 132)),
            ([40960, 7168, 1], 64, (64, 128, 1, 264)),
            ([40960, 7168, 1], 256, (128, 128, 1, 132)),
        ];
        for ([n, k, batch], bound, (rows, columns, split, workgroups)) in cuts {
            let cut = Cut::of(n / 16, k / 32, batch, bound);
            let expected = Cut { rows, columns, split, workgroups };
            assert_eq!(cut, Some(expected), "{n} x {k}, {bound} rows");
        }
        assert_eq!(Cut::of(132, 224, 1, 32), None);
    }
}
