// Routed experts, second half: y = h d^T for the sorted rows, and the weighted sum of a row's.
//
// h: by slot, in one of `mxfp4.h`'s forms [slots, width]. weights: for each expert an MXFP4 matrix
// [hidden, width], its rows padded to a multiple of 64. pairs, groups, group_count: see `sort.hip`.
// y [pairs, hidden] BF16, by pair: one chain of additions over all of k, in ascending order, and
// then rounded to nearest, half to even.
//
// experts_down_*_4, for up to four rows, and (on sm_90) experts_down_*_1, for one: nothing is
// sorted, slots are pairs, and a workgroup takes a row, 16 * ROW_TILES columns and all choices, one
// of its 8 waves each. It adds them to the row as experts_combine does; y stays in LDS. On sm_90
// weights are under way before the launch before this has ended, which was experts_gate_up by pair:
// `begin_alone`. experts_down_*_16, for groups of up to 16 rows: a workgroup takes a group; each of
// its 4 waves 64 columns of y. experts_down_*_64, for groups of up to 64 (on sm_90 96): 256
// columns, see `rows64.h`. experts_down_bf16_32 (on sm_90), for groups of up to 32: as well, see
// `arch/some_rows_sm90.h`. All have the same bits.
//
// Must move the weights and scales once for each group (width * 17/32 bytes a column), the rows,
// and y, or what is added to; matrix instructions: one for each 16 columns, 128 of k and 16 rows
// (of BF16 four).
#include "rows64.h"

struct ExpertsDownArgs {
  const u8 *h;
  const u32 *h_scales;
  const u32x4 *weights;
  const u32 *weight_scales;
  const u32 *pairs;
  const u32x4 *groups;
  const u32 *group_count;
  __bf16 *y;
  u32 hidden;
  u32 width;
};

constexpr u32 WAVES = 4;

/// Two neighbouring columns of a row, the even one first. The lane has the row's sums `first` and
/// `second` in two columns that are both even or both odd, the lane `beside` those of the columns
/// beside: that of even columns gets the two at `first`, the other the two at `second`.
__device__ inline u32 two_columns(float first, float second) {
  u32 own = __builtin_bit_cast(u32, bf16x2{(__bf16)first, (__bf16)second}), other = beside(own);
  return sum_col(0) % 2 ? other >> 16 | (own & 0xffff0000) : (own & 0xffff) | other << 16;
}

#if defined(__gfx950__)
#include "arch/experts_down_gfx950.h"
#else
#include "arch/experts_down_sm90.h"
#endif

/// Grid: (hidden / 256 rounded up, bound on groups).
template <class Rows> __device__ inline void few_rows(const ExpertsDownArgs &args) {
  begin();
  constexpr u32 MEMORY = WAVE_MEMORY<GROUPS, TILES>;
  FEW_MEMORY(memory, WAVES * MEMORY);
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
  multiply<Rows>(memory + wave() * MEMORY, acc, rows, h, weights, 0,
                 Weights::quads(args.width));
  auto pair = [&](u32 row) { return args.pairs[first + at_most(row, rows - 1)]; };
  store(args, acc, pair, rows, 0, [&](u32 t) { return block * TILES + t; });
}

struct ExpertsDownRowArgs {
  const u8 *h;
  const u32 *h_scales;
  const u32x4 *weights;
  const u32 *weight_scales;
  const u32 *chosen;
  const float *factors;
  float *out;
  const u32 *rows;
  u32 top_k;
  u32 hidden;
  u32 width;
};

/// Choices of a row at most: waves of a workgroup that takes one.
constexpr u32 CHOICES = 8;

