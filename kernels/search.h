// The sampler's searches among a row's tokens (see `sample.hip`) for the place at which a running
// sum, of weights or of ones, exceeds a target.
//
// Passes over the row: one to find the largest; one for all sums, which also copies the nearest
// tokens to LDS, if they fit: mostly searches end among them, and where they are few, each is
// compared with all.
//
// Else a search goes by sums over the bins of a digit of the keys, 6 bits: the bin in which it
// happens, and on with the next digit of the tokens in that bin. As soon as they fit, those tokens
// are copied to LDS, with all before them if these fit too: searches that follow end before. That
// is a pass to copy, of flat rows one or two more. The first digit, a token's group, is looked at
// of the tokens within 2^-16 of the largest with the sums, of the others only if these are not
// enough: mostly they are many, and not looked for. Each bin has a sum for each of 32 lanes, so
// that tokens of whatever bins are added without conflicts.
#pragma once
#include "logits.h"

constexpr u32 NONE = ~0u;
constexpr u32 FEW = 256; // tokens at most of which each is compared with all

/// A place in the order: everything before `key`, and the token that has it.
struct Place {
  u64 key;
  u64 weight_before, weight;
  u32 count_before;
};

/// Some tokens' keys and weights.
struct Few {
  u32 count;
  u64 keys[FEW], weights[FEW];

  __device__ void append(const Row &row, u64 key) {
    u32 at = add(&count, 1u);
    keys[at] = key;
    weights[at] = row.weight(row.logit(key));
  }
};

struct Shared {
  LaneSums bins[BINS];
  u64 first[BINS], next[BINS]; // sums of the first digit's bins, of a later one's
  u64 list[LISTED];
  u64 list_from, list_to; // the list holds all tokens whose keys are not below and below these
  u32 listed;
  Few nearest, picked; // all that `tally` listed, if they are few; some of the list
  u64 sums[WAVES];
  Share shares[WAVES], share; // of waves, of the row
  u64 target; // of the search
  Place place;
  u32 crossing; // tokens in the bin where it happens
  u32 at; // where the member's list stands in the team's
  u32 top_k, top_p, uniform; // of the request, and its draw
  float raw, largest, log_sum; // of the logits as they were
};

/// Makes `row.largest` and `row.first`.
__device__ inline void find_largest(Shared &s, Row &row, Team &team) {
  u32 most = 0, at = row.begin + 4 * thread(); // the first four that have it
  row.each_four([&](u32 id, f32x4 x) {
    u32 here = max(max(ordered(x[0]), ordered(x[1])), max(ordered(x[2]), ordered(x[3])));
    at = here > most ? id : at;
    most = max(most, here);
  });
  u64 best = wave_max(at < row.end ? (u64)most << 32 | ~at : 0);
  // Which of the wave's four it is: its id becomes as much larger, so the inverse smaller.
  bool it = lane() < 4 && best > 0 && ordered(row.at(~(u32)best + lane())) == best >> 32;
  best -= __builtin_ctzg(ballot(it), 0);
  if (lane() == 0) s.sums[wave()] = best;
  sync();
  best = wave_max(lane() < WAVES ? s.sums[lane()] : 0);
  if (team.members > 1) {
    const Table &table = team.table();
    if (thread() == 0) team.table().shares[team.member].all = best;
    team.meet();
    best = wave_max(lane() < team.members ? table.shares[lane()].all : 0);
  } else {
    sync();
  }
  row.top = (u32)(best >> 32);
  row.largest = Row::from_ordered(row.top);
  row.first = ~(u32)best;
}

/// Sums up the bins over lanes, and clears them.
__device__ inline void total(Shared &s, u64 *sums) {
  // Two of a bin's 32 are a thread's; neighbouring bins' in another order, so in other banks.
  constexpr u32 EACH = THREADS / BINS;
  static_assert(2 * EACH == 32, "two a thread");
  u32 bin = thread() / EACH, i = thread() % (2 * EACH);
  sync();
  u64 sum = s.bins[bin].take(i) + s.bins[bin].take(i ^ EACH);
  for (u32 step = EACH / 2; step > 0; step /= 2) sum += shuffle_wide(sum, lane() ^ step);
  if (thread() % EACH == 0) sums[bin] = sum;
  sync();
}

