// matmul_rows for sm_90. A workgroup computes blocks of 128 rows of x and 128, 144 or 192 rows of
// weights, as its launch says: two warpgroups multiply, each 64 of the rows with all of the
// weights'; a thread of a third one brings both to LDS, some pairs of slabs ahead, and goes on
// with the next block meanwhile. matmul_rows_64: blocks of 64 rows of x and 32, 64, 96 or 128 of
// weights, for which one warpgroup multiplies; two such workgroups fit a processor, so that those
// of the next launch begin to bring weights while this one's end.
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
constexpr u32 LOADERS = 128;
#define ROWS_KERNEL STAYING_KERNEL(256 + LOADERS)
#define ROWS_64_KERNEL extern "C" __global__ __attribute__((launch_bounds(128 + LOADERS, 2)))
#define ROWS_ARGS const __attribute__((grid_constant)) RowsArgs

/// The parameter of matmul_rows.
struct RowsArgs {
  /// Of x, by column and row: boxes of 64 x a block's rows, with 128 bytes of a row together, in
  /// which each 16 stand at their place ^ the row % 8.
  TensorMap x;
  /// Of weights, by 8 bytes of a block, tile, slab, batch: boxes of the blocks of `columns` rows of
  /// two slabs.
  TensorMap weights;
  MatmulArgs args;
  u32 columns;
  /// Blocks of rows, of those that there may be.
  u32 height;
};
static_assert(sizeof(RowsArgs) == 384);

/// What launches ask for: pairs of slabs, each x's rows, then the weights' blocks of the first slab
/// and the second; and for each, where copies arrive when they are there, and waves when they have
/// used them.
constexpr u32 MOST_STAGES = 9, ARRIVALS_BYTES = 8 * (2 * MOST_STAGES + 1);
extern __shared__ __attribute__((aligned(1024))) u8 shared_rows[];

/// Of a form whose GROUPS warpgroups multiply.
template <u32 GROUPS> struct Stages {
  static constexpr u32 ROWS = 64 * GROUPS, MULTIPLIERS = 128 * GROUPS, X_BYTES = ROWS * 128;
  static constexpr u32 BYTES = GROUPS == 1 ? 114688 : 208896;
  __device__ static constexpr u32 slab_bytes(u32 columns) { return columns * 64; }
  __device__ static constexpr u32 bytes(u32 columns) { return X_BYTES + 2 * slab_bytes(columns); }
  __device__ static constexpr u32 count(u32 columns) { return BYTES / bytes(columns); }
};
static_assert(Stages<1>::count(32) == MOST_STAGES && ARRIVALS_BYTES == 152);

/// Workgroups of the cluster.
__device__ inline u32 cluster_size() { return __nvvm_read_ptx_sreg_cluster_nctaid_x(); }

/// As `sync`, for all workgroups of the cluster.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
               "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// The same, but of what they wrote nobody is told.
__device__ inline void meet_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\t"
               "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// What the thread has made of words with `expect_arrivals` is seen by the cluster's workgroups
