#include "device.h"
typedef __attribute__((address_space(1))) void *gptr;
typedef __attribute__((address_space(3))) void *lptr;

// C[32][32] += A[32][k] · B[32][k]ᵀ in bf16 by four waves, tiles staged in LDS by direct loads.
KERNEL void gemm(const __bf16 *a, const __bf16 *b, float *c, int k) {
  __shared__ __attribute__((aligned(16))) __bf16 sa[2][32 * 32], sb[2][32 * 32];
  u32 wave = __builtin_amdgcn_readfirstlane(TID / 64), lane = TID % 64;
  u32 row = wave / 2 * 16 + lane % 16, col = wave % 2 * 16 + lane % 16, part = lane / 16;
  f32x4 acc = {0, 0, 0, 0};
  // 128 of the 256 threads bring A (32 rows of 64 bytes), the others B, 16 bytes each.
  const __bf16 *from = wave < 2 ? a : b;
  u32 t = TID % 128, half = wave % 2;
  const __bf16 *mine = from + (u64)(t / 4) * k + t % 4 * 8;
  for (int k0 = 0, n = 0; k0 < k; k0 += 32, n ^= 1) {
    __bf16 *to = (wave < 2 ? sa[n] : sb[n]) + half * 64 * 8;
    __builtin_amdgcn_global_load_lds((gptr)(mine + k0), (lptr)to, 16, 0, 0);
    asm volatile("s_waitcnt vmcnt(0)" ::: "memory");
    sync();
    bf16x8 x = *(const bf16x8 *)(sa[n] + row * 32 + part * 8);
    bf16x8 y = *(const bf16x8 *)(sb[n] + col * 32 + part * 8);
    acc = __builtin_amdgcn_mfma_f32_16x16x32_bf16(x, y, acc, 0, 0, 0);
  }
  for (int r = 0; r < 4; ++r)
    c[(wave / 2 * 16 + part * 4 + r) * 32 + col] = acc[r];
}

__device__ __attribute__((noinline)) float power(float x, int n) {
  float y = 1;
  for (; n; --n) y *= x;
  return y;
}
__device__ float table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
// Calls, private arrays indexed at run time, globals, 2D launches, double precision.
KERNEL void mixed(const float *in, double *out, int n) {
  float private_[16];
  for (int i = 0; i < 16; ++i) private_[i] = in[(TID + i) % 64];
  float s = 0;
  for (int i = 0; i < n; ++i) s += private_[(TID * 7 + i) % 16] * table[i % 8];
  out[TID] = (double)power(s, 3) + __builtin_sqrt((double)in[TID]);
}

// Wave sum by DPP, one quad at a time, and a vote.
KERNEL void wave_sum(const float *in, float *out, u64 *vote) {
  float x = in[TID];
  u64 v = __builtin_amdgcn_ballot_w64(x > 0.5f);
  for (int m = 32; m; m /= 2) {
    u32 bits = __builtin_amdgcn_ds_bpermute((int)((TID ^ m) & 63) * 4, __builtin_bit_cast(int, x));
    x += __builtin_bit_cast(float, bits);
  }
  out[TID] = x;
  if (TID == 0) *vote = v;
}

KERNEL void atomic_sum(const float *in, float *sum) {
  asm volatile("global_atomic_add_f32 %0, %1, off"
               : : "v"(sum), "v"(in[BID * 64 + TID]) : "memory");
}
