// Sorts (row, choice) pairs by expert, into tiles of 16 rows that the expert matmuls take.
//
// chosen [rows, top_k] u32, all below `experts` <= 512; rows * top_k < 2^19. A pair's number is
// row * top_k + k. Each expert with pairs gets consecutive slots from a multiple of 16 on, in
// ascending order of pair: pairs[slot] is the slot's pair. The slots behind an expert's last pair,
// up to the next multiple of 16, are not written. groups[g] = {expert, first slot, pairs, 0} cuts
// experts into groups of at most 16 * group_tiles pairs, in ascending order; group_count[0] is
// their number. A stable sort: a pair's slot depends on the pairs alone. No form looks up places in
// LDS by expert where lanes' places could share a bank.
#include "device.h"

struct SortArgs {
  const u32 *chosen;
  const u32 *rows;
  u32 bound; // pairs that there may be, for all of which `chosen` has room
  u32 top_k;
  u32 experts;
  u32 group_tiles;
  u32 *pairs;
  u32x4 *groups;
  u32 *group_count;
};

constexpr u32 THREADS = 512;
constexpr u32 WAVES = THREADS / WAVE;
constexpr u32 MAX_EXPERTS = 512;
constexpr u32 FEW_PAIRS = 512;
constexpr u32 LANE_BITS = WAVE == 64 ? 6 : 5;

/// Groups the slots of the expert of the thread's number, which has `pairs`, and returns the first
/// of them. A thread that does not `write` only counts. `sums` has a word for each wave.
__device__ inline u32 group(const SortArgs &args, u32 pairs, bool write, u32 *sums) {
  u32 tiles = (pairs + 15) / 16, groups = tiles;
  if (args.group_tiles > 1) groups = (tiles + args.group_tiles - 1) / args.group_tiles;
  u32 both = tiles | groups << 16, through = wave_prefix_sum(both);
  if (lane() == WAVE - 1) sums[wave()] = through;
  sync();
  through += last_lane(wave_prefix_sum(lane() < wave() ? sums[lane()] : 0));
  u32 slot = (through - both & 0xffff) * 16, end = through >> 16, size = args.group_tiles * 16;
  if (write) {
    for (u32 g = 0; g < groups; ++g) {
      u32 first = g * size, left = pairs - first;
      args.groups[end - groups + g] = u32x4{thread(), slot + first, left < size ? left : size, 0};
    }
  }
  if (thread() == THREADS - 1 && block_x() == 0) *args.group_count = end;
  return slot;
}

/// Of `lanes` of the wave those with the same `x` (below WAVE) as this one.
__device__ inline u64 same(u64 lanes, u32 x) {
  u32 low = (u32)lanes, high = (u32)(lanes >> 32);
  for (u32 bit = 0; bit < LANE_BITS; ++bit) {
    u32 set = (int)(x << (31 - bit)) >> 31;
    u64 all = ballot(set != 0);
    low &= ~((u32)all ^ set);
    high &= ~((u32)(all >> 32) ^ set);
  }
  return (u64)high << 32 | low;
}

/// At most FEW_PAIRS pairs. A thread has an expert; each wave lists the pairs of its threads'.
/// Grid: 1.
KERNEL(THREADS) void sort_few(SortArgs args) {
  begin();
  // The lane of a pair's expert, pair << 6, how many of the expert's came before << 16.
  __shared__ u32 lists[WAVES][FEW_PAIRS];
  // How many pairs of an expert there were yet, then its first slot: a bank for each of a wave's.
  __shared__ u32 nexts[WAVES][WAVE];
  __shared__ u32 sums[WAVES];
  u32 *list = lists[wave()], *next = nexts[wave()];
  next[lane()] = 0;
  u32 count = *args.rows * args.top_k;
  // These loads do not wait for that one.
  u32 chosen[FEW_PAIRS / WAVE], last = args.bound - 1;
  auto load = [&](u32 i) {
    u32 pair = i * WAVE + lane();
    chosen[i] = args.chosen[pair < last ? pair : last];
  };
  load(0), load(1);
  if (last >= 2 * WAVE) {
    for (u32 i = 2; i < FEW_PAIRS / WAVE; ++i) load(i);
  }
  u32 listed = 0, first = wave() * WAVE;
  if (first >= args.experts) count = 0;
  for (u32 i = 0; i < FEW_PAIRS / WAVE; ++i) {
    if (i * WAVE >= count) break;
    u32 pair = i * WAVE + lane(), x = chosen[i] - first;
    u64 lanes = ballot(pair < count) & ballot(x < WAVE);
    if (pair < count && x < WAVE) list[below(lanes, listed)] = pair * 64 + x;
    listed += __builtin_popcountll(lanes);
  }
  sync_wave();

  for (u32 begin = 0; begin < listed; begin += WAVE) {
    u32 i = begin + lane();
    bool there = i < listed;
    u32 entry = there ? list[i] : 0, x = entry % 64;
    u64 peers = same(ballot(there), x);
    u32 before = below(peers, next[x]);
    sync_wave();
    if (there) {
      list[i] = entry | before << 16;
      if (peers >> lane() == 1) next[x] = before + 1;
    }
    sync_wave();
  }

  next[lane()] = group(args, next[lane()], true, sums);
  sync_wave();
  for (u32 i = lane(); i < listed; i += WAVE) {
    u32 entry = list[i];
    args.pairs[next[entry % 64] + (entry >> 16)] = entry / 64 % 1024;
  }
}