/// after they have met.
__device__ inline void arrivals_expected() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Stores to the place at this address in LDS of the cluster's workgroup `rank`.
__device__ inline void store_in_cluster(u32 address, u32 rank, f32x4 x) {
  asm volatile("{\n\t.reg .b32 there;\n\t"
               "mapa.shared::cluster.u32 there, %0, %1;\n\t"
               "st.shared::cluster.v4.f32 [there], {%2,%3,%4,%5};\n\t}" ::"r"(address),
               "r"(rank), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

/// The same, which arrives there on `word`.
__device__ inline void send_in_cluster(u32 address, u32 rank, f32x4 x, u32 word) {
  asm volatile("{\n\t.reg .b32 there, word;\n\t"
               "mapa.shared::cluster.u32 there, %0, %2;\n\t"
               "mapa.shared::cluster.u32 word, %1, %2;\n\t"
               "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
               "[there], {%3,%4,%5,%6}, [word];\n\t}" ::"r"(address),
               "r"(word), "r"(rank), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

/// The value in a register, which the compiler would rather find anew each time.
__device__ inline u32 kept(u32 x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// Where a block begins.
struct Place {
  u32 row, column;
};

/// What a workgroup does: its blocks, and the stages that they go through.
template <u32 GROUPS> struct Rows : Stages<GROUPS> {
  using S = Stages<GROUPS>;
  /// Whether sums are sent to who waits for their bytes, which is better for few, rather than
  /// stored before all meet once more.
  static constexpr bool SENDS = GROUPS == 1;
  const RowsArgs &operands;
  const MatmulArgs &args = operands.args;
  const u32 columns, split = cluster_size(), rank = block_x() % split;
  /// Blocks of columns, and of the product.
  const u32 width = (args.n + columns - 1) / columns, blocks = operands.height * width;
  /// Segments of k that the workgroup adds up, from the first on.
  const u32 count = (1 << args.log_segments) / split, first_segment = rank * count;
  const u32 stages = S::count(columns);
  const u32 memory = kept(lds_address(shared_rows)), batch = kept(block_z());
  /// The stage in turn, and how often all were used before it, as one bit.
  u32 stage = 0, parity = 0;

  __device__ Rows(const RowsArgs &operands, u32 columns) : operands(operands), columns(columns) {}

  /// Blocks go down 8 blocks of rows, then to the next columns: those at work at once share both
  /// rows and weights, and weights are read once for so many.
  __device__ Place place_of(u32 block) const {
    u32 above = block / (8 * width) * 8, in = block % (8 * width);
    u32 high = operands.height - above < 8 ? operands.height - above : 8;
    return {(above + in % high) * S::ROWS, in / high * columns};
  }
  __device__ u32 first_block() const { return block_x() / split; }
  /// The workgroup's next block of which there are rows, or at least `blocks`. Its first one it
  /// computes in any case, since it begins before it knows.
  __device__ u32 next(u32 block, u32 rows) const {
    do block += blocks_x() / split;
    while (block < blocks && place_of(block).row >= rows);
    return block;
  }

  __device__ u32 here() const { return memory + stage * S::bytes(columns); }
  __device__ u32 filled(u32 stage) const { return memory + S::BYTES + 8 * stage; }
  __device__ u32 filled() const { return filled(stage); }
  __device__ u32 used(u32 stage) const { return filled(stage) + 8 * MOST_STAGES; }
  /// Where sums arrive that the cluster's workgroups have left.
  __device__ u32 met() const { return filled(2 * MOST_STAGES); }
  __device__ void next_stage() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }

  /// Calls `use(slab)` for the pairs of slabs of a block, `most` of them. Of a segment's last pair
  /// the second slab may be another's, or none.
  template <class Use> __device__ void for_pairs(u32 most, const Use &use) const {
    for (u32 s = first_segment, i = 0; s < first_segment + count && i < most; ++s) {
      u32 end = segment_start(args, s + 1);
      for (u32 slab = segment_start(args, s); slab < end && i < most; slab += 2, ++i) use(slab);
    }
  }
  __device__ void bring_weights(u32 column, u32 slab) const {
    if (!elected()) return;
    expect_bytes(filled(), S::bytes(columns));
    copy_box(here() + S::X_BYTES, operands.weights, column / 16, slab, batch, filled());
  }

  /// Begins to bring the first block's weights, as far as there are stages, which no launch writes:
  /// they are on their way while the launch before this ends. One wave, which then brings the rest.
  __device__ void load_early() {
    u32 column = place_of(first_block()).column;
    for_pairs(stages, [&](u32 slab) {
      bring_weights(column, slab);
      next_stage();
    });
    stage = parity = 0;
  }
  __device__ void load() {
    u32 early = stages;
    for (u32 b = first_block(); b < blocks; b = next(b, *args.rows)) {
      Place at = place_of(b);
      for_pairs(~0u, [&](u32 slab) {
        if (early > 0) {
          --early;
        } else {
          wait_for_bytes(used(stage), parity ^ 1);
          bring_weights(at.column, slab);
        }
        if (elected())
          copy_box(here(), operands.x, batch * args.x_batch + slab * 32, at.row, filled());
        next_stage();
      });
      early = 0;
    }
  }
};

/// Multiplies.
template <u32 GROUPS, u32 COLUMNS, typename Out> struct Multiplier : Rows<GROUPS> {
  using R = Rows<GROUPS>;
  using R::args, R::split, R::rank, R::count, R::first_segment, R::first_block, R::blocks;
  using R::next, R::place_of, R::stage, R::parity, R::here, R::filled, R::used, R::next_stage;
  static constexpr u32 SUMS = COLUMNS / 2, STAGES = R::S::count(COLUMNS);
  const u32 rows;
  /// The lane's row of each 8 of its wave's: the first half of a wave reads the even ones, which
  /// are in different banks.
  const u32 row = lane() / 4 % 4 * 2 + lane() / 16;
  /// Where the lane finds its 8 bytes of each 32 of that row, in a stage.
  const u32 from = (wave() * 16 + row) * 128 + (lane() % 4 / 2 ^ row) * 16 + lane() % 2 * 8;
  u32 values[2][2][4];
  float sums[SUMS], total[SUMS];
  /// Of the block that is stored.
  Place place;

  __device__ Multiplier(const RowsArgs &operands, u32 rows) : R(operands, COLUMNS), rows(rows) {}

  /// The wave is done with the stage before that in turn.
  __device__ void release() const {
    if (elected()) arrive_at(used(stage == 0 ? STAGES - 1 : stage - 1));
  }

  /// Loads x's operands of slab `h` of the stage in turn.
  __device__ void load_operands(u32 h) {
    for (u32 half = 0; half < 2; ++half)
      for (u32 c = 0; c < 2; ++c) {
        u32 x, y, at = here() + (from ^ (64 * h + 32 * half)) + 1024 * c;
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "r"(at) : "memory");
        values[h][0][2 * half + c] = x;
        values[h][1][2 * half + c] = y;
      }
  }

  /// Adds the products of the first `SLABS` slabs of the stage in turn, which is then the next.
  template <u32 SLABS> __device__ void add_slabs(bool first) {
    wait_for_bytes(filled(), parity);
    // In a cluster an address in LDS also says whose it is, which instructions do not want.
    u64 weights = matrices_at((here() & 0x3ffff) + R::S::X_BYTES, 128, sizeof(OperandRows));
    for (u32 h = 0; h < SLABS; ++h) {
      load_operands(h);
      wgmma_begin();
      for (u32 i = 0; i < 2; ++i) {
        u32(&x)[4] = values[h][i];
        u64 matrices = weights + (h * R::S::slab_bytes(COLUMNS) + i * 256) / 16;
        wgmma(sums, x[0], x[1], x[2], x[3], matrices, !first || h + i > 0);
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
    for (u32 b = first_block(); b < blocks; b = next(b, rows)) {
      for (u32 i = 0; i < SUMS; ++i) total[i] = -0.0f; // -0 + x is x for every x
      for (u32 s = 0; s < count; ++s) {
        add_segment(s);
        for (u32 i = 0; i < SUMS; ++i) total[i] += sums[i];
      }
      place = place_of(b);
      for (u32 i = 0; i < SUMS; i += 8) store(i, total + i);
    }
  }

  /// Where in LDS the thread's four sums are, of a segment, of the `i`th that a workgroup has.
  __device__ f32x4 *left(u32 segment, u32 i) const {
    u32 all = ((SUMS / 8 + split - 1) / split) * 2;
    return (f32x4 *)shared_rows + (segment * all + i) * R::S::MULTIPLIERS + thread();
  }

  /// Leaves sums of a segment with the workgroups that add them up, eight by eight in turns.
  __device__ void leave(const float (&sums)[SUMS], u32 segment) const {
    for (u32 i = 0; i < SUMS / 4; ++i) {
      f32x4 x = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
      u32 to = lds_address(left(segment, i / 2 / split * 2 + i % 2)), whose = i / 2 % split;
      if (R::SENDS)
        send_in_cluster(to, whose, x, R::met());
      else
        store_in_cluster(to, whose, x);
    }
  }

  /// Computes the workgroup's part of the one block of its cluster.
  __device__ void compute_together() {
    add_segment(first_segment);
    if (count == 2) {
      for (u32 i = 0; i < SUMS; ++i) total[i] = copied(sums[i]); // see there
      add_segment(first_segment + 1);
    }
    if (GROUPS == 1) let_next_begin();
    meet_cluster(); // nobody is left that reads operands
    if (count == 2) leave(total, first_segment);
    leave(sums, first_segment + count - 1);
    if (R::SENDS)
      wait_for_bytes(R::met(), 0);
    else
      sync_cluster();
    place = place_of(first_block());
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
      store(8 * i, eight);
    }
  }

  /// Stores sums `i ..` of the thread: of two tiles of 8 columns, for two rows two values each.
  __device__ void store(u32 i, const float *sums) const {
    bool fours = (args.n | args.out_stride | args.out_batch) % 4 == 0, odd = lane() % 2;
    for (u32 j = 0; j < 2; ++j) {
      u32 at = place.row + wave() * 16 + row + 8 * j, column = place.column + 2 * i;
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

  __device__ void run() {
    for (u32 i = 0; i < SUMS; ++i) sums[i] = 0;
    if (split > 1)
      compute_together();
    else
      compute();
  }
};

/// Of either form.
template <u32 GROUPS, typename Out> __device__ inline void multiply_rows(const RowsArgs &operands) {
  Rows<GROUPS> all(operands, operands.columns);
  bool loads = wave() == 4 * GROUPS;
  if (loads) {
    if (elected()) {
      for (u32 i = 0; i < all.stages; ++i) {
        expect_arrivals(all.filled(i), 1);
        expect_arrivals(all.used(i), 4 * GROUPS);
      }
      if (all.SENDS && all.split > 1) {
        u32 own = (operands.columns / 16 - all.rank + all.split - 1) / all.split;
        expect_arrivals(all.met(), 1);
        expect_bytes(all.met(), (own * 32 * 128 * GROUPS) << operands.args.log_segments);
        arrivals_expected();
      }
      operands_written();
    }
    sync_wave();
    all.load_early();
  }
  // Where clusters wait for room, two workgroups for a processor, later ones would take it.
  if (GROUPS == 2 || all.split == 1) let_next_begin();
  await_last();
  sync();
  if (wave() < 4 * GROUPS) {
    take_registers<GROUPS == 1 ? 216 : 240>();
    u32 columns = operands.columns, rows = *operands.args.rows;
    if (columns == 128) {
      Multiplier<GROUPS, 128, Out>(operands, rows).run();
    } else if constexpr (GROUPS == 1) {
      if (columns == 32)
        Multiplier<1, 32, Out>(operands, rows).run();
      else if (columns == 64)
        Multiplier<1, 64, Out>(operands, rows).run();
      else
        Multiplier<1, 96, Out>(operands, rows).run();
    } else {
      if (columns == 144)
        Multiplier<2, 144, Out>(operands, rows).run();
      else
        Multiplier<2, 192, Out>(operands, rows).run();
    }
  } else {
    give_registers<GROUPS == 1 ? 40 : 24>();
    if (loads) all.load();
    if (all.split == 1) return;
    meet_cluster();
    if (!all.SENDS) sync_cluster();
  }
}

/// matmul_rows.
template <typename Out> __device__ inline void many_rows(const RowsArgs &operands) {
  multiply_rows<2, Out>(operands);
}

ROWS_64_KERNEL void matmul_rows_64(ROWS_ARGS args) { multiply_rows<1, float>(args); }
ROWS_64_KERNEL void matmul_rows_64_bf16(ROWS_ARGS args) { multiply_rows<1, __bf16>(args); }
