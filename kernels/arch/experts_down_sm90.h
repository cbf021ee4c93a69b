// experts_down_*_64 for sm_90, see `rows64_sm90.h`.
#pragma once

/// The experts' groups, for many rows.
struct DownWork {
  static constexpr bool NOTES = true;
  const ExpertsDownArgs &args;
  u32 expert, first, rows, own_fours;

  __device__ DownWork(const ExpertsDownArgs &args) : args(args) {}

  __device__ u32 groups() const { return *args.group_count; }
  __device__ u32 fours() const { return (args.hidden + 63) / 64; }
  __device__ Operands operands() const {
    return {args.h, args.h_scales, args.weights, args.weight_scales, args.width};
  }
  __device__ void take(u32 g) {
    u32x4 group = args.groups[g];
    expert = group[0], first = group[1], rows = group[2];
    own_fours = fours();
  }
  __device__ u64 row(u32 i) const { return first + at_most(i, rows - 1); }
  __device__ u64 tile(u32 four) const {
    return ((u64)expert * own_fours + at_most(four, own_fours - 1)) * TILES;
  }
  __device__ u32 note(u32 i) const { return args.pairs[first + at_most(i, rows - 1)]; }
  __device__ void use(const Acc (&sums)[OWN_TILES], u32 m, const Place &place) const {
    const u32 *pairs = place.notes;
    u32 tile = place.four * TILES;
    store_across(
        args, sums, [=](u32 row) { return pairs[row]; }, rows, m,
        [=](u32 t) { return tile + own_tile(t) % 4; });
  }
};

template <class Rows> __device__ inline void many_rows(const ExpertsDownArgs &args) {
  begin();
  multiply_all<Rows, false>(DownWork(args));
}
