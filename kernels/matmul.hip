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
// Many rows (`matmul_rows`): bound by matrix instructions. Grid: (tiles / 8 rounded up, rows / 128
// rounded up, batch). Both operands go to LDS by direct copies in operand order, three stages deep.
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
    loads_first();
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

/// Many rows: a workgroup's 128 x 128 results, a slab of k at a time through LDS.
struct Stage {
  u32x4 x[8][64];
  u32x4 weights[8][64];
};

constexpr u32 STAGES = 3;
/// Copies of each wave for a stage.
constexpr u32 COPIES = sizeof(Stage) / 16 / 256;
/// Waves stand in two rows; each has M x N tiles.
constexpr u32 M = 4, N = 8 / (WAVES / 2);

/// A wave's share of the copies into stages: half of the waves copy x, the others weights, each
/// chunks that follow one another in a stage.
struct Copies {
  const u8 *from[COPIES];
  u32 step;

  __device__ Copies(const MatmulArgs &args, u32 rows, u32 first, u32 tile) {
    bool weights = wave() >= WAVES / 2;
    step = weights ? 1024 : 64;
    u32 tiles = (args.n + 15) / 16;
    for (u32 i = 0; i < COPIES; ++i) {
      u32 chunk = (wave() % (WAVES / 2) * COPIES + i) * WAVE + lane(), at = chunk / 64;
      if (weights) {
        u32 t = tile + at < tiles ? tile + at : tiles - 1;
        from[i] = (const u8 *)(args.weights + ((u64)block_z() * tiles + t) * args.slabs * 64 +
                               chunk % 64);
      } else {
        u32 row = first + 16 * at + chunk % 16;
        from[i] = (const u8 *)(args.x + (u64)(row < rows ? row : rows - 1) * args.x_stride +
                               (u64)block_z() * args.x_batch + chunk % 64 / 16 * 8);
      }
    }
  }

  /// Starts the next slab's copies.
  __device__ void start(Stage &stage) {
    u8 *to = (u8 *)&stage + (u64)wave() * COPIES * WAVE * 16;
    for (u32 i = 0; i < COPIES; ++i) {
      copy_to_lds(to + i * WAVE * 16, from[i]);
      from[i] += step;
    }
  }
};

__device__ inline void add_stage(Acc (&acc)[M][N], const Stage &stage, u32 x, u32 weights) {
  bf16x8 a[M][CHUNKS], b[N][CHUNKS];
  for (u32 c = 0; c < CHUNKS; ++c) {
    for (u32 m = 0; m < M; ++m) a[m][c] = __builtin_bit_cast(bf16x8, stage.x[x + m][slot(c)]);
    for (u32 n = 0; n < N; ++n)
      b[n][c] = __builtin_bit_cast(bf16x8, stage.weights[weights + n][slot(c)]);
  }
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n) mma_bf16(acc[m][n], a[m], b[n]);
}

template <typename Out> __device__ inline void many_rows(const MatmulArgs &args) {
  __shared__ Stage stages[STAGES];
  u32 rows = *args.rows, first = 128 * block_y(), tile = 8 * block_x();
  if (first >= rows) return;
  u32 x = wave() / (WAVES / 2) * M, weights = wave() % (WAVES / 2) * N;
  bool busy = first + 16 * x < rows && 16 * (tile + weights) < args.n;
  Copies copies(args, rows, first, tile);
  copies.start(stages[0]);
  if (args.slabs > 1) copies.start(stages[1]);
  Acc acc[M][N] = {}, sum[M][N];
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n)
      for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] = -0.0f; // -0 + x is x for every x
  u32 stage = 0, end = args.segment < args.slabs ? args.segment : args.slabs;
  for (u32 k = 0; k < args.slabs; ++k) {
    if (k + 1 < args.slabs)
      sync_copies<COPIES>();
    else
      sync_copies<0>();
    if (k + 2 < args.slabs) copies.start(stages[stage == 0 ? 2 : stage - 1]);
    if (busy) add_stage(acc, stages[stage], x, weights);
    stage = stage == 2 ? 0 : stage + 1;
    if (k + 1 < end) continue;
    end = end + args.segment < args.slabs ? end + args.segment : args.slabs;
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n) {
        for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] += acc[m][n].v[i];
        acc[m][n] = Acc{};
      }
  }
  if (!busy) return;
  Out *out = output<Out>(args);
  each_result(sum, rows, first + 16 * x, tile + weights, args.n,
              [&](float value, u32 row, u32 column) {
                out[(u64)row * args.out_stride + column] = (Out)value;
              });
}

KERNEL(256) void matmul_16(MatmulArgs args) { few_rows<1, 1, 8, float>(args); }
KERNEL(256) void matmul_16_bf16(MatmulArgs args) { few_rows<1, 1, 8, __bf16>(args); }
KERNEL(256) void matmul_64(MatmulArgs args) { few_rows<4, 2, 2, float>(args); }
KERNEL(256) void matmul_64_bf16(MatmulArgs args) { few_rows<4, 2, 2, __bf16>(args); }
KERNEL(256) void matmul_rows(MatmulArgs args) { many_rows<float>(args); }
KERNEL(256) void matmul_rows_bf16(MatmulArgs args) { many_rows<__bf16>(args); }
