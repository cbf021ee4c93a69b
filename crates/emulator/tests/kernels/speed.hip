#include "device.h"

// C[row][col] = A·Bᵀ for 16x16 tiles, one wave for each: A and B from memory to registers.
KERNEL void tiles(const __bf16 *a, const __bf16 *b, float *c, int k, int n) {
  u32 lane = TID % 64, tile = BID * 4 + TID / 64, across = n / 16;
  u32 row = tile / across * 16, col = tile % across * 16, part = lane / 16;
  f32x4 acc = {0, 0, 0, 0};
  for (int k0 = 0; k0 < k; k0 += 32) {
    bf16x8 x = *(const bf16x8 *)(a + (u64)(row + lane % 16) * k + k0 + part * 8);
    bf16x8 y = *(const bf16x8 *)(b + (u64)(col + lane % 16) * k + k0 + part * 8);
    acc = __builtin_amdgcn_mfma_f32_16x16x32_bf16(x, y, acc, 0, 0, 0);
  }
  for (int r = 0; r < 4; ++r) c[(u64)(row + part * 4 + r) * n + col + lane % 16] = acc[r];
}

// out[row] = in[row] · scale / rms(in[row]): one workgroup for each row, a sum through LDS.
KERNEL void norm(const float *in, float *out, int width) {
  __shared__ float sums[4];
  const float *from = in + (u64)BID * width;
  float s = 0;
  for (int i = TID; i < width; i += 256) s += from[i] * from[i];
  for (int m = 32; m; m /= 2) {
    int bits = __builtin_amdgcn_ds_bpermute((int)((TID ^ m) & 63) * 4, __builtin_bit_cast(int, s));
    s += __builtin_bit_cast(float, bits);
  }
  if (TID % 64 == 0) sums[TID / 64] = s;
  sync();
  float all = __builtin_amdgcn_rsqf((sums[0] + sums[1] + sums[2] + sums[3]) / width + 1e-6f);
  for (int i = TID; i < width; i += 256) out[(u64)BID * width + i] = from[i] * all;
}

// One thread, one store.
KERNEL void tiny(u32 *out) {
  if (TID == 0) out[BID] = 1;
}
