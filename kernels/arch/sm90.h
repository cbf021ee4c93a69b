// What sm_90 (Hopper) does differently from other targets: a development target. It has no FP4 or
// mixed FP8 matrix instruction; such operands become BF16 in registers, which holds them exactly.
#pragma once

constexpr u32 WAVE = 32;

__device__ inline u32 thread() { return __nvvm_read_ptx_sreg_tid_x(); }
__device__ inline u32 block_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
__device__ inline u32 block_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }
__device__ inline u32 block_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }
/// Workgroups of the launch.
__device__ inline u32 blocks_x() { return __nvvm_read_ptx_sreg_nctaid_x(); }
__device__ inline u32 blocks_z() { return __nvvm_read_ptx_sreg_nctaid_z(); }
__device__ inline u32 lane() { return thread() % WAVE; }
/// The wave's index in its workgroup.
__device__ inline u32 wave() { return thread() / WAVE; }

/// Workgroups begin before the launch before theirs has ended: see `begin`.
constexpr bool BEGINS_EARLY = true;

/// Waits until the launch before this has ended; what it wrote is seen after.
__device__ inline void await_last() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// The next launch's workgroups may begin when all of this one's have come here or ended.
__device__ inline void let_next_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/// All threads of the workgroup arrive; what they wrote to LDS before is seen after.
__device__ inline void sync() { __syncthreads(); }

/// As `sync`, and what they wrote to memory has arrived there.
__device__ inline void sync_memory() { __syncthreads(); }

/// Lets other waves run for a moment.
__device__ inline void pause() { asm volatile("nanosleep.u32 20;"); }

/// What this thread has seen and done before is seen by whom a word that it writes with `post`
/// after this reaches, once they `acquire`.
__device__ inline void release() {
  __scoped_atomic_thread_fence(__ATOMIC_RELEASE, __MEMORY_SCOPE_SYSTEM);
}

/// The same for workgroups of this device alone, by atomics of its scope.
__device__ inline void release_on_device() {
  __scoped_atomic_thread_fence(__ATOMIC_RELEASE, __MEMORY_SCOPE_DEVICE);
}

/// What stands after this sees what was done before the values that `peek` has returned.
__device__ inline void acquire() {
  __scoped_atomic_thread_fence(__ATOMIC_ACQUIRE, __MEMORY_SCOPE_SYSTEM);
}

/// The same of values that atomics of the device's scope have returned.
__device__ inline void acquire_on_device() {
  __scoped_atomic_thread_fence(__ATOMIC_ACQUIRE, __MEMORY_SCOPE_DEVICE);
}

/// The value of lane `lane() ^ mask`. All lanes of the wave take part.
__device__ inline u32 shuffle_xor(u32 x, u32 mask) {
  return __nvvm_shfl_sync_bfly_i32(~0u, x, mask, 31);
}

/// The value of lane `from`. All lanes of the wave take part.
__device__ inline u32 shuffle(u32 x, u32 from) {
  return __nvvm_shfl_sync_idx_i32(~0u, x, from, 31);
}

/// The value of the last lane. All lanes of the wave take part.
__device__ inline u32 last_lane(u32 x) { return shuffle(x, WAVE - 1); }

/// What lanes of this wave wrote to LDS before is seen by its other lanes after.
__device__ inline void sync_wave() { __nvvm_bar_warp_sync(~0u); }

/// Bit l: lane l's `x`. All lanes of the wave take part.
__device__ inline u64 ballot(bool x) { return (u32)__nvvm_vote_ballot_sync(~0u, x); }

/// `more`, and how many of the lanes in `lanes` are before this one.
__device__ inline u32 below(u64 lanes, u32 more) {
  return more + __builtin_popcount((u32)lanes & ((1u << lane()) - 1));
}

/// The sum of `x` over this and the lanes before. All lanes of the wave take part.
__device__ inline u32 wave_prefix_sum(u32 x) {
  for (u32 step = 1; step < WAVE; step *= 2) {
    u32 before = shuffle(x, lane() - step);
    x += lane() >= step ? before : 0;
  }
  return x;
}

