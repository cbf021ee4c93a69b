// matmul: `out = x w^T`, BF16 operands, sums in f32; for each of a batch of matrices (the heads).
//
// x: bf16 `[rows, x_stride]`, of which batch `b` multiplies the `k` columns from `b * x_batch` on.
// weights: `[batch][tiles][slabs]` blocks of 1024 bytes (see `device.h`): `n` rows padded to
// `16 * tiles`, `k = 32 * slabs`. out: `[rows, out_stride]`, batch `b`'s `n` columns from
// `b * out_batch` on; f32, or in the `_bf16` kernels bf16 rounded to nearest even.
// `x_stride`, `x_batch` are multiples of 8.
//
// Order of additions, in every form: k is cut into 2^`log_segments` segments, 8 at most; each is a
// chain of matrix instructions in ascending k from zero; the segments' sums are added in ascending
// order. `log_segments` depends on k alone, so a row's bits do not depend on form or batch.
//
// matmul_{16,32,64}_{1,2}, up to so many rows a workgroup: bound by the weights' 2 n k bytes, each
// read once, from memory into operand registers. A wave multiplies so many tiles of weights (more:
// x is read from the cache less often) in one segment; a tile's segments are waves of one
// workgroup, which adds them up through LDS. Grid: (tiles * segments / 8 / tiles of a wave, blocks
// of rows, batch).
// matmul_rows: bound by matrix instructions. A workgroup computes 128 columns of 128 rows, see
// `arch/matmul_rows_gfx950.h`. Grid: (tiles / 8, rows / 128, batch). sm_90's takes blocks of rows
// and columns in turns, or shares one with others, as does its matmul_rows_64: see
// `arch/matmul_rows_sm90.h`.
// All sizes of grids are rounded up. Matrix instructions: ceil(rows / 16) * tiles * slabs * batch.
#include "device.h"

struct MatmulArgs {
  const u32 *rows;
  const __bf16 *x;
  const u32x4 *weights;
  void *out;
  u32 x_stride;
  u32 x_batch;
  u32 out_stride;
  u32 out_batch;
  u32 n;
  u32 slabs;
  u32 log_segments;
};

/// The first slab of segment `s`.
__device__ inline u32 segment_start(const MatmulArgs &args, u32 s) {
  return args.slabs * s >> args.log_segments;
}

/// The blocks of tile `tile` of this batch's weights; of the last tile for those beyond it.
__device__ inline const u32x4 *tile_weights(const MatmulArgs &args, u32 tile) {
  u32 tiles = (args.n + 15) / 16;
  tile = tile < tiles ? tile : tiles - 1;
  return args.weights + ((u64)block_z() * tiles + tile) * args.slabs * 64;
}

/// The values of row `row` of `rows`, of this batch; of the last row for those beyond it.
__device__ inline const __bf16 *row_values(const MatmulArgs &args, u32 row, u32 rows) {
  row = row < rows ? row : rows - 1;
  return args.x + (u64)row * args.x_stride + (u64)block_z() * args.x_batch;
}

/// Writes a result if it exists.
template <typename Out>
__device__ inline void put(const MatmulArgs &args, u32 rows, u32 row, u32 column, float value) {
  if (row >= rows || column >= args.n) return;
  Out *out = (Out *)args.out + (u64)row * args.out_stride + (u64)block_z() * args.out_batch;
  out[column] = (Out)value;
}

/// A slab of M tiles of rows and N tiles of weights in registers.
template <u32 M, u32 N> struct Slab {
  u32x4 x[M][CHUNKS], weights[N][CHUNKS];

  __device__ void multiply(Acc (&acc)[M][N]) const {
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n) {
        bf16x8 a[CHUNKS], b[CHUNKS];
        for (u32 c = 0; c < CHUNKS; ++c) {
          a[c] = __builtin_bit_cast(bf16x8, x[m][c]);
          b[c] = __builtin_bit_cast(bf16x8, weights[n][c]);
        }
        mma_bf16(acc[m][n], a, b);
      }
  }
};

/// Waves of a workgroup of the forms for few rows.
constexpr u32 WAVES = 8;

/// Starts loading the wave's first slabs of weights, which no launch writes: they are on their way
/// while the launch before this ends. Finds the tiles' `weights`.
template <u32 M, u32 N, u32 AHEAD>
__device__ inline void load_early(const MatmulArgs &args, const u32x4 *(&weights)[N],
                                  Slab<M, N> (&slabs)[AHEAD]) {
  u32 part = wave() & ((1 << args.log_segments) - 1);
  u32 tile = ((block_x() * WAVES + wave() - part) >> args.log_segments) * N;
  for (u32 n = 0; n < N; ++n) weights[n] = tile_weights(args, tile + n);
  u32 k = segment_start(args, part), end = segment_start(args, part + 1);
  for (u32 i = 0; i < AHEAD; ++i, k += k + 1 < end)
    for (u32 c = 0; c < CHUNKS; ++c)
      for (u32 n = 0; n < N; ++n)
        slabs[i].weights[n][c] = load_weights(weights[n] + (u64)k * 64, c);
}

