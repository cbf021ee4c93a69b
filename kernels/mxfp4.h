// Products of rows of activations with an MXFP4 matrix.
//
// A matrix w [n, k] has n a multiple of 64 and k of 32, in tiles of 16 rows (see `device.h`).
// codes: for each tile and slab of 128 values 64 chunks of 16 bytes. scales: for each tile and quad
// of 512 values 64 words. Codes are stored for slabs that hold values, (k + 127) / 128 of them, the
// last one filled up with zeros; scales for whole quads, filled up with 127.
//
// Activations come in one of three forms, rows [.., k], each row 16-byte aligned:
//   Fp4Rows  E2M1 codes (k / 2 bytes), scale words as in `mx.h`
//   Fp8Rows  E4M3 codes (k bytes), scale words likewise
//   Bf16Rows BF16; no scales. Weights are expanded to BF16 in registers, which is exact.
// Beyond k the last values of the row are read again: the matrix has zeros there.
//
// A wave multiplies a tile of 16 rows with 4 tiles of the matrix; weights go from memory to
// registers, each once. Order of additions: quads ascending, in a quad slabs ascending, each slab
// one matrix instruction (four for BF16, of 32 values each). For many rows see `rows64.h`.
#pragma once
#include "mx.h"

constexpr u32 TILES = 4;

/// The lane's part of the 4 tiles that a wave multiplies with.
struct Weights {
  const u32x4 *codes;
  const u32 *scales;
  u32 slabs;

  /// From tile `tile` on of the matrix at `codes`, `scales`.
  __device__ Weights(const u32x4 *codes, const u32 *scales, u64 tile, u32 k)
      : codes(codes + tile * ((k + 127) / 128) * 64), scales(scales + tile * quads(k) * 64),
        slabs((k + 127) / 128) {}

  __device__ static u32 quads(u32 k) { return (k + 511) / 512; }

  __device__ u32x4 chunk(u32 tile, u32 slab, u32 c) const {
    return load_once(codes + ((u64)tile * slabs + slab) * 64 + slot(c));
  }
  __device__ u32 scale(u32 tile, u32 quad, u32 c) const {
    return scales[((u64)tile * ((slabs + 3) / 4) + quad) * 64 + slot(c)];
  }
};

__device__ inline u32 at_most(u32 x, u32 limit) { return x < limit ? x : limit; }

// A form of activations. `PIECES`: matrix instructions for a slab. `Piece`: the lane's operand of
// one of them. `offset`: where in a row part `part` (of CODE_BITS / 4, 16 bytes each) of group
// `group` of a slab begins; a piece has `PARTS / PIECES` of them. `Operand`: the lane's part of a
// tile of weights for a piece.

struct Fp4Rows {
  static constexpr u32 CODE_BITS = 4, PIECES = 1, PARTS = 1;
  struct Piece {
    u32x4 chunk[CHUNKS][1];
  };
  struct Operand {
    u32x4 codes[CHUNKS];
  };
  __device__ static u32 offset(u32 slab, u32 group, u32, u32 k) {
    return at_most(slab * 64 + group * 16, k / 2 - 16);
  }
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *, u32) {
    Operand o;
    for (u32 c = 0; c < CHUNKS; ++c) o.codes[c] = w[c];
    return o;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *sx, const Operand &w,
                                  const u32 *sw) {
    mma_mxfp4<STEP>(acc, x.chunk, sx, w.codes, sw);
  }
};

struct Fp8Rows {
  static constexpr u32 CODE_BITS = 8, PIECES = 1, PARTS = 2;
  struct Piece {
    u32x4 chunk[CHUNKS][2];
  };
  typedef Fp4Rows::Operand Operand;
  __device__ static u32 offset(u32 slab, u32 group, u32 part, u32 k) {
    return at_most(slab * 128 + fp8_offset(group, part), k - 16);
  }
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *sw, u32 piece) {
    return Fp4Rows::operand<STEP>(w, sw, piece);
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *sx, const Operand &w,
                                  const u32 *sw) {
    mma_mxfp8<STEP>(acc, x.chunk, sx, w.codes, sw);
  }
};

struct Bf16Rows {
  static constexpr u32 CODE_BITS = 16, PIECES = 4, PARTS = 4;
  struct Piece {
    u32x4 chunk[CHUNKS][1];
  };
  struct Operand {
    bf16x8 values[CHUNKS];
  };
  __device__ static u32 offset(u32 slab, u32 group, u32 part, u32 k) {
    return at_most(slab * 256 + group * 64, 2 * k - 64) + 16 * part;
  }
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *sw, u32 piece) {
    Operand o;
    for (u32 c = 0; c < CHUNKS; ++c) o.values[c] = dequantize_fp4<STEP>(w[c][piece], sw[c]);
    return o;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *, const Operand &w,
                                  const u32 *) {
    bf16x8 a[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) a[c] = __builtin_bit_cast(bf16x8, x.chunk[c][0]);
    mma_bf16(acc, a, w.values);
  }
};

/// The scale words of the lane's rows of a tile; BF16 has none.
struct RowScales {
  const u32 *words[CHUNKS];

