// Matrix instructions of sm_90's warpgroups: four waves, whose first is a multiple of four.
//
// `wgmma_slab` adds the same sums, in the same bits, as `mma_bf16`: one operand's chunks are in
// registers, loaded as ever, wave w of the four with rows `16 w ..`; the other's are in LDS, where
// `store_operand` has put them: for each 8 rows of a slab 512 bytes, four matrices of 8 rows x 16
// bytes. Matrix j has word j of all chunks, so that two matrices are the 16 values that an
// instruction adds up, in the places where the registers have them.
#pragma once

/// The address in LDS.
__device__ inline u32 lds_address(const void *p) {
  return (u32)(u64)(const __attribute__((address_space(3))) void *)p;
}

/// 8 rows of a slab in LDS.
struct alignas(128) OperandRows {
  u32x4 matrices[4][8];
};

/// Writes 8 rows of a slab: the lane has row `lane() / 4`, group `lane() % 4`.
__device__ inline void store_operand(OperandRows &to, u32x4 chunk) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                   lds_address(&to) + 16 * lane()),
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
__device__ inline void wgmma_end() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// All but the latest `LEFT` batches are done with their operands.
template <u32 LEFT> __device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/// All batches are done, and `sums` may be read.
template <u32 COUNT> __device__ inline void wgmma_wait(float (&sums)[COUNT]) {
  wgmma_wait<0>();
  for (u32 i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

/// The value in a register of its own: where a sum itself goes on, the assembler may find too few
/// registers for instructions under way, and then has them wait for one another.
__device__ inline float copied(float sum) {
  float x;
  asm volatile("mov.b32 %0, %1;" : "=f"(x) : "f"(sum));
  return x;
}

/// Where an operand is in LDS, as instructions name it: matrices of 8 x 16 bytes, so many bytes
/// apart along k and across.
__device__ inline u64 matrices_at(u32 first, u32 along_k, u32 across) {
  return (u64)(first >> 4) | (u64)(along_k >> 4) << 16 | (u64)(across >> 4) << 32;
}
__device__ inline u64 matrices_at(const void *first, u32 along_k, u32 across) {
  return matrices_at(lds_address(first), along_k, across);
}

/// The same of a box in LDS whose rows are of 128 bytes, each 16 of them at their place ^ the row
/// % 8, and which begins at a multiple of 1024. Where columns are read transposed, the next 64 are
/// so many bytes `apart`.
__device__ inline u64 box_at(u32 first, u32 apart) {
  return matrices_at(first, apart, 1024) | (u64)1 << 62;
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
WGMMA(8, "%0,%1,%2,%3", "%4,%5,%6,%7", "%8", "%9", F4(0))
WGMMA(16, "%0,%1,%2,%3,%4,%5,%6,%7", "%8,%9,%10,%11", "%12", "%13", F4(0), F4(4))
WGMMA(24, TEN() ",%10,%11", "%12,%13,%14,%15", "%16", "%17", F4(0), F4(4), F4(8))
WGMMA(32, TEN() ",%10,%11,%12,%13,%14,%15", "%16,%17,%18,%19", "%20", "%21", F16(0))
WGMMA(48, TEN() "," TEN(1) ",%20,%21,%22,%23", "%24,%25,%26,%27", "%28", "%29", F16(0), F4(16),
      F4(20))
WGMMA(64, TEN() "," TEN(1) "," TEN(2) ",%30,%31", "%32,%33,%34,%35", "%36", "%37", F32(0))
WGMMA(80, TEN() "," TEN(1) "," TEN(2) "," TEN(3), "%40,%41,%42,%43", "%44", "%45", F32(0), F4(32),
      F4(36))
WGMMA(96, TEN() "," TEN(1) "," TEN(2) "," TEN(3) ",%40,%41,%42,%43,%44,%45,%46,%47",
      "%48,%49,%50,%51", "%52", "%53", F32(0), F16(32))
WGMMA(112, TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) ",%50,%51,%52,%53,%54,%55",
      "%56,%57,%58,%59", "%60", "%61", F32(0), F16(32), F4(48), F4(52))
WGMMA(128,
      TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) ",%60,%61,%62,%63",
      "%64,%65,%66,%67", "%68", "%69", F32(0), F32(32))
WGMMA(144,
      TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) "," TEN(6) ",%70,%71",
      "%72,%73,%74,%75", "%76", "%77", F32(0), F32(32), F4(64), F4(68))
