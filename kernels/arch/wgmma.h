// Matrix instructions of sm_90's warpgroups: four waves, whose first is a multiple of four.
//
// `wgmma_slab` adds the same sums, in the same bits, as `mma_bf16`: one operand's chunks are in
// registers, loaded as ever, wave w of the four with rows `16 w ..`; the other's are in LDS, where
// `store_operand` has put them: for each 8 rows of a slab 512 bytes, four matrices of 8 rows x 16
// bytes. Matrix j has word j of all chunks, so that two matrices are the 16 values that an
// instruction adds up, in the places where the registers have them.
#pragma once

/// 8 rows of a slab in LDS.
struct alignas(128) OperandRows {
  u32x4 matrices[4][8];
};

/// Writes 8 rows of a slab: the lane has row `lane() / 4`, group `lane() % 4`.
__device__ inline void store_operand(OperandRows &to, u32x4 chunk) {
  u32 address = (u32)(u64)(__attribute__((address_space(3))) OperandRows *)&to + 16 * lane();
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(chunk[0]), "r"(chunk[1]), "r"(chunk[2]), "r"(chunk[3])
               : "memory");
}

/// What the thread wrote to LDS before is seen by matrix instructions that anyone starts after a
/// barrier that follows this.
__device__ inline void operands_written() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Stands before the first instruction of a batch, and after what wrote to its registers.
__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

/// Ends a batch.
__device__ inline void wgmma_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// All but the latest `LEFT` batches are done with their operands.
template <u32 LEFT> __device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/// All batches are done, and `sums` may be read.
template <u32 COUNT> __device__ inline void wgmma_wait(float (&sums)[COUNT]) {
  wgmma_wait<0>();
  for (u32 i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Operands %0.. of an instruction, by tens, and what they are.
#define TEN(t) \
  "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
#define F32(i) F16(i), F16(i + 16)
#define WGMMA(n, sums, a, b, scale, ...)                                                          \
  __device__ inline void wgmma(float (&d)[n / 2], u32 a0, u32 a1, u32 a2, u32 a3, u64 matrices,   \
                               u32 add) {                                                         \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, " scale ", 0;\n\t"                     \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" sums "}, {" a       \
                 "}, " b ", add, 1, 1, 0;\n\t}"                                                   \
                 : __VA_ARGS__                                                                    \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(matrices), "r"(add));                  \
  }
WGMMA(64, TEN() "," TEN(1) "," TEN(2) ",%30,%31", "%32,%33,%34,%35", "%36", "%37", F32(0))
WGMMA(128, TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) ",%60,%61,%62,%63",
      "%64,%65,%66,%67", "%68", "%69", F32(0), F32(32))
WGMMA(192,
      TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) "," TEN(6) "," TEN(7) ","
      TEN(8) ",%90,%91,%92,%93,%94,%95",
      "%96,%97,%98,%99", "%100", "%101", F32(0), F32(32), F32(64))
#undef WGMMA
#undef F32
#undef F16
#undef F4
#undef TEN

/// Starts adding (to zero, without `add`) a slab's products of 64 rows in registers, of which the lane has its chunks of
/// the wave's tile, with N rows in LDS. Sum `4 * t + i` becomes that of row `acc_row(i)` of the
/// wave's tile and row `8 * t + acc_col(i)` of the N.
template <u32 HALF_N>
__device__ inline void wgmma_slab(float (&sums)[HALF_N], const u32x4 (&own)[CHUNKS],
                                  const OperandRows *rows, bool add) {
  // Address, bytes between matrices along k, bytes between eights of rows; all in units of 16.
  u64 address = (u32)(u64)(const __attribute__((address_space(3))) OperandRows *)rows >> 4;
  u64 matrices = address | (u64)(128 >> 4) << 16 | (u64)(sizeof(OperandRows) >> 4) << 32;
  wgmma(sums, own[0][0], own[1][0], own[0][1], own[1][1], matrices, add);
  wgmma(sums, own[0][2], own[1][2], own[0][3], own[1][3], matrices + (256 >> 4), true);
}
