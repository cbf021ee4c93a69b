// Draws or scores one token for each row of logits.
//
// logits [rows, vocab] f32, vocab a multiple of 4 and at most 2^18; adjusted in place. What is
// wanted of each row stands in `requests`, with its part of `adjustments` (at most one for each
// token) and its number among `masks` [.., vocab / 32 rounded up] words, where bit id % 32 of word
// id / 32 is set if id may be drawn. tokens [rows] u32 and results [rows] receive what came out.
// `members` workgroups a row, each with a slice of the vocabulary; with more than one, `teams`
// [rows] is their memory (see `team.h`).
//
// Tokens are ordered by logit, the lower id first among equals: `key` is 12 bits of how much less
// likely than the largest a token is (in steps of 1/92 of an octave, so that the tokens of a bin
// are few), 32 bits of how far its logit is below the largest, counted in representable numbers,
// and 18 bits of id. A token's weight is e^((logit - largest) / temperature) as an integer, 2^44
// for the largest: sums of integers do not depend on the order in which threads, and workgroups,
// add them. Tokens of weight below 2^-44 are never drawn (all of them together have less than 2^-26
// of the probability).
//
// `min_p`, `top_k` and `top_p` each keep the first tokens of that order, so their only effect is on
// the sum of the weights kept; the draw is the first token at which the running sum exceeds
// uniform * that sum. All of these are searches for a token at which a running sum (of weights, or
// of ones) exceeds a target: sums over the bins of a digit of the keys, 6 bits, the bin in which it
// happens, and on with the next digit of the tokens in that bin. As soon as they fit, those tokens
// are copied to LDS, with all before them if these fit too: searches that follow end before. Passes
// over the row: one to find the largest, one for the first digit, one to copy; of flat rows one or
// two more. The first digit, a token's group, is looked at of the tokens within 2^-16 of the
// largest, of the others only if these are not enough: mostly they are many, and not looked for.
// Each bin has a sum for each of 32 lanes, so that tokens of whatever bins are added without
// conflicts.
#include "logits.h"

struct SampleRequest {
  u64 seed;
  u64 index;
  u32 scored;          // the token to score, or NONE to draw one
  float scale;         // log2(e) / temperature; 0: take the largest
  float min_p;
  u32 top_k;           // 0: all
  u32 top_p;           // times 2^24
  u32 logprobs;        // 0: none; n + 1: the token's and the n largest, n <= 20
  u32 first_adjustment;
  u32 adjustments;
  u32 mask;            // index in masks, or NONE
  float presence;
  float frequency;
  float repetition;
};

/// What changes a token's logit: its occurrences, and a bias.
struct Adjustment {
  u32 id;
  u32 generated; // how often it was generated
  u32 seen;      // whether it occurred at all
  float bias;    // replaced by the logit as it was
};

constexpr u32 MAX_TOP = 20;

struct SampleResult {
  u32 token;
  float logprob;
  u32 top_ids[MAX_TOP];
  float top_logprobs[MAX_TOP];
};

struct SampleArgs {
  float *logits;
  const SampleRequest *requests;
  Adjustment *adjustments;
  const u32 *masks;
  u32 *tokens;
  SampleResult *results;
  TeamMemory *teams;
  u32 vocab;
  u32 members;
};