WGMMA(192,
      TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) "," TEN(6) "," TEN(7) ","
      TEN(8) ",%90,%91,%92,%93,%94,%95",
      "%96,%97,%98,%99", "%100", "%101", F32(0), F32(32), F32(64))
#undef WGMMA

/// Starts adding (to zero, without `add`) products of 64 rows of 16 values in LDS with 128 rows.
__device__ inline void wgmma(float (&d)[64], u64 rows, u64 matrices, u32 add) {
  asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %66, 0;\n\t"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
               TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) ",%60,%61,%62,%63}, "
               "%64, %65, add, 1, 1, 0, 0;\n\t}"
               : F32(0), F32(32)
               : "l"(rows), "l"(matrices), "r"(add));
}

/// Starts adding products of 64 rows of 16 values in registers with 128 columns, of whose matrices
/// each has 8 rows of k: instructions read them transposed.
__device__ inline void wgmma_transposed(float (&d)[64], const u32 (&rows)[4], u64 columns) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
               TEN() "," TEN(1) "," TEN(2) "," TEN(3) "," TEN(4) "," TEN(5) ",%60,%61,%62,%63}, "
               "{%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
               : F32(0), F32(32)
               : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "l"(columns));
}
#undef F32
#undef F16
#undef F4
#undef TEN

/// Eights of rows of a slab in LDS, each four pieces of 32 values.
__device__ inline u64 eights_at(const OperandRows (*eights)[4]) {
  return matrices_at(eights, 128, sizeof(*eights));
}

/// Starts adding (to zero, without `add`) a slab's products of 64 rows in registers, of which the
/// lane has its chunks of the wave's tile, with N rows in LDS, `eights_at`. Sum `4 * t + i`
/// becomes that of row `acc_row(i)` of the wave's tile and row `8 * t + acc_col(i)` of the N.
template <u32 HALF_N>
__device__ inline void wgmma_slab(float (&sums)[HALF_N], const u32x4 (&own)[CHUNKS], u64 matrices,
                                  bool add) {
  wgmma(sums, own[0][0], own[1][0], own[0][1], own[1][1], matrices, add);
  wgmma(sums, own[0][2], own[1][2], own[0][3], own[1][3], matrices + (256 >> 4), true);
}

/// Makes of 8 bytes of LDS, here and below by their address, what `threads` and bulk copies arrive
/// on. For one thread.
__device__ inline void expect_arrivals(u32 word, u32 threads) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(word), "r"(threads) : "memory");
}

/// Arrives, and expects so many bytes of copies.
__device__ inline void expect_bytes(u32 word, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(word), "r"(bytes)
               : "memory");
}

/// Waits for the phase of that parity to end.
__device__ inline void wait_for_bytes(u32 word, u32 parity) {
  asm volatile("{\n\t.reg .pred done;\n"
               "wait_%=:\n\t"
               "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
               "@!done bra wait_%=;\n\t}" ::"r"(word),
               "r"(parity)
               : "memory");
}

/// Starts copying `bytes` from memory to LDS, which arrive on `word`.
__device__ inline void copy_bulk(void *to, const void *from, u32 bytes, u32 word) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1], %2, [%3];" ::"r"(lds_address(to)),
               "l"(from), "r"(bytes), "r"(word)
               : "memory");
}

/// Starts bringing `bytes` of memory, a multiple of 16, to the L2 cache. `operands_written` does
/// not wait for it.
__device__ inline void prefetch_bulk(const void *from, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/// One lane of the wave.
__device__ inline bool elected() {
  u32 yes;
  asm volatile("{\n\t.reg .pred p;\n\telect.sync _|p, -1;\n\tselp.u32 %0, 1, 0, p;\n\t}"
               : "=r"(yes));
  return yes != 0;
}

/// Starts copying 16 bytes to LDS.
__device__ inline void copy_async(void *to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(lds_address(to)), "l"(from)
               : "memory");
}

/// The same of a word.
__device__ inline void copy_word_async(void *to, const void *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(lds_address(to)), "l"(from)
               : "memory");
}

/// Ends a batch of the thread's copies.
__device__ inline void copies_started() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// All but the latest `LEFT` batches of the thread's copies are in place.
template <u32 LEFT> __device__ inline void copies_done() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
