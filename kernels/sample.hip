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
constexpr u32 FEW = 32;
constexpr u32 ONE = 1 << 24; // in `top_p` and `uniform`

/// A place in the order: everything before `key`, and the token that has it.
struct Place {
  u64 key;
  u64 weight_before, weight;
  u32 count_before;
};

struct Shared {
  LaneSums bins[BINS];
  u64 first[BINS], next[BINS]; // sums of the first digit's bins, of a later one's
  u64 list[LISTED];
  u64 list_from, list_to; // the list holds all tokens whose keys are not below and below these
  u32 listed;
  u32 few;
  u64 few_keys[FEW];
  u64 sums[WAVES];
  Share shares[WAVES];
  u64 target; // of the search
  u64 kept;   // sum of the weights that may be drawn
  Place place;
  u32 crossing; // tokens in the bin where it happens
  u32 at;
  float raw, largest, log_sum; // of the logits as they were
};

/// Makes `row.largest` and `row.first`.
__device__ inline void find_largest(Shared &s, Row &row, Team &team) {
  u64 best = 0;
  row.each([&](u32 id, float x) { best = max(best, (u64)ordered(x) << 32 | ~id); });
  best = wave_max(best);
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

/// Clears the bins.
__device__ inline void clear(Shared &s) {
  sync();
  for (u32 i = thread(); i < BINS * 32; i += THREADS) s.bins[i / 32].clear(i % 32);
  sync();
}

/// Sums up the bins over lanes, and over members if they have `slices` of what was added.
__device__ inline void total(Shared &s, u64 *sums, Team &team, bool slices) {
  sync();
  for (u32 i = thread(); i < BINS * 32; i += THREADS) {
    u64 sum = s.bins[i / 32].sum(i % 32);
    for (u32 step = 16; step > 0; step /= 2) sum += shuffle_wide(sum, lane() ^ step);
    if (i % 32 == 0) sums[i / 32] = sum;
  }
  sync();
  if (team.members == 1 || !slices) return;
  Table &table = team.table();
  u32 bin = thread();
  if (bin < BINS && sums[bin] > 0) add_on_device(&table.sums[bin], sums[bin]);
  team.meet();
  if (bin < BINS) sums[bin] = table.sums[bin];
  sync();
}

/// Makes the first digit's sums, of the near tokens, and returns sums over all: of their weights,
/// of those of them that are at least `min_p` of the largest, and how many count.
__device__ inline Share tally(Shared &s, const Row &row, Team &team, float min_p) {
  if (thread() == 0) s.list_from = s.list_to = 0;
  clear(s);
  u64 all = 0, kept = 0;
  u32 tokens = 0;
  row.each([&](u32 id, float x) {
    float share = row.share(x);
    u64 weight = Row::weight_of(share);
    if (weight == 0 && !row.all) return;
    u32 group = row.group(x);
    if (group < NEAR) {
      Packed packed = Packed::near(group);
      s.bins[group].add(packed.pack(packed.units(share)));
    }
    all += weight;
    tokens += 1;
    if (share >= min_p) kept += weight;
  });
  Share sums = wave_sum({all, kept, tokens});
  if (lane() == 0) s.shares[wave()] = sums;
  sync();
  sums = wave_sum(lane() < WAVES ? s.shares[lane()] : Share{0, 0, 0});
  const Table &table = team.table();
  if (team.members > 1 && thread() == 0) team.table().shares[team.member] = sums;
  total(s, s.first, team, true);
  if (team.members == 1) return sums;
  return wave_sum(lane() < team.members ? table.shares[lane()] : Share{0, 0, 0});
}

/// Finds the bin at which the running sum, from `s.place` on, exceeds the target; moves `s.place`
/// to the bin's start and appends the bin to its key. Nothing happens if there is none. The tokens
/// are of one group, or each bin is one, if `group` is NONE.
__device__ inline void cross(Shared &s, const u64 *sums, u32 group, bool by_count) {
  Place before = s.place;
  u64 target = s.target;
  sync();
  if (wave() == 0) {
    u64 weight = before.weight_before;
    u32 count = before.count_before;
#pragma unroll 1
    for (u32 bin = lane(); bin < BINS; bin += WAVE) {
      Packed packed = Packed::of(group == NONE ? bin : group);
      u64 own = packed.weight(sums[bin]), through = own;
      u32 own_count = packed.count(sums[bin]), count_through = own_count;
      for (u32 step = 1; step < WAVE; step *= 2) {
        u64 below = shuffle_wide(through, lane() - step);
        u32 count_below = shuffle(count_through, lane() - step);
        through += lane() >= step ? below : 0;
        count_through += lane() >= step ? count_below : 0;
      }
      through += weight;
      count_through += count;
      u64 end = by_count ? count_through : through, size = by_count ? own_count : own;
      if (end - size <= target && target < end) {
        s.place = {before.key << DIGIT_BITS | bin, through - own, own, count_through - own_count};
        s.crossing = own_count;
      }
      weight = shuffle_wide(through, WAVE - 1);
      count = shuffle(count_through, WAVE - 1);
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
  row.each([&](u32 id, float x) {
    u64 key = row.key(x, id);
    if (key < from || key >= to || (row.weight(x) == 0 && !row.all)) return;
    s.list[add(&s.listed, 1u)] = key;
  });
  sync();
  if (team.members == 1) return;
  Table &table = team.table();
  if (thread() == 0) s.at = add_on_device(&table.listed, s.listed);
  sync();
  for (u32 i = thread(); i < s.listed; i += THREADS) table.list[s.at + i] = s.list[i];
  team.meet();
  u32 listed = table.listed;
  for (u32 i = thread(); i < listed; i += THREADS) s.list[i] = table.list[i];
  if (thread() == 0) s.listed = listed;
  sync();
}

/// Copies what the list has from `from` to below `to` to `s.few_keys`: at most FEW.
__device__ inline void pick(Shared &s, u64 from, u64 to) {
  sync();
  if (thread() == 0) s.few = 0;
  sync();
  for (u32 i = thread(); i < s.listed; i += THREADS) {
    u64 key = s.list[i];
    if (key >= from && key < to) s.few_keys[add(&s.few, 1u)] = key;
  }
  sync();
}

/// Moves `s.place` from the start of a bin to the place itself, among the bin's tokens, which
/// `s.few_keys` has.
__device__ inline void settle(Shared &s, const Row &row, bool by_count) {
  Place before = s.place;
  u64 target = s.target;
  u32 few = s.few;
  bool there = lane() < few;
  u64 own = there ? s.few_keys[lane()] : 0;
  u64 own_weight = there ? row.weight(row.logit(own)) : 0;
  sync();
  for (u32 i = wave(); i < few; i += WAVES) {
    u64 key = s.few_keys[i], weight = shuffle_wide(own_weight, i);
    bool earlier = there && own < key;
    u64 weight_before = before.weight_before + wave_sum(earlier ? own_weight : 0);
    u32 count_before = before.count_before + __builtin_popcountg(ballot(earlier));
    u64 start = by_count ? count_before : weight_before, size = by_count ? 1 : weight;
    if (lane() == 0 && start <= target && target - start < size) {
      s.place = {key, weight_before, weight, count_before};
    }
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
      pick(s, from, to);
      settle(s, row, by_count);
      break;
    }
    u32 group = (u32)(from >> (KEY_BITS - DIGIT_BITS));
    Packed packed = far ? Packed::far() : Packed::of(group);
    clear(s);
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
    total(s, s.next, team, !held);
    u32 bin = thread();
    if (far && bin >= NEAR && bin < BINS) s.first[bin] = s.next[bin - NEAR];
    cross(s, far ? s.first : s.next, far ? NONE : group, by_count);
  }
  sync();
  Place place = s.place;
  sync();
  return place;
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
  Share sums = tally(s, row, team, request.min_p);
  if (sums.kept == 0) return row.first; // the largest logit is not finite
  bool by_count = request.top_k > 0 && request.top_k < sums.tokens, by_share = request.top_p < ONE;
  if (thread() == 0) s.kept = sums.kept; // registers are few
  sync();
#pragma unroll 1
  for (;;) {
    u64 target, kept = s.kept;
    if (by_count) {
      target = request.top_k - 1;
    } else if (by_share) {
      // The sum reaches the share where it exceeds one less, rounded up.
      target = share(kept, request.top_p, ONE - 1) - 1;
    } else {
      target = share(kept, uniform(request.seed, request.index), 0);
    }
    Place last = search(s, row, team, by_count, target);
    if (!by_count && !by_share) return (u32)last.key & ((1 << ID_BITS) - 1);
    u64 sum = last.weight_before + last.weight;
    if (thread() == 0) s.kept = by_count ? min(s.kept, sum) : sum;
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
  u64 all = tally(s, row, team, 0.0f).all;
  if (thread() == 0) {
    s.largest = row.largest;
    s.log_sum = log2((float)all * 0x1p-44f) * 0.69314718055994530942f;
  }
  if (!row.all || all == 0) return;
  u64 to = row.first + 1;
  if (request.logprobs > 2) to = search(s, row, team, true, request.logprobs - 2).key + 1;
  if (s.list_from > 0 || s.list_to < to) gather(s, row, team, 0, to);
  pick(s, 0, to);
  u32 top = request.logprobs - 1;
  if (team.member == 0 && thread() < top) {
    u64 key = s.few_keys[thread()];
    u32 place = 0;
    for (u32 i = 0; i < top; ++i) place += s.few_keys[i] < key;
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