/// M x N tiles for each wave, whose operands are loaded AHEAD slabs before they are used.
template <u32 M, u32 N, u32 AHEAD, typename Out>
__device__ inline void few_rows(const MatmulArgs &args) {
  __shared__ float partial[WAVES][M * ACCUMULATORS][WAVE];
  Slab<M, N> slabs[AHEAD];
  const u32x4 *weights[N];
  if constexpr (BEGINS_EARLY) load_early(args, weights, slabs);
  await_last();
  u32 rows = *args.rows, first_row = block_y() * 16 * M;
  if (first_row >= rows) return;
  u32 segments = 1 << args.log_segments, part = wave() & (segments - 1), own = wave() - part;
  u32 tile = ((block_x() * WAVES + own) >> args.log_segments) * N;
  const __bf16 *x[M][CHUNKS];
  for (u32 m = 0; m < M; ++m)
    for (u32 c = 0; c < CHUNKS; ++c)
      x[m][c] = row_values(args, first_row + 16 * m + chunk_row(c), rows) + 8 * chunk_group();
  for (u32 n = 0; n < N && !BEGINS_EARLY; ++n) weights[n] = tile_weights(args, tile + n);
  auto load = [&](Slab<M, N> &slab, u32 k, bool has_weights = false) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      for (u32 n = 0; n < N && !has_weights; ++n)
        slab.weights[n][c] = load_weights(weights[n] + (u64)k * 64, c);
      for (u32 m = 0; m < M; ++m)
        slab.x[m][c] = weights_order(*(const u32x4 *)(x[m][c] + (u64)k * 32));
    }
  };
  Acc acc[M][N] = {};
  u32 k = segment_start(args, part), end = segment_start(args, part + 1);
  // The last again where there are fewer: without branches, the compiler knows what is under way.
  for (u32 i = 0; i < AHEAD; ++i) load(slabs[i], k + i < end ? k + i : end - 1, BEGINS_EARLY);
  for (; k + 2 * AHEAD <= end; k += AHEAD)
    for (u32 i = 0; i < AHEAD; ++i) {
      loads_in_order();
      slabs[i].multiply(acc);
      load(slabs[i], k + AHEAD + i);
    }
  for (u32 i = 0; i < AHEAD; ++i) {
    if (k + i < end) slabs[i].multiply(acc);
    if (k + AHEAD + i < end) load(slabs[i], k + AHEAD + i);
  }
  for (u32 i = 0; i < AHEAD; ++i)
    if (k + AHEAD + i < end) slabs[i].multiply(acc);
  // Not before: others would begin where there is room now, not where there will be the most.
  let_next_begin();
  for (u32 n = 0; n < N; ++n) {
    if (n > 0) sync();
    for (u32 m = 0; m < M; ++m)
      for (u32 i = 0; i < ACCUMULATORS; ++i)
        partial[wave()][m * ACCUMULATORS + i][lane()] = acc[m][n].v[i];
    sync();
    for (u32 j = part; j < M * ACCUMULATORS; j += segments) {
      float sum = partial[own][j][lane()];
      for (u32 s = 1; s < segments; ++s) sum += partial[own + s][j][lane()];
      u32 row = first_row + j / ACCUMULATORS * 16 + acc_row(j % ACCUMULATORS);
      put<Out>(args, rows, row, (tile + n) * 16 + acc_col(j % ACCUMULATORS), sum);
    }
  }
}

#if defined(__gfx950__)
#include "arch/matmul_rows_gfx950.h"
#else
#include "arch/matmul_rows_sm90.h"
#endif

#define FEW_ROWS(kernel, rows, tiles, ahead)                                 \
  kernel(WAVES *WAVE) void matmul_##rows##_##tiles(MatmulArgs args) {        \
    few_rows<rows / 16, tiles, ahead, float>(args);                          \
  }                                                                          \
  kernel(WAVES *WAVE) void matmul_##rows##_##tiles##_bf16(MatmulArgs args) { \
    few_rows<rows / 16, tiles, ahead, __bf16>(args);                         \
  }
FEW_ROWS(FILLING_KERNEL, 16, 1, AHEAD_ONE)
FEW_ROWS(FILLING_KERNEL, 16, 2, AHEAD_TWO)
FEW_ROWS(KERNEL, 32, 1, 4)
FEW_ROWS(KERNEL, 32, 2, 4)
FEW_ROWS(KERNEL, 64, 1, 4)
FEW_ROWS(KERNEL, 64, 2, 2)
ROWS_KERNEL void matmul_rows(ROWS_ARGS args) { many_rows<float>(args); }
ROWS_KERNEL void matmul_rows_bf16(ROWS_ARGS args) { many_rows<__bf16>(args); }
