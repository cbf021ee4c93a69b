// matmul_rows for sm_90. A workgroup of two warpgroups multiplies 128 rows of x with 192 rows of
// weights, each warpgroup 64 of x's with all of the weights'.
//
// Both are copied to LDS several slabs ahead: weights by bulk copies, in the order in which the
// instructions want them; x for each wave by itself, which then loads it to operand registers.
#pragma once
#include "wgmma.h"

/// Slabs that the forms for 16 rows load ahead, of one tile or two: there are registers for few
/// more, and the heads' products have but four slabs for a wave.
constexpr u32 AHEAD_ONE = 4, AHEAD_TWO = 3;
constexpr u32 X_ROWS = 128, COLUMNS = 192, STAGES = 6;

/// A slab in LDS. A row of x has its halves exchanged where bit 1 of the row is set, so that lanes
/// that load parts of eight rows use different banks.
struct Stage {
  OperandRows weights[COLUMNS / 8];
  u32x2 x[X_ROWS / 16][16][8];
};
/// What `crates/hip/src/modules.rs` has a launch ask for.
extern __shared__ Stage stages[];
static_assert(STAGES * sizeof(Stage) == 122880);
/// For each stage, where its weights arrive.
__shared__ u64 arrived[STAGES];

template <typename Out> struct ManyRows {
  /// Slabs of operands in registers: one may be written while two batches of instructions use
  /// others.
  static constexpr u32 BUFFERS = 3;
  const MatmulArgs &args;
  const u8 *weights[2], *x[CHUNKS];
  /// Tiles of weights that the wave copies: this and the eighth after it, if there are such.
  u32 tile, arrivals = lds_address(arrived);
  u32 store_at, load_at;
  u32 operands[BUFFERS][2][4];
  float sums[COLUMNS / 2], total[COLUMNS / 2];
  u32 part = 1, end = segment_start(args, 1), parity = 0;
  u32 add = 0;

  __device__ ManyRows(const MatmulArgs &args, u32 rows) : args(args) {
    tile = shuffle(wave(), 0); // which tells the assembler that it is the same for all lanes
    for (u32 i = 0; i < 2; ++i)
      weights[i] = (const u8 *)tile_weights(args, block_x() * (COLUMNS / 16) + tile + 8 * i);
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 row = block_y() * X_ROWS + wave() * 16 + chunk_row(c);
      x[c] = (const u8 *)row_values(args, row, rows) + 16 * chunk_group();
    }
    u32 row = lane() / 4, group = lane() % 4, exchanged = row & 2;
    store_at = row * 8 + (group ^ exchanged) * 2;
    load_at = row * 8 + group + exchanged * 2;
  }

  /// The LDS address of a stage's word of `arrived`.
  __device__ u32 arrival(u32 stage) const { return arrivals + 8 * stage; }

  /// Starts the copies of slab `k`, if there is one: waves take turns with the tiles of weights.
  __device__ void copy(u32 k, u32 to) {
    if (k < args.slabs) {
      Stage &stage = stages[to];
      for (u32 c = 0; c < CHUNKS; ++c)
        copy_async(&stage.x[wave()][8 * c][store_at], x[c] + (u64)k * 64);
      if (elected()) {
        if (tile == 0) expect_bytes(arrival(to), sizeof(stage.weights));
        for (u32 i = 0; i < 2; ++i)
          if (tile + 8 * i < COLUMNS / 16)
            copy_bulk(&stage.weights[2 * (tile + 8 * i)], weights[i] + (u64)k * 1024, 1024,
                      arrival(to));
      }
    }
    copies_started();
  }

  /// Loads x's operands of the slab in stage `from`.
  __device__ void load(u32 (&to)[2][4], u32 from) const {
    for (u32 c = 0; c < CHUNKS; ++c)
      for (u32 half = 0; half < 2; ++half) {
        u32x2 words = stages[from].x[wave()][8 * c][load_at ^ 4 * half];
        for (u32 i = 0; i < 2; ++i) to[i][2 * half + c] = words[i];
      }
  }

  /// Adds slab `k`, the `I`th of six.
  template <u32 I> __device__ void add_slab(u32 k) {
    constexpr u32 FREE = (I + STAGES - 2) % STAGES;
    wait_for_bytes(arrival(I), parity);
    u64 matrices = operand_matrices(stages[I].weights);
    u32 (&a)[2][4] = operands[I % BUFFERS];
    wgmma_begin();
    for (u32 i = 0; i < 2; ++i)
      wgmma(sums, a[i][0], a[i][1], a[i][2], a[i][3], matrices + (256 >> 4) * i, add || i > 0);
    wgmma_end();
    copy(k + STAGES - 2, FREE);
    wgmma_wait<1>();
    copies_done<STAGES - 4>();
    sync_wave();
    load(operands[(I + 2) % BUFFERS], (I + 2) % STAGES);
    sync(); // nobody is left that reads the slab before
    add = k + 1 < end;
    if (add) return;
    end = segment_start(args, ++part);
    wgmma_wait(sums);
    for (u32 i = 0; i < COLUMNS / 2; ++i) total[i] += sums[i];
  }

  __device__ void run(u32 rows) {
    for (u32 i = 0; i < COLUMNS / 2; ++i) {
      sums[i] = 0;
      total[i] = -0.0f; // -0 + x is x for every x
    }
    if (thread() == 0) {
      for (u32 i = 0; i < STAGES; ++i) expect_arrivals(arrival(i), 1);
      operands_written();
    }
    sync();
    for (u32 i = 0; i < STAGES - 2; ++i) copy(i, i);
    copies_done<STAGES - 4>();
    sync_wave();
    for (u32 i = 0; i < 2; ++i) load(operands[i], i);
    for (u32 k = 0; k < args.slabs; k += STAGES, parity ^= 1) {
      add_slab<0>(k);
      if (k + 1 < args.slabs) add_slab<1>(k + 1);
      if (k + 2 < args.slabs) add_slab<2>(k + 2);
      if (k + 3 < args.slabs) add_slab<3>(k + 3);
      if (k + 4 < args.slabs) add_slab<4>(k + 4);
      if (k + 5 < args.slabs) add_slab<5>(k + 5);
    }
    u32 first_row = block_y() * X_ROWS + wave() * 16, first_column = block_x() * COLUMNS;
    bool pairs = (args.out_stride | args.out_batch) % 2 == 0;
    for (u32 t = 0; t < COLUMNS / 8; ++t)
      for (u32 i = 0; i < 4; i += 2) {
        u32 row = first_row + acc_row(i), column = first_column + 8 * t + acc_col(i);
        const float *two = total + 4 * t + i;
        if (pairs && row < rows && column + 1 < args.n) {
          typedef __attribute__((ext_vector_type(2))) Out Pair;
          u64 at = (u64)row * args.out_stride + (u64)block_z() * args.out_batch + column;
          *(Pair *)((Out *)args.out + at) = Pair{(Out)two[0], (Out)two[1]};
        } else {
          for (u32 j = 0; j < 2; ++j) put<Out>(args, rows, row, column + j, two[j]);
        }
      }
  }
};

template <typename Out> __device__ inline void many_rows(const MatmulArgs &args) {
  u32 rows = *args.rows;
  if (block_y() * X_ROWS >= rows) return;
  ManyRows<Out>(args, rows).run(rows);
}
