// matmul: `out = x w^T`, BF16 operands, sums in f32; for each of a batch of matrices (the heads).
//
// x: bf16 `[rows, x_stride]`, of which batch `b` multiplies the `k` columns from `b * x_batch` on.
// weights: `[batch][tiles][slabs]` blocks of 1024 bytes (see `device.h`): `n` rows padded to
// `16 * tiles`, `k = 32 * slabs`. out: `[rows, out_stride]`, batch `b`'s `n` columns from
// `b * out_batch` on; f32, or in the `_bf16` kernels bf16 rounded to nearest even.
// `x_stride`, `x_batch` are multiples of 8.
//
// Order of additions, in every form: k is cut into segments of `segment` slabs; each is one chain
// of matrix instructions in ascending k from zero; the segments' sums are added in ascending order.
// `segment` depends on the matrix alone, so a row's bits do not depend on form or batch.
//
// Few rows (`matmul_16`: up to 16, `matmul_64`: up to 64): bound by the weights' 2 n k bytes, each
// read once. Grid: (tiles / (WAVES * N) rounded up, segments, batch); a wave multiplies N tiles of
// weights in one segment. With several segments the sums go to `partials`, f32 `[batch][segments]
// [16 M][16 * tiles]`, and the last workgroup of a tile to arrive at `counters` (one for each
// workgroup of a segment; zero before the launch and after it) adds them up.
// Many rows (`matmul_rows`): grid (tiles / (WAVES * 2) rounded up, rows / 64 rounded up, batch).
// Matrix instructions: ceil(rows / 16) * tiles * slabs * batch.
#include "device.h"

constexpr u32 WAVES = 256 / WAVE;

struct MatmulArgs {
  const u32 *rows;
  const __bf16 *x;
  const u32x4 *weights;
  void *out;
  float *partials;
  u32 *counters;
  u32 x_stride;
  u32 x_batch;
  u32 out_stride;
  u32 out_batch;
  u32 n;
  u32 slabs;
  u32 segment;
};

/// Where a lane's operands come from, and its M x N tiles of results.
template <u32 M, u32 N> struct Tiles {
  const __bf16 *x[M][CHUNKS];
  const u32x4 *weights[N];
  Acc acc[M][N];

  /// Rows from `first` and weight tiles from `tile` on. Beyond the last ones those are taken again.
  __device__ Tiles(const MatmulArgs &args, u32 rows, u32 first, u32 tile) {
    const __bf16 *origin = args.x + (u64)block_z() * args.x_batch + 8 * chunk_group();
    for (u32 m = 0; m < M; ++m)
      for (u32 c = 0; c < CHUNKS; ++c) {
        u32 row = first + 16 * m + chunk_row(c);
        x[m][c] = origin + (u64)(row < rows ? row : rows - 1) * args.x_stride;
      }
    u32 tiles = (args.n + 15) / 16;
    for (u32 n = 0; n < N; ++n) {
      u32 t = tile + n < tiles ? tile + n : tiles - 1;
      weights[n] = args.weights + ((u64)block_z() * tiles + t) * args.slabs * 64;
    }
  }

  /// `acc += x w^T` over slabs `begin..begin + STEPS`.
  template <u32 STEPS> __device__ void step(u32 begin) {
    bf16x8 b[STEPS][N][CHUNKS], a[STEPS][M][CHUNKS];
    for (u32 s = 0; s < STEPS; ++s) {
      for (u32 n = 0; n < N; ++n)
        for (u32 c = 0; c < CHUNKS; ++c)
          b[s][n][c] = __builtin_bit_cast(
              bf16x8, load_once(weights[n] + (u64)(begin + s) * 64 + slot(c)));
      for (u32 m = 0; m < M; ++m)
        for (u32 c = 0; c < CHUNKS; ++c)
          a[s][m][c] = *(const bf16x8 *)(x[m][c] + (u64)(begin + s) * 32);
    }
    for (u32 s = 0; s < STEPS; ++s)
      for (u32 m = 0; m < M; ++m)
        for (u32 n = 0; n < N; ++n) mma_bf16(acc[m][n], a[s][m], b[s][n]);
  }

  /// `acc = x w^T` over slabs `begin..end`, UNROLL at a time.
  template <u32 UNROLL> __device__ void segment(u32 begin, u32 end) {
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n) acc[m][n] = Acc{};
    u32 k = begin;
    for (; k + UNROLL <= end; k += UNROLL) step<UNROLL>(k);
    for (; k < end; ++k) step<1>(k);
  }
};