/// Experts of one workgroup of `sort_many`.
constexpr u32 EACH = 4;
/// Pairs that a thread loads at once.
constexpr u32 AHEAD = 4;

/// Calls `use(pair, expert)` for the wave's part of the pairs, for `experts` where there is none.
template <class Use>
__device__ inline void each_pair(const SortArgs &args, u32 count, Use use) {
  u32 part = ((count + WAVES - 1) / WAVES + WAVE - 1) / WAVE * WAVE, begin = wave() * part;
  u32 end = begin + part < count ? begin + part : count;
  for (u32 first = begin; first < end; first += AHEAD * WAVE) {
    u32 expert[AHEAD];
    for (u32 i = 0; i < AHEAD; ++i) {
      u32 pair = first + i * WAVE + lane();
      expert[i] = args.chosen[pair < end ? pair : first];
    }
    for (u32 i = 0; i < AHEAD; ++i) {
      if (first + i * WAVE >= end) break;
      u32 pair = first + i * WAVE + lane();
      use(pair, pair < end ? expert[i] : MAX_EXPERTS + EACH);
    }
  }
}

/// Any number of pairs. Each workgroup counts all, and places those of EACH experts. Grid: experts
/// over EACH, rounded up.
KERNEL(THREADS) void sort_many(SortArgs args) {
  begin();
  // Pairs of two experts in a word, for each lane that found them: of its own bank.
  __shared__ u32x4 counts[MAX_EXPERTS / 2][WAVE / 4];
  __shared__ u32x4 found[WAVES]; // how many of the workgroup's pairs each wave found
  __shared__ u32 sums[WAVES];
  __shared__ u32x4 slots; // the first of the workgroup's experts'
  u32 count = *args.rows * args.top_k, first = block_x() * EACH;
  u32 words = (args.experts + 1) / 2 * (WAVE / 4);
  for (u32 i = thread(); i < words; i += THREADS) counts[0][i] = u32x4{};
  sync();
  u32x4 own = {};
  each_pair(args, count, [&](u32 pair, u32 expert) {
    if (expert < MAX_EXPERTS) {
      u32 *word = (u32 *)counts[expert / 2] + lane();
      __scoped_atomic_fetch_add(word, 1u << expert % 2 * 16, __ATOMIC_RELAXED,
                                __MEMORY_SCOPE_WRKGRP);
    }
    for (u32 k = 0; k < EACH; ++k) own[k] += __builtin_popcountll(ballot(expert == first + k));
  });
  if (lane() == 0) found[wave()] = own;
  sync();

  // A thread adds up half the words of its expert and the neighbour's: another place than other
  // lanes' each time, so of other banks; two words at once, which have less than 2^16 of each.
  u32 expert = thread(), even = 0, odd = 0;
  for (u32 i = 0; expert / 2 * 2 < args.experts && i < WAVE / 8; ++i) {
    u32x4 four = counts[expert / 2][expert % 2 * (WAVE / 8) + (expert / 2 + i) % (WAVE / 8)];
    u32 halves[2] = {four[0] + four[1], four[2] + four[3]};
    for (u32 two : halves) {
      even += two & 0xffff;
      odd += two >> 16;
    }
  }
  u32 pairs = expert % 2 ? odd : even;
  pairs += shuffle_xor(expert % 2 ? even : odd, 1);
  bool mine = expert / EACH == block_x();
  u32 slot = group(args, pairs, mine, sums);
  if (mine) ((u32 *)&slots)[expert % EACH] = slot;
  sync();

  u32x4 next = slots;
  for (u32 w = 0; w < WAVES; ++w) next += w < wave() ? found[w] : u32x4{};
  each_pair(args, count, [&](u32 pair, u32 expert) {
    u32 k = expert - first, slot = 0;
    if (ballot(k < EACH) == 0) return;
    for (u32 i = 0; i < EACH; ++i) {
      u64 lanes = ballot(k == i);
      if (k == i) slot = below(lanes, next[i]);
      next[i] += __builtin_popcountll(lanes);
    }
    if (k < EACH) args.pairs[slot] = pair;
  });
}
