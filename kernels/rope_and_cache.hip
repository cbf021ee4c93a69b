// rope_and_cache: makes queries ready for attention, and writes the rows' cache entries.
//
// q: f32 `[rows, heads, nope + rope]`, whose last `rope` values are turned: of neighbouring pairs
// `(x, y)` they become `(x cos - y sin, y cos + x sin)`. The first `*generated` rows are of
// generated tokens, which attention takes in absorbed form, the others of prompts: expanded:
// bf16 `[rows, heads, nope + rope]` gets all of these, and of the first only the nope, which is
// still to be projected. absorbed: bf16 `[rows, heads, latent + rope]` gets the first's turned
// rope. kv_a: f32 `[rows, kv_stride]`, of whose rows the first `latent + rope` count; `kv_stride`
// is a multiple of 4.
// norm: f32 `[latent]`. table: f32 `[positions, rope / 2, 2]` of cos, sin. cache: the layer's
// entries; entry `slots[r]` gets `rms_norm(kv_a[..latent])` and the turned rest. All widths are
// multiples of 4, `latent` at most 1024. All bf16 are rounded to nearest even.
// An entry is bf16 `[latent + rope]`; of rope_and_cache_fp8, whose latent is a multiple of 512, it
// is MXFP8 of what would be the bf16 latent: E4M3 `[latent]` and E8M0 `[latent / 32]` as
// `crates/mx` makes them, then bf16 `[rope]`.
// Grid: (rows, 2): one workgroup for a row's queries, one for its entry.
// Must move 6 bytes for each value of q and kv_a, or 5 1/32 for a latent in E4M3.
// Order of additions in the norm: as in rms_norm.
#include "mx.h"

struct RopeAndCacheArgs {
  const u32 *rows;
  const u32 *positions;
  const u32 *slots;
  const float *q;
  const float *kv_a;
  const float *norm;
  const float *table;
  const u32 *generated;
  __bf16 *expanded;
  __bf16 *absorbed;
  u8 *cache;
  u32 heads;
  u32 nope;
  u32 rope;
  u32 latent;
  u32 kv_stride;
  float eps;
};

/// Two pairs `x`, turned by the table's two pairs at `turn`.
__device__ inline bf16x4 rotate(f32x4 x, const float *turn) {
  f32x4 t = *(const f32x4 *)turn;
  bf16x4 y;
  for (u32 p = 0; p < 4; p += 2) {
    y[p] = (__bf16)__builtin_fmaf(x[p], t[p], -(x[p + 1] * t[p + 1]));
    y[p + 1] = (__bf16)__builtin_fmaf(x[p], t[p + 1], x[p + 1] * t[p]);
  }
  return y;
}

__device__ inline void write_queries(const RopeAndCacheArgs &args, u32 row, const float *turns) {
  u32 width = args.nope + args.rope;
  const float *q = args.q + (u64)row * args.heads * width;
  __bf16 *expanded = args.expanded + (u64)row * args.heads * width;
  u32 entry = args.latent + args.rope;
  __bf16 *absorbed = args.absorbed + (u64)row * args.heads * entry + args.latent;
  bool prompt = row >= *args.generated;
  for (u32 i = 4 * thread(); i < args.heads * width; i += 4 * 256) {
    u32 head = i / width, at = i % width;
    f32x4 x = *(const f32x4 *)(q + i);
    if (at < args.nope) {
      bf16x4 y = {(__bf16)x[0], (__bf16)x[1], (__bf16)x[2], (__bf16)x[3]};
      *(bf16x4 *)(expanded + i) = y;
    } else {
      at -= args.nope;
      __bf16 *rope = absorbed + head * entry + at;
      *(bf16x4 *)(prompt ? expanded + i : rope) = rotate(x, turns + at);
    }
  }
}

/// Four bf16 of a latent, or none for threads beyond it, to the entry as MXFP8.
__device__ inline void write_mxfp8(u8 *entry, u32 latent, u32 i, bf16x4 y) {
  float x[4], amax = 0;
  for (u32 j = 0; j < 4; ++j) {
    x[j] = (float)y[j];
    amax = __builtin_fmaxf(amax, __builtin_fabsf(x[j]));
  }
  for (u32 mask = 1; mask < 8; mask *= 2) amax = __builtin_fmaxf(amax, shuffle_xor(amax, mask));
  u32 scale = Fp8Block::scale(amax);
  if (i >= latent) return;
  *(u32 *)(entry + i) = quantize_fp8(x, scale_value(254 - scale));
  if (i % 32 == 0) entry[latent + i / 32] = scale;
}

template <bool FP8>
__device__ inline void write_entry(const RopeAndCacheArgs &args, u32 row, const float *turns) {
  const float *kv_a = args.kv_a + (u64)row * args.kv_stride;
  u32 latent_bytes = FP8 ? args.latent + args.latent / 32 : 2 * args.latent;
  u8 *entry = args.cache + (u64)args.slots[row] * (latent_bytes + 2 * args.rope);
  u32 i = 4 * thread();
  f32x4 x = i < args.latent ? *(const f32x4 *)(kv_a + i) : f32x4{0, 0, 0, 0};
  float sum = 0;
  for (u32 j = 0; j < 4; ++j) sum = __builtin_fmaf(x[j], x[j], sum);
  float factor = rsqrt(workgroup_sum(sum) / (float)args.latent + args.eps);
  f32x4 w = i < args.latent ? *(const f32x4 *)(args.norm + i) : f32x4{0, 0, 0, 0};
  bf16x4 y;
  for (u32 j = 0; j < 4; ++j) y[j] = (__bf16)(w[j] * (x[j] * factor));
  if (FP8)
    write_mxfp8(entry, args.latent, i, y);
  else if (i < args.latent)
    *(bf16x4 *)(entry + 2 * i) = y;
  if (i < args.rope) {
    f32x4 key = *(const f32x4 *)(kv_a + args.latent + i);
    *(bf16x4 *)(entry + latent_bytes + 2 * i) = rotate(key, turns + i);
  }
}

template <bool FP8> __device__ inline void write_row(const RopeAndCacheArgs &args) {
  begin();
  u32 row = block_x();
  if (row >= *args.rows) return;
  const float *turns = args.table + (u64)args.positions[row] * args.rope;
  if (block_y() == 0)
    write_queries(args, row, turns);
  else
    write_entry<FP8>(args, row, turns);
}

KERNEL(256) void rope_and_cache(RopeAndCacheArgs args) { write_row<false>(args); }
KERNEL(256) void rope_and_cache_fp8(RopeAndCacheArgs args) { write_row<true>(args); }
