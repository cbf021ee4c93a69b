// MX blocks: 32 neighbouring values of a row that share a power of two, by the rules of
// `crates/mx`. Four neighbouring lanes hold a block, 8 values each.
//
// The scale bytes of a row of activations stand as the matrix instructions take them: for every
// 512 values one word for each group g of 32 values, whose byte s is the scale of values
// `128 s + 32 g ..` (see `device.h`). Bytes beyond the row's width are 127.
#pragma once
#include "device.h"

/// Words of scales that a row of `k` values has.
__device__ inline u32 scale_words(u32 k) { return (k + 511) / 512 * 4; }

/// Where the scale byte of block `block` stands in its row's scales.
__device__ inline u32 scale_byte_at(u32 block) {
  return block / 16 * 16 + block % 4 * 4 + block % 16 / 4;
}

/// The power of two that byte `scale` stands for; 0 is the subnormal 2^-127.
__device__ inline float scale_value(u32 scale) {
  return __builtin_bit_cast(float, scale == 0 ? 0x00400000 : scale << 23);
}

/// The largest magnitude of a block.
__device__ inline float block_amax(const float x[8]) {
  float amax = 0;
  for (u32 i = 0; i < 8; ++i) amax = __builtin_fmaxf(amax, __builtin_fabsf(x[i]));
  amax = __builtin_fmaxf(amax, shuffle_xor(amax, 1));
  return __builtin_fmaxf(amax, shuffle_xor(amax, 2));
}

/// A block's scale byte: the exponent of `amax`, less the format's largest, one more where the
/// mantissa says so.
__device__ inline u32 clamp_scale(int exponent) {
  return exponent < 0 ? 0 : exponent > 254 ? 254 : exponent;
}

/// MXFP4: `amax` scales to less than 7; what is above 6 saturates (Quark's rule "even").
struct Fp4Block {
  static constexpr u32 CODE_BITS = 4;
  __device__ static u32 scale(float amax) {
    u32 bits = __builtin_bit_cast(u32, amax);
    return clamp_scale((int)(bits >> 23) - 2 + ((bits & 0x7fffff) >= 0x600000));
  }
  /// Writes 8 codes to `codes + 4 * i`.
  __device__ static void store(const float x[8], u32 scale, u8 *codes, u64 i) {
    u32 packed = quantize_fp4(x, scale_value(scale));
    // Whatever rounds to zero is a positive zero.
    u32 some = packed | packed >> 1 | packed >> 2;
    ((u32 *)codes)[i] = packed & (0x77777777 | (some & 0x11111111) << 3);
  }
};

/// MXFP8 (E4M3): `amax` scales to at most 448.
struct Fp8Block {
  static constexpr u32 CODE_BITS = 8;
  __device__ static u32 scale(float amax) {
    u32 bits = __builtin_bit_cast(u32, amax);
    return clamp_scale((int)(bits >> 23) - 8 + ((bits & 0x7fffff) > 0x600000));
  }
  __device__ static void store(const float x[8], u32 scale, u8 *codes, u64 i) {
    float inverse = scale_value(254 - scale);
    ((u32x2 *)codes)[i] = u32x2{quantize_fp8(x, inverse), quantize_fp8(x + 4, inverse)};
  }
};
