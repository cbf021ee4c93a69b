// Routed experts, second half: y = h d^T for the sorted rows, and the weighted sum of a row's.
//
// h: by slot, in one of `mxfp4.h`'s forms [slots, width]. weights: for each expert an MXFP4 matrix
// [hidden, width], its rows padded to a multiple of 64. pairs, groups, group_count: see `sort.hip`.
// y [pairs, hidden] f32, by pair. One chain of additions over all of k, in ascending order.
//
// experts_down_*_16, for groups of up to 16 rows: a workgroup takes a group; each of its 4 waves 64
// columns of y. experts_down_*_64, for groups of up to 64 (on sm_90 96): 256 columns, see
// `rows64.h`; the same bits. Must move the weights and scales once for each group (width * 17/32
// bytes a column), the rows, and y; matrix instructions: one for each 16 columns, 128 of k and 16
// rows (of BF16 four).
#include "rows64.h"

struct ExpertsDownArgs {
  const u8 *h;
  const u32 *h_scales;
  const u32x4 *weights;
  const u32 *weight_scales;
  const u32 *pairs;
  const u32x4 *groups;
  const u32 *group_count;
  float *y;
  u32 hidden;
  u32 width;
};

constexpr u32 WAVES = 4;

/// Writes the sums of tile `m` of the rows and tile `tile` of the matrix.
__device__ inline void store(const ExpertsDownArgs &args, const Acc &sums, u32 first, u32 rows,
                             u32 m, u32 tile) {
  for (u32 i = 0; i < ACCUMULATORS; ++i) {
    u32 row = m * 16 + sum_row(i), column = tile * 16 + sum_col(i);
    if (row < rows && column < args.hidden)
      args.y[(u64)args.pairs[first + row] * args.hidden + column] = sums.v[i];
  }
}

/// The same for tiles `tile(0..COUNT)` of the matrix, where sums are across: a lane has those of
/// few rows, of pairs `pair(row)`, whose places it finds before it writes any.
template <u32 COUNT, class PairAt, class TileAt>
__device__ inline void store_across(const ExpertsDownArgs &args, const Acc (&sums)[COUNT],
                                    PairAt pair, u32 rows, u32 m, TileAt tile) {
  u64 places[ACCUMULATORS];
  for (u32 i = 0; i < ACCUMULATORS; ++i)
    places[i] = (u64)pair(m * 16 + sum_row(i)) * args.hidden;
  for (u32 t = 0; t < COUNT; ++t)
    for (u32 i = 0; i < ACCUMULATORS; ++i) {
      u32 column = tile(t) * 16 + sum_col(i);
      if (m * 16 + sum_row(i) < rows && column < args.hidden)
        args.y[places[i] + column] = sums[t].v[i];
    }
}

/// Grid: (hidden / 256 rounded up, bound on groups).
template <class Rows> __device__ inline void few_rows(const ExpertsDownArgs &args) {
  begin();
  FEW_MEMORY(memory, WAVES * WAVE_MEMORY);
  if (block_y() >= *args.group_count) return;
  u32x4 group = args.groups[block_y()];
  u32 expert = group[0], first = group[1], rows = group[2];
  u32 column_blocks = (args.hidden + 63) / 64, block = block_x() * WAVES + wave();
  if (block >= column_blocks) return;
  u64 tile = ((u64)expert * column_blocks + block) * TILES;
  Weights weights(args.weights, args.weight_scales, tile, args.width);
  auto row = [&](u32 i) { return first + at_most(i, rows - 1); };
  auto h = soon([&] { return Tile<Rows>(args.h, args.h_scales, args.width, row); });
  Acc acc[TILES] = {};
  multiply<Rows>(memory + wave() * WAVE_MEMORY, acc, rows, h, weights, 0,
                 Weights::quads(args.width));
  if constexpr (SUMS_ACROSS) {
    auto pair = [&](u32 row) { return args.pairs[first + at_most(row, rows - 1)]; };
    store_across(args, acc, pair, rows, 0, [&](u32 t) { return block * TILES + t; });
    return;
  }
  for (u32 t = 0; t < TILES; ++t) store(args, acc[t], first, rows, 0, block * TILES + t);
}

#if defined(__gfx950__)
#include "arch/experts_down_gfx950.h"
#else
#include "arch/experts_down_sm90.h"
#endif

#define EXPERTS_DOWN(form, Rows)                                                                \
  FILLING_KERNEL(WAVES *WAVE) void experts_down_##form##_16(ExpertsDownArgs args) {             \
    few_rows<Rows>(args);                                                                       \
  }                                                                                             \
  BLOCK_KERNEL void experts_down_##form##_64(ExpertsDownArgs args) {                            \
    many_rows<Rows>(args);                                                                      \
  }
EXPERTS_DOWN(mxfp4, Fp4Rows)
EXPERTS_DOWN(mxfp8, Fp8Rows)
EXPERTS_DOWN(bf16, Bf16Rows)

struct ExpertsCombineArgs {
  const float *y;
  const float *weights;
  float *out;
  const u32 *rows;
  u32 top_k;
  u32 hidden;
};

typedef __attribute__((ext_vector_type(4))) float float4;

/// out[r] += sum over k, ascending, of weights[r, k] * y[r * top_k + k]: one fused multiply-add
/// each. hidden is a multiple of 4. Grid: (hidden / 1024 rounded up, bound on rows).
KERNEL(256) void experts_combine(ExpertsCombineArgs args) {
  begin();
  u32 row = block_y(), column = (block_x() * 256 + thread()) * 4;
  if (row >= *args.rows || column >= args.hidden) return;
  float4 *out = (float4 *)(args.out + (u64)row * args.hidden + column);
  float4 sum = *out;
  for (u32 k = 0; k < args.top_k; ++k) {
    u64 pair = (u64)row * args.top_k + k;
    float weight = args.weights[pair];
    float4 y = *(const float4 *)(args.y + pair * args.hidden + column);
    for (u32 i = 0; i < 4; ++i) sum[i] = __builtin_fmaf(weight, y[i], sum[i]);
  }
  *out = sum;
}
