// experts_gate_up_*_64 for sm_90, see `rows64_sm90.h`, and experts_gate_up_*_32, see
// `some_rows_sm90.h`.
#pragma once
#include "some_rows_sm90.h"

/// The experts' groups, for some or many rows.
template <class Store> struct GateUpWork {
  static constexpr u32 BLOCKS = BLOCK_TILES / 4; // of 32 units
  static constexpr bool NOTES = false;
  const ExpertsGateUpArgs *args;
  Store store;
  u32 expert, first, rows, own_fours;

  __device__ GateUpWork(const ExpertsGateUpArgs &args, const Store &store)
      : args(&args), store(store) {}

  __device__ u32 groups() const { return *args->group_count; }
  __device__ u32 fours() const { return args->width / 32; }
  __device__ Operands operands() const {
    return {args->x, args->x_scales, args->weights, args->weight_scales, args->hidden};
  }
  __device__ void take(u32 g) {
    u32x4 group = args->groups[g];
    expert = group[0], first = group[1], rows = group[2];
    own_fours = fours();
  }
  __device__ u64 row(u32 i) const {
    return args->pairs[first + at_most(i, rows - 1)] / args->top_k;
  }
  __device__ u64 tile(u32 four) const {
    return ((u64)expert * own_fours + at_most(four, own_fours - 1)) * TILES;
  }
  __device__ void use(const Acc (&sums)[OWN_TILES], u32 m, const Place &place) const {
    static_assert(BLOCKS * 16 * 32 * sizeof(float) == 8192);
    auto h = (float(*)[16 * 32])place.spare;
    for (u32 t = 0; t < OWN_TILES / 2; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 unit = own_tile(t) % 4 * 16 + sum_col(i);
        float gate = sums[t].v[i], up = sums[t + OWN_TILES / 2].v[i];
        h[place.own][hidden_place(sum_row(i), unit)] = gated(gate, up);
      }
    sync_block();
    u32 stored = place.begin + wave();
    if (wave() < BLOCKS && stored < own_fours && m * 16 < rows)
      store(*args, h[wave()], first + m * 16, rows - m * 16, stored);
    sync_block();
  }
};

template <class Rows, class Store>
__device__ inline void many_rows(const ExpertsGateUpArgs &args, const Store &store) {
  begin();
  multiply_all<Rows, true>(GateUpWork<Store>(args, store));
}
template <class Store>
__device__ inline void some_rows(const ExpertsGateUpArgs &args, const Store &store) {
  begin();
  multiply_some<true>(GateUpWork<Store>(args, store));
}
