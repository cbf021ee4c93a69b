// rms_norm: `out = weight * (x * rsqrt(mean(x^2) + eps))`, row by row; add_rms_norm: the same of
// `residual += delta`.
//
// x: f32 `[rows, stride]`, of which the first `width` of each row count; `stride` is a multiple of
// 4. residual, delta: f32 `[rows, width]`. weight: f32 `[width]`. out: bf16 `[rows, width]`,
// rounded to nearest even. `width` is a multiple of 4, at most 8192: a row stays in registers
// between its two passes. One workgroup for each row.
// Must move 6 bytes a value (add: 14), and the weights once.
// Order of additions: a thread's values ascending, then a tree over the wave, then waves ascending.
#include "rms_norm.h"

struct RmsNormArgs {
  const u32 *rows;
  const float *x;
  const float *weight;
  __bf16 *out;
  u32 stride;
  u32 width;
  float eps;
};

struct AddRmsNormArgs {
  const u32 *rows;
  float *residual;
  const float *delta;
  const float *weight;
  __bf16 *out;
  u32 width;
  float eps;
};

KERNEL(256) void rms_norm(RmsNormArgs args) {
  begin();
  u32 row = block_x();
  if (row >= *args.rows) return;
  Part x = load_row(args.x + (u64)row * args.stride, args.width);
  float factor = norm_factor(x, args.width, args.eps);
  store_normalized(args.out + (u64)row * args.width, x, args.weight, factor, args.width);
}

KERNEL(256) void add_rms_norm(AddRmsNormArgs args) {
  begin();
  u32 row = block_x();
  if (row >= *args.rows) return;
  u64 at = (u64)row * args.width;
  Part x = load_row(args.residual + at, args.width);
  Part delta = load_row(args.delta + at, args.width);
  for (u32 s = 0; s < STEPS; ++s) x.v[s] += delta.v[s];
  store_row(args.residual + at, x, args.width);
  float factor = norm_factor(x, args.width, args.eps);
  store_normalized(args.out + at, x, args.weight, factor, args.width);
}
