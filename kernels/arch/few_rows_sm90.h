// Products of few rows for sm_90: tiles of the matrix are the instructions' first operand, of 16
// rows, and eights of x's rows the second. Each sum has the same bits as the other way round.
//
// Codes are copied to LDS some slabs ahead, each chunk by the lane that takes it from there. Rows
// of x are loaded to registers a slab ahead, unless they are more than eight.
#pragma once
#include "wgmma.h"

/// Slabs of codes in LDS. One row has a workgroup for each processor at most.
template <u32 LAUNCH> constexpr u32 STAGES = LAUNCH == ONE_ROW ? 4 : 2;
/// Chunks of a slab: [tile][chunk][lane].
template <u32 T> constexpr u32 STAGE_CHUNKS = T *CHUNKS *WAVE;
template <u32 LAUNCH, u32 T>
constexpr u32 WAVE_MEMORY = STAGES<LAUNCH> *STAGE_CHUNKS<T> * 4;
/// Launches ask for it, see `crates/hip/src/modules.rs`.
#define FEW_MEMORY(name, floats) extern __shared__ __attribute__((aligned(128))) float name[]

/// The matrix's rows were the instructions' first.
__device__ inline u32 sum_row(u32 i) { return i / 4 * 8 + acc_col(i % 4); }
__device__ inline u32 sum_col(u32 i) { return acc_row(i % 4); }
/// The value of the lane that has sums of the same rows in the columns beside this one's.
__device__ inline u32 beside(u32 x) { return shuffle_xor(x, 4); }

/// Tiles of the matrix for a wave that has a row and all of k: as many as there is room for while
/// the launch before is under way.
template <u32 LAUNCH> constexpr u32 ROW_TILES = LAUNCH == ONE_ROW ? 2 : TILES;
#define SM90_KERNELS(...) __VA_ARGS__

/// Whether sums of rows that there are not are left out.
constexpr bool ROWS_ALONE = true;

/// Byte `step` of `word`.
__device__ inline u32 byte_of(u32 word, u32 step) { return __nvvm_prmt(word, 0, 0x4440 + step); }

/// Multiplies pairs of BF16 that are values times 2^-POWER by 2^POWER and by the scale in byte
/// `step` of `word`. Unless WIDE the scale is at most 1, so that both together are one BF16.
template <u32 POWER, bool WIDE> struct Scaling {
  static constexpr u32 ONE = 0x00800080; // of an exponent, in both
  u32 factor;
  __device__ Scaling(u32 word, u32 step)
      : factor(WIDE ? scale_bf16x2(byte_of(word, step), 0)
                    : (byte_of(word, step) + POWER) * ONE) {}
  __device__ u32 operator()(u32 pair) const {
    if (WIDE) pair = multiply_bf16x2(pair, (127 + POWER) * ONE);
    return multiply_bf16x2(pair, factor);
  }
};

/// 8 FP4 values of a matrix times the scale in byte `step` of `scales`.
template <bool WIDE> __device__ inline u32x4 expand_fp4(u32 codes, u32 scales, u32 step) {
  Scaling<126, WIDE> scaled(scales, step);
  u32x4 pairs = fp4_pairs(codes);
  for (u32 i = 0; i < 4; ++i) pairs[i] = scaled(pairs[i]);
  return pairs;
}

// `row_chunk`: BF16 values `8 * p ..` of a group of 32 values of a row, from its parts.
template <bool WIDE> __device__ inline u32x4 row_chunk(const u32x4 (&bf16)[4], u32, u32, u32 p) {
  return bf16[p];
}
template <bool WIDE>
__device__ inline u32x4 row_chunk(const u32x4 (&fp4)[1], u32 scales, u32 step, u32 p) {
  Scaling<126, WIDE> scaled(scales, step);
  u32x4 pairs;
  for (u32 i = 0; i < 4; ++i) pairs[i] = scaled(row_fp4_pair(fp4[0][p], i));
  return pairs;
}
template <bool WIDE>
__device__ inline u32x4 row_chunk(const u32x4 (&fp8)[2], u32 scales, u32 step, u32 p) {
  Scaling<120, WIDE> scaled(scales, step);
  u32x4 pairs;
  for (u32 i = 0; i < 4; ++i) pairs[i] = scaled(fp8_pair(fp8[p / 2][p % 2 * 2 + i / 2], i % 2));
  return pairs;
}

