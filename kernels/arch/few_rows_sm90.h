// Products of few rows for sm_90: tiles of the matrix are the instructions' first operand, of 16
// rows, and eights of x's rows the second. Each sum is the same bits as with operands exchanged.
//
// Codes are copied to LDS some slabs ahead, each chunk by the lane that takes it from there; rows of
// x are loaded to registers a slab ahead.
#pragma once
#include "wgmma.h"

#ifndef STAGES
#define STAGES 3
#endif
constexpr u32 FEW_STAGES = STAGES;
/// A slab of the wave's tiles: [tile][chunk][lane].
constexpr u32 STAGE_CHUNKS = TILES * CHUNKS * WAVE;
constexpr u32 WAVE_MEMORY = FEW_STAGES * STAGE_CHUNKS * 4;
#define FEW_MEMORY(name, floats) extern __shared__ __attribute__((aligned(128))) float name[]

__device__ inline u32 few_row(u32 i) { return i / 4 * 8 + acc_col(i % 4); }
__device__ inline u32 few_col(u32 i) { return acc_row(i % 4); }

/// Byte `step` of `word`.
__device__ inline u32 byte_of(u32 word, u32 step) { return __nvvm_prmt(word, 0, 0x4440 + step); }

/// Scaling values, two at a time, that stand as BF16 2^-POWER times what they are.
template <u32 POWER, bool WIDE> struct Scaling {
  u32 factor;
  /// By the scale in byte `step` of `word`, which is below 128 unless WIDE: then together with
  /// 2^POWER it may be no BF16.
  __device__ Scaling(u32 word, u32 step)
      : factor(WIDE ? scale_bf16x2(byte_of(word, step), 0)
                    : byte_of(word, step) * 0x00800080 + POWER * 0x00800080) {}
  __device__ u32 operator()(u32 pair) const {
    if (WIDE) pair = multiply_bf16x2(pair, (127 + POWER) * 0x00800080);
    return multiply_bf16x2(pair, factor);
  }
};

/// Chunk `p` of BF16 of a group of 32 values of a row.
template <bool WIDE> __device__ inline u32x4 expand(const u32x4 (&parts)[4], u32, u32, u32 p) {
  return parts[p];
}
template <bool WIDE>
__device__ inline u32x4 expand(const u32x4 (&parts)[1], u32 scale, u32 step, u32 p) {
  Scaling<126, WIDE> scaled(scale, step);
  u32x4 pairs;
  for (u32 i = 0; i < 4; ++i) pairs[i] = scaled(row_fp4_pair(parts[0][p], i));
  return pairs;
}
template <bool WIDE>
__device__ inline u32x4 expand(const u32x4 (&parts)[2], u32 scale, u32 step, u32 p) {
  Scaling<120, WIDE> scaled(scale, step);
  u32x4 pairs;
  for (u32 i = 0; i < 4; ++i) pairs[i] = scaled(fp8_pair(parts[p / 2][p % 2 * 2 + i / 2], i % 2));
  return pairs;
}

