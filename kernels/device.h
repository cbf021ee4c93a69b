// The words that all kernels share. Kernels are written for a wave of any width; what differs
// between targets is in `arch/`.
//
// Matrix operands. A 16-row tile of a matrix is cut into slabs of 64 bytes of each row (32 BF16, or
// 128 FP4). A slab of a tile is 64 chunks of 16 bytes: each holds bytes `16 * group ..` of a row,
// group 0..3. A lane has `CHUNKS` chunks: rows `chunk_row(0..CHUNKS)`, group `chunk_group()`.
// Weights are stored as lanes hold them, 1024 bytes for each (tile, slab): chunk `c` of a lane at
// `slot(c)`, so that neighbouring lanes read whole lines (BF16 weights for sm_90 in the order of
// its `weights_row`). The scales of FP4 weights have one byte for each 32 values: a word at the
// same `slot` holds the scales of the slot's row and group in four consecutive slabs (bytes 0..3),
// so 256 bytes for each (tile, 512 values).
//
// `mma_*(c, a, b)`: `c[i][j] += sum_k a[i][k] b[j][k]` over one slab, 16 x 16 results, of which a
// lane holds `ACCUMULATORS`: rows `acc_row(i)` (of a), columns `acc_col(i)` (rows of b).
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
/// A kernel that is launched with exactly so many threads a workgroup.
/// RESIDENT_KERNEL: of 256, and 256 workgroups fit the device at once.
/// SHARING_KERNEL: with registers so few that 16 waves fit a compute unit, two workgroups of 8.
/// FILLING_KERNEL: with registers so few on sm_90 that 16 waves fit.
#if defined(__gfx950__)
#define KERNEL(threads) \
  extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(threads, threads)))
#define RESIDENT_KERNEL KERNEL(256)
#define SHARING_KERNEL(threads) KERNEL(threads) __attribute__((amdgpu_waves_per_eu(4)))
#define FILLING_KERNEL(threads) KERNEL(threads)
#else
#define SHARING_KERNEL(threads) \
  extern "C" __global__ __attribute__((launch_bounds(threads, 512 / (threads))))
#define FILLING_KERNEL(threads) SHARING_KERNEL(threads)
#define KERNEL(threads) extern "C" __global__ __attribute__((launch_bounds(threads)))
#define RESIDENT_KERNEL SHARING_KERNEL(256)
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef __attribute__((ext_vector_type(2))) u32 u32x2;
typedef __attribute__((ext_vector_type(4))) u32 u32x4;
typedef __attribute__((ext_vector_type(2))) float f32x2;
typedef __attribute__((ext_vector_type(4))) float f32x4;
typedef __attribute__((ext_vector_type(4))) _Float16 f16x4;
typedef __attribute__((ext_vector_type(2))) __bf16 bf16x2;
typedef __attribute__((ext_vector_type(4))) __bf16 bf16x4;
typedef __attribute__((ext_vector_type(8))) __bf16 bf16x8;

struct Acc;

#if defined(__gfx950__)
#define ACC_VALUES 4
#else
#define ACC_VALUES 8
#endif
/// A lane's share of 16 x 16 results.
struct Acc {
  float v[ACC_VALUES];
};

/// Where chunk `chunk` (8 values) of row `row` stands in the row of a swizzled matrix in LDS, so
/// that neither writing chunks of many rows nor reading them transposed collides.
__device__ inline u32 swizzled(u32 row, u32 chunk) { return chunk ^ (row % 8 | row % 2 * 8); }

/// Where the lane's chunk `c` stands in a tile's slab.
__device__ inline u32 slot(u32 c);

#if defined(__gfx950__)
#include "arch/gfx950.h"
#else
#include "arch/sm90.h"
#endif

/// Stands first in every kernel (or `await_last` does, and `let_next_begin` anywhere): on sm_90 a
/// launch's workgroups may begin before the launch before it has ended, as soon as all workgroups
/// of that one have called `let_next_begin` or ended, and there is room.
///
/// Until they have waited they touch nothing but weights, which no launch writes, or what no launch
/// writes that may be under way (see `begin_alone`). All threads wait, before any of them ends. So
/// a launch ends only after the one before it, and who has waited sees what all launches before
/// wrote, and may overwrite what they read. Copies, events, and kernels that are not ours, like
/// NCCL's, begin when all before them has ended.
///
/// Nobody waits for ever: when a launch's first workgroup begins, all workgroups of those before it
/// are resident or have ended. So those that wait for one another or for their twins on other ranks
/// (`team.h`, `all_reduce.hip`) never wait for one that finds no room because of later launches'
/// that wait here: until all of theirs are resident only earlier launches' are, which end one after
/// the other and leave the room that they would find alone. (Two ranks on one device could keep
/// each other out: each has its own.)
__device__ inline void begin() {
  let_next_begin();
  await_last();
}

/// As `begin`, and when the next launch begins, all of this one have waited: it finds what launches
/// before this one wrote before it waits itself (`load_settled`).
__device__ inline void begin_alone() {
  await_last();
  let_next_begin();
}

__device__ inline u32 slot(u32 c) { return WAVE * c + lane(); }

__device__ inline float shuffle_xor(float x, u32 mask) {
  return __builtin_bit_cast(float, shuffle_xor(__builtin_bit_cast(u32, x), mask));
}

__device__ inline float shuffle(float x, u32 from) {
  return __builtin_bit_cast(float, shuffle(__builtin_bit_cast(u32, x), from));
}

/// The sum over the wave, in every lane, in an order fixed by the lanes.
__device__ inline float wave_sum(float x) {
  for (u32 mask = WAVE / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

__device__ inline float wave_max(float x) {
  for (u32 mask = WAVE / 2; mask > 0; mask /= 2) {
    float y = shuffle_xor(x, mask);
    x = x > y ? x : y;
  }
  return x;
}

/// Bits of `x` that are ordered as integers as the values are: -NaN < -inf < -0 < 0 < inf < NaN.
__device__ inline u32 ordered(float x) {
  u32 bits = __builtin_bit_cast(u32, x);
  return bits >> 31 ? ~bits : bits | 0x80000000;
}

/// e^x.
__device__ inline float exp(float x) { return exp2(x * 1.44269504088896340736f); }

/// The sum over a workgroup of 256 threads, in every thread: over each wave, then waves ascending.
__device__ inline float workgroup_sum(float x) {
  __shared__ float sums[256 / WAVE];
  x = wave_sum(x);
  if (lane() == 0) sums[wave()] = x;
  sync();
  float sum = sums[0];
  for (u32 w = 1; w < 256 / WAVE; ++w) sum += sums[w];
  return sum;
}

/// Writes a word (u32 or u64) that threads of other devices `peek` at, as a whole.
template <typename Word> __device__ inline void post(Word *word, Word value) {
  __scoped_atomic_store_n(word, value, __ATOMIC_RELAXED, __MEMORY_SCOPE_SYSTEM);
}

/// The latest value of a word that other devices or the host write.
template <typename Word> __device__ inline Word peek(const Word *word) {
  return __scoped_atomic_load_n(word, __ATOMIC_RELAXED, __MEMORY_SCOPE_SYSTEM);
}
