// For sm_90: how experts_down_* write sums, experts_down_*_64, see `rows64_sm90.h`, and
// experts_down_*_32, see `some_rows_sm90.h`.
#pragma once
#include "some_rows_sm90.h"

/// Writes the sums of tile `m` of the rows and tiles `tile(0..COUNT)` of the matrix. Row `i` is of
/// pair `pair(i)`, whose places a lane finds before it writes any.
template <u32 COUNT, class PairAt, class TileAt>
__device__ inline void store(const ExpertsDownArgs &args, const Acc (&sums)[COUNT], PairAt pair,
                             u32 rows, u32 m, TileAt tile) {
  u64 places[ACCUMULATORS];
  for (u32 i = 0; i < ACCUMULATORS; ++i)
    places[i] = (u64)pair(m * 16 + sum_row(i)) * args.hidden;
  u32 odd = sum_col(0) % 2;
  for (u32 t = 0; t < COUNT; ++t)
    for (u32 i = 0; i < ACCUMULATORS; ++i) {
      if (i / 2 % 2 == 1) continue; // taken with the sum 8 columns before
      u32 two = two_columns(sums[t].v[i], sums[t].v[i + 2]);
      u32 column = tile(t) * 16 + sum_col(i + 2 * odd) - odd;
      if (m * 16 + sum_row(i) < rows && column < args.hidden)
        *(u32 *)(args.y + places[i] + column) = two;
    }
}

/// The experts' groups, for some or many rows.
struct DownWork {
  static constexpr bool NOTES = true;
  const ExpertsDownArgs *args;
  u32 expert, first, rows, own_fours;

  __device__ DownWork(const ExpertsDownArgs &args) : args(&args) {}

  __device__ u32 groups() const { return *args->group_count; }
  __device__ u32 fours() const { return (args->hidden + 63) / 64; }
  __device__ Operands operands() const {
    return {args->h, args->h_scales, args->weights, args->weight_scales, args->width};
  }
  __device__ void take(u32 g) {
    u32x4 group = args->groups[g];
    expert = group[0], first = group[1], rows = group[2];
    own_fours = fours();
  }
  __device__ u64 row(u32 i) const { return first + at_most(i, rows - 1); }
  __device__ u64 tile(u32 four) const {
    return ((u64)expert * own_fours + at_most(four, own_fours - 1)) * TILES;
  }
  __device__ u32 note(u32 i) const { return args->pairs[first + at_most(i, rows - 1)]; }
  __device__ void use(const Acc (&sums)[OWN_TILES], u32 m, const Place &place) const {
    const u32 *pairs = place.notes;
    u32 tile = place.four * TILES;
    store(
        *args, sums, [=](u32 row) { return pairs[row]; }, rows, m,
        [=](u32 t) { return tile + own_tile(t) % 4; });
  }
};

template <class Rows> __device__ inline void many_rows(const ExpertsDownArgs &args) {
  begin();
  multiply_all<Rows, false>(DownWork(args));
}
__device__ inline void some_rows(const ExpertsDownArgs &args) {
  begin();
  multiply_some<false>(DownWork(args));
}
