// experts_gate_up_*_64 for gfx950, see `rows64.h`.
#pragma once

/// Grid: (width / 128 rounded up, bound on groups).
template <class Rows, class Store>
__device__ inline void many_rows(const ExpertsGateUpArgs &args, const Store &store) {
  begin();
  constexpr u32 BLOCKS = BLOCK_TILES / 4; // of 32 units
  __shared__ __attribute__((aligned(16))) Staged<Rows> staged;
  __shared__ __attribute__((aligned(16))) float h[BLOCKS][16 * 32];
  if (block_y() >= *args.group_count) return;
  u32x4 group = args.groups[block_y()];
  u32 expert = group[0], first = group[1], rows = group[2];
  u32 blocks = args.width / 32, own = own_tile(0) / 4, block = block_x() * BLOCKS + own;
  // Waves beyond the last block multiply it once more.
  u64 tile = ((u64)expert * blocks + at_most(block, blocks - 1)) * TILES;
  Weights weights(args.weights, args.weight_scales, tile, args.hidden);
  auto row = [&](u32 i) { return args.pairs[first + at_most(i, rows - 1)] / args.top_k; };
  auto use = [&](const Acc (&sums)[OWN_TILES], u32 m) {
    for (u32 t = 0; t < OWN_TILES / 2; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 unit = own_tile(t) % 4 * 16 + sum_col(i);
        float gate = sums[t].v[i], up = sums[t + OWN_TILES / 2].v[i];
        h[own][hidden_place(sum_row(i), unit)] = gated(gate, up);
      }
    sync();
    u32 stored = block_x() * BLOCKS + wave();
    if (wave() < BLOCKS && stored < blocks && m * 16 < rows)
      store(args, h[wave()], first + m * 16, rows - m * 16, stored);
    sync();
  };
  multiply_block<Rows, true>(staged, args.x, args.x_scales, weights, args.hidden, rows, row, use);
}
