// Sorts (row, choice) pairs by expert, into tiles of 16 rows that the expert matmuls take.
//
// chosen [rows, top_k] u32, all below `experts` <= 512; rows * top_k <= 2^19. A pair's number is
// row * top_k + k. Each expert with pairs gets consecutive slots from a multiple of 16 on, in
// ascending order of pair: pairs[slot] is the slot's pair. The slots behind an expert's last pair,
// up to the next multiple of 16, are not written. groups[g] = {expert, first slot, pairs, 0} cuts
// experts into groups of at most 16 * group_tiles pairs, in ascending order; group_count[0] is
// their number. One workgroup; a stable counting sort: a pair's slot depends on the pairs alone.
#include "device.h"

struct SortArgs {
  const u32 *chosen;
  u32 *pairs;
  u32x4 *groups;
  u32 *group_count;
  const u32 *rows;
  u32 top_k;
  u32 experts;
  u32 group_tiles;
};

constexpr u32 THREADS = 512;
constexpr u32 WAVES = THREADS / WAVE;
constexpr u32 MAX_EXPERTS = 512;

/// The sum of `x` over the threads before this one. `sums` has a word for each wave.
__device__ inline u32 prefix_sum(u32 x, u32 *sums) {
  u32 inclusive = x;
  for (u32 step = 1; step < WAVE; step *= 2) {
    u32 below = shuffle(inclusive, lane() - step);
    inclusive += lane() >= step ? below : 0;
  }
  if (lane() == WAVE - 1) sums[wave()] = inclusive;
  sync();
  for (u32 w = 0; w < WAVES; ++w) inclusive += w < wave() ? sums[w] : 0;
  return inclusive - x;
}

/// Lanes of the wave with the same `expert` (below 512).
__device__ inline u64 same(u32 expert) {
  u64 mask = ~(u64)0;
  for (u32 bit = 0; bit < 9; ++bit) {
    bool set = expert >> bit & 1;
    u64 lanes = ballot(set);
    mask &= set ? lanes : ~lanes;
  }
  return mask;
}

/// Grid: 1.
KERNEL(THREADS) void sort(SortArgs args) {
  begin();
  // First how many of an expert's pairs each wave's part has, then the slot of the next of them.
  __shared__ u32 next[WAVES][MAX_EXPERTS];
  __shared__ u32 sums[WAVES];
  u32 count = *args.rows * args.top_k;
  u32 part = ((count + WAVES - 1) / WAVES + WAVE - 1) / WAVE * WAVE;
  u32 begin = wave() * part, end = begin + part < count ? begin + part : count;

  for (u32 w = 0; w < WAVES; ++w) next[w][thread()] = 0;
  sync();
  for (u32 pair = begin + lane(); pair < end; pair += WAVE) {
    __scoped_atomic_fetch_add(&next[wave()][args.chosen[pair]], 1, __ATOMIC_RELAXED,
                              __MEMORY_SCOPE_WRKGRP);
  }
  sync();

  u32 expert = thread(), pairs = 0;
  for (u32 w = 0; w < WAVES; ++w) pairs += next[w][expert];
  u32 tiles = (pairs + 15) / 16, groups = (tiles + args.group_tiles - 1) / args.group_tiles;
  u32 before = prefix_sum(tiles | groups << 16, sums);
  u32 slot = (before & 0xffff) * 16;
  for (u32 g = 0; g < groups; ++g) {
    u32 first = g * args.group_tiles * 16, left = pairs - first;
    u32 size = left < args.group_tiles * 16 ? left : args.group_tiles * 16;
    args.groups[(before >> 16) + g] = u32x4{expert, slot + first, size, 0};
  }
  if (thread() == THREADS - 1) *args.group_count = (before >> 16) + groups;
  for (u32 w = 0; w < WAVES; ++w) {
    u32 own = next[w][expert];
    next[w][expert] = slot;
    slot += own;
  }
  sync();

  for (u32 first = begin; first < end; first += WAVE) {
    u32 pair = first + lane();
    bool valid = pair < end;
    u32 own = valid ? args.chosen[pair] : 0;
    u64 peers = same(own) & ballot(valid);
    u32 rank = __builtin_popcountll(peers & (((u64)1 << lane()) - 1));
    u32 slot = next[wave()][own] + rank;
    sync_wave();
    if (valid) {
      args.pairs[slot] = pair;
      if (rank + 1 == (u32)__builtin_popcountll(peers)) next[wave()][own] = slot + 1;
    }
    sync_wave();
  }
}
