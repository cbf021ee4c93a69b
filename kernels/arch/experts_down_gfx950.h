// experts_down_*_64 for gfx950, see `rows64.h`.
#pragma once

/// Grid: (hidden / 256 rounded up, bound on groups).
template <class Rows> __device__ inline void many_rows(const ExpertsDownArgs &args) {
  begin();
  __shared__ __attribute__((aligned(16))) Staged<Rows> staged;
  if (block_y() >= *args.group_count) return;
  u32x4 group = args.groups[block_y()];
  u32 expert = group[0], first = group[1], rows = group[2];
  u32 column_blocks = (args.hidden + 63) / 64, block = block_x() * 4 + own_tile(0) / 4;
  // Waves beyond the last block multiply it once more, and store nothing.
  u64 tile = ((u64)expert * column_blocks + at_most(block, column_blocks - 1)) * TILES;
  Weights weights(args.weights, args.weight_scales, tile, args.width);
  auto row = [&](u32 i) { return first + at_most(i, rows - 1); };
  auto use = [&](const Acc (&sums)[OWN_TILES], u32 m) {
    for (u32 t = 0; t < OWN_TILES; ++t)
      store(args, sums[t], first, rows, m, block * TILES + own_tile(t) % 4);
  };
  multiply_block<Rows, false>(staged, args.h, args.h_scales, weights, args.width, rows, row, use);
}
