// What gfx950 (CDNA4) does differently from other targets. Lane layouts: see `device.h`.
#pragma once

constexpr u32 WAVE = 64;

__device__ inline u32 thread() { return __builtin_amdgcn_workitem_id_x(); }
__device__ inline u32 block_x() { return __builtin_amdgcn_workgroup_id_x(); }
__device__ inline u32 block_y() { return __builtin_amdgcn_workgroup_id_y(); }
__device__ inline u32 block_z() { return __builtin_amdgcn_workgroup_id_z(); }
__device__ inline u32 lane() {
  return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
}
/// The wave's index in its workgroup, as a scalar.
__device__ inline u32 wave() { return __builtin_amdgcn_readfirstlane(thread() / WAVE); }

/// A launch begins when the one before it has ended.
constexpr bool BEGINS_EARLY = false;
__device__ inline void await_last() {}
__device__ inline void let_next_begin() {}

/// All threads of the workgroup arrive; what they wrote to LDS before is seen after.
__device__ inline void sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}

/// As `sync`, and what they wrote to memory has arrived there.
__device__ inline void sync_memory() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_waitcnt(0);
  sync();
}

/// Lets other waves run for a moment.
__device__ inline void pause() { __builtin_amdgcn_s_sleep(1); }

/// What this thread has seen and done before is seen by whom a word that it writes with `post`
/// after this reaches, once they `acquire`.
__device__ inline void release() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "");
  // Clang 22 leaves out the wait for the write-back where the wave has no stores under way.
  __builtin_amdgcn_s_waitcnt(0);
}

/// The same for workgroups of this device alone, by atomics of its scope.
__device__ inline void release_on_device() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
  __builtin_amdgcn_s_waitcnt(0);
}

/// What stands after this sees what was done before the values that `peek` has returned. So do
/// other waves of the workgroup behind the next barrier: caches invalidate what this wave asks for
/// before its own next load, but a barrier does not wait for them.
__device__ inline void acquire() {
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "");
  __builtin_amdgcn_s_waitcnt(0);
}

/// The same of values that atomics of the device's scope have returned.
__device__ inline void acquire_on_device() {
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
  __builtin_amdgcn_s_waitcnt(0);
}

/// The value of lane `lane() ^ mask`. All lanes of the wave take part.
__device__ inline u32 shuffle_xor(u32 x, u32 mask) {
  return __builtin_amdgcn_ds_bpermute((lane() ^ mask) * 4, x);
}

/// The value of lane `from`. All lanes of the wave take part.
__device__ inline u32 shuffle(u32 x, u32 from) {
  return __builtin_amdgcn_ds_bpermute(from * 4, x);
}

/// The value of the last lane. All lanes of the wave take part.
__device__ inline u32 last_lane(u32 x) { return __builtin_amdgcn_readlane(x, WAVE - 1); }

/// What lanes of this wave wrote to LDS before is seen by its other lanes after.
__device__ inline void sync_wave() {
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
  __builtin_amdgcn_wave_barrier();
}

/// Bit l: lane l's `x`. All lanes of the wave take part.
__device__ inline u64 ballot(bool x) { return __builtin_amdgcn_ballot_w64(x); }

/// `more`, and how many of the lanes in `lanes` are before this one.
__device__ inline u32 below(u64 lanes, u32 more) {
  more = __builtin_amdgcn_mbcnt_lo((u32)lanes, more);
  return __builtin_amdgcn_mbcnt_hi((u32)(lanes >> 32), more);
}

/// The sum of `x` over this and the lanes before. All lanes of the wave take part.
__device__ inline u32 wave_prefix_sum(u32 x) {
  // In rows of 16 lanes, then each second row with the one before, then the halves.
  x += __builtin_amdgcn_update_dpp(0, x, 0x111, 15, 15, true); // row_shr:1
  x += __builtin_amdgcn_update_dpp(0, x, 0x112, 15, 15, true);
  x += __builtin_amdgcn_update_dpp(0, x, 0x114, 15, 15, true);
  x += __builtin_amdgcn_update_dpp(0, x, 0x118, 15, 15, true);
  x += __builtin_amdgcn_update_dpp(0, x, 0x142, 10, 15, false); // row_bcast:15
  x += __builtin_amdgcn_update_dpp(0, x, 0x143, 12, 15, false); // row_bcast:31
  return x;
}