constexpr u32 NONE = ~0u;
constexpr u32 FEW = 256;
constexpr u32 ONE = 1 << 24; // in `top_p` and `uniform`

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
  u32 at;
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
  for (u32 i = thread(); i < listed && at + i < LISTED; i += THREADS) table.list[at + i] = s.list[i];
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
  sync();
  u64 all = 0, kept = 0;
  u32 tokens = 0;
  bool full = false;
  // Far tokens are mostly too unlikely for `min_p`, or there is none.
  bool some = min_p > 0.0f;
  counted = counted || (some && min_p < 0x1p-15f);
  row.each_four([&](u32 id, f32x4 x) {
    f32x4 octaves, share;
    bool far = true;
    for (u32 j = 0; j < 4; ++j) {
      octaves[j] = row.octaves(x[j]);
      share[j] = exp2(-octaves[j]);
      far = far && octaves[j] >= Row::NEAR_OCTAVES;
    }
    if (far) {
      // Weights are at most 2^28 (1 + 2^-20).
      u32 weight[4], sum = 0, sum_kept = 0;
      for (u32 j = 0; j < 4; ++j) sum += weight[j] = (u32)(share[j] * 0x1p44f);
      all += sum;
      if (!counted) return;
      for (u32 j = 0; j < 4; ++j) {
        tokens += weight[j] > 0;
        sum_kept += share[j] >= min_p ? weight[j] : 0;
      }
      kept += sum_kept;
      return;
    }
    u32x4 group;
    u64 what[4];
    bool near[4];
    u32 nearest = BINS;
    for (u32 j = 0; j < 4; ++j) {
      near[j] = octaves[j] < Row::NEAR_OCTAVES;
      group[j] = row.group(x[j]);
      nearest = min(nearest, group[j]);
      Packed packed = near[j] ? Packed::near(group[j]) : Packed::far();
      u32 units = packed.units(share[j]);
      what[j] = packed.pack(units);
      u64 weight = packed.weight(units);
      all += weight;
      tokens += weight > 0;
      if (some && share[j] >= min_p) kept += weight;
    }
    LaneSums::add_four(s.bins, group, what, near);
    if (nearest >= NEAREST) return;
    // Who has found the list full adds no more: it is longer than LISTED by then.
#pragma unroll 1
    for (u32 j = 0; j < 4 && !full; ++j, ++id, x = x.yzwx) {
      if (row.group(x[0]) >= NEAREST) continue;
      u32 at = add(&s.listed, 1u);
      full = at >= LISTED;
      if (!full) s.list[at] = row.key(x[0], id);
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
    if (held) {
      for (u32 i = thread(); i < s.listed; i += THREADS) {
        u64 key = s.list[i];
        if (key < from || key >= to) continue;
        u32 units = packed.units(row.share(row.logit(key)));
        s.bins[key >> (shift - DIGIT_BITS) & (BINS - 1)].add(packed.pack(units));
      }
    } else {
      bool by_step = shift >= KEY_BITS - DIGIT_BITS;
      u32 below = far ? DIGIT_BITS : 0, first = far ? NEAR : group * BINS;
      row.each_four([&](u32 id, f32x4 x) {
        u32x4 bin;
        if (by_step) {
          for (u32 j = 0; j < 4; ++j) bin[j] = (row.step(x[j]) >> below) - first;
        } else {
          for (u32 j = 0; j < 4; ++j) {
            u64 key = row.key(x[j], id + j);
            bin[j] = key >= from && key < to ? key >> (shift - DIGIT_BITS) & (BINS - 1) : BINS;
          }
        }
        bool in[4], any = false;
        for (u32 j = 0; j < 4; ++j) any = any || bin[j] < BINS;
        if (!any) return;
        u64 what[4];
        for (u32 j = 0; j < 4; ++j) {
          u32 units = packed.units(row.share(x[j]));
          in[j] = bin[j] < BINS && (units > 0 || row.all);
          what[j] = packed.pack(units);
        }
        LaneSums::add_four(s.bins, bin, what, in);
      });
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

/// (x * part + more) / 2^24, rounded down; x is below 2^62, part and more at most 2^24.
__device__ inline u64 share(u64 x, u32 part, u32 more) {
  return (x >> 24) * part + (((x & 0xffffff) * part + more) >> 24);
}

/// `model::uniform`, times 2^24.
__device__ inline u32 uniform(u64 seed, u64 index) {
  for (u32 i = 0; i < 2; ++i) {
    u64 z = seed + 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    seed = z ^ z >> 31 ^ (i == 0 ? index : 0);
  }
  return seed >> 40;
}

/// Bias and penalties of the slice's tokens, rounded one by one as written.
__device__ inline void adjust(const SampleRequest &request, const Row &row, float *logits,
                              Adjustment *list) {
#pragma clang fp contract(off)
  for (u32 i = thread(); i < request.adjustments; i += THREADS) {
    u32 id = list[i].id;
    if (id < row.begin || id >= row.end) continue;
    Adjustment a = list[i];
    float raw = logits[id], x = raw;
    if (a.seen) x = x > 0.0f ? x / request.repetition : x * request.repetition;
    if (a.generated) {
      float count = (float)a.generated;
      x = x - (request.frequency * count + request.presence);
    }
    logits[id] = x + a.bias;
    list[i].bias = raw;
  }
  sync_memory();
}

/// Draws from the adjusted logits, of which the largest is known.
__device__ inline u32 draw(Shared &s, Row row, Team &team, const SampleRequest &request) {
  if (request.scale == 0.0f) return row.first;
  row.scale = request.scale;
  row.all = false;
  // Read from memory before the members meet: they forget what they have read.
  u32 top_k = request.top_k, top_p = request.top_p, at = uniform(request.seed, request.index);
  tally(s, row, team, request.min_p, top_k > 0);
  if (s.share.kept == 0) return row.first; // the largest logit is not finite
  bool by_count = top_k > 0 && top_k < s.share.tokens, by_share = top_p < ONE;
#pragma unroll 1
  for (;;) {
    u64 target, kept = s.share.kept; // registers are few
    if (by_count) {
      target = top_k - 1;
    } else if (by_share) {
      // The sum reaches the share where it exceeds one less, rounded up.
      target = share(kept, top_p, ONE - 1) - 1;
    } else {
      target = share(kept, at, 0);
    }
    Place last = search(s, row, team, by_count, target);
    if (!by_count && !by_share) return (u32)last.key & ((1 << ID_BITS) - 1);
    u64 sum = last.weight_before + last.weight;
    sync();
    if (thread() == 0) s.share.kept = by_count ? min(kept, sum) : sum;
    sync();
    by_share = by_share && by_count;
    by_count = false;
  }
}

/// Makes `s.log_sum`, the log of the sum of e^logit less the largest logit, which is known, and
/// writes the largest logits' tokens and log-probabilities.
__device__ inline void log_sum(Shared &s, Row row, Team &team, const SampleRequest &request,
                               SampleResult *result) {
  row.scale = 1.44269504088896340736f;
  row.all = request.logprobs > 1;
  tally(s, row, team, 0.0f, false);
  u64 all = s.share.all;
  if (thread() == 0) {
    s.largest = row.largest;
    s.log_sum = log2((float)all * 0x1p-44f) * 0.69314718055994530942f;
  }
  if (!row.all || all == 0) return;
  u64 to = row.first + 1;
  if (request.logprobs > 2) to = search(s, row, team, true, request.logprobs - 2).key + 1;
  if (s.list_from > 0 || s.list_to < to) gather(s, row, team, 0, to);
  pick(s, row, 0, to);
  u32 top = request.logprobs - 1;
  if (team.member == 0 && thread() < top) {
    u64 key = s.picked.keys[thread()];
    u32 place = 0;
    for (u32 i = 0; i < top; ++i) place += s.picked.keys[i] < key;
    result->top_ids[place] = (u32)key & ((1 << ID_BITS) - 1);
    result->top_logprobs[place] = row.logit(key) - row.largest - s.log_sum;
  }
  sync();
}

/// Grid: rows, members.
KERNEL(THREADS) void sample(SampleArgs args) {
  begin();
  __shared__ Shared s;
  u32 r = block_x(), vocab = args.vocab, members = args.members, member = block_y();
  Team team = Team::join(args.teams + r, members, member);
  const SampleRequest &request = args.requests[r];
  SampleResult *result = args.results + r;
  float *logits = args.logits + (u64)r * vocab;
  Adjustment *adjustments = args.adjustments + request.first_adjustment;
  u32 slice = (vocab / 4 + members - 1) / members * 4;
  u32 begin = slice * member < vocab ? slice * member : vocab;
  Row row = {logits, nullptr, begin, vocab - begin < slice ? vocab : begin + slice};
  for (u32 i = thread(); i < BINS * 32; i += THREADS) s.bins[i / 32].take(i % 32);
  if (request.logprobs > 0) {
    find_largest(s, row, team);
    log_sum(s, row, team, request, result);
  }
  u32 token = request.scored;
  if (thread() == 0) s.raw = token == NONE ? 0.0f : logits[token];
  if (token == NONE) {
    adjust(request, row, logits, adjustments);
    if (request.mask != NONE) row.mask = args.masks + (u64)request.mask * ((vocab + 31) / 32);
    if (request.logprobs == 0 || request.adjustments > 0 || row.mask) find_largest(s, row, team);
    token = draw(s, row, team, request);
    if (request.logprobs > 0) {
      if (thread() == 0) s.raw = logits[token];
      sync();
      for (u32 i = thread(); i < request.adjustments; i += THREADS) {
        if (adjustments[i].id == token) s.raw = adjustments[i].bias;
      }
    }
  }
  sync();
  if (thread() > 0 || member > 0) return;
  team.leave();
  args.tokens[r] = token;
  result->token = token;
  if (request.logprobs > 0) result->logprob = s.raw - s.largest - s.log_sum;
}

struct CountCarriedArgs {
  SampleRequest *requests;
  Adjustment *adjustments;
  const u32 *tokens;
  const u32x2 *pairs;
};

/// Counts a row's own token, which was not known when its request was made, as generated. `pairs`
/// are of a request and its row in `tokens`; the last of the request's adjustments is free for the
/// token. One workgroup a pair; launched before `sample`.
KERNEL(256) void count_carried(CountCarriedArgs args) {
  begin();
  __shared__ u32 found;
  if (thread() == 0) found = 0;
  sync();
  u32x2 pair = args.pairs[block_x()];
  SampleRequest *request = args.requests + pair[0];
  u32 id = args.tokens[pair[1]], last = request->adjustments - 1;
  Adjustment *list = args.adjustments + request->first_adjustment;
  for (u32 i = thread(); i < last; i += 256) {
    if (list[i].id != id) continue;
    list[i].generated += 1;
    list[i].seen = 1;
    found = 1;
  }
  sync();
  if (thread() != 0) return;
  if (found) {
    request->adjustments = last;
  } else {
    list[last] = {id, 1, 1, 0.0f};
  }
}
