// The router: scores to experts and weights.
//
// logits [rows, experts] f32, bias [experts] f32, experts <= 512, top_k <= 32. With
// s = 1 / (1 + e^-logit), the top_k largest s + bias are chosen, the lower index among equals;
// their weights are s, over their sum (in descending order of choice) + 1e-20 if `normalize`, times
// `scale`. chosen [rows, top_k] u32 and weights [rows, top_k] f32, ascending by index.
// One wave a row. Moves 4 * experts bytes a row; bound by latency.
#include "device.h"

struct RouteArgs {
  const float *logits;
  const float *bias;
  u32 *chosen;
  float *weights;
  const u32 *rows;
  u32 experts;
  u32 top_k;
  u32 normalize;
  float scale;
};

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

/// The largest of the wave's values, in every lane.
__device__ inline u32 wave_max(u32 x) {
  for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
    u32 other = shuffle_xor(x, mask);
    x = x > other ? x : other;
  }
  return x;
}

/// The place of the largest of the lane's keys, the first among equals; `best` becomes the key.
template <u32 COUNT> __device__ inline u32 first_of_largest(const u32 (&keys)[COUNT], u32 &best) {
  u32 key[COUNT], place[COUNT];
  for (u32 i = 0; i < COUNT; ++i) key[i] = keys[i], place[i] = i;
  // Neighbours each time, so that what is left of another came before it.
  for (u32 n = COUNT / 2; n > 0; n /= 2)
    for (u32 i = 0; i < n; ++i) {
      bool right = key[2 * i + 1] > key[2 * i];
      key[i] = right ? key[2 * i + 1] : key[2 * i];
      place[i] = right ? place[2 * i + 1] : place[2 * i];
    }
  best = key[0];
  return place[0];
}

/// Grid: bound on rows over (256 / WAVE), rounded up.
KERNEL(256) void route(RouteArgs args) {
  begin();
  constexpr u32 EACH = 512 / WAVE;
  u32 row = block_x() * (256 / WAVE) + wave();
  if (row >= *args.rows) return;
  const float *logits = args.logits + (u64)row * args.experts;
  // In the scores' order; 0 where there is no expert, or it has been chosen.
  u32 keys[EACH];
  float logit[EACH], bias[EACH];
  // All loads first, the last expert's where there are no more.
  for (u32 i = 0; i < EACH; ++i) {
    u32 expert = i * WAVE + lane(), last = args.experts - 1;
    expert = expert < last ? expert : last;
    logit[i] = logits[expert], bias[i] = args.bias[expert];
  }
  loads_first();
  for (u32 i = 0; i < EACH; ++i) {
    u32 key = ordered(sigmoid(logit[i]) + bias[i]);
    keys[i] = i * WAVE + lane() < args.experts ? (key == 0 ? 1 : key) : 0;
  }
  u32 mine = ~0u; // lane k has the k-th choice
  for (u32 k = 0; k < args.top_k; ++k) {
    u32 best, expert = first_of_largest(keys, best) * WAVE + lane();
    // The lower index is the larger complement.
    u32 chosen = ~wave_max(best == wave_max(best) ? ~expert : 0);
    for (u32 i = 0; i < EACH; ++i) keys[i] = i * WAVE + lane() == chosen ? 0 : keys[i];
    if (lane() == k) mine = chosen;
  }
  bool chooses = lane() < args.top_k;
  float score = chooses ? sigmoid(logits[mine]) : 0.0f, sum = 0;
  u32 place = 0;
  for (u32 k = 0; k < args.top_k; ++k) {
    sum += shuffle(score, k);
    place += shuffle(mine, k) < mine;
  }
  if (chooses) {
    u64 at = (u64)row * args.top_k + place;
    args.chosen[at] = mine;
    args.weights[at] = (args.normalize ? score / (sum + 1e-20f) : score) * args.scale;
  }
}
