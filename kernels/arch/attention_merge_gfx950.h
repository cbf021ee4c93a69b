// The merge of splits' means for gfx950. Grid: (rows, heads); each thread joins one split's sum to
// those before, and merges four columns.
#pragma once

/// Splits whose means are loaded before they are merged.
constexpr u32 TOGETHER = 16;

KERNEL(128) void attention_merge(AttentionArgs args) {
  begin();
  static_assert(MAX_SPLITS <= 128, "each thread joins one");
  __shared__ f32x2 joins[MAX_SPLITS]; // the factor of what was merged before, and the mean's weight
  __shared__ float maxima[128 / WAVE];
  u32 row = block_x(), head = block_y();
  if (row >= *args.rows) return;
  u32 len = args.positions[row] + 1, length = split_length(args, len);
  if (length >= len) return;
  u32 splits = (len + length - 1) / length;
  u64 first_at = (u64)row * args.max_splits * args.heads + head;
  f16x4 x[TOGETHER];
  auto load = [&](u32 first) {
    for (u32 i = 0; i < TOGETHER; ++i) {
      if (first + i >= splits) continue;
      u64 at = first_at + (u64)(first + i) * args.heads;
      x[i] = *(const f16x4 *)(args.partials + at * LATENT + 4 * thread());
    }
    loads_first();
  };
  u32 own = thread() < splits ? thread() : splits - 1;
  f32x2 sums = *(const f32x2 *)(args.sums + 2 * (first_at + (u64)own * args.heads));
  load(0);
  // The greatest reference of all splits up to the thread's, and up to that before.
  float max = sums[0];
  for (u32 d = 1; d < WAVE; d *= 2) {
    float other = shuffle(max, lane() - d);
    if (lane() >= d && other > max) max = other;
  }
  if (lane() == WAVE - 1) maxima[wave()] = max;
  float before = shuffle(max, lane() - 1);
  if (lane() == 0) before = -__builtin_inff();
  sync();
  for (u32 w = 0; w < wave(); ++w) {
    max = __builtin_fmaxf(max, maxima[w]);
    before = __builtin_fmaxf(before, maxima[w]);
  }
  if (thread() < splits)
    joins[thread()] = f32x2{power_of_two(before - max), sums[1] * power_of_two(sums[0] - max)};
  sync();
  float sum = 0;
  f32x4 columns = {0, 0, 0, 0};
  for (u32 first = 0; first < splits; first += TOGETHER) {
    if (first > 0) load(first);
    for (u32 i = 0; i < TOGETHER; ++i) {
      if (first + i >= splits) continue;
      f32x2 f = joins[first + i];
      sum = __builtin_fmaf(sum, f[0], f[1]);
      for (u32 c = 0; c < 4; ++c)
        columns[c] = __builtin_fmaf(columns[c], f[0], (float)x[i][c] * f[1]);
    }
  }
  float factor = 1.0f / sum;
  bf16x4 y;
  for (u32 i = 0; i < 4; ++i) y[i] = (__bf16)__builtin_fmaf(columns[i], factor, 0.0f);
  *(bf16x4 *)(args.out + ((u64)row * args.heads + head) * LATENT + 4 * thread()) = y;
}