/// A sum in LDS for each of 32 lanes: those that add at once, to whatever sums, have banks of their
/// own.
struct LaneSums {
  u64 sums[32];

  __device__ void add(u64 x) {
    __scoped_atomic_fetch_add(&sums[lane() % 32], x, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
  }
  /// Sum `i`, which begins again.
  __device__ u64 take(u32 i) {
    u64 sum = sums[i];
    sums[i] = 0;
    return sum;
  }
};

/// A 16-byte read of data that is used once.
__device__ inline u32x4 load_once(const u32x4 *p) { return __builtin_nontemporal_load(p); }

/// A word that is the same for all lanes, and that this launch does not write: as a scalar also
/// where stores stand before it.
__device__ inline u32 load_scalar(const u32 *p) {
  return *(const __attribute__((address_space(4))) u32 *)(u64)p;
}

/// The same of what no launch writes that may be under way: `begin_alone` in `device.h`.
__device__ inline u32 load_settled(const u32 *p) { return load_scalar(p); }
__device__ inline float load_settled(const float *p) { return *p; }

/// Loads that stand before this are under way before what stands after it begins.
__device__ inline void loads_first() { __builtin_amdgcn_sched_barrier(0); }

/// The same, but arithmetic on vectors and scalars may move past this.
__device__ inline void loads_in_order() { __builtin_amdgcn_sched_barrier(6); }

/// A scalar is loaded before what stands after this: the compiler would put its load off until a
/// branch has shown that it is needed.
__device__ inline void loaded(u32 x) { asm volatile("" ::"s"(x)); }

/// What is computed of `x` after this is computed here, rather than kept in a register.
__device__ inline void recompute(u32 &x) { asm volatile("" : "+v"(x)); }

/// 2^x where that is at least 2^-126, else that or 0. (LLVM takes a function called `exp2` for the
/// library's, which is exact there as well, and takes five instructions.)
__device__ inline float power_of_two(float x) { return __builtin_amdgcn_exp2f(x); }
__device__ inline float exp2(float x) { return __builtin_amdgcn_exp2f(x); }
__device__ inline float log2(float x) { return __builtin_amdgcn_logf(x); }
__device__ inline float rsqrt(float x) { return __builtin_amdgcn_rsqf(x); }

constexpr u32 CHUNKS = 1;
constexpr u32 ACCUMULATORS = 4;
__device__ inline u32 chunk_row(u32) { return lane() % 16; }
__device__ inline u32 chunk_group() { return lane() / 16; }
__device__ inline u32 acc_row(u32 i) { return lane() / 16 * 4 + i; }
__device__ inline u32 acc_col(u32) { return lane() % 16; }
/// The row and group of chunk `i` of 64 of a slab in LDS, where the lane's chunk `c` is chunk
/// `WAVE * c + lane()`.
__device__ inline u32 lds_row(u32 i) { return i % 16; }
__device__ inline u32 lds_group(u32 i) { return i / 16; }
/// The lane's chunk `c` of a slab of BF16 weights, which is used once, in the order in which
/// `weights_order` puts a chunk of the other operand.
__device__ inline u32x4 load_weights(const u32x4 *slab, u32 c) {
  return load_once(slab + slot(c));
}
__device__ inline u32x4 weights_order(u32x4 chunk) { return chunk; }

/// Where in a tile of BF16 weights row `row` begins: from there on, [16 * i] are values 8 * i ..
__device__ inline u32 weights_row(u32 row) { return row; }
typedef const bf16x8 *WeightsRow;

/// Byte offset in a row's 128-byte slab of FP8 where 16-byte part `p` (of 2) of group `g` starts.
__device__ inline u32 fp8_offset(u32 g, u32 p) { return 64 * p + 16 * g; }

typedef __attribute__((ext_vector_type(8))) int i32x8;

__device__ inline void mma_bf16(Acc &c, const bf16x8 *a, const bf16x8 *b) {
  f32x4 d = {c.v[0], c.v[1], c.v[2], c.v[3]};
  d = __builtin_amdgcn_mfma_f32_16x16x32_bf16(a[0], b[0], d, 0, 0, 0);
  for (u32 i = 0; i < 4; ++i) c.v[i] = d[i];
}

/// `mma_bf16` that leaves results in lanes that hold the own row: result `i` is of own row
/// `chunk_row(own_chunk(i))`, and of row `other_row(i)` of the other. `RUN` neighbouring results
/// are of one own row and of neighbouring other rows.
__device__ inline void mma_own(Acc &c, const bf16x8 *own, const bf16x8 *other) {
  mma_bf16(c, other, own);
}
constexpr u32 RUN = 4;
typedef __attribute__((ext_vector_type(4))) _Float16 HalfRun;
typedef bf16x4 Bf16Run;
__device__ inline u32 own_chunk(u32) { return 0; }
__device__ inline u32 other_row(u32 i) { return acc_row(i); }

/// The greatest `x` of the lanes that hold the same rows.
__device__ inline float max_over_groups(float x) {
  u32 bits = __builtin_bit_cast(u32, x);
  u32x2 halves = __builtin_amdgcn_permlane32_swap(bits, bits, false, false);
  bits = halves[0];
  u32 other = halves[1]; // clang 22 takes element 0 of a vector that is cast in place
  x = __builtin_fmaxf(__builtin_bit_cast(float, bits), __builtin_bit_cast(float, other));
  bits = __builtin_bit_cast(u32, x);
  u32x2 quarters = __builtin_amdgcn_permlane16_swap(bits, bits, false, false);
  bits = quarters[0];
  other = quarters[1];
  return __builtin_fmaxf(__builtin_bit_cast(float, bits), __builtin_bit_cast(float, other));
}

template <int STEP>
__device__ inline void mma_mxfp4(Acc &c, const u32x4 (*a)[1], const u32 *sa, const u32x4 *b,
                                 const u32 *sb) {
  i32x8 x = {(int)a[0][0][0], (int)a[0][0][1], (int)a[0][0][2], (int)a[0][0][3]};
  i32x8 y = {(int)b[0][0], (int)b[0][1], (int)b[0][2], (int)b[0][3]};
  f32x4 d = {c.v[0], c.v[1], c.v[2], c.v[3]};
  d = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(x, y, d, 4, 4, STEP, sa[0], STEP, sb[0]);
  for (u32 i = 0; i < 4; ++i) c.v[i] = d[i];
}

template <int STEP>
__device__ inline void mma_mxfp8(Acc &c, const u32x4 (*a)[2], const u32 *sa, const u32x4 *b,
                                 const u32 *sb) {
  i32x8 x, y = {(int)b[0][0], (int)b[0][1], (int)b[0][2], (int)b[0][3]};
  for (u32 i = 0; i < 8; ++i) x[i] = (int)a[0][i / 4][i % 4];
  f32x4 d = {c.v[0], c.v[1], c.v[2], c.v[3]};
  d = __builtin_amdgcn_mfma_scale_f32_16x16x128_f8f6f4(x, y, d, 0, 4, STEP, sa[0], STEP, sb[0]);
  for (u32 i = 0; i < 4; ++i) c.v[i] = d[i];
}

/// 8 FP4 values times the scale in byte `STEP` of `scale`.
template <int STEP> __device__ inline bf16x8 dequantize_fp4(u32 codes, u32 scale) {
  float s = __builtin_bit_cast(float, (scale >> 8 * STEP & 0xff) << 23);
  bf16x2 p0 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(codes, s, 0);
  bf16x2 p1 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(codes, s, 1);
  bf16x2 p2 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(codes, s, 2);
  bf16x2 p3 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp4(codes, s, 3);
  return bf16x8{p0[0], p0[1], p1[0], p1[1], p2[0], p2[1], p3[0], p3[1]};
}

/// Eight FP8 (E4M3) values times the power of two of the scale byte.
__device__ inline bf16x8 dequantize_fp8(u32x2 codes, u32 scale) {
  float s = __builtin_bit_cast(float, scale << 23);
  bf16x2 p0 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(codes[0], s, 0);
  bf16x2 p1 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(codes[0], s, 1);
  bf16x2 p2 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(codes[1], s, 0);
  bf16x2 p3 = __builtin_amdgcn_cvt_scalef32_pk_bf16_fp8(codes[1], s, 1);
  return bf16x8{p0[0], p0[1], p1[0], p1[1], p2[0], p2[1], p3[0], p3[1]};
}

/// Eight values over `scale` (a power of two) rounded to FP4, half to even, beyond 6 to 6.
__device__ inline u32 quantize_fp4(const float *x, float scale) {
  u32 packed = 0;
  packed = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(packed, x[0], x[1], scale, 0);
  packed = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(packed, x[2], x[3], scale, 1);
  packed = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(packed, x[4], x[5], scale, 2);
  packed = __builtin_amdgcn_cvt_scalef32_pk_fp4_f32(packed, x[6], x[7], scale, 3);
  return packed;
}

/// Four values times `inverse`, of at most 448, rounded to FP8 (E4M3), half to even.
__device__ inline u32 quantize_fp8(const float *x, float inverse) {
  int packed = 0;
  packed = __builtin_amdgcn_cvt_pk_fp8_f32(x[0] * inverse, x[1] * inverse, packed, false);
  packed = __builtin_amdgcn_cvt_pk_fp8_f32(x[2] * inverse, x[3] * inverse, packed, true);
  return packed;
}

/// Where result `i` of `mma_own`, made with rows `16 * tile ..` of 32, stands among the 8 values of
/// a chunk of the operand whose other side `load_transposed` makes of the 32 rows.
__device__ inline u32 operand_place(u32 tile, u32 i) { return 4 * tile + i; }

typedef __attribute__((ext_vector_type(4))) short i16x4;
typedef __attribute__((address_space(3))) i16x4 *LdsI16x4;

/// The operand of 16 columns over 32 rows, `stride` values apart, of a swizzled matrix in LDS. `p`
/// is where the lane's four values of row `lane() / 4` begin, columns `lane() % 4 * 4 ..`.
__device__ inline void load_transposed(const __bf16 *p, u32 stride, bf16x8 *out) {
  i16x4 x = __builtin_amdgcn_ds_read_tr16_b64_v4i16((LdsI16x4)p);
  i16x4 y = __builtin_amdgcn_ds_read_tr16_b64_v4i16((LdsI16x4)(p + 16 * stride));
  struct {
    i16x4 x, y;
  } both = {x, y};
  out[0] = __builtin_bit_cast(bf16x8, both);
}

/// Starts copying 16 bytes for each lane: from `from` to the wave's `to` in LDS plus 16 a lane. The
/// compiler does not know of it and adds no waits: read LDS after `sync_copies`.
__device__ inline void copy_to_lds(void *to, const void *from) {
  u32 base = __builtin_amdgcn_readfirstlane((u32)(u64)(__attribute__((address_space(3))) void *)to);
  // The load would use M0's old value if it stood right behind the instruction that sets it.
  asm volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tglobal_load_lds_dwordx4 %1, off" ::"s"(base),
               "v"(from)
               : "memory"); // m0 may not be named; the compiler sets it before each own use
}

/// The same to an address in LDS that is the same for all lanes, as is `from`: a lane's 16 bytes
/// are `offset` beyond.
__device__ inline void copy_to_lds(u32 to, const void *from, u32 offset) {
  asm volatile("s_mov_b32 m0, %0\n\ts_nop 0\n\tglobal_load_lds_dwordx4 %1, %2" ::"s"(to),
               "v"(offset), "s"(from)
               : "memory");
}

/// All threads arrive, with all but their wave's latest `LEFT` copies in place, and done with what
/// they read from LDS before.
template <u32 LEFT> __device__ inline void sync_copies() {
  asm volatile("s_waitcnt vmcnt(%0) lgkmcnt(0)\n\ts_barrier" ::"n"(LEFT) : "memory");
}