/// Calls `f(value, row, column)` for each of the lane's results inside of `rows` and `n`.
template <u32 M, u32 N, typename F>
__device__ inline void each_result(const Acc (&acc)[M][N], u32 rows, u32 first, u32 tile, u32 n,
                                   F f) {
  for (u32 m = 0; m < M; ++m)
    for (u32 t = 0; t < N; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 row = first + 16 * m + acc_row(i), column = 16 * (tile + t) + acc_col(i);
        if (row < rows && column < n) f(acc[m][t].v[i], row, column);
      }
}

template <typename Out> __device__ inline Out *output(const MatmulArgs &args) {
  return (Out *)args.out + (u64)block_z() * args.out_batch;
}

/// Adds up all segments of the workgroup's columns.
template <u32 M, u32 N, typename Out>
__device__ inline void add_segments(const MatmulArgs &args, u32 rows, u32 segments) {
  u32 width = (args.n + 15) / 16 * 16, columns = 16 * N * WAVES, first = block_x() * columns;
  const float *partials = args.partials + (u64)block_z() * segments * 16 * M * width;
  Out *out = output<Out>(args);
  for (u32 i = thread(); i < rows * columns; i += 256) {
    u32 row = i / columns, column = first + i % columns;
    if (column >= args.n) continue;
    float sum = partials[(u64)row * width + column];
    for (u32 s = 1; s < segments; ++s) sum += partials[((u64)s * 16 * M + row) * width + column];
    out[(u64)row * args.out_stride + column] = (Out)sum;
  }
}

template <u32 M, u32 N, u32 UNROLL, typename Out>
__device__ inline void few_rows(const MatmulArgs &args) {
  u32 rows = *args.rows;
  if (rows == 0) return;
  u32 tile = (block_x() * WAVES + wave()) * N;
  u32 begin = block_y() * args.segment, end = begin + args.segment;
  u32 segments = (args.slabs + args.segment - 1) / args.segment;
  Tiles<M, N> t(args, rows, 0, tile);
  if (16 * tile < args.n)
    t.template segment<UNROLL>(begin, end < args.slabs ? end : args.slabs);
  if (segments == 1) {
    Out *out = output<Out>(args);
    each_result(t.acc, rows, 0, tile, args.n, [&](float value, u32 row, u32 column) {
      out[(u64)row * args.out_stride + column] = (Out)value;
    });
    return;
  }
  u32 width = (args.n + 15) / 16 * 16;
  float *partials = args.partials + ((u64)block_z() * segments + block_y()) * 16 * M * width;
  each_result(t.acc, rows, 0, tile, args.n, [&](float value, u32 row, u32 column) {
    partials[(u64)row * width + column] = value;
  });
  u32 groups = (width / 16 + WAVES * N - 1) / (WAVES * N);
  if (last_to_arrive(args.counters + block_z() * groups + block_x(), segments))
    add_segments<M, N, Out>(args, rows, segments);
}

template <typename Out> __device__ inline void many_rows(const MatmulArgs &args) {
  constexpr u32 M = 4, N = 2;
  u32 rows = *args.rows, first = 64 * block_y(), tile = (block_x() * WAVES + wave()) * N;
  if (first >= rows || 16 * tile >= args.n) return;
  Tiles<M, N> t(args, rows, first, tile);
  Acc sum[M][N];
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n)
      for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] = -0.0f; // -0 + x is x for every x
  for (u32 begin = 0; begin < args.slabs; begin += args.segment) {
    u32 end = begin + args.segment;
    t.template segment<2>(begin, end < args.slabs ? end : args.slabs);
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n)
        for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] += t.acc[m][n].v[i];
  }
  Out *out = output<Out>(args);
  each_result(sum, rows, first, tile, args.n, [&](float value, u32 row, u32 column) {
    out[(u64)row * args.out_stride + column] = (Out)value;
  });
}

KERNEL(256) void matmul_16(MatmulArgs args) { few_rows<1, 1, 8, float>(args); }
KERNEL(256) void matmul_16_bf16(MatmulArgs args) { few_rows<1, 1, 8, __bf16>(args); }
KERNEL(256) void matmul_64(MatmulArgs args) { few_rows<4, 2, 2, float>(args); }
KERNEL(256) void matmul_64_bf16(MatmulArgs args) { few_rows<4, 2, 2, __bf16>(args); }
KERNEL(256) void matmul_rows(MatmulArgs args) { many_rows<float>(args); }
KERNEL(256) void matmul_rows_bf16(MatmulArgs args) { many_rows<__bf16>(args); }