/// Tells the team the member's sums of bins.
__device__ inline void give_sums(const u64 *sums, Team &team) {
  u32 bin = thread();
  if (bin < BINS && sums[bin] > 0) add_on_device(&team.table().sums[bin], sums[bin]);
}

/// Tells the team the member's list, where the team's is not longer than LISTED.
__device__ inline void give_list(Shared &s, Team &team) {
  Table &table = team.table();
  u32 listed = s.listed;
  if (thread() == THREADS - 1) s.at = listed > 0 ? add_on_device(&table.listed, listed) : 0;
  sync();
  u32 at = s.at;
  for (u32 i = thread(); i < listed && at + i < LISTED; i += THREADS)
    table.list[at + i] = s.list[i];
}

/// Takes the team's list, if it is not longer than LISTED.
__device__ inline void take_list(Shared &s, const Table &table) {
  u32 listed = table.listed;
  if (thread() == 0) s.listed = listed;
  for (u32 i = thread(); i < listed && listed <= LISTED; i += THREADS) s.list[i] = table.list[i];
}

/// Makes the first digit's sums, of the near tokens, and the list of the nearest, if they are not
/// too many. Makes `s.share` of the row: sums of its weights, of those of them that are at least
/// `min_p` of the largest, and, if they are to be `counted`, how many count.
__device__ inline void tally(Shared &s, const Row &row, Team &team, float min_p, bool counted) {
  if (thread() == 0) s.listed = s.nearest.count = 0;
  for (u32 i = thread(); i < BINS * 32; i += THREADS) s.bins[i / 32].take(i % 32);
  sync();
  u64 all = 0, kept = 0;
  u32 tokens = 0;
  bool full = false;
  // Far tokens are mostly too unlikely for `min_p`, or there is none.
  bool some = min_p > 0.0f;
  counted = counted || (some && min_p < 0x1p-15f);
  row.each_four([&](u32 id, f32x4 x) {
    f32x4 octaves;
    for (u32 j = 0; j < 4; ++j) octaves[j] = row.octaves(x[j]);
    auto far = [](float octaves) { return octaves >= Row::NEAR_OCTAVES; };
    if (far(octaves[0]) && far(octaves[1]) && far(octaves[2]) && far(octaves[3])) {
      // Weights are at most 2^28 (1 + 2^-20).
      u32 sum = 0, sum_kept = 0;
      f32x4 share;
      u32x4 weight;
      for (u32 j = 0; j < 4; ++j) {
        share[j] = exp2(-octaves[j]);
        weight[j] = (u32)(share[j] * 0x1p44f);
        sum += weight[j];
      }
      all += sum;
      if (!counted) return;
      for (u32 j = 0; j < 4; ++j) {
        tokens += weight[j] > 0;
        sum_kept += share[j] >= min_p ? weight[j] : 0;
      }
      kept += sum_kept;
      return;
    }
#pragma unroll 1
    for (u32 j = 0; j < 4; ++j, ++id, x = x.yzwx) {
      float share = row.share(x[0]);
      u64 weight = Row::weight_of(share);
      if (weight == 0 && !row.all) continue;
      if (row.octaves(x[0]) < Row::NEAR_OCTAVES) {
        u32 group = row.group(x[0]);
        Packed packed = Packed::near(group);
        s.bins[group].add(packed.pack(packed.units(share)));
        // Who has found the list full adds no more: it is longer than LISTED by then.
        if (group < NEAREST && !full) {
          u32 at = add(&s.listed, 1u);
          full = at >= LISTED;
          if (!full) s.list[at] = row.key(x[0], id);
        }
      }
      all += weight;
      tokens += 1;
      if (share >= min_p) kept += weight;
    }
  });
  all = wave_sum(all);
  kept = some ? wave_sum(kept) : all;
  if (counted) tokens = wave_sum(tokens);
  if (lane() == 0) s.shares[wave()] = {all, kept, tokens};
  total(s, s.first);
  // Waves of their own do each of what follows: all of it waits for memory.
  auto add_up = [&](const Share *shares, u32 count, Share &to) {
    if (wave() != WAVES / 2) return;
    Share sum = wave_sum(lane() < count ? shares[lane()] : Share{0, 0, 0});
    if (lane() == 0) to = sum;
  };
  if (team.members > 1) {
    Table &table = team.table();
    add_up(s.shares, WAVES, table.shares[team.member]);
    give_sums(s.first, team);
    give_list(s, team);
    team.meet();
    add_up(table.shares, team.members, s.share);
    u32 bin = THREADS - 1 - thread();
    if (bin < BINS) s.first[bin] = table.sums[bin];
    take_list(s, table);
  } else {
    add_up(s.shares, WAVES, s.share);
  }
  sync();
  u32 listed = s.listed;
  if (listed <= FEW && thread() < listed) s.nearest.append(row, s.list[thread()]);
  if (thread() == 0) {
    s.list_from = 0;
    s.list_to = listed <= LISTED ? (u64)NEAREST << (KEY_BITS - DIGIT_BITS) : 0;
  }
  sync();
}