/// A sum in LDS for each of 32 lanes: those that add at once, to whatever sums, have banks of their
/// own. In two words: 64 bits are added there in a loop that other lanes disturb.
struct LaneSums {
  u32 low[32], high[32];

  __device__ void add(u64 x) {
    auto add = [](u32 *to, u32 x) {
      return __scoped_atomic_fetch_add(to, x, __ATOMIC_RELAXED, __MEMORY_SCOPE_WRKGRP);
    };
    u32 part = (u32)x, before = add(&low[lane()], part);
    add(&high[lane()], (u32)(x >> 32) + (before + part < part));
  }
  /// Sum `i`, which begins again.
  __device__ u64 take(u32 i) {
    u64 sum = (u64)high[i] << 32 | low[i];
    low[i] = high[i] = 0;
    return sum;
  }
};

/// A 16-byte read of data that is used once.
__device__ inline u32x4 load_once(const u32x4 *p) {
  u32 x, y, z, w;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
               : "l"(p));
  return u32x4{x, y, z, w};
}

__device__ inline u32x2 load_once(const u32x2 *p) {
  u32 x, y;
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "l"(p));
  return u32x2{x, y};
}

/// Loads that stand before this are under way before what stands after it begins: the assembler
/// would rather save registers.
__device__ inline void loads_first() { asm volatile("bar.warp.sync -1;" ::: "memory"); }

/// The same as `loads_first`.
__device__ inline void loads_in_order() { loads_first(); }

/// A word that is the same for all lanes.
__device__ inline u32 load_scalar(const u32 *p) { return *p; }

/// The same of what no launch writes that may be under way, `begin_alone` in `device.h`: from where
/// all processors see it.
template <typename Word> __device__ inline Word load_settled(const Word *p) {
  u32 x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return __builtin_bit_cast(Word, x);
}

/// The load of a value is under way before what stands after this.
__device__ inline void loaded(u32) { loads_first(); }

/// 2^x where that is at least 2^-126, else that or 0.
__device__ inline float power_of_two(float x) { return __nvvm_ex2_approx_ftz_f(x); }
__device__ inline float exp2(float x) { return __nvvm_ex2_approx_ftz_f(x); }
__device__ inline float log2(float x) { return __nvvm_lg2_approx_f(x); }
__device__ inline float rsqrt(float x) { return __nvvm_rsqrt_approx_f(x); }

constexpr u32 CHUNKS = 2;
constexpr u32 ACCUMULATORS = 8;
__device__ inline u32 chunk_row(u32 c) { return lane() / 4 + 8 * c; }
__device__ inline u32 chunk_group() { return lane() % 4; }
__device__ inline u32 acc_row(u32 i) { return lane() / 4 + i / 2 % 2 * 8; }
__device__ inline u32 acc_col(u32 i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }

/// Where in a tile of BF16 weights row `row` begins, in chunks' sizes. A slab is stored as an
/// operand in LDS, see `wgmma.h`: of each 8 rows words 0 and 2 of groups 0 and 1, then of groups 2
/// and 3, then the same of words 1 and 3.
__device__ inline u32 weights_row(u32 row) { return row / 8 * 32 + row % 8; }

/// Where a row has words 0 and 2 of a chunk; words 1 and 3 are 32 places on.
__device__ inline const u32x2 *chunk_place(const void *row, u32 chunk) {
  return (const u32x2 *)row + (u64)(chunk / 4) * 128 + chunk % 4 / 2 * 16 + chunk % 2;
}

/// From a row's begin on, [16 * i] are its values 8 * i ..
struct WeightsRow {
  const bf16x8 *begin;
  __device__ WeightsRow(const bf16x8 *begin) : begin(begin) {}
  __device__ bf16x8 operator[](u64 place) const {
    const u32x2 *words = chunk_place(begin, place / 16);
    u32x2 even = words[0], odd = words[32];
    return __builtin_bit_cast(bf16x8, u32x4{even[0], odd[0], even[1], odd[1]});
  }
};

