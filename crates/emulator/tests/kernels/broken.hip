#include "device.h"
// Each kernel comes as BROKEN and repaired: -DBROKEN picks the first.
#ifdef BROKEN
#define IF_BROKEN(a, b) a
#else
#define IF_BROKEN(a, b) b
#endif
typedef __attribute__((address_space(1))) void *gptr;
typedef __attribute__((address_space(3))) void *lptr;

KERNEL void past_the_end(const float *a, float *out, int n) {
  int i = BID * BDIM + TID;
  if (IF_BROKEN(i <= n, i < n)) out[i] = a[i];
}
KERNEL void misaligned(const float *a, float *out) {
  const char *p = (const char *)a + IF_BROKEN(2, 4);
  float x;
  asm volatile("global_load_dword %0, %1, off\n\ts_waitcnt vmcnt(0)" : "=v"(x) : "v"(p));
  out[TID] = x;
}
KERNEL void unwritten(float *tmp, float *out) {
  if (TID < IF_BROKEN(60, 64)) tmp[TID] = 1.0f;
  sync();
  out[TID] = tmp[TID];
}
KERNEL void undefined_branch(u32 *tmp, u32 *out) {
  IF_BROKEN(, tmp[0] = 3);
  __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "workgroup");
  u32 n = __builtin_amdgcn_readfirstlane(*(volatile u32 *)tmp);
  if (n == 3) asm volatile("s_nop 1"); else asm volatile("s_nop 2");
  out[TID] = 1;
}
KERNEL void undefined_register(u32 *out) {
  u32 x;
  IF_BROKEN(asm volatile("; no definition" : "=v"(x)), asm volatile("v_mov_b32 %0, 7" : "=v"(x)));
  out[TID] = x;
}
KERNEL void lds_out_of_range(u32 *out) {
  __shared__ u32 s[64];
  u32 at = (u32)(u64)(lptr)s + 4 * TID + IF_BROKEN(4, 0);
  asm volatile("ds_write_b32 %0, %1\n\ts_waitcnt lgkmcnt(0)" : : "v"(at), "v"(TID) : "memory");
  out[TID] = s[TID];
}
KERNEL void lds_race(const u32 *in, u32 *out) {
  __shared__ u32 s[256];
  s[TID] = in[TID];
  IF_BROKEN(__builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup"), sync());
  out[TID] = s[(TID + 64) & 255];
}
KERNEL void lds_overwrite(const u32 *in, u32 *out) {
  __shared__ u32 s[256];
  u32 sum = 0;
  for (int k = 0; k < 4; ++k) {
    s[TID] = in[256 * k + TID];
    sync();
    sum += s[(TID + 64) & 255];
    IF_BROKEN(, sync());
  }
  out[TID] = sum;
}
KERNEL void global_race(u32 *data, u32 *out) {
  u32 i = BID * 64 + TID;
  data[IF_BROKEN(TID, i)] = BID;
  out[i] = data[IF_BROKEN(TID, i)];
}
KERNEL void no_fence(u32 *data, u32 *count, u32 *out) {
  __shared__ u32 last;
  if (TID == 0) {
    data[BID] = BID + 1;
    u32 n = __hip_atomic_fetch_add(count, 1, IF_BROKEN(__ATOMIC_RELAXED, __ATOMIC_ACQ_REL),
                                   __HIP_MEMORY_SCOPE_AGENT);
    last = n == 3;
  }
  sync();
  if (last && TID < 4) out[TID] = data[TID];
}
KERNEL void missing_wait(const u32 *in, u32 *out) {
  u32 x, y;
  const u32 *p = in + TID;
  asm volatile("global_load_dword %0, %2, off\n\t"
               IF_BROKEN("", "s_waitcnt vmcnt(0)\n\t")
               "v_add_u32 %1, %0, %0\n\ts_waitcnt vmcnt(0)"
               : "=&v"(x), "=v"(y) : "v"(p));
  out[TID] = y;
}
KERNEL void missing_lds_wait(const u32 *in, u32 *out) {
  __shared__ u32 s[64];
  s[TID] = in[TID];
  sync();
  u32 x, y, at = (u32)(u64)(lptr)s + 4 * (63 - TID);
  asm volatile("ds_read_b32 %0, %2\n\t"
               IF_BROKEN("", "s_waitcnt lgkmcnt(0)\n\t")
               "v_add_u32 %1, %0, %0\n\ts_waitcnt lgkmcnt(0)"
               : "=&v"(x), "=v"(y) : "v"(at));
  out[TID] = y;
}
KERNEL void lds_dma(const u32 *in, u32 *out) {
  __shared__ u32 s[256];
  u32 wave = __builtin_amdgcn_readfirstlane(TID / 64);
  __builtin_amdgcn_global_load_lds((gptr)(in + TID), (lptr)(s + 64 * wave), 4, 0, 0);
  IF_BROKEN(, asm volatile("s_waitcnt vmcnt(0)" ::: "memory"));
  __builtin_amdgcn_s_barrier();
  u32 x, at = (u32)(u64)(lptr)s + 4 * ((TID + 64) & 255);
  asm volatile("ds_read_b32 %0, %1\n\ts_waitcnt lgkmcnt(0)" : "=v"(x) : "v"(at) : "memory");
  out[TID] = x;
}
KERNEL void m0_at_once(const u32 *in, u32 *out) {
  // Nobody but the author minds M0 in inline assembly.
  __shared__ u32 s[256];
  u32 to = (u32)(u64)(lptr)(s + TID / 64 * 64);
  asm volatile("v_readfirstlane_b32 s20, %0\n\ts_mov_b32 m0, s20\n\t"
               IF_BROKEN("", "s_nop 0\n\t") "global_load_lds_dword %1, off\n\ts_waitcnt vmcnt(0)"
               : : "v"(to), "v"(in + TID) : "s20", "memory");
  sync();
  out[TID] = s[TID];
}
KERNEL void divergent_barrier(u32 *out) {
  if (IF_BROKEN(TID < 64, TID < 256)) __builtin_amdgcn_s_barrier();
  out[TID] = TID;
}
KERNEL void store_late(const u32 *in, u32 *out) {
  // Waves pass values through LDS by inline assembly: the write must be waited for.
  __shared__ u32 s[256];
  u32 x, at = (u32)(u64)(lptr)s + 4 * TID, from = (u32)(u64)(lptr)s + 4 * ((TID + 64) & 255);
  asm volatile("ds_write_b32 %0, %1\n\t" IF_BROKEN("", "s_waitcnt lgkmcnt(0)\n\t") "s_barrier"
               : : "v"(at), "v"(in[TID]) : "memory");
  asm volatile("ds_read_b32 %0, %1\n\ts_waitcnt lgkmcnt(0)" : "=v"(x) : "v"(from) : "memory");
  out[TID] = x;
}
KERNEL void nan_scale(const i32x8 *a, f32x4 *out, int s) {
  f32x4 c = {0, 0, 0, 0};
  out[TID] = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(
      a[TID], a[TID], c, 4, 4, 0, IF_BROKEN(0x7f7f7fff, s), 0, s);
}
KERNEL void atomic_misaligned(char *p) {
  asm volatile("global_atomic_add %0, %1, off\n\ts_waitcnt vmcnt(0)"
               : : "v"(p + IF_BROKEN(2, 4)), "v"(1) : "memory");
}
KERNEL void spin(u32 *flag, u32 *out) {
  if (BID == 0) {
    IF_BROKEN(, __hip_atomic_store(flag, 1, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_AGENT));
  } else {
    while (__hip_atomic_load(flag, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT) == 0)
      __builtin_amdgcn_s_sleep(1);
  }
  out[BID * 64 + TID] = 1;
}
KERNEL void wave_race(u32 *data, u32 *out) {
  data[TID] = TID;
  IF_BROKEN(__builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup"), sync());
  out[TID] = data[(TID + 64) & 255];
}
KERNEL void wave_overwrite(u32 *data, u32 *out) {
  u32 x = data[(TID + 64) & 255];
  asm volatile("; used %0" : : "v"(x));
  IF_BROKEN(, sync());
  data[TID] = TID;
  out[TID] = x;
}
KERNEL void plain_and_atomic(u32 *sum, u32 *out) {
  if (TID == 0) __hip_atomic_fetch_add(sum, 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  u32 x = IF_BROKEN(*(volatile u32 *)(sum + 1) + *sum,
                    __hip_atomic_load(sum, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT));
  if (TID == 0) out[BID] = x;
}
// The last workgroup resets what the others read: it must know of all of them.
KERNEL void reset_early(u32 *data, u32 *count, u32 *out) {
  if (TID == 0) {
    out[BID] = data[0];
    u32 n = __hip_atomic_fetch_add(count, 1, __ATOMIC_ACQ_REL, __HIP_MEMORY_SCOPE_AGENT);
    if (n == IF_BROKEN(2, 3)) data[0] = 0;
  }
}
// Wave 0 hands values to the others through a flag in LDS.
KERNEL void lds_flag(const u32 *in, u32 *out) {
  __shared__ u32 s[64], flag;
  if (TID == 0) flag = 0;
  sync();
  if (TID < 64) {
    s[TID] = in[TID];
    __hip_atomic_fetch_add(&flag, 1, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_WORKGROUP);
  } else {
    IF_BROKEN(, while (__hip_atomic_fetch_add(&flag, 0, __ATOMIC_ACQUIRE,
                                              __HIP_MEMORY_SCOPE_WORKGROUP) < 64)
                  __builtin_amdgcn_s_sleep(1));
    out[TID - 64] = s[TID & 63];
  }
}
// The same through a stored flag, which compiles to a plain write and a plain read in a loop.
KERNEL void lds_signal(const u32 *in, u32 *out) {
  __shared__ u32 s[64], flag;
  if (TID == 0) flag = 0;
  sync();
  if (TID < 64) {
    s[TID] = in[TID];
    __hip_atomic_store(&flag, 1, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_WORKGROUP);
  } else {
    IF_BROKEN(, while (!__hip_atomic_load(&flag, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_WORKGROUP))
                  __builtin_amdgcn_s_sleep(1));
    out[TID - 64] = s[TID & 63];
  }
}
// Waves count into bins; reading them needs a barrier.
KERNEL void histogram(const u32 *in, u32 *out) {
  __shared__ u32 bins[16];
  if (TID < 16) bins[TID] = 0;
  sync();
  __hip_atomic_fetch_add(&bins[in[TID] & 15], 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
  IF_BROKEN(__builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "workgroup"), sync());
  u32 sum = 0;
  for (int k = 0; k < 16; ++k) sum += k * bins[k];
  out[TID] = sum;
}
// The high halves of products and packed results are used, or not, though an addend has none.
KERNEL void high_half(u64 *out) {
  u32 lo, hi;
  asm volatile("v_mov_b32 v10, 5\n\tv_mov_b32 v11, 3\n\t"
               "v_mad_u64_u32 v[12:13], s[10:11], v10, v11, v[10:11]\n\t"
               "v_mov_b32 v20, v12\n\t"
               "v_mad_u64_u32 v[20:21], s[10:11], v10, v11, v[20:21]\n\t"
               "v_mov_b32 %0, v20\n\tv_mov_b32 %1, " IF_BROKEN("v21", "v13") "\n\t"
               "v_pk_mul_f32 v[12:13], v[10:11], v[20:21] op_sel_hi:[1," IF_BROKEN("1", "0") "]\n\t"
               "v_pk_mov_b32 v[14:15], v[20:21], v[12:13] op_sel:[0,1]\n\t"
               "v_or_b32 %1, %1, v15\n\t"
               : "=&v"(lo), "=&v"(hi) : : "v10", "v11", "v12", "v13", "v14", "v15", "v20", "v21",
                 "s10", "s11");
  out[TID] = (u64)hi << 32 | lo;
}