/// The wave's product of EIGHTS eights of rows with T tiles.
template <class Rows, u32 EIGHTS, u32 T, u32 STAGES> struct FewRows {
  typedef u32x4 Parts[EIGHTS][Rows::PARTS];
  struct Scales {
    u32 weights[T][CHUNKS], rows[CHUNKS];
  };
  const Weights &weights;
  u32x4 *stages;
  u32 slab, end;
  Scales scales, next;
  Parts next_parts;

  /// Over the slabs `slab..end`.
  __device__ FewRows(float *memory, const Weights &weights, u32 slab, u32 end)
      : weights(weights), stages((u32x4 *)memory + lane()), slab(slab), end(end) {}

  __device__ void start_copies() {
    for (u32 s = 0; s < STAGES; ++s) {
      if (slab + s < end)
        for (u32 t = 0; t < T; ++t) copy(s, t, slab + s);
      copies_started();
    }
  }
  __device__ void load_rows(const Tile<Rows> &x) {
    x.scales.template load<Rows>(slab / 4, next.rows);
    if (EIGHTS == 1) load_parts(x, slab);
  }

  __device__ void copy(u32 stage, u32 t, u32 slab) {
    const u32x4 *from = weights.codes + ((u64)t * weights.slabs + slab) * 64;
    for (u32 c = 0; c < CHUNKS; ++c)
      copy_async(stages + stage * STAGE_CHUNKS<T> + (t * CHUNKS + c) * WAVE, from + slot(c));
  }
  __device__ void load_parts(const Tile<Rows> &x, u32 slab) {
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 p = 0; p < Rows::PARTS; ++p)
        next_parts[e][p] = *(const u32x4 *)(x.rows[e] + Rows::offset(slab, chunk_group(), p, x.k));
  }
  __device__ void load_scales(u32 quad) {
    for (u32 t = 0; t < T; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) next.weights[t][c] = weights.scale(t, quad, c);
  }

  /// Whether any lane has a scale of 2 or more.
  __device__ bool is_wide() const {
    u32 any = 0;
    for (u32 t = 0; t < T; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) any |= scales.weights[t][c];
    for (u32 e = 0; e < EIGHTS; ++e) any |= scales.rows[e];
    return ballot((any & 0x80808080) != 0) != 0;
  }

  /// Adds slab `slab`, and has the one copied that takes its place.
  template <bool WIDE>
  __device__ void add_slab(Acc (&acc)[T], const Parts &parts, u32 stage) {
    u32 step = slab % 4;
    u32x4 rows[EIGHTS][4];
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 p = 0; p < 4; ++p) rows[e][p] = row_chunk<WIDE>(parts[e], scales.rows[e], step, p);
    for (u32 t = 0; t < T; ++t) {
      u32x4 codes[CHUNKS];
      for (u32 c = 0; c < CHUNKS; ++c)
        codes[c] = stages[stage * STAGE_CHUNKS<T> + (t * CHUNKS + c) * WAVE];
      if (slab + STAGES < end) copy(stage, t, slab + STAGES);
      for (u32 p = 0; p < 4; ++p) {
        u32x4 w[CHUNKS];
        for (u32 c = 0; c < CHUNKS; ++c) {
          Scaling<126, WIDE> scaled(scales.weights[t][c], step);
          w[c] = fp4_pairs(codes[c][p]);
          for (u32 i = 0; i < 4; ++i) w[c][i] = scaled(w[c][i]);
        }
        for (u32 e = 0; e < EIGHTS; ++e)
          for (u32 i = 0; i < 4; i += 2)
            mma_m16n8k16(acc[t].v + 4 * e, w[0][i], w[1][i], w[0][i + 1], w[1][i + 1],
                         rows[e][p][i], rows[e][p][i + 1]);
      }
    }
  }

  /// Adds all slabs. Their first copies, scales and rows are under way.
  __device__ void run(Acc (&acc)[T], const Tile<Rows> &x) {
    u32 stage = 0;
    bool wide = false;
#pragma nounroll
    for (; slab < end; ++slab) {
      if (slab % 4 == 0) {
        scales = next;
        u32 quad = at_most(slab / 4 + 1, (end - 1) / 4);
        load_scales(quad);
        x.scales.template load<Rows>(quad, next.rows);
        wide = is_wide();
      }
      Parts parts;
      if (EIGHTS > 1) load_parts(x, slab);
      for (u32 e = 0; e < EIGHTS; ++e)
        for (u32 p = 0; p < Rows::PARTS; ++p) parts[e][p] = next_parts[e][p];
      if (EIGHTS == 1) load_parts(x, at_most(slab + 1, end - 1));
      copies_done<STAGES - 1>();
      if (wide)
        add_slab<true>(acc, parts, stage);
      else
        add_slab<false>(acc, parts, stage);
      copies_started();
      stage = (stage + 1) % STAGES;
    }
    copies_done<0>();
    sync_wave(); // nobody is left that reads the copies
  }
};

/// What is called for what `find()` gives: `multiply` starts copies before. FIRST: what it gives,
/// and `multiply` loads of it before.
template <bool FIRST = false, class Find> __device__ inline auto soon(Find find) {
  if constexpr (FIRST)
    return find();
  else
    return find;
}

template <class Rows, u32 EIGHTS, u32 LAUNCH, u32 T, class Find>
__device__ inline void multiply_eights(float *memory, Acc (&acc)[T], Find find,
                                       const Weights &weights, u32 slab, u32 end) {
  FewRows<Rows, EIGHTS, T, STAGES<LAUNCH>> product(memory, weights, slab, end);
  // Behind many copies scales would come late.
  if (LAUNCH != GROUPS) {
    product.load_scales(slab / 4);
    loads_first();
  }
  product.start_copies();
  Tile<Rows> x = find();
  if (LAUNCH == GROUPS) product.load_scales(slab / 4);
  product.load_rows(x);
  product.run(acc, x);
}
template <class Rows, u32 EIGHTS, u32 LAUNCH, u32 T>
__device__ inline void multiply_eights(float *memory, Acc (&acc)[T], const Tile<Rows> &x,
                                       const Weights &weights, u32 slab, u32 end) {
  FewRows<Rows, EIGHTS, T, STAGES<LAUNCH>> product(memory, weights, slab, end);
  product.load_scales(slab / 4);
  product.load_rows(x);
  loads_first();
  product.start_copies();
  product.run(acc, x);
}

template <class Rows, u32 LAUNCH = GROUPS, u32 T, class TileOf>
__device__ inline void multiply(float *memory, Acc (&acc)[T], u32 rows, const TileOf &tile,
                                const Weights &weights, u32 begin, u32 end) {
  u32 slab = 4 * begin, last = at_most(4 * end, weights.slabs);
  if (rows <= 8)
    multiply_eights<Rows, 1, LAUNCH>(memory, acc, tile, weights, slab, last);
  else
    multiply_eights<Rows, 2, LAUNCH>(memory, acc, tile, weights, slab, last);
}