/// Finds the bin at which the running sum, from `s.place` on, exceeds the target; moves `s.place`
/// to the bin's start and appends the bin to its key. Nothing happens if there is none. The tokens
/// are of one group, or each bin is one, if `group` is NONE.
__device__ inline void cross(Shared &s, const u64 *sums, u32 group, bool by_count) {
  Place before = s.place;
  u64 target = s.target;
  sync();
  if (wave() == 0) {
    constexpr u32 EACH = BINS / WAVE; // bins of a lane
    u64 own[EACH], through = 0;
    u32 own_count[EACH], count_through = 0;
    for (u32 i = 0; i < EACH; ++i) {
      u32 bin = lane() * EACH + i;
      Packed packed = Packed::of(group == NONE ? bin : group);
      through += own[i] = packed.weight(sums[bin]);
      count_through += own_count[i] = packed.count(sums[bin]);
    }
    for (u32 step = 1; step < WAVE; step *= 2) {
      u64 below = shuffle_wide(through, lane() - step);
      u32 count_below = shuffle(count_through, lane() - step);
      through += lane() >= step ? below : 0;
      count_through += lane() >= step ? count_below : 0;
    }
    through += before.weight_before;
    count_through += before.count_before;
    for (u32 i = EACH; i-- > 0;) {
      u64 end = by_count ? count_through : through, size = by_count ? own_count[i] : own[i];
      through -= own[i];
      count_through -= own_count[i];
      if (end - size <= target && target < end) {
        s.place = {before.key << DIGIT_BITS | (lane() * EACH + i), through, own[i], count_through};
        s.crossing = own_count[i];
      }
    }
  }
  sync();
}

/// Makes the list of all tokens whose keys are at least `from` and below `to`: at most LISTED.
__device__ inline void gather(Shared &s, const Row &row, Team &team, u64 from, u64 to) {
  sync();
  if (thread() == 0) {
    s.listed = 0;
    s.list_from = from;
    s.list_to = to;
  }
  sync();
  constexpr u32 SHIFT = KEY_BITS - 2 * DIGIT_BITS;
  u32 first = (u32)(from >> SHIFT), steps = (u32)((to - 1) >> SHIFT) - first;
  row.each_four([&](u32 id, f32x4 x) {
    bool any = false;
    for (u32 j = 0; j < 4; ++j) any = any || row.step(x[j]) - first <= steps;
    if (!any) return;
#pragma unroll 1
    for (u32 j = 0; j < 4; ++j, ++id, x = x.yzwx) {
      u64 key = row.key(x[0], id);
      if (key < from || key >= to || (row.weight(x[0]) == 0 && !row.all)) continue;
      s.list[add(&s.listed, 1u)] = key;
    }
  });
  sync();
  if (team.members == 1) return;
  const Table &table = team.table();
  give_list(s, team);
  team.meet();
  take_list(s, table);
  sync();
}

/// Copies what the list has from `from` to below `to` to `s.picked`: at most FEW.
__device__ inline void pick(Shared &s, const Row &row, u64 from, u64 to) {
  sync();
  if (thread() == 0) s.picked.count = 0;
  sync();
  for (u32 i = thread(); i < s.listed; i += THREADS) {
    u64 key = s.list[i];
    if (key >= from && key < to) s.picked.append(row, key);
  }
  sync();
}

