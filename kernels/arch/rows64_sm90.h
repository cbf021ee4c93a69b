// `rows64.h` for sm_90, by matrix instructions of two warpgroups. The matrix's rows are what the
// instructions find in registers, so that a wave expands its own tiles and nobody else needs them;
// the rows of x, expanded to BF16 where they are codes, are in LDS.
//
// Codes and rows of a slab of 128 values are loaded while the slab before is multiplied, and have
// arrived when the slab's rows are stored: `operands_written` waits for all loads under way.
#pragma once
#include "wgmma.h"

/// The sums of M tiles of rows and the wave's tiles of the matrix.
template <u32 M> struct Sums {
  Acc tile[M][OWN_TILES];
};

/// Two slabs of rows, each of four pieces of 32 values.
template <class Rows> struct Staged {
  OperandRows pieces[2][4][8];
};

/// The thread's part of a slab of a row as it is loaded: its groups' `PARTS`.
template <class Rows> struct Loaded {
  u32x4 parts[Rows::PARTS];
};

/// Piece `p` of what was loaded, as BF16; `scale` is the row's word of scales of the quad.
template <int STEP>
__device__ inline u32x4 expand(const Loaded<Bf16Rows> &row, u32, u32 p) {
  return row.parts[p];
}
template <int STEP>
__device__ inline u32x4 expand(const Loaded<Fp4Rows> &row, u32 scale, u32 p) {
  return __builtin_bit_cast(u32x4, dequantize_row_fp4<STEP>(row.parts[0][p], scale));
}
template <int STEP>
__device__ inline u32x4 expand(const Loaded<Fp8Rows> &row, u32 scale, u32 p) {
  u32 words[4], s = scale_bf16x2(scale, STEP);
  dequantize_fp8(row.parts[p / 2][p % 2 * 2], s, words);
  dequantize_fp8(row.parts[p / 2][p % 2 * 2 + 1], s, words + 2);
  return u32x4{words[0], words[1], words[2], words[3]};
}

