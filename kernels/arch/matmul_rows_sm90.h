// matmul_rows for sm_90. A workgroup computes blocks of 128 rows of x and 128, 144 or 192 rows of
// weights, as its launch says: two warpgroups multiply, each 64 of the rows with all of the
// weights'; a thread of a third one brings both to LDS, some pairs of slabs ahead, and goes on
// with the next block meanwhile. Launches for up to 64 rows have one warpgroup multiply.
//
// Workgroups take the blocks in turns. Or clusters do, of as many as or half as many workgroups as
// k has segments: each adds up its one or two of a block's segments, then, in order, some of the
// segments' sums, which the others have left in its LDS. There are then as many clusters as
// blocks. Grid: (workgroups, 1, batch).
#pragma once
#include "boxes.h"
#include "warpgroups.h"

/// Slabs that the forms for 16 rows load ahead, of one tile or two: there are registers for few
/// more, and the heads' products have but four slabs for a wave.
constexpr u32 AHEAD_ONE = 4, AHEAD_TWO = 3;
constexpr u32 X_ROWS = 128, MULTIPLIERS = 256, LOADERS = 128;
#define ROWS_KERNEL STAYING_KERNEL(MULTIPLIERS + LOADERS)
#define ROWS_ARGS const __attribute__((grid_constant)) RowsArgs

/// The parameter of matmul_rows.
struct RowsArgs {
  /// Of x, by column and row: boxes of 64 x `64 * groups`, with 128 bytes of a row together, in
  /// which each 16 stand at their place ^ the row % 8.
  TensorMap x;
  /// Of weights, by 8 bytes of a block, tile, slab, batch: boxes of the blocks of `columns` rows.
  TensorMap weights;
  MatmulArgs args;
  u32 columns;
  /// Warpgroups that multiply.
  u32 groups;
};

/// A pair of slabs in LDS: x's rows, then the weights' blocks, of the first slab and the second.
constexpr u32 X_BYTES = X_ROWS * 128, STAGES_BYTES = 208896, MOST_STAGES = 6;
__device__ constexpr u32 slab_bytes(u32 columns) { return columns * 64; }
__device__ constexpr u32 stage_bytes(u32 columns) { return X_BYTES + 2 * slab_bytes(columns); }
__device__ constexpr u32 stages_of(u32 columns) { return STAGES_BYTES / stage_bytes(columns); }
static_assert(stages_of(128) == MOST_STAGES);

/// What launches ask for.
struct SharedRows {
  alignas(1024) u8 stages[STAGES_BYTES];
  /// For each stage, where copies arrive when they are there, and waves when they have used them.
  u64 filled[MOST_STAGES], used[MOST_STAGES];
};
extern __shared__ __attribute__((aligned(1024))) SharedRows shared_rows[];
static_assert(sizeof(SharedRows) == 209920 && sizeof(RowsArgs) == 384);

/// Workgroups of the cluster.
__device__ inline u32 cluster_size() { return __nvvm_read_ptx_sreg_cluster_nctaid_x(); }

/// As `sync`, for all workgroups of the cluster.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
               "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Stores to the place at this address in LDS of the cluster's workgroup `rank`.
