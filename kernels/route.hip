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

/// The largest of the wave's keys, in every lane.
__device__ inline u64 wave_max(u64 key) {
  for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
    u64 high = shuffle_xor((u32)(key >> 32), mask), low = shuffle_xor((u32)key, mask);
    u64 other = high << 32 | low;
    key = key > other ? key : other;
  }
  return key;
}

/// Grid: bound on rows over (256 / WAVE), rounded up.
KERNEL(256) void route(RouteArgs args) {
  constexpr u32 EACH = 512 / WAVE;
  u32 row = block_x() * (256 / WAVE) + wave();
  if (row >= *args.rows) return;
  const float *logits = args.logits + (u64)row * args.experts;
  // The score's order, then the lower index.
  u64 keys[EACH];
  for (u32 i = 0; i < EACH; ++i) {
    u32 expert = i * WAVE + lane();
    keys[i] = 0;
    if (expert < args.experts) {
      keys[i] = (u64)ordered(sigmoid(logits[expert]) + args.bias[expert]) << 32 | ~expert;
    }
  }
  u32 mine = ~0u; // lane k has the k-th choice
  for (u32 k = 0; k < args.top_k; ++k) {
    u64 best = keys[0];
    for (u32 i = 1; i < EACH; ++i) best = best > keys[i] ? best : keys[i];
    best = wave_max(best);
    for (u32 i = 0; i < EACH; ++i) keys[i] = keys[i] == best ? 0 : keys[i];
    if (lane() == k) mine = ~(u32)best;
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