/// The product of M tiles of rows, of which row `i` is row `row(i)` of x, with the wave's tiles.
template <class Rows, u32 M, bool SEGMENTED> struct BlockProduct {
  /// Batches of instructions are of 32 values and one of the wave's tiles. Their operands are
  /// expanded two batches ahead, while those of two others may be in use.
  static constexpr u32 BATCHES = 4 * OWN_TILES, BUFFERS = 4;
  Sums<M> out;
  float sums[OWN_TILES][8 * M], totals[OWN_TILES][8 * M];
  Staged<Rows> &staged;
  const Weights &weights;
  /// The thread's row of x, if its wave has one.
  const u8 *x;
  RowScales row_scales;
  u32 k;
  bool add = false;
  Loaded<Rows> loaded;
  u32x4 codes[2][OWN_TILES][CHUNKS];
  u32x4 operands[BUFFERS][CHUNKS];
  struct Scales {
    u32 weights[OWN_TILES][CHUNKS], row[CHUNKS];
  };
  Scales scales, next;

  template <class RowAt>
  __device__ BlockProduct(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                          const Weights &weights, u32 k, RowAt row)
      : staged(staged), weights(weights), k(k) {
    u64 own = row(8 * (wave() % (2 * M)) + lane() / 4);
    this->x = x + own * k * Rows::CODE_BITS / 8;
    for (u32 c = 0; c < CHUNKS; ++c) row_scales.template set<Rows>(c, x_scales, own, k);
  }

  // Beyond the last slab and quad the last are loaded again.
  __device__ void load_slab(u32 slab, u32 to) {
    slab = at_most(slab, weights.slabs - 1);
    for (u32 p = 0; p < Rows::PARTS; ++p)
      loaded.parts[p] = *(const u32x4 *)(x + Rows::offset(slab, chunk_group(), p, k));
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) codes[to][t][c] = weights.chunk(own_tile(t) % 4, slab, c);
  }
  __device__ void load_scales(u32 quad) {
    quad = at_most(quad, (weights.slabs - 1) / 4);
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) next.weights[t][c] = weights.scale(own_tile(t) % 4, quad, c);
    row_scales.template load<Rows>(quad, next.row);
  }

  /// Has codes and scales of a quad come nearer, if there is one.
  __device__ void prefetch(u32 quad) const {
    u32 slabs = weights.slabs, quads = (slabs + 3) / 4;
    if (quad >= quads || !elected()) return;
    for (u32 t = 0; t < OWN_TILES; ++t) {
      u64 tile = own_tile(t) % 4;
      prefetch_bulk(weights.codes + (tile * slabs + 4 * quad) * 64,
                    at_most(4, slabs - 4 * quad) * 1024);
      prefetch_bulk(weights.scales + (tile * quads + quad) * 64, 256);
    }
  }

  /// Stores what was loaded, of the `STEP`th slab of its quad, whose scales are `of`.
  template <int STEP> __device__ void store_slab(const Scales &of) {
    if (wave() < 2 * M)
      for (u32 p = 0; p < 4; ++p)
        store_operand(staged.pieces[STEP % 2][p][wave()], expand<STEP>(loaded, of.row[0], p));
    operands_written();
  }

  /// Expands the operands of batch `BATCH` of the `STEP`th slab of its quad.
  template <u32 BATCH, int STEP> __device__ void expand_batch(const Scales &of) {
    constexpr u32 T = BATCH % OWN_TILES, P = BATCH / OWN_TILES;
    for (u32 c = 0; c < CHUNKS; ++c)
      operands[BATCH % BUFFERS][c] = __builtin_bit_cast(
          u32x4, dequantize_fp4<STEP>(codes[STEP % 2][T][c][P], of.weights[T][c]));
  }

  template <u32 BATCH, int STEP> __device__ void add_batch() {
    constexpr u32 T = BATCH % OWN_TILES, P = BATCH / OWN_TILES;
    wgmma_begin();
    wgmma_slab(sums[T], operands[BATCH % BUFFERS], staged.pieces[STEP % 2][P], add || P > 0);
    wgmma_end();
    wgmma_wait<2>();
    if constexpr (BATCH + 2 < BATCHES)
      expand_batch<BATCH + 2, STEP>(scales);
    else
      expand_batch<BATCH + 2 - BATCHES, (STEP + 1) % 4>(STEP == 3 ? next : scales);
  }

  /// Adds slab `slab`, the `STEP`th of its quad.
  template <int STEP> __device__ void add_slab(u32 slab) {
    sync();
    add_batch<0, STEP>();
    if (STEP == 3) load_scales(slab / 4 + 1);
    load_slab(slab + 1, (STEP + 1) % 2);
    add_batch<1, STEP>();
    add_batch<2, STEP>();
    add_batch<3, STEP>();
    add_batch<4, STEP>();
    add_batch<5, STEP>();
    sync(); // nobody is left that reads the slab before
    store_slab<(STEP + 1) % 4>(STEP == 3 ? next : scales);
    add_batch<6, STEP>();
    add_batch<7, STEP>();
    add = true;
  }

  __device__ const Sums<M> &run() {
    u32 slabs = weights.slabs, quads = (slabs + 3) / 4, current = 0;
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 i = 0; i < 8 * M; ++i) sums[t][i] = totals[t][i] = 0;
    prefetch(0);
    load_scales(0);
    scales = next;
    load_slab(0, 0);
    store_slab<0>(scales);
    expand_batch<0, 0>(scales);
    expand_batch<1, 0>(scales);
    for (u32 quad = 0; quad < quads; ++quad) {
      prefetch(quad + 1);
      add_slab<0>(4 * quad);
      if (4 * quad + 1 < slabs) add_slab<1>(4 * quad + 1);
      if (4 * quad + 2 < slabs) add_slab<2>(4 * quad + 2);
      if (4 * quad + 3 < slabs) add_slab<3>(4 * quad + 3);
      scales = next;
      if (!SEGMENTED) continue;
      while (quads * (current + 1) / SEGMENTS <= quad) ++current;
      if (quads * (current + 1) / SEGMENTS != quad + 1) continue;
      add = false;
      for (u32 t = 0; t < OWN_TILES; ++t) {
        wgmma_wait(sums[t]);
        for (u32 i = 0; i < 8 * M; ++i) totals[t][i] += sums[t][i];
      }
    }
    for (u32 t = 0; t < OWN_TILES; ++t) {
      wgmma_wait(sums[t]);
      for (u32 i = 0; i < 8 * M; ++i)
        out.tile[i / 8][t].v[i % 8] = SEGMENTED ? totals[t][i] : copied(sums[t][i]);
    }
    return out;
  }
};
