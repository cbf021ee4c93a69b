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
// uniform * that sum. All of these are searches (`search.h`) for a token at which a running sum (of
// weights, or of ones) exceeds a target.
#include "search.h"

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

constexpr u32 ONE = 1 << 24; // in `top_p` and `uniform`

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
  // Read before the members meet, who forget what they have read. In LDS, as registers are few.
  if (thread() == 0) {
    s.top_k = request.top_k;
    s.top_p = request.top_p;
    s.uniform = uniform(request.seed, request.index);
  }
  tally(s, row, team, request.min_p, request.top_k > 0);
  if (s.share.kept == 0) return row.first; // the largest logit is not finite
  bool by_count = s.top_k > 0 && s.top_k < s.share.tokens, by_share = s.top_p < ONE;
#pragma unroll 1
  for (;;) {
    u64 target, kept = s.share.kept; // registers are few
    if (by_count) {
      target = s.top_k - 1;
    } else if (by_share) {
      // The sum reaches the share where it exceeds one less, rounded up.
      target = share(kept, s.top_p, ONE - 1) - 1;
    } else {
      target = share(kept, s.uniform, 0);
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