/// The wave's product of EIGHTS eights of rows.
template <class Rows, u32 EIGHTS> struct FewRows {
  struct Scales {
    u32 weights[TILES][CHUNKS], rows[CHUNKS];
  };
  const Weights &weights;
  u32x4 *ring;
  u32 slab, end;
  Scales scales, next;
  u32x4 parts[EIGHTS][Rows::PARTS];
#ifdef BULK
  u32 arrivals, parity = 0;
#endif

  /// Over the slabs `slab..end`.
  __device__ FewRows(float *memory, const Weights &weights, u32 slab, u32 end)
      : weights(weights), ring((u32x4 *)memory + lane()), slab(slab), end(end) {
#ifdef BULK
    __shared__ u64 arrived[8][FEW_STAGES];
    arrivals = lds_address(arrived[wave()]);
    if (lane() == 0)
      for (u32 s = 0; s < FEW_STAGES; ++s) expect_arrivals(arrivals + 8 * s, 1);
    operands_written();
    sync_wave();
    for (u32 s = 0; s < FEW_STAGES; ++s)
      if (slab + s < end) copy(s, slab + s);
#else
    for (u32 s = 0; s < FEW_STAGES; ++s) {
      if (slab + s < end)
        for (u32 t = 0; t < TILES; ++t) copy(s, t, slab + s);
      copies_started();
    }
#endif
  }

#ifdef BULK
  __device__ void copy(u32 stage, u32 slab) {
    if (!elected()) return;
    expect_bytes(arrivals + 8 * stage, STAGE_CHUNKS * 16);
    for (u32 t = 0; t < TILES; ++t)
      copy_bulk(ring - lane() + stage * STAGE_CHUNKS + t * CHUNKS * WAVE,
                weights.codes + ((u64)t * weights.slabs + slab) * 64, 1024, arrivals + 8 * stage);
  }
#endif
  __device__ void copy(u32 stage, u32 t, u32 slab) {
#if !defined(NOCOPY) && !defined(BULK)
    const u32x4 *from = weights.codes + ((u64)t * weights.slabs + slab) * 64;
    for (u32 c = 0; c < CHUNKS; ++c)
      copy_async(ring + stage * STAGE_CHUNKS + (t * CHUNKS + c) * WAVE, from + slot(c));
#endif
  }
  __device__ void load_parts(const Tile<Rows> &x, u32 slab) {
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 p = 0; p < Rows::PARTS; ++p)
#ifdef NOX
        parts[e][p] = u32x4{slab, p, e, 0x3f803f80};
#else
        parts[e][p] = *(const u32x4 *)(x.rows[e] + Rows::offset(slab, chunk_group(), p, x.k));
#endif
  }
  __device__ void load_scales(const Tile<Rows> &x, u32 quad) {
    for (u32 t = 0; t < TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c)
#ifdef NOSCALE
        next.weights[t][c] = 0x70707070;
#else
        next.weights[t][c] = weights.scale(t, quad, c);
#endif
    x.scales.template load<Rows>(quad, next.rows);
  }

  template <bool WIDE> __device__ void add_slab(Acc (&acc)[TILES], const u32x4 (&of)[EIGHTS][Rows::PARTS], u32 stage) {
    u32 step = slab % 4;
    u32x4 rows[EIGHTS][4];
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 p = 0; p < 4; ++p) rows[e][p] = expand<WIDE>(of[e], scales.rows[e], step, p);
    for (u32 t = 0; t < TILES; ++t) {
      u32x4 codes[CHUNKS];
      for (u32 c = 0; c < CHUNKS; ++c)
        codes[c] = ring[stage * STAGE_CHUNKS + (t * CHUNKS + c) * WAVE];
      if (slab + FEW_STAGES < end) copy(stage, t, slab + FEW_STAGES);
      Scaling<126, WIDE> first(scales.weights[t][0], step), second(scales.weights[t][1], step);
#ifdef NOCOMPUTE
      u32 any = codes[0][0] ^ codes[0][1] ^ codes[0][2] ^ codes[0][3] ^ codes[1][0] ^ codes[1][1] ^ codes[1][2] ^ codes[1][3] ^ first.factor ^ second.factor ^ rows[0][t][0];
      acc[t].v[0] += __builtin_bit_cast(float, any);
#else
      for (u32 p = 0; p < 4; ++p) {
        u32x4 a = fp4_pairs(codes[0][p]), b = fp4_pairs(codes[1][p]);
        for (u32 i = 0; i < 4; ++i) {
          a[i] = first(a[i]);
          b[i] = second(b[i]);
        }
        for (u32 e = 0; e < EIGHTS; ++e) {
          mma_m16n8k16(acc[t].v + 4 * e, a[0], b[0], a[1], b[1], rows[e][p][0], rows[e][p][1]);
          mma_m16n8k16(acc[t].v + 4 * e, a[2], b[2], a[3], b[3], rows[e][p][2], rows[e][p][3]);
        }
      }
#endif
    }
  }

  __device__ void run(Acc (&acc)[TILES], const Tile<Rows> &x) {
    load_scales(x, slab / 4);
    if (EIGHTS == 1) load_parts(x, slab);
    u32 stage = 0;
    bool wide = false;
#pragma nounroll
    for (; slab < end; ++slab) {
      if (slab % 4 == 0) {
        scales = next;
        load_scales(x, at_most(slab / 4 + 1, (end - 1) / 4));
        u32 any = 0;
        for (u32 t = 0; t < TILES; ++t)
          for (u32 c = 0; c < CHUNKS; ++c) any |= scales.weights[t][c];
        for (u32 e = 0; e < EIGHTS; ++e) any |= scales.rows[e];
        wide = ballot((any & 0x80808080) != 0) != 0;
      }
      u32x4 of[EIGHTS][Rows::PARTS];
      if (EIGHTS > 1) load_parts(x, slab);
      for (u32 e = 0; e < EIGHTS; ++e)
        for (u32 p = 0; p < Rows::PARTS; ++p) of[e][p] = parts[e][p];
      if (EIGHTS == 1) load_parts(x, at_most(slab + 1, end - 1));
#ifdef BULK
      wait_for_bytes(arrivals + 8 * stage, parity);
#else
      copies_done<FEW_STAGES - 1>();
#endif
      if (wide)
        add_slab<true>(acc, of, stage);
      else
        add_slab<false>(acc, of, stage);
#ifdef BULK
      sync_wave();
      if (slab + FEW_STAGES < end) copy(stage, slab + FEW_STAGES);
#else
      copies_started();
#endif
      stage = stage + 1 == FEW_STAGES ? 0 : stage + 1;
#ifdef BULK
      if (stage == 0) parity ^= 1;
#endif
    }
#ifndef BULK
    copies_done<0>();
#endif
    sync_wave();
  }
};

template <class Rows, class TileOf>
__device__ inline void multiply(float *memory, Acc (&acc)[TILES], u32 count, TileOf tile,
                                const Weights &weights, u32 begin, u32 end) {
  u32 last = at_most(4 * end, weights.slabs);
  if (count <= 8) {
    FewRows<Rows, 1> product(memory, weights, 4 * begin, last);
    product.run(acc, tile());
  } else {
    FewRows<Rows, 2> product(memory, weights, 4 * begin, last);
    product.run(acc, tile());
  }
}