/// Moves `s.place` from the start of a bin to the place itself, if it is among the bin's tokens,
/// which `few` has: TOGETHER threads for each look at those before it.
__device__ inline void settle(Shared &s, const Few &few, bool by_count) {
  constexpr u32 TOGETHER = THREADS / FEW;
  Place before = s.place;
  u64 target = s.target;
  u32 count = few.count, i = thread() / TOGETHER;
  sync();
  if (wave() * (WAVE / TOGETHER) >= count) return;
  u64 key = i < count ? few.keys[i] : 0, weight_before = 0;
  u32 count_before = 0;
  for (u32 j = thread() % TOGETHER; j < count; j += TOGETHER) {
    if (few.keys[j] >= key) continue;
    weight_before += few.weights[j];
    count_before += 1;
  }
  for (u32 step = 1; step < TOGETHER; step *= 2) {
    weight_before += shuffle_wide(weight_before, lane() ^ step);
    count_before += shuffle_xor(count_before, step);
  }
  if (i >= count || thread() % TOGETHER > 0) return;
  weight_before += before.weight_before;
  count_before += before.count_before;
  u64 weight = few.weights[i];
  u64 start = by_count ? count_before : weight_before, size = by_count ? 1 : weight;
  if (start <= target && target - start < size) {
    s.place = {key, weight_before, weight, count_before};
    s.crossing = 1;
  }
}

/// The first place at which the running sum of weights (or of ones, `by_count`) exceeds `target`,
/// which is below the sum of all. After `tally`.
__device__ inline Place search(Shared &s, const Row &row, Team &team, bool by_count, u64 target) {
  if (thread() == 0) {
    s.target = target;
    s.place = {0, 0, 0, 0};
    s.crossing = 0;
  }
  sync();
  if (s.nearest.count > 0) {
    settle(s, s.nearest, by_count);
    sync();
    if (s.crossing > 0) return s.place;
  }
  cross(s, s.first, NONE, by_count);
  // The far tokens' first digit is still to be looked at if the near tokens are not enough.
  u32 shift = s.crossing > 0 ? KEY_BITS - DIGIT_BITS : KEY_BITS;
#pragma unroll 1
  for (;; shift -= DIGIT_BITS) {
    u64 prefix = s.place.key, from = prefix << shift, to = (prefix + 1) << shift;
    u32 crossing = s.crossing, until = s.place.count_before + crossing;
    bool far = shift == KEY_BITS, held = !far && s.list_from <= from && to <= s.list_to;
    if (!held && !far && crossing <= LISTED) {
      gather(s, row, team, until <= LISTED ? 0 : from, to);
      held = true;
    }
    if (held && crossing <= FEW) {
      pick(s, row, from, to);
      settle(s, s.picked, by_count);
      break;
    }
    u32 group = (u32)(from >> (KEY_BITS - DIGIT_BITS));
    Packed packed = far ? Packed::far() : Packed::of(group);
    auto add = [&](u32 bin, float x) {
      u32 units = packed.units(row.share(x));
      if (units > 0 || row.all) s.bins[bin].add(packed.pack(units));
    };
    auto use = [&](u64 key, float x) {
      if (key >= from && key < to) add(key >> (shift - DIGIT_BITS) & (BINS - 1), x);
    };
    if (held) {
      for (u32 i = thread(); i < s.listed; i += THREADS) use(s.list[i], row.logit(s.list[i]));
    } else if (shift >= KEY_BITS - DIGIT_BITS) {
      u32 below = far ? DIGIT_BITS : 0, first = far ? NEAR : group * BINS;
      row.each([&](u32 id, float x) {
        u32 bin = (row.step(x) >> below) - first;
        if (bin < BINS) add(bin, x);
      });
    } else {
      row.each([&](u32 id, float x) { use(row.key(x, id), x); });
    }
    total(s, s.next);
    u32 bin = thread();
    if (team.members > 1 && !held) {
      const Table &table = team.table();
      give_sums(s.next, team);
      team.meet();
      if (bin < BINS) s.next[bin] = table.sums[bin];
      sync();
    }
    if (far && bin >= NEAR && bin < BINS) s.first[bin] = s.next[bin - NEAR];
    cross(s, far ? s.first : s.next, far ? NONE : group, by_count);
  }
  sync();
  return s.place;
}
