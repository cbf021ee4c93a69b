// matmul_mxfp4_*_64 for gfx950, see `rows64.h`.
#pragma once

/// Grid: (n / 256 rounded up, bound on rows / 64 rounded up).
template <class Rows> __device__ inline void many_rows(const MatmulMxfp4Args &args) {
  begin();
  __shared__ __attribute__((aligned(16))) Staged<Rows> staged;
  u32 first = block_y() * 64, all = *args.rows;
  if (first >= all) return;
  u32 column_blocks = (args.n + 63) / 64, block = block_x() * 4 + own_tile(0) / 4;
  // Waves beyond the last block multiply it once more, and store nothing.
  Weights weights(args.w, args.w_scales, at_most(block, column_blocks - 1) * TILES, args.k);
  auto row = [&](u32 i) { return at_most(first + i, all - 1); };
  auto use = [&](const Acc (&sums)[OWN_TILES], u32 m) {
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 row = first + 16 * m + sum_row(i);
        u32 column = (block * TILES + own_tile(t) % 4) * 16 + sum_col(i);
        if (row < all && column < args.n) args.out[(u64)row * args.n + column] = sums[t].v[i];
      }
  };
  multiply_block<Rows, true>(staged, args.x, args.x_scales, weights, args.k, all - first, row, use);
}
