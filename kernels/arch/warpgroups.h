// What warpgroups of sm_90 need that do different work: registers, barriers and copies that are
// waited for by others.
#pragma once
#include "wgmma.h"

/// A kernel of which one workgroup fits a processor. To say so tells the assembler how many
/// registers there are to take.
#define STAYING_KERNEL(threads) extern "C" __global__ __attribute__((launch_bounds(threads, 1)))

/// Takes registers that others of the workgroup have given, or gives some: N are left.
template <u32 N> __device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <u32 N> __device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/// All of `threads` wait at barrier `barrier` (1..15); what they wrote to LDS before is seen after.
__device__ inline void await(u32 barrier, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// As `await`; returns whether any of them says so.
__device__ inline bool any_of(u32 barrier, u32 threads, bool says) {
  u32 any;
  asm volatile("{\n\t.reg .pred one, all;\n\tsetp.ne.b32 one, %3, 0;\n\t"
               "barrier.cta.red.or.pred all, %1, %2, one;\n\tselp.u32 %0, 1, 0, all;\n\t}"
               : "=r"(any)
               : "r"(barrier), "r"(threads), "r"((u32)says)
               : "memory");
  return ballot(any != 0) != 0; // the assembler sees that it is the same for the wave
}

/// The thread counts at barrier `barrier` as one of `threads`, and goes on.
__device__ inline void arrive_for(u32 barrier, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// One arrival on what `expect_arrivals` has made, by its address.
__device__ inline void arrive_at(u32 word) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(word) : "memory");
}
__device__ inline void count(const u64 &word) { arrive_at(lds_address(&word)); }

/// Waits for the phase of that parity to end, with the whole warp.
__device__ inline void wait_for(const u64 &word, u32 parity) {
  wait_for_bytes(lds_address(&word), parity);
  sync_wave(); // lanes may see it at different times
}

/// Starts copying `bytes` from LDS to memory, both at multiples of 16, to be kept in the L2 cache
/// before other. What was written to LDS before must have been told of by `operands_written`.
__device__ inline void copy_out(void *to, const void *from, u32 bytes) {
  u64 keep;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(keep));
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;\n\t"
               "cp.async.bulk.commit_group;" ::"l"(to),
               "r"(lds_address(from)), "r"(bytes), "l"(keep)
               : "memory");
}

/// Waits until all that the thread copies out has been read.
__device__ inline void copied_out() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// Stores four matrices of 8 x 8 values of 16 bits; lane `l` says where row `l % 8` of matrix
/// `l / 8` begins.
__device__ inline void store_matrices(void *row, bf16x8 words) {
  u32x4 x = __builtin_bit_cast(u32x4, words);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                   lds_address(row)),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}