__device__ inline void store_in_cluster(u32 address, u32 rank, f32x4 x) {
  asm volatile("{\n\t.reg .b32 there;\n\t"
               "mapa.shared::cluster.u32 there, %0, %1;\n\t"
               "st.shared::cluster.v4.f32 [there], {%2,%3,%4,%5};\n\t}" ::"r"(address),
               "r"(rank), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

/// What a workgroup does: its blocks, and the stages that they go through.
struct Rows {
  const RowsArgs &operands;
  const MatmulArgs &args = operands.args;
  const u32 rows, columns, split = cluster_size(), rank = block_x() % split;
  /// Blocks of columns, and of the product.
  const u32 width = (args.n + columns - 1) / columns;
  const u32 blocks = (rows + X_ROWS - 1) / X_ROWS * width;
  /// Segments of k that the workgroup adds up, from the first on.
  const u32 count = (1 << args.log_segments) / split, first_segment = rank * count;
  /// The stage in turn, and how often all were used before it, as one bit.
  u32 stage = 0, parity = 0;

  __device__ Rows(const RowsArgs &operands, u32 rows, u32 columns)
      : operands(operands), rows(rows), columns(columns) {}

  __device__ u32 first_block() const { return block_x() / split; }
  __device__ u32 next(u32 block) const { return block + blocks_x() / split; }
  __device__ u32 first_row(u32 block) const { return block / width * X_ROWS; }
  __device__ u32 first_column(u32 block) const { return block % width * columns; }

  __device__ u32 place() const {
    return lds_address(shared_rows->stages) + stage * stage_bytes(columns);
  }
  __device__ u32 filled() const { return lds_address(&shared_rows->filled[stage]); }
  __device__ static u32 used(u32 stage) { return lds_address(&shared_rows->used[stage]); }
  __device__ void next_stage() {
    if (++stage < stages_of(columns)) return;
    stage = 0;
    parity ^= 1;
  }

  /// Brings all operands; one thread.
  __device__ void load() {
    for (u32 b = first_block(); b < blocks; b = next(b))
      for (u32 s = first_segment; s < first_segment + count; ++s) {
        u32 end = segment_start(args, s + 1);
        for (u32 slab = segment_start(args, s); slab < end; slab += 2) {
          u32 slabs = slab + 1 < end ? 2 : 1, x_bytes = operands.groups * (X_BYTES / 2);
          wait_for_bytes(used(stage), parity ^ 1);
          expect_bytes(filled(), x_bytes + slabs * slab_bytes(columns));
          copy_box(place(), operands.x, block_z() * args.x_batch + slab * 32, first_row(b),
                   filled());
          for (u32 h = 0; h < slabs; ++h)
            copy_box(place() + X_BYTES + h * slab_bytes(columns), operands.weights,
                     first_column(b) / 16, slab + h, block_z(), filled());
          next_stage();
        }
      }
  }
};

/// Multiplies.
template <u32 COLUMNS, typename Out> struct Multiplier : Rows {
  static constexpr u32 SUMS = COLUMNS / 2, STAGES = stages_of(COLUMNS);
  /// The lane's row of each 8 of its wave's: the first half of a wave reads the even ones, which
  /// are in different banks.
  const u32 row = lane() / 4 % 4 * 2 + lane() / 16;
  /// Where the lane finds its 8 bytes of each 32 of that row, in a stage.
  const u32 from = (wave() * 16 + row) * 128 + (lane() % 4 / 2 ^ row) * 16 + lane() % 2 * 8;
  u32 values[2][2][4];
  float sums[SUMS], total[SUMS];

  __device__ Multiplier(const RowsArgs &operands, u32 rows) : Rows(operands, rows, COLUMNS) {}

  /// The wave is done with the stage before that in turn.
  __device__ void release() const {
    if (elected()) arrive_at(used(stage == 0 ? STAGES - 1 : stage - 1));
  }

  /// Loads x's operands of slab `h` of the stage in turn.
  __device__ void load_operands(u32 h) {
    for (u32 half = 0; half < 2; ++half)
      for (u32 c = 0; c < 2; ++c) {
        u32 x, y, at = place() + (from ^ (64 * h + 32 * half)) + 1024 * c;
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "r"(at) : "memory");
        values[h][0][2 * half + c] = x;
        values[h][1][2 * half + c] = y;
      }
  }

  /// Adds the products of the first `SLABS` slabs of the stage in turn, which is then the next.
  template <u32 SLABS> __device__ void add_slabs(bool first) {
    wait_for_bytes(filled(), parity);
    // In a cluster an address in LDS also says whose it is, which instructions do not want.
    u64 weights = matrices_at((place() & 0x3ffff) + X_BYTES, 128, sizeof(OperandRows));
    for (u32 h = 0; h < SLABS; ++h) {
      load_operands(h);
      wgmma_begin();
      for (u32 i = 0; i < 2; ++i) {
        u32(&x)[4] = values[h][i];
        wgmma(sums, x[0], x[1], x[2], x[3], weights + (h * slab_bytes(COLUMNS) + i * 256) / 16,
              !first || h + i > 0);
      }
      wgmma_end();
      if (first && h == 0) continue;
      wgmma_wait<1>();
      if (h == 0) release();
    }
    next_stage();
  }

  /// Adds up segment `s`. Inlined even where the compiler would rather not: sums are registers.
  __attribute__((always_inline)) __device__ void add_segment(u32 s) {
    u32 slab = segment_start(args, s), end = segment_start(args, s + 1);
    bool first = true;
    for (; slab + 1 < end; slab += 2, first = false) add_slabs<2>(first);
    if (slab < end) add_slabs<1>(first);
    wgmma_wait(sums);
    release();
  }

  /// Computes all blocks of a workgroup that has them alone.
  __device__ void compute() {
    for (u32 b = first_block(); b < blocks; b = next(b)) {
      for (u32 i = 0; i < SUMS; ++i) total[i] = -0.0f; // -0 + x is x for every x
      for (u32 s = 0; s < count; ++s) {
        add_segment(s);
        for (u32 i = 0; i < SUMS; ++i) total[i] += sums[i];
      }
      for (u32 i = 0; i < SUMS; i += 8) store(b, i, total + i);
    }
  }

  /// Where in LDS the thread's four sums are, of a segment, of the `i`th that a workgroup has.
  __device__ f32x4 *left(u32 segment, u32 i) const {
    u32 all = ((SUMS / 8 + split - 1) / split) * 2;
    return (f32x4 *)shared_rows->stages + (segment * all + i) * MULTIPLIERS + thread();
  }

  /// Leaves sums of a segment with the workgroups that add them up, eight by eight in turns.
  __device__ void leave(const float (&sums)[SUMS], u32 segment) const {
    for (u32 i = 0; i < SUMS / 4; ++i) {
      const float *x = sums + 4 * i;
      store_in_cluster(lds_address(left(segment, i / 2 / split * 2 + i % 2)), i / 2 % split,
                       f32x4{x[0], x[1], x[2], x[3]});
    }
  }

  /// Computes the workgroup's part of the one block of its cluster.
  __device__ void compute_together(bool works) {
    works = works && first_block() < blocks;
    if (works) {
      add_segment(first_segment);
      if (count == 2) {
        for (u32 i = 0; i < SUMS; ++i) total[i] = copied(sums[i]); // see there
        add_segment(first_segment + 1);
      }
    }
    sync_cluster(); // nobody is left that reads operands
    if (works) {
      if (count == 2) leave(total, first_segment);
      leave(sums, first_segment + count - 1);
    }
    sync_cluster();
    if (!works) return;
    for (u32 i = rank, own = 0; i < SUMS / 8; i += split, own += 2) {
      float eight[8];
      for (u32 s = 0; s < 1u << args.log_segments; ++s)
        for (u32 h = 0; h < 2; ++h) {
          f32x4 x = *left(s, own + h);
          for (u32 j = 0; j < 4; ++j) {
            float &sum = eight[4 * h + j];
            sum = s == 0 ? x[j] : sum + x[j];
          }
        }
      store(first_block(), 8 * i, eight);
    }
  }

  /// Stores sums `i ..` of the thread: of two tiles of 8 columns, for two rows two values each.
  __device__ void store(u32 block, u32 i, const float *sums) const {
    bool fours = (args.n | args.out_stride | args.out_batch) % 4 == 0, odd = lane() % 2;
    for (u32 j = 0; j < 2; ++j) {
      u32 at = first_row(block) + wave() * 16 + row + 8 * j, column = first_column(block) + 2 * i;
      const float *low = sums + 2 * j, *high = low + 4;
      if (!fours) {
        for (u32 e = 0; e < 4; ++e) {
          u32 exact = column + acc_col(e / 2 * 4 + e % 2);
          put<Out>(args, rows, at, exact, e < 2 ? low[e] : high[e - 2]);
        }
        continue;
      }
      // Of neighbours the first takes four values of the first tile, the other of the second.
      float x = shuffle_xor(odd ? low[0] : high[0], 1), y = shuffle_xor(odd ? low[1] : high[1], 1);
      typedef __attribute__((ext_vector_type(4))) Out Four;
      Four four = odd ? Four{(Out)x, (Out)y, (Out)high[0], (Out)high[1]}
                      : Four{(Out)low[0], (Out)low[1], (Out)x, (Out)y};
      column += (odd ? 8 : 0) + lane() % 4 / 2 * 4;
      u64 to = (u64)at * args.out_stride + (u64)block_z() * args.out_batch + column;
      if (at < rows && column < args.n) *(Four *)((Out *)args.out + to) = four;
    }
  }

  __device__ void run(bool works) {
    for (u32 i = 0; i < SUMS; ++i) sums[i] = 0;
    if (split > 1)
      compute_together(works);
    else if (works)
      compute();
  }
};

template <typename Out> __device__ inline void many_rows(const RowsArgs &operands) {
  u32 rows = *operands.args.rows, groups = operands.groups, columns = operands.columns;
  if (thread() < MOST_STAGES) {
    expect_arrivals(lds_address(&shared_rows->filled[thread()]), 1);
    expect_arrivals(lds_address(&shared_rows->used[thread()]), 4 * groups);
    operands_written();
  }
  sync();
  if (wave() < MULTIPLIERS / WAVE) {
    take_registers<240>();
    bool works = wave() < 4 * groups;
    if (columns == 128)
      Multiplier<128, Out>(operands, rows).run(works);
    else if (columns == 144)
      Multiplier<144, Out>(operands, rows).run(works);
    else
      Multiplier<192, Out>(operands, rows).run(works);
  } else {
    give_registers<24>();
    Rows all(operands, rows, columns);
    if (wave() == MULTIPLIERS / WAVE && elected()) all.load();
    sync_wave();
    if (all.split == 1) return;
    sync_cluster();
    sync_cluster();
  }
}
