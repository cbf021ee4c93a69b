// matmul_mxfp4_*_64 for sm_90, see `rows64_sm90.h`.
#pragma once

/// All rows, by BLOCK_ROWS.
struct MatmulWork {
  static constexpr bool NOTES = false;
  const MatmulMxfp4Args &args;
  u32 all, first, rows, own_fours;

  __device__ MatmulWork(const MatmulMxfp4Args &args) : args(args), all(*args.rows) {}

  __device__ u32 groups() const { return (all + BLOCK_ROWS - 1) / BLOCK_ROWS; }
  __device__ u32 fours() const { return (args.n + 63) / 64; }
  __device__ Operands operands() const {
    return {args.x, args.x_scales, args.w, args.w_scales, args.k};
  }
  __device__ void take(u32 g) {
    first = g * BLOCK_ROWS;
    rows = all - first;
    own_fours = fours();
  }
  __device__ u64 row(u32 i) const { return at_most(first + i, all - 1); }
  __device__ u64 tile(u32 four) const { return at_most(four, own_fours - 1) * TILES; }
  __device__ void use(const Acc (&sums)[OWN_TILES], u32 m, const Place &place) const {
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 row = first + 16 * m + sum_row(i);
        u32 column = (place.four * TILES + own_tile(t) % 4) * 16 + sum_col(i);
        if (row < all && column < args.n) args.out[(u64)row * args.n + column] = sums[t].v[i];
      }
  }
};

template <class Rows> __device__ inline void many_rows(const MatmulMxfp4Args &args) {
  begin();
  multiply_all<Rows, true>(MatmulWork(args));
}
