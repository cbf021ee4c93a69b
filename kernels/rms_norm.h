// What the kernels that normalize rows share: a row of up to 8192 values in the registers of a
// workgroup of 256 threads.
#pragma once
#include "device.h"

constexpr u32 STEPS = 8;

/// The part of a row that this thread holds: values `4 * (256 * step + thread())` and three more.
struct Part {
  f32x4 v[STEPS];
};

/// Where step `step`'s values stand in the row.
__device__ inline u32 column(u32 step) { return 4 * (256 * step + thread()); }

__device__ inline Part load_row(const float *row, u32 width) {
  Part part;
  for (u32 s = 0; s < STEPS; ++s) {
    u32 i = column(s);
    part.v[s] = i < width ? *(const f32x4 *)(row + i) : f32x4{0, 0, 0, 0};
  }
  return part;
}

__device__ inline void store_row(float *row, const Part &part, u32 width) {
  for (u32 s = 0; s < STEPS; ++s)
    if (column(s) < width) *(f32x4 *)(row + column(s)) = part.v[s];
}

/// `rsqrt(mean(x^2) + eps)`. All threads arrive in between.
__device__ inline float norm_factor(const Part &x, u32 width, float eps) {
  float sum = 0;
  for (u32 s = 0; s < STEPS; ++s)
    for (u32 j = 0; j < 4; ++j) sum = __builtin_fmaf(x.v[s][j], x.v[s][j], sum);
  return rsqrt(workgroup_sum(sum) / (float)width + eps);
}

__device__ inline void store_normalized(__bf16 *out, f32x4 x, f32x4 weight, float factor) {
  bf16x4 y;
  for (u32 j = 0; j < 4; ++j) y[j] = (__bf16)(weight[j] * (x[j] * factor));
  *(bf16x4 *)out = y;
}

/// `out = weight * (x * factor)`, rounded to BF16.
__device__ inline void store_normalized(__bf16 *out, const Part &x, const float *weight,
                                        float factor, u32 width) {
  for (u32 s = 0; s < STEPS; ++s) {
    u32 i = column(s);
    if (i >= width) return;
    store_normalized(out + i, x.v[s], *(const f32x4 *)(weight + i), factor);
  }
}

/// The same with weights that have been loaded.
__device__ inline void store_normalized(__bf16 *out, const Part &x, const Part &weight,
                                        float factor, u32 width) {
  for (u32 s = 0; s < STEPS; ++s)
    if (column(s) < width) store_normalized(out + column(s), x.v[s], weight.v[s], factor);
}
