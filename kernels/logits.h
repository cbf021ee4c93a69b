// What the sampler's rows are made of: slices of logits, with what makes weights and keys of them
// (see `sample.hip`), sums over bins of tokens in LDS, and sums over a wave.
#pragma once
#include "team.h"

constexpr u32 THREADS = 1024;
constexpr u32 WAVES = THREADS / WAVE;
static_assert(WAVES <= WAVE && MAX_MEMBERS <= WAVE, "a lane for each");
constexpr u32 DIGIT_BITS = 6;
static_assert(BINS == 1 << DIGIT_BITS, "a bin for each digit");
constexpr u32 STEPS = 92;                 // of an octave
constexpr u32 NEAR = 16 * STEPS / BINS;   // groups of the tokens within 2^-16 of the largest
constexpr u32 NEAREST = 16;               // groups of those that are listed at once: within 2^-11
constexpr u32 ID_BITS = 18;
constexpr u32 KEY_BITS = 2 * DIGIT_BITS + 32 + ID_BITS;

template <class T>
__device__ inline T add(T *to, T x) {
  return __scoped_atomic_fetch_add(to, x, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
}

/// What tokens of one group, or of the far groups, add to a sum of 64 bits: their weights, in a
/// unit that divides all of them, and above these their number.
///
/// A weight has 24 bits (it comes of a float), so it is a multiple of 2^k if it is at least
/// 2^(k + 23). Those of group g are less than 16 (g + 1) / 23 octaves below 2^44, so above
/// 2^(43 - that, rounded down), exp2's error included; and as a group is 16 / 23 of an octave, they
/// are below 2^25 units: 2^18 of them stay below 2^43. Far ones are at most 2^28 (1 + 2^-20), and
/// fewer than 2^18, as the largest is near: they stay below 2^46.
struct Packed {
  u32 unit, bits; // the unit is 2^unit, of which there are fewer than 2^bits

  __device__ static Packed near(u32 group) { return {20 - (group + 1) * 16 / 23, 44}; }
  __device__ static Packed far() { return {0, 46}; }
  __device__ static Packed of(u32 group) { return group < NEAR ? near(group) : far(); }

  /// The weight of a share, rounded down as weights are.
  __device__ u32 units(float share) const {
    float scale = __builtin_bit_cast(float, (127 + 44 - unit) << 23);
    return (u32)__builtin_fmaxf(share * scale, 0.0f);
  }
  __device__ u64 pack(u32 units) const { return 1ul << bits | units; }
  __device__ u64 weight(u64 sum) const { return (sum & ((1ul << bits) - 1)) << unit; }
  __device__ u32 count(u64 sum) const { return (u32)(sum >> bits); }
};

/// A slice of a row of logits, with what makes weights and keys of them.
struct Row {
  const float *logits;
  const u32 *mask; // or null
  u32 begin, end;  // of the slice
  float scale;
  bool all; // whether tokens without weight count too
  float largest;
  u32 top;   // `ordered(largest)`
  u32 first; // the token of `largest`, of the lowest id among equals

  /// Tokens of fewer are those of groups below NEAR, exactly: the largest number below it times
  /// STEPS is rounded to one below 16 STEPS.
  static constexpr float NEAR_OCTAVES = 16.0f;
  __device__ float octaves(float logit) const { return (largest - logit) * scale; }
  __device__ u32 step(float logit) const {
    return (u32)__builtin_fminf(octaves(logit) * STEPS, BINS * BINS - 1);
  }
  __device__ u32 group(float logit) const { return step(logit) / BINS; }
  __device__ u64 key(float logit, u32 id) const {
    return (u64)step(logit) << (32 + ID_BITS) | (u64)(top - ordered(logit)) << ID_BITS | id;
  }
  /// The logit of a key, exactly.
  __device__ float logit(u64 key) const { return from_ordered(top - (u32)(key >> ID_BITS)); }
  __device__ static float from_ordered(u32 x) {
    return __builtin_bit_cast(float, x >> 31 ? x & 0x7fffffff : ~x);
  }
  /// e^((logit - largest) / temperature).
  __device__ float share(float logit) const { return exp2(-octaves(logit)); }
  /// The weight of a share; 0 if it is no number.
  __device__ static u64 weight_of(float share) {
    return (u64)__builtin_fmaxf(share * 17592186044416.0f, 0.0f);
  }
  __device__ u64 weight(float logit) const { return weight_of(share(logit)); }

  /// A token's logit; -infinity if it is not allowed.
  __device__ float at(u32 id) const {
    return !mask || mask[id / 32] >> id % 32 & 1 ? logits[id] : -__builtin_inff();
  }

  /// Calls `use(id, x)` for every four tokens from `id` on; of those that are not allowed x is
  /// -infinity. Each thread reads AHEAD fours ahead.
  template <class Use>
  __device__ void each_four(Use use) const {
    constexpr u32 AHEAD = 2, STEP = 4 * THREADS;
    for (u32 first = begin + thread() * 4; first < end; first += AHEAD * STEP) {
      f32x4 fours[AHEAD];
      u32 allowed[AHEAD] = {};
      for (u32 i = 0; i < AHEAD; ++i) {
        u32 id = first + i * STEP;
        if (id >= end) break;
        fours[i] = *(const f32x4 *)(logits + id);
        if (mask) allowed[i] = mask[id / 32] >> id % 32;
      }
      // All of them are on their way before the first is used.
      asm volatile("" ::: "memory");
      if (mask) {
        for (u32 i = 0; i < AHEAD; ++i) {
          for (u32 j = 0; j < 4; ++j) {
            if (!(allowed[i] >> j & 1)) fours[i][j] = -__builtin_inff();
          }
        }
      }
      // A loop, so that the code of `use` is there once.
#pragma unroll 1
      for (u32 id = first; id < end && id < first + AHEAD * STEP; id += STEP) {
        use(id, fours[0]);
        for (u32 i = 1; i < AHEAD; ++i) fours[i - 1] = fours[i];
      }
    }
  }

  /// Calls `use(id, logit)` for every token.
  template <class Use>
  __device__ void each(Use use) const {
    each_four([&](u32 id, f32x4 x) {
      for (u32 j = 0; j < 4; ++j) use(id + j, x[j]);
    });
  }
};

__device__ inline u64 shuffle_wide(u64 x, u32 from) {
  return (u64)shuffle((u32)(x >> 32), from) << 32 | shuffle((u32)x, from);
}

__device__ inline u32 max(u32 x, u32 y) { return x > y ? x : y; }
__device__ inline u64 max(u64 x, u64 y) { return x > y ? x : y; }
__device__ inline u64 min(u64 x, u64 y) { return x < y ? x : y; }

/// The sum over the wave, in every lane.
__device__ inline u64 wave_sum(u64 x) {
  for (u32 step = WAVE / 2; step > 0; step /= 2) x += shuffle_wide(x, lane() ^ step);
  return x;
}
__device__ inline u32 wave_sum(u32 x) {
  for (u32 step = WAVE / 2; step > 0; step /= 2) x += shuffle_xor(x, step);
  return x;
}
__device__ inline Share wave_sum(const Share &x) {
  return {wave_sum(x.all), wave_sum(x.kept), wave_sum(x.tokens)};
}
__device__ inline u64 wave_max(u64 x) {
  for (u32 step = WAVE / 2; step > 0; step /= 2) x = max(x, shuffle_wide(x, lane() ^ step));
  return x;
}
