// Draws or scores one token for each row of logits.
//
// logits [rows, vocab] f32, vocab a multiple of 4 and at most 2^18; adjusted in place. What is
// wanted of each row stands in `requests`, with its part of `adjustments` (at most one for each
// token) and its number among `masks` [.., vocab / 32 rounded up] words, where bit id % 32 of word
// id / 32 is set if id may be drawn. tokens [rows] u32 and results [rows] receive what came out.
// One workgroup a row.
//
// Tokens are ordered by logit, the lower id first among equals: `key` is 10 bits of how much less
// likely than the largest a token is (in steps of 1/23 of an octave, so that the tokens of a
// histogram's bins are few), 32 bits of how far its logit is below the largest, counted in
// representable numbers, and 18 bits of id. A token's weight is
// e^((logit - largest) / temperature) as an integer, 2^44 for the largest: sums of integers do not
// depend on the order in which threads add them. Tokens of weight below 2^-44 are never drawn (all
// of them together have less than 2^-26 of the probability).
//
// `min_p`, `top_k` and `top_p` each keep the first tokens of that order, so their only effect is on
// the sum of the weights kept; the draw is the first token at which the running sum exceeds
// uniform * that sum. All of these are searches for a token at which a running sum (of weights, or
// of ones) exceeds a target: a histogram over 10 bits of the keys, the bin in which it happens, and
// on with the next 10 bits of the tokens in that bin. As soon as they fit, those tokens are copied
// to LDS. Passes over the row: one to find the largest, one for the first histogram, one to copy.
#include "device.h"

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
  u32 vocab;
};

constexpr u32 NONE = ~0u;
constexpr u32 THREADS = 1024;
constexpr u32 WAVES = THREADS / WAVE;
constexpr u32 BINS = THREADS;
constexpr u32 ID_BITS = 18;
constexpr u32 KEY_BITS = 60; // six times 10
constexpr u32 LISTED = 2048;

typedef __attribute__((ext_vector_type(4))) float float4;

struct Histogram {
  u64 weight[BINS];
  u32 count[BINS];
};

/// A place in the order: everything before `key`, and the token that has it.
struct Place {
  u64 key;
  u64 weight_before, weight;
  u32 count_before;
};

struct Shared {
  Histogram first, next;
  u64 list[LISTED];
  u32 listed;
  u64 list_prefix; // the list holds all tokens whose keys begin so,
  u32 list_shift;  // shifted by this much; KEY_BITS: there is no list
  u64 sums[WAVES];
  u32 counts[WAVES];
  u64 kept, all; // sums of weights
  u32 tokens;    // how many the first histogram counts
  Place place;
  u32 crossing; // tokens in the bin where it happens
  float raw;
};

/// A row of logits, with what makes weights and keys of them.
struct Row {
  const float *logits;
  const u32 *mask; // or null
  u32 vocab;
  float scale;
  bool all; // whether tokens without weight count too
  float largest;
  u32 top; // `ordered(largest)`

  __device__ u64 key(float logit, u32 id) const {
    float octaves = (largest - logit) * scale;
    u64 bin = (u32)__builtin_fminf(octaves * 23.0f, BINS - 1);
    return bin << (KEY_BITS - 10) | (u64)(top - ordered(logit)) << ID_BITS | id;
  }
  /// The logit of a key, exactly.
  __device__ float logit(u64 key) const { return from_ordered(top - (u32)(key >> ID_BITS)); }
  __device__ static float from_ordered(u32 x) {
    return __builtin_bit_cast(float, x >> 31 ? x & 0x7fffffff : ~x);
  }
  __device__ u64 weight(float logit) const {
    return (u64)(exp2((logit - largest) * scale) * 17592186044416.0f);
  }

  /// The four tokens from `id` on, whose words of the mask are one.
  struct Four {
    float4 x;
    u32 allowed;
  };
  __device__ Four four(u32 id) const {
    return {*(const float4 *)(logits + id), mask ? mask[id / 32] >> id % 32 : ~0u};
  }
  template <class Use>
  __device__ static void use_four(u32 id, const Four &four, Use use) {
    for (u32 j = 0; j < 4; ++j) {
      use(id + j, four.allowed >> j & 1 ? four.x[j] : -__builtin_inff());
    }
  }

  /// Calls `use(id, logit)` for every token; each thread reads four times four ahead.
  template <class Use>
  __device__ void each(Use use) const {
    constexpr u32 STEP = 4 * THREADS;
    for (u32 first = thread() * 4; first < vocab; first += 4 * STEP) {
      Four fours[4];
      for (u32 i = 0; i < 4; ++i) {
        u32 id = first + i * STEP;
        fours[i] = four(id < vocab ? id : first);
      }
      // All of them are on their way before the first is used.
      asm volatile("" ::: "memory");
      for (u32 i = 0; i < 4; ++i) {
        u32 id = first + i * STEP;
        if (id < vocab) use_four(id, fours[i], use);
      }
    }
  }
};