/// The lane's chunk `c` of a slab of BF16 weights, which is used once, in the order in which
/// `weights_order` puts a chunk of the other operand.
__device__ inline u32x4 load_weights(const u32x4 *slab, u32 c) {
  const u32x2 *place = chunk_place(slab + weights_row(chunk_row(c)), chunk_group());
  u32x2 even = load_once(place), odd = load_once(place + 32);
  return u32x4{even[0], even[1], odd[0], odd[1]};
}
__device__ inline u32x4 weights_order(u32x4 chunk) {
  return u32x4{chunk[0], chunk[2], chunk[1], chunk[3]};
}

/// Byte offset in a row's 128-byte slab of FP8 where 16-byte part `p` (of 2) of group `g` starts.
__device__ inline u32 fp8_offset(u32 g, u32 p) { return 32 * g + 16 * p; }

__device__ inline void mma_m16n8k16(float *d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
               "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A sum over k does not mind which k stands where, as long as A and B agree: each lane's 8 values
// fill the instruction's slots two by two.
__device__ inline void mma_bf16(Acc &c, const bf16x8 *a, const bf16x8 *b) {
  u32x4 x0 = __builtin_bit_cast(u32x4, a[0]), x1 = __builtin_bit_cast(u32x4, a[1]);
  for (u32 t = 0; t < 2; ++t) {
    u32x4 y = __builtin_bit_cast(u32x4, b[t]);
    mma_m16n8k16(c.v + 4 * t, x0[0], x1[0], x0[1], x1[1], y[0], y[1]);
    mma_m16n8k16(c.v + 4 * t, x0[2], x1[2], x0[3], x1[3], y[2], y[3]);
  }
}

/// `mma_bf16` that leaves results in lanes that hold the own row: result `i` is of own row
/// `chunk_row(own_chunk(i))`, and of row `other_row(i)` of the other. `RUN` neighbouring results
/// are of one own row and of neighbouring other rows.
__device__ inline void mma_own(Acc &c, const bf16x8 *own, const bf16x8 *other) {
  mma_bf16(c, own, other);
}
constexpr u32 RUN = 2;
typedef __attribute__((ext_vector_type(2))) _Float16 HalfRun;
typedef __attribute__((ext_vector_type(2))) __bf16 Bf16Run;
__device__ inline u32 own_chunk(u32 i) { return i / 2 % 2; }
__device__ inline u32 other_row(u32 i) { return acc_col(i); }

/// The greatest `x` of the lanes that hold the same rows.
__device__ inline float max_over_groups(float x) {
  for (u32 mask = 2; mask > 0; mask /= 2) {
    u32 other = shuffle_xor(__builtin_bit_cast(u32, x), mask);
    x = __builtin_fmaxf(x, __builtin_bit_cast(float, other));
  }
  return x;
}

__device__ inline u32 multiply_bf16x2(u32 x, u32 y) {
  u32 d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(x), "r"(y));
  return d;
}

/// The power of two in byte `step` of `scale`, as a pair of BF16.
__device__ inline u32 scale_bf16x2(u32 scale, u32 step) {
  u32 e = scale >> 8 * step & 0xff;
  u32 bits = e == 0 ? 0x40 : e << 7; // 2^-127 is subnormal
  return bits | bits << 16;
}

/// Pairs of BF16 whose exponent and mantissa bits are those of FP4 codes, which makes them the
/// codes' values times 2^-126, times a scale.
__device__ inline bf16x8 scale_fp4(u32x4 pairs, u32 scale) {
  for (u32 p = 0; p < 4; ++p)
    pairs[p] = multiply_bf16x2(multiply_bf16x2(pairs[p], 0x7e807e80), scale);
  return __builtin_bit_cast(bf16x8, pairs);
}

/// 8 FP4 values of a matrix times 2^-126, as pairs of BF16: exponent and mantissa bits are the
/// codes'. Those stand as `Packing::Pairs` of `crates/hip/src/kernels/mxfp4.rs` has them.
__device__ inline u32x4 fp4_pairs(u32 packed) {
  const u32 bits = 0x81c081c0;
  u32 turned = packed << 7 | packed >> 25;
  // Of the last pair three shifts at once: no sum of bits reaches one that counts.
  u32 last = (turned & 0x001b001b) * (1 << 2 | 1 << 7 | 1 << 12);
  return u32x4{packed << 1 & bits, packed << 4 & bits, turned & bits, last & bits};
}

