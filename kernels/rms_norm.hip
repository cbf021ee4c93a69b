// rms_norm: `out = weight * (x * rsqrt(mean(x^2) + eps))`, row by row; add_rms_norm: the same of
// `residual += delta`.
//
// x, residual, delta: f32 `[rows, width]`. weight: f32 `[width]`. out: bf16 `[rows, width]`,
// rounded to nearest even. `width` is a multiple of 4, at most 8192: a row stays in registers
// between its two passes. One workgroup for each row.
// Must move 6 bytes a value (add: 14), and the weights once.
// Order of additions: a thread's values ascending, then a tree over the wave, then waves ascending.
#include "device.h"

constexpr u32 STEPS = 8;

struct RmsNormArgs {
  const u32 *rows;
  const float *x;
  const float *weight;
  __bf16 *out;
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

/// The part of a row that this thread holds: values `4 * (256 * step + thread())` and three more.
struct Part {
  f32x4 v[STEPS];
};

__device__ inline Part load_row(const float *row, u32 width) {
  Part part;
  for (u32 s = 0; s < STEPS; ++s) {
    u32 i = 4 * (256 * s + thread());
    part.v[s] = i < width ? *(const f32x4 *)(row + i) : f32x4{0, 0, 0, 0};
  }
  return part;
}

__device__ inline void normalize(const Part &x, const float *weight, __bf16 *out, u32 width,
                                 float eps) {
  float sum = 0;
  for (u32 s = 0; s < STEPS; ++s)
    for (u32 j = 0; j < 4; ++j) sum = __builtin_fmaf(x.v[s][j], x.v[s][j], sum);
  float factor = rsqrt(workgroup_sum(sum) / (float)width + eps);
  for (u32 s = 0; s < STEPS; ++s) {
    u32 i = 4 * (256 * s + thread());
    if (i >= width) return;
    f32x4 w = *(const f32x4 *)(weight + i);
    bf16x4 y;
    for (u32 j = 0; j < 4; ++j) y[j] = (__bf16)(w[j] * (x.v[s][j] * factor));
    *(bf16x4 *)(out + i) = y;
  }
}

KERNEL(256) void rms_norm(RmsNormArgs args) {
  u32 row = block_x();
  if (row >= *args.rows) return;
  u64 at = (u64)row * args.width;
  Part x = load_row(args.x + at, args.width);
  normalize(x, args.weight, args.out + at, args.width, args.eps);
}

KERNEL(256) void add_rms_norm(AddRmsNormArgs args) {
  u32 row = block_x();
  if (row >= *args.rows) return;
  u64 at = (u64)row * args.width;
  Part x = load_row(args.residual + at, args.width);
  Part delta = load_row(args.delta + at, args.width);
  for (u32 s = 0; s < STEPS; ++s) {
    x.v[s] += delta.v[s];
    u32 i = 4 * (256 * s + thread());
    if (i < args.width) *(f32x4 *)(args.residual + at + i) = x.v[s];
  }
  normalize(x, args.weight, args.out + at, args.width, args.eps);
}