__device__ inline u64 shuffle_wide(u64 x, u32 from) {
  return (u64)shuffle((u32)(x >> 32), from) << 32 | shuffle((u32)x, from);
}

__device__ inline u64 max(u64 x, u64 y) { return x > y ? x : y; }
__device__ inline u64 min(u64 x, u64 y) { return x < y ? x : y; }

template <class T>
__device__ inline void add(T *to, T x) {
  __scoped_atomic_fetch_add(to, x, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
}

/// Makes `row.largest` and returns its token (the lowest id among equals).
__device__ inline u32 find_largest(Shared &s, Row &row) {
  u64 best = 0;
  row.each([&](u32 id, float x) { best = max(best, (u64)ordered(x) << 32 | ~id); });
  for (u32 step = WAVE / 2; step > 0; step /= 2) {
    best = max(best, shuffle_wide(best, lane() ^ step));
  }
  if (lane() == 0) s.sums[wave()] = best;
  sync();
  for (u32 w = 0; w < WAVES; ++w) best = max(best, s.sums[w]);
  sync();
  row.top = (u32)(best >> 32);
  row.largest = Row::from_ordered(row.top);
  return ~(u32)best;
}

__device__ inline void clear(Histogram &h) {
  h.weight[thread()] = 0;
  h.count[thread()] = 0;
}

/// Makes the first histogram, `s.all` (the sum of all weights) and `s.kept` (of those that are at
/// least `min_p` of the largest).
__device__ inline void tally(Shared &s, const Row &row, float min_p) {
  clear(s.first);
  if (thread() == 0) {
    s.all = s.kept = 0;
    s.tokens = 0;
    s.list_shift = KEY_BITS;
  }
  sync();
  u64 all = 0, kept = 0;
  u32 tokens = 0;
  row.each([&](u32 id, float x) {
    u64 weight = row.weight(x);
    if (weight == 0 && !row.all) return;
    u32 bin = row.key(x, id) >> (KEY_BITS - 10);
    add(&s.first.weight[bin], weight);
    add(&s.first.count[bin], 1u);
    all += weight;
    tokens += 1;
    if (exp2((x - row.largest) * row.scale) >= min_p) kept += weight;
  });
  for (u32 step = WAVE / 2; step > 0; step /= 2) {
    all += shuffle_wide(all, lane() ^ step);
    kept += shuffle_wide(kept, lane() ^ step);
    tokens += shuffle_xor(tokens, step);
  }
  if (lane() == 0) {
    add(&s.all, all);
    add(&s.kept, kept);
    add(&s.tokens, tokens);
  }
  sync();
}

/// Finds the bin at which the running sum, from `s.place` on, exceeds `target`; moves `s.place` to
/// the bin's start and appends the bin to its key.
__device__ inline void cross(Shared &s, const Histogram &h, bool by_count, u64 target) {
  u64 own = h.weight[thread()], weight = own;
  u32 own_count = h.count[thread()], count = own_count;
  for (u32 step = 1; step < WAVE; step *= 2) {
    u64 below = shuffle_wide(weight, lane() - step);
    u32 below_count = shuffle(count, lane() - step);
    weight += lane() >= step ? below : 0;
    count += lane() >= step ? below_count : 0;
  }
  if (lane() == WAVE - 1) {
    s.sums[wave()] = weight;
    s.counts[wave()] = count;
  }
  Place before = s.place;
  sync();
  for (u32 w = 0; w < WAVES; ++w) {
    weight += w < wave() ? s.sums[w] : 0;
    count += w < wave() ? s.counts[w] : 0;
  }
  weight += before.weight_before;
  count += before.count_before;
  u64 end = by_count ? count : weight, start = by_count ? count - own_count : weight - own;
  if (start <= target && target < end) {
    s.place = {before.key << 10 | thread(), weight - own, own, count - own_count};
    s.crossing = own_count;
  }
  sync();
}

/// The first place at which the running sum of weights (or of ones, `by_count`) exceeds `target`,
/// which is below the sum of all. After `tally`.
__device__ inline Place search(Shared &s, const Row &row, bool by_count, u64 target) {
  if (thread() == 0) s.place = {0, 0, 0, 0};
  sync();
  cross(s, s.first, by_count, target);
  for (u32 shift = KEY_BITS - 10; shift > 0;) {
    u64 prefix = s.place.key;
    bool held = s.list_shift < KEY_BITS && s.list_shift >= shift &&
                prefix >> (s.list_shift - shift) == s.list_prefix;
    if (!held && s.crossing <= LISTED) {
      sync();
      if (thread() == 0) s.listed = 0;
      sync();
      row.each([&](u32 id, float x) {
        u64 key = row.key(x, id);
        if (key >> shift != prefix || (row.weight(x) == 0 && !row.all)) return;
        u32 at = __scoped_atomic_fetch_add(&s.listed, 1u, __ATOMIC_RELAXED,
                                           __MEMORY_SCOPE_WRKGRP);
        s.list[at] = key;
      });
      if (thread() == 0) {
        s.list_prefix = prefix;
        s.list_shift = shift;
      }
      held = true;
    }
    sync();
    clear(s.next);
    sync();
    u32 below = shift - 10;
    auto use = [&](u64 key, float x) {
      if (key >> shift != prefix) return;
      u64 weight = row.weight(x);
      if (weight == 0 && !row.all) return;
      add(&s.next.weight[key >> below & (BINS - 1)], weight);
      add(&s.next.count[key >> below & (BINS - 1)], 1u);
    };
    if (held) {
      for (u32 i = thread(); i < s.listed; i += THREADS) use(s.list[i], row.logit(s.list[i]));
    } else {
      row.each([&](u32 id, float x) { use(row.key(x, id), x); });
    }
    sync();
    cross(s, s.next, by_count, target);
    shift = below;
  }
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

/// Bias and penalties, rounded one by one as written.
__device__ inline void adjust(const SampleRequest &request, float *logits, Adjustment *list) {
#pragma clang fp contract(off)
  for (u32 i = thread(); i < request.adjustments; i += THREADS) {
    Adjustment a = list[i];
    float raw = logits[a.id], x = raw;
    if (a.seen) x = x > 0.0f ? x / request.repetition : x * request.repetition;
    if (a.generated) {
      float count = (float)a.generated;
      x = x - (request.frequency * count + request.presence);
    }
    logits[a.id] = x + a.bias;
    list[i].bias = raw;
  }
  sync_memory();
}

/// Draws from the adjusted logits.
__device__ inline u32 draw(Shared &s, Row row, const SampleRequest &request) {
  u32 largest = find_largest(s, row);
  if (request.scale == 0.0f) return largest;
  row.scale = request.scale;
  row.all = false;
  tally(s, row, request.min_p);
  u64 kept = s.kept;
  if (kept == 0) return largest; // the largest logit is not finite
  if (request.top_k > 0 && request.top_k < s.tokens) {
    Place last = search(s, row, true, request.top_k - 1);
    kept = min(kept, last.weight_before + last.weight);
  }
  if (request.top_p < 1 << 24) {
    // The first token at which the sum reaches the share: at which it exceeds one less, rounded up.
    Place last = search(s, row, false, share(kept, request.top_p, 0xffffff) - 1);
    kept = last.weight_before + last.weight;
  }
  u64 target = share(kept, uniform(request.seed, request.index), 0);
  return (u32)search(s, row, false, target).key & ((1 << ID_BITS) - 1);
}

/// Writes the largest logits' tokens and log-probabilities; returns the log of the sum of
/// e^logit, less the largest logit. Makes `row.largest`.
__device__ inline float log_sum(Shared &s, Row &row, u32 top, SampleResult *result) {
  u32 largest = find_largest(s, row);
  row.scale = 1.44269504088896340736f;
  row.all = top > 0;
  tally(s, row, 0.0f);
  float sum = log2((float)s.all * 0x1p-44f) * 0.69314718055994530942f;
  if (top == 0 || s.all == 0) return sum;
  u64 last = top == 1 ? (u64)largest : search(s, row, true, top - 1).key;
  sync();
  if (thread() == 0) s.listed = 0;
  sync();
  row.each([&](u32 id, float x) {
    u64 key = row.key(x, id);
    if (key > last) return;
    u32 at = __scoped_atomic_fetch_add(&s.listed, 1u, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
    s.list[at] = key;
  });
  sync();
  if (thread() < top) {
    u64 key = s.list[thread()];
    u32 place = 0;
    for (u32 i = 0; i < top; ++i) place += s.list[i] < key;
    result->top_ids[place] = (u32)key & ((1 << ID_BITS) - 1);
    result->top_logprobs[place] = row.logit(key) - row.largest - sum;
  }
  sync();
  return sum;
}

/// Grid: rows.
KERNEL(THREADS) void sample(SampleArgs args) {
  __shared__ Shared s;
  u32 r = block_x();
  SampleRequest request = args.requests[r];
  SampleResult *result = args.results + r;
  float *logits = args.logits + (u64)r * args.vocab;
  Adjustment *adjustments = args.adjustments + request.first_adjustment;
  Row raw = {logits, nullptr, args.vocab};
  float sum = 0;
  if (request.logprobs > 0) sum = log_sum(s, raw, request.logprobs - 1, result);
  u32 token = request.scored;
  if (token == NONE) {
    adjust(request, logits, adjustments);
    Row row = raw;
    if (request.mask != NONE) row.mask = args.masks + (u64)request.mask * ((args.vocab + 31) / 32);
    token = draw(s, row, request);
    if (request.logprobs > 0) {
      if (thread() == 0) s.raw = logits[token];
      sync();
      for (u32 i = thread(); i < request.adjustments; i += THREADS) {
        if (adjustments[i].id == token) s.raw = adjustments[i].bias;
      }
    }
  } else if (thread() == 0) {
    s.raw = logits[token];
  }
  sync();
  if (thread() > 0) return;
  args.tokens[r] = token;
  result->token = token;
  if (request.logprobs > 0) result->logprob = s.raw - raw.largest - sum;
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
