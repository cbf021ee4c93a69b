// experts_gate_up_*_64 for sm_90, see `rows64_sm90.h`, and experts_gate_up_*_32.
#pragma once
#include "some_rows_sm90.h"

/// A wave takes 32 units. Grid: (width / 128 rounded up, bound on groups).
template <class Rows, class Store>
__device__ inline void some_rows(const ExpertsGateUpArgs &args, const Store &store) {
  begin();
  u32x4 group = args.groups[block_y()]; // or none: one load does not wait for the other
  u32 count = *args.group_count;
  loads_first();
  if (block_y() >= count) return;
  u32 expert = group[0], first = group[1], rows = group[2];
  u32 blocks = args.width / 32, block = block_x() * SOME_WAVES + wave();
  u64 tile = ((u64)expert * blocks + at_most(block, blocks - 1)) * TILES;
  auto weights = [&](u32) { return Weights(args.weights, args.weight_scales, tile, args.hidden); };
  auto row = [&](u32 i) { return args.pairs[first + at_most(i, rows - 1)] / args.top_k; };
  auto use = [&](u32, const auto &sums) {
    float *h = (float *)some_slabs[0].codes[wave()];
    for (u32 m = 0; m < sizeof(sums) / sizeof(sums[0]); ++m) {
      for (u32 t = 0; t < TILES / 2; ++t)
        for (u32 i = 0; i < ACCUMULATORS; ++i) {
          float gate = sums[m][t].v[i], up = sums[m][t + TILES / 2].v[i];
          h[hidden_place(sum_row(i), t * 16 + sum_col(i))] = gated(gate, up);
        }
      sync_wave();
      if (block < blocks && m * 16 < rows) store(args, h, first + m * 16, rows - m * 16, block);
      sync_wave();
    }
  };
  multiply_some<Rows, true>(args.x, args.x_scales, rows, row, weights, args.hidden, 1, use);
}

/// The experts' groups, for many rows.
template <class Store> struct GateUpWork {
  static constexpr u32 BLOCKS = BLOCK_TILES / 4; // of 32 units
  static constexpr bool NOTES = false;
  const ExpertsGateUpArgs &args;
  const Store &store;
  u32 expert, first, rows, own_fours;

  __device__ GateUpWork(const ExpertsGateUpArgs &args, const Store &store)
      : args(args), store(store) {}

  __device__ u32 groups() const { return *args.group_count; }
  __device__ u32 fours() const { return args.width / 32; }
  __device__ Operands operands() const {
    return {args.x, args.x_scales, args.weights, args.weight_scales, args.hidden};
  }
  __device__ void take(u32 g) {
    u32x4 group = args.groups[g];
    expert = group[0], first = group[1], rows = group[2];
    own_fours = fours();
  }
  __device__ u64 row(u32 i) const {
    return args.pairs[first + at_most(i, rows - 1)] / args.top_k;
  }
  __device__ u64 tile(u32 four) const {
    return ((u64)expert * own_fours + at_most(four, own_fours - 1)) * TILES;
  }
  __device__ void use(const Acc (&sums)[OWN_TILES], u32 m, const Place &place) const {
    auto &h = spare<float[BLOCKS][16 * 32]>();
    for (u32 t = 0; t < OWN_TILES / 2; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 unit = own_tile(t) % 4 * 16 + sum_col(i);
        float gate = sums[t].v[i], up = sums[t + OWN_TILES / 2].v[i];
        h[place.own][hidden_place(sum_row(i), unit)] = gated(gate, up);
      }
    sync_block();
    u32 stored = place.begin + wave();
    if (wave() < BLOCKS && stored < own_fours && m * 16 < rows)
      store(args, h[wave()], first + m * 16, rows - m * 16, stored);
    sync_block();
  }
};

template <class Rows, class Store>
__device__ inline void many_rows(const ExpertsGateUpArgs &args, const Store &store) {
  begin();
  multiply_all<Rows, true>(GateUpWork<Store>(args, store));
}