/// 8 FP4 values of a matrix times the scale in byte `STEP` of `scale`.
template <int STEP> __device__ inline bf16x8 dequantize_fp4(u32 packed, u32 scale) {
  return scale_fp4(fp4_pairs(packed), scale_bf16x2(scale, STEP));
}

/// Pair `i` of 8 FP4 values of a row of activations, times 2^-126.
__device__ inline u32 row_fp4_pair(u32 codes, u32 i) {
  u32 two = (codes >> 8 * i & 0xf) | (codes >> 8 * i & 0xf0) << 12;
  return (two & 0x00070007) << 6 | (two & 0x00080008) << 12;
}

/// 8 FP4 values of a row of activations times the scale in byte `STEP` of `scale`.
template <int STEP> __device__ inline bf16x8 dequantize_row_fp4(u32 codes, u32 scale) {
  u32x4 pairs;
  for (u32 p = 0; p < 4; ++p) pairs[p] = row_fp4_pair(codes, p);
  return scale_fp4(pairs, scale_bf16x2(scale, STEP));
}

/// Pair `i` of four FP8 (E4M3) values, times 2^-120: exponent and mantissa bits at BF16's.
__device__ inline u32 fp8_pair(u32 codes, u32 i) {
  u32 two = (codes >> 16 * i & 0xff) | (codes >> 16 * i & 0xff00) << 8;
  return (two & 0x007f007f) << 4 | (two & 0x00800080) << 8;
}

/// Four FP8 (E4M3) values times a power of two, as BF16.
__device__ inline void dequantize_fp8(u32 codes, u32 scale, u32 *out) {
  for (u32 p = 0; p < 2; ++p)
    out[p] = multiply_bf16x2(multiply_bf16x2(fp8_pair(codes, p), 0x7b807b80), scale);
}

/// Eight FP8 (E4M3) values times the power of two of the scale byte.
__device__ inline bf16x8 dequantize_fp8(u32x2 codes, u32 scale) {
  u32 words[4], s = scale_bf16x2(scale, 0);
  dequantize_fp8(codes[0], s, words);
  dequantize_fp8(codes[1], s, words + 2);
  return __builtin_bit_cast(bf16x8, u32x4{words[0], words[1], words[2], words[3]});
}

/// Eight values over `scale` (a power of two) rounded to FP4, half to even, beyond 6 to 6.
__device__ inline u32 quantize_fp4(const float *x, float scale) {
  u32 packed = 0;
  float inverse = 1.0f / scale;
  for (u32 i = 0; i < 8; ++i) {
    float v = x[i] * inverse, a = v < 0 ? -v : v;
    // Midpoints go to the even code; a NaN compares as none and becomes 6.
    u32 code = a <= 0.25f ? 0 : a < 0.75f ? 1 : a <= 1.25f ? 2 : a < 1.75f ? 3 : a <= 2.5f ? 4
             : a < 3.5f ? 5 : a <= 5.0f ? 6 : 7;
    u32 sign = __builtin_bit_cast(u32, v) >> 31;
    packed |= (code | sign << 3) << 4 * i;
  }
  return packed;
}

/// Four values times `inverse`, of at most 448, rounded to FP8 (E4M3), half to even.
__device__ inline u32 quantize_fp8(const float *x, float inverse) {
  u16 low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
      : "=h"(low)
      : "f"(x[1] * inverse), "f"(x[0] * inverse));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
      : "=h"(high)
      : "f"(x[3] * inverse), "f"(x[2] * inverse));
  return low | (u32)high << 16;
}

/// Where result `i` of `mma_own`, made with rows `16 * tile ..` of 32, stands among the 8 values of
/// a chunk of the operand whose other side `load_matrices_transposed` makes of the 32 rows.
__device__ inline u32 operand_place(u32 tile, u32 i) { return 4 * tile + i / 4 * 2 + i % 2; }

/// Four matrices of 8 x 8 values of 16 bits, each transposed; lane `l` says by its address in LDS
/// where row `l % 8` of matrix `l / 8` begins.
__device__ inline u32x4 load_matrices_transposed(u32 row) {
  u32 x, y, z, w;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
               : "r"(row)
               : "memory");
  return u32x4{x, y, z, w};
}
