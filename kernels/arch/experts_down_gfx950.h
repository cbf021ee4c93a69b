// For gfx950: how experts_down_* write sums, and experts_down_*_64, see `rows64.h`.
#pragma once

/// Writes the sums of tile `m` of the rows and tiles `tile(0..COUNT)` of the matrix, of which two
/// in turn are neighbours. Row `i` is of pair `pair(i)`, whose places a lane finds before it writes
/// any.
template <u32 COUNT, class PairAt, class TileAt>
__device__ inline void store(const ExpertsDownArgs &args, const Acc (&sums)[COUNT], PairAt pair,
                             u32 rows, u32 m, TileAt tile) {
  u64 places[ACCUMULATORS];
  for (u32 i = 0; i < ACCUMULATORS; ++i)
    places[i] = (u64)pair(m * 16 + sum_row(i)) * args.hidden;
  u32 odd = sum_col(0) % 2;
  for (u32 t = 0; t < COUNT; t += 2)
    for (u32 i = 0; i < ACCUMULATORS; ++i) {
      u32 two = two_columns(sums[t].v[i], sums[t + 1].v[i]);
      u32 column = (tile(t) + odd) * 16 + sum_col(i) - odd;
      if (m * 16 + sum_row(i) < rows && column < args.hidden)
        *(u32 *)(args.y + places[i] + column) = two;
    }
}

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
  auto pair = [&](u32 i) { return args.pairs[first + at_most(i, rows - 1)]; };
  auto use = [&](const Acc (&sums)[OWN_TILES], u32 m) {
    store(args, sums, pair, rows, m, [&](u32 t) { return block * TILES + own_tile(t) % 4; });
  };
  multiply_block<Rows, false>(staged, args.h, args.h_scales, weights, args.width, rows, row, use);
}
