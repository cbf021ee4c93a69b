// matmul_rows for gfx950: a workgroup computes 128 x 128 results; both operands go to LDS by direct
// copies in operand order, several stages deep.
#pragma once

/// Slabs that the forms for 16 rows load ahead, of one tile or two.
constexpr u32 AHEAD_ONE = 8, AHEAD_TWO = 4;
/// Tiles of each operand that a workgroup of the form for many rows takes, and its waves.
constexpr u32 T = 8, STAGES = 3, ROWS_WAVES = 256 / WAVE;
#define ROWS_KERNEL KERNEL(256)
#define ROWS_ARGS MatmulArgs

/// A slab of k in LDS: T tiles of each operand.
struct Stage {
  u32x4 x[T][64];
  u32x4 weights[T][64];
};

/// A wave's share of the copies into stages: half of the waves copy x, the others weights, each
/// chunks that follow one another in a stage.
struct Copies {
  static constexpr u32 COUNT = sizeof(Stage) / 16 / 256;
  const u8 *from[COUNT];
  u32 step;

  __device__ Copies(const MatmulArgs &args, u32 rows) {
    bool weights = wave() >= ROWS_WAVES / 2;
    step = weights ? 1024 : 64;
    for (u32 i = 0; i < COUNT; ++i) {
      u32 chunk = (wave() % (ROWS_WAVES / 2) * COUNT + i) * WAVE + lane(), tile = chunk / 64;
      u32 row = lds_row(chunk % 64), group = lds_group(chunk % 64);
      if (weights)
        from[i] = (const u8 *)(tile_weights(args, block_x() * T + tile) + 16 * group + row);
      else
        from[i] =
            (const u8 *)(row_values(args, (block_y() * T + tile) * 16 + row, rows) + 8 * group);
    }
  }

  /// Starts the next slab's copies.
  __device__ void start(Stage &stage) {
    u8 *to = (u8 *)&stage + (u64)wave() * COUNT * WAVE * 16;
    for (u32 i = 0; i < COUNT; ++i) {
      copy_to_lds(to + i * WAVE * 16, from[i]);
      from[i] += step;
    }
  }
};

template <u32 M, u32 N>
__device__ inline void add_stage(Acc (&acc)[M][N], const Stage &stage, u32 x, u32 weights) {
  bf16x8 a[M][CHUNKS], b[N][CHUNKS];
  for (u32 c = 0; c < CHUNKS; ++c) {
    u32 chunk = WAVE * c + lane();
    for (u32 m = 0; m < M; ++m) a[m][c] = __builtin_bit_cast(bf16x8, stage.x[x + m][chunk]);
    for (u32 n = 0; n < N; ++n)
      b[n][c] = __builtin_bit_cast(bf16x8, stage.weights[weights + n][chunk]);
  }
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n) mma_bf16(acc[m][n], a[m], b[n]);
}

/// T x T tiles for a workgroup, whose waves stand in two rows, each with M x N tiles.
template <typename Out> __device__ inline void many_rows(const MatmulArgs &args) {
  constexpr u32 M = T / 2, N = T / (ROWS_WAVES / 2), COPIES = Copies::COUNT;
  __shared__ Stage stages[STAGES];
  u32 rows = *args.rows;
  if (block_y() * 16 * T >= rows) return;
  u32 x = wave() / (ROWS_WAVES / 2) * M, weights = wave() % (ROWS_WAVES / 2) * N;
  u32 first_row = (block_y() * T + x) * 16, first_column = (block_x() * T + weights) * 16;
  bool busy = first_row < rows && first_column < args.n;
  Copies copies(args, rows);
  for (u32 s = 0; s < STAGES - 1; ++s)
    if (s < args.slabs) copies.start(stages[s]);
  Acc acc[M][N] = {}, sum[M][N];
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n)
      for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] = -0.0f; // -0 + x is x for every x
  u32 stage = 0, part = 1;
  for (u32 k = 0; k < args.slabs; ++k) {
    if (k + STAGES - 1 <= args.slabs)
      sync_copies<(STAGES - 2) * COPIES>();
    else
      sync_copies<0>();
    if (k + STAGES - 1 < args.slabs) copies.start(stages[stage == 0 ? STAGES - 1 : stage - 1]);
    if (busy) add_stage(acc, stages[stage], x, weights);
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    if (k + 1 < segment_start(args, part)) continue;
    ++part;
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n) {
        for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] += acc[m][n].v[i];
        acc[m][n] = Acc{};
      }
  }
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n)
      for (u32 i = 0; i < ACCUMULATORS; ++i)
        put<Out>(args, rows, first_row + 16 * m + acc_row(i), first_column + 16 * n + acc_col(i),
                 sum[m][n].v[i]);
}