/// out[r] += sum over k, ascending, of factors[r, k] * y[r * top_k + k], as `experts_combine`.
/// Grid: (hidden / (16 * ROW_TILES) rounded up, bound on rows).
template <class Rows, u32 LAUNCH> __device__ inline void one_row(const ExpertsDownRowArgs &args) {
  let_next_begin();
  constexpr u32 COLUMNS = 16 * ROW_TILES<LAUNCH>, MEMORY = WAVE_MEMORY<LAUNCH, ROW_TILES<LAUNCH>>;
  FEW_MEMORY(memory, CHOICES * MEMORY);
  __shared__ float y[CHOICES][COLUMNS], factors[CHOICES];
  u32 row = block_y(), pair = row * args.top_k + at_most(wave(), args.top_k - 1);
  u32 expert = load_settled(args.chosen + pair); // beyond the rows anything
  u32 rows = load_settled(args.rows);
  loaded(expert);
  if (row >= rows) return await_last();
  // These are under way while the wave multiplies.
  float factor = load_settled(args.factors + pair);
  u32 column = block_x() * COLUMNS + thread();
  bool adds = thread() < COLUMNS && column < args.hidden;
  float *out = args.out + (u64)row * args.hidden + column, sum = adds ? load_settled(out) : 0;
  if (wave() < args.top_k) {
    u64 tile = (u64)expert * ((args.hidden + 63) / 64 * TILES) + block_x() * ROW_TILES<LAUNCH>;
    Weights weights(args.weights, args.weight_scales, tile, args.width);
    auto slot = [=](u32) { return pair; };
    auto h = soon([&] {
      await_last();
      return Tile<Rows>(args.h, args.h_scales, args.width, slot);
    });
    Acc acc[ROW_TILES<LAUNCH>] = {};
    multiply<Rows, LAUNCH>(memory + wave() * MEMORY, acc, 1, h, weights, 0,
                         Weights::quads(args.width));
    for (u32 t = 0; t < ROW_TILES<LAUNCH>; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i)
        if (sum_row(i) == 0) y[wave()][t * 16 + sum_col(i)] = (float)(__bf16)acc[t].v[i];
    if (lane() == 0) factors[wave()] = factor;
  } else {
    await_last();
  }
  sync();
  if (!adds) return;
  for (u32 k = 0; k < CHOICES; ++k) {
    u32 choice = at_most(k, args.top_k - 1);
    float more = __builtin_fmaf(factors[choice], y[choice][thread()], sum);
    sum = k < args.top_k ? more : sum;
  }
  *out = sum;
}

#define EXPERTS_DOWN(form, Rows)                                                          \
  SM90_KERNELS(                                                                           \
    FILLING_KERNEL(CHOICES *WAVE) void experts_down_##form##_1(ExpertsDownRowArgs args) { \
      one_row<Rows, ONE_ROW>(args);                                                       \
    })                                                                                    \
  FILLING_KERNEL(CHOICES *WAVE) void experts_down_##form##_4(ExpertsDownRowArgs args) {   \
    one_row<Rows, ROWS>(args);                                                            \
  }                                                                                       \
  FILLING_KERNEL(WAVES *WAVE) void experts_down_##form##_16(ExpertsDownArgs args) {       \
    few_rows<Rows>(args);                                                                 \
  }                                                                                       \
  BLOCK_KERNEL void experts_down_##form##_64(ExpertsDownArgs args) {                      \
    many_rows<Rows>(args);                                                                \
  }
EXPERTS_DOWN(mxfp4, Fp4Rows)
EXPERTS_DOWN(mxfp8, Fp8Rows)
EXPERTS_DOWN(bf16, Bf16Rows)
SM90_KERNELS(
  BLOCK_KERNEL void experts_down_bf16_32(ExpertsDownArgs args) { some_rows(args); })

struct ExpertsCombineArgs {
  const __bf16 *y;
  const float *weights;
  float *out;
  const u32 *rows;
  u32 top_k;
  u32 hidden;
};

/// out[r] += sum over k, ascending, of weights[r, k] * y[r * top_k + k]: one fused multiply-add
/// each. Loads of CHOICES choices are under way at once. hidden is a multiple of 4. Grid:
/// (hidden / 1024 rounded up, bound on rows).
KERNEL(256) void experts_combine(ExpertsCombineArgs args) {
  begin();
  u32 row = block_y(), column = (block_x() * 256 + thread()) * 4;
  if (row >= *args.rows || column >= args.hidden) return;
  f32x4 *out = (f32x4 *)(args.out + (u64)row * args.hidden + column);
  f32x4 sum = {};
  for (u32 first = 0; first < args.top_k; first += CHOICES) {
    float weights[CHOICES];
    bf16x4 y[CHOICES];
    for (u32 j = 0; j < CHOICES; ++j) {
      u64 pair = (u64)row * args.top_k + at_most(first + j, args.top_k - 1);
      weights[j] = args.weights[pair];
      y[j] = *(const bf16x4 *)(args.y + pair * args.hidden + column);
    }
    if (first == 0) sum = *out;
    for (u32 j = 0; j < CHOICES; ++j) {
      bool chosen = first + j < args.top_k;
      for (u32 i = 0; i < 4; ++i)
        sum[i] = chosen ? __builtin_fmaf(weights[j], (float)y[j][i], sum[i]) : sum[i];
    }
  }
  *out = sum;
}
