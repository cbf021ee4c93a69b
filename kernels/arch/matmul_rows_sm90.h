// matmul_rows for sm_90. A workgroup of two warpgroups multiplies 128 rows of weights with 192 rows
// of x, each warpgroup 64 of the weights' rows with all of x's.
//
// Weights go from memory to operand registers, two slabs ahead. x goes through registers to LDS, a
// slab ahead of the instructions that read it there, which run while the next slab is stored.
#pragma once
#include "wgmma.h"

constexpr u32 X_ROWS = 192, STAGES = 3, ROWS_WAVES = 8;

template <typename Out> struct ManyRows {
  /// Eights of rows of x that a wave copies for each slab.
  static constexpr u32 COPIES = X_ROWS / 8 / ROWS_WAVES;
  const MatmulArgs &args;
  OperandRows (&stages)[STAGES][X_ROWS / 8];
  const u32x4 *weights;
  const __bf16 *x[COPIES];
  u32x4 w[STAGES][CHUNKS], next_x[COPIES];
  float sums[X_ROWS / 2], total[X_ROWS / 2];
  u32 part = 1;
  bool add = false;

  __device__ ManyRows(const MatmulArgs &args, OperandRows (&stages)[STAGES][X_ROWS / 8], u32 rows)
      : args(args), stages(stages) {
    weights = tile_weights(args, block_x() * ROWS_WAVES + wave()) + slot(0);
    for (u32 i = 0; i < COPIES; ++i) {
      u32 row = block_y() * X_ROWS + (wave() * COPIES + i) * 8 + lane() / 4;
      x[i] = row_values(args, row, rows) + 8 * chunk_group();
    }
  }

  // Beyond the last slab the last is loaded again.
  __device__ void load_weights(u32x4 (&to)[CHUNKS], u32 k) const {
    k = k < args.slabs ? k : args.slabs - 1;
    for (u32 c = 0; c < CHUNKS; ++c) to[c] = weights[(u64)k * 64 + slot(c) - slot(0)];
  }
  __device__ void load_x(u32 k) {
    k = k < args.slabs ? k : args.slabs - 1;
    for (u32 i = 0; i < COPIES; ++i) next_x[i] = *(const u32x4 *)(x[i] + (u64)k * 32);
  }
  __device__ void store_x(u32 stage) const {
    for (u32 i = 0; i < COPIES; ++i) store_operand(stages[stage][wave() * COPIES + i], next_x[i]);
    operands_written();
  }

  /// Adds slab `k`, which is in stage `STAGE`.
  template <u32 STAGE> __device__ void add_slab(u32 k) {
    sync();
    wgmma_begin();
    wgmma_slab(sums, w[STAGE], stages[STAGE], add);
    wgmma_end();
    store_x((STAGE + 1) % STAGES);
    load_x(k + 2);
    wgmma_wait<1>();
    load_weights(w[(STAGE + 2) % STAGES], k + 2);
    add = k + 1 < segment_start(args, part);
    if (add) return;
    ++part;
    wgmma_wait(sums);
    for (u32 i = 0; i < X_ROWS / 2; ++i) total[i] += sums[i];
  }

  __device__ void run(u32 rows) {
    for (u32 i = 0; i < X_ROWS / 2; ++i) {
      sums[i] = 0;
      total[i] = -0.0f; // -0 + x is x for every x
    }
    load_x(0);
    load_weights(w[0], 0);
    load_weights(w[1], 1);
    store_x(0);
    load_x(1);
    for (u32 k = 0; k < args.slabs; k += 3) {
      add_slab<0>(k);
      if (k + 1 < args.slabs) add_slab<1>(k + 1);
      if (k + 2 < args.slabs) add_slab<2>(k + 2);
    }
    u32 first = block_x() * ROWS_WAVES * 16 + wave() * 16;
    for (u32 t = 0; t < X_ROWS / 8; ++t)
      for (u32 i = 0; i < 4; ++i)
        put<Out>(args, rows, block_y() * X_ROWS + 8 * t + acc_col(i), first + acc_row(i),
                 total[4 * t + i]);
  }
};

template <typename Out> __device__ inline void many_rows(const MatmulArgs &args) {
  __shared__ OperandRows stages[STAGES][X_ROWS / 8];
  u32 rows = *args.rows;
  if (block_y() * X_ROWS >= rows) return;
  ManyRows<Out>(args, stages, rows).run(rows);
}
