// The router: scores to experts and weights; and the activation of the shared experts, whose gate
// and up stand behind the logits: one launch, as neither waits for the other.
//
// x [rows, experts + 2 * width] f32: logits, gate, up. bias [experts] f32. experts <= 512, top_k <=
// 32. With s = 1 / (1 + e^-logit), the top_k largest s + bias are chosen, the lower index among
// equals; their weights are s, over their sum (in descending order of choice) + 1e-20 if
// `normalize`, times `scale`. chosen [rows, top_k] u32 and weights [rows, top_k] f32, ascending by
// index. hidden [rows, width] bf16, as `swiglu` rounds it; if there is a width, it and `experts`
// are multiples of 4.
// One wave routes a row. Moves 4 * experts + 10 * width bytes a row; bound by latency.
#include "swiglu.h"

struct RouteArgs {
  const u32 *rows;
  const float *x;
  const float *bias;
  u32 *chosen;
  float *weights;
  __bf16 *hidden;
  u32 experts;
  u32 top_k;
  u32 normalize;
  float scale;
  u32 width;
  /// Workgroups that route.
  u32 routing;
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

/// Routes a row; all lanes of a wave.
__device__ inline void route_row(const RouteArgs &args, u32 row, const float *logits) {
  constexpr u32 EACH = 512 / WAVE;
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

/// Grid: `routing` (bound on rows over (256 / WAVE), rounded up), then, if there is a width, bound
/// on rows; width / 1024, rounded up, at least 1.
KERNEL(256) void route(RouteArgs args) {
  begin();
  bool routes = block_x() < args.routing;
  u32 row = routes ? block_x() * (256 / WAVE) + wave() : block_x() - args.routing;
  if (row >= *args.rows) return;
  const float *logits = args.x + (u64)row * (args.experts + 2 * args.width);
  if (routes) {
    if (block_y() == 0) route_row(args, row, logits);
    return;
  }
  u32 unit = 4 * (256 * block_y() + thread());
  if (unit >= args.width) return;
  const float *from = logits + args.experts + unit;
  f32x4 gate = *(const f32x4 *)from, up = *(const f32x4 *)(from + args.width);
  bf16x4 y;
  for (u32 j = 0; j < 4; ++j) y[j] = (__bf16)gated(gate[j], up[j]);
  *(bf16x4 *)(args.hidden + (u64)row * args.width + unit) = y;
}