  /// Chunk `c` is of row `row`.
  template <class Rows> __device__ void set(u32 c, const u32 *scales, u64 row, u32 k) {
    if (Rows::CODE_BITS < 16) words[c] = scales + row * scale_words(k) + chunk_group();
  }
  template <class Rows> __device__ void load(u32 quad, u32 (&out)[CHUNKS]) const {
    for (u32 c = 0; c < CHUNKS; ++c) out[c] = Rows::CODE_BITS < 16 ? words[c][quad * 4] : 0;
  }
};

/// The lane's part of a tile of rows in memory.
template <class Rows> struct Tile {
  const u8 *rows[CHUNKS];
  RowScales scales;
  u32 k;

  /// Row `i` of the tile is row `row(i)` of x.
  template <class RowAt>
  __device__ Tile(const u8 *x, const u32 *x_scales, u32 k, RowAt row) : k(k) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u64 at = row(chunk_row(c));
      rows[c] = x + at * k * Rows::CODE_BITS / 8;
      scales.set<Rows>(c, x_scales, at, k);
    }
  }
  __device__ typename Rows::Piece piece(u32 slab, u32 piece) const {
    constexpr u32 EACH = Rows::PARTS / Rows::PIECES;
    typename Rows::Piece x;
    for (u32 c = 0; c < CHUNKS; ++c)
      for (u32 p = 0; p < EACH; ++p)
        x.chunk[c][p] = *(const u32x4 *)(rows[c] + Rows::offset(slab, chunk_group(),
                                                                piece * EACH + p, k));
    return x;
  }
};

/// The weights of one quad, as far as it has slabs; codes of all, or of one at a time.
struct Quad {
  u32x4 codes[LOADS_QUADS ? 4 : 1][TILES][CHUNKS];
  u32 scales[TILES][CHUNKS];
};

template <class Rows, int STEP>
__device__ inline void multiply_slab(Acc acc[TILES], const Tile<Rows> &x, const u32 *sx,
                                     const Quad &w, u32 slab) {
  typename Rows::Piece pieces[Rows::PIECES];
  for (u32 p = 0; p < Rows::PIECES; ++p) pieces[p] = x.piece(slab, p);
  for (u32 t = 0; t < TILES; ++t)
    for (u32 p = 0; p < Rows::PIECES; ++p) {
      auto operand =
          Rows::template operand<STEP>(w.codes[LOADS_QUADS ? STEP : 0][t], w.scales[t], p);
      Rows::template multiply<STEP>(acc[t], pieces[p], sx, operand, w.scales[t]);
    }
}

/// Loads and adds slab `slab`, the `STEP`th of the quad, if it is before `end`.
template <class Rows, int STEP>
__device__ inline void add_slab(Acc acc[TILES], const Tile<Rows> &x, const u32 *sx, Quad &w,
                                const Weights &weights, u32 slab) {
  if (slab >= weights.slabs) return;
  for (u32 t = 0; t < TILES; ++t)
    for (u32 c = 0; c < CHUNKS; ++c) w.codes[0][t][c] = weights.chunk(t, slab, c);
  multiply_slab<Rows, STEP>(acc, x, sx, w, slab);
}

/// `acc[t] += x w[t]^T` over the quads `begin..end`.
template <class Rows>
__device__ inline void multiply(Acc acc[TILES], const Tile<Rows> &x, const Weights &weights,
                                u32 begin, u32 end) {
  for (u32 quad = begin; quad < end; ++quad) {
    u32 slab = quad * 4, slabs = weights.slabs - slab; // 4, but in the last quad
    Quad w;
    u32 sx[CHUNKS];
    for (u32 t = 0; t < TILES; ++t) {
      for (u32 c = 0; c < CHUNKS; ++c) w.scales[t][c] = weights.scale(t, quad, c);
    }
    x.scales.template load<Rows>(quad, sx);
    if (!LOADS_QUADS) {
      add_slab<Rows, 0>(acc, x, sx, w, weights, slab);
      add_slab<Rows, 1>(acc, x, sx, w, weights, slab + 1);
      add_slab<Rows, 2>(acc, x, sx, w, weights, slab + 2);
      add_slab<Rows, 3>(acc, x, sx, w, weights, slab + 3);
    } else if (slabs >= 4) {
      for (u32 s = 0; s < 4; ++s) {
        for (u32 t = 0; t < TILES; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) w.codes[s][t][c] = weights.chunk(t, slab + s, c);
        }
      }
      multiply_slab<Rows, 0>(acc, x, sx, w, slab);
      multiply_slab<Rows, 1>(acc, x, sx, w, slab + 1);
      multiply_slab<Rows, 2>(acc, x, sx, w, slab + 2);
      multiply_slab<Rows, 3>(acc, x, sx, w, slab + 3);
    } else {
      for (u32 s = 0; s < 3; ++s) {
        for (u32 t = 0; t < TILES; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) {
            w.codes[s][t][c] = weights.chunk(t, slab + at_most(s, slabs - 1), c);
          }
        }
      }
      multiply_slab<Rows, 0>(acc, x, sx, w, slab);
      if (slabs > 1) multiply_slab<Rows, 1>(acc, x, sx, w, slab + 1);
      if (slabs > 2) multiply_slab<Rows, 2>(acc, x, sx, w, slab + 2);
    }
  }
}
