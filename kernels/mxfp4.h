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
// A wave multiplies up to ROW_TILES tiles of 16 rows with 4 tiles of the matrix; weights go from
// memory to registers, each once. Order of additions: quads ascending, in a quad slabs ascending,
// each slab one matrix instruction (four for BF16, of 32 values each).
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

/// The lane's part of a tile of rows. `set(c, ..)` says which row is the lane's chunk `c`.
struct Fp4Rows {
  static constexpr u32 CODE_BITS = 4;
  const u8 *codes[CHUNKS];
  const u32 *scales[CHUNKS];
  u32 last;

  __device__ void set(u32 c, const u8 *x, const u32 *x_scales, u64 row, u32 k) {
    codes[c] = x + row * (k / 2);
    scales[c] = x_scales + row * scale_words(k) + chunk_group();
    last = k / 2 - 16;
  }
  struct Scale {
    u32 word[CHUNKS];
  };
  __device__ Scale scale(u32 quad) const {
    Scale s;
    for (u32 c = 0; c < CHUNKS; ++c) s.word[c] = scales[c][quad * 4];
    return s;
  }
  struct Slab {
    u32x4 chunk[CHUNKS];
  };
  __device__ Slab slab(u32 i) const {
    Slab s;
    for (u32 c = 0; c < CHUNKS; ++c) {
      s.chunk[c] = *(const u32x4 *)(codes[c] + at_most(i * 64 + chunk_group() * 16, last));
    }
    return s;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Slab &x, const Scale &sx, const u32x4 *w,
                                  const u32 *sw) {
    mma_mxfp4<STEP>(acc, x.chunk, sx.word, w, sw);
  }
};

struct Fp8Rows {
  static constexpr u32 CODE_BITS = 8;
  const u8 *codes[CHUNKS];
  const u32 *scales[CHUNKS];
  u32 last;

  __device__ void set(u32 c, const u8 *x, const u32 *x_scales, u64 row, u32 k) {
    codes[c] = x + row * k;
    scales[c] = x_scales + row * scale_words(k) + chunk_group();
    last = k - 16;
  }
  typedef Fp4Rows::Scale Scale;
  __device__ Scale scale(u32 quad) const {
    Scale s;
    for (u32 c = 0; c < CHUNKS; ++c) s.word[c] = scales[c][quad * 4];
    return s;
  }
  struct Slab {
    u32x4 chunk[CHUNKS][2];
  };
  __device__ Slab slab(u32 i) const {
    Slab s;
    for (u32 c = 0; c < CHUNKS; ++c) {
      for (u32 p = 0; p < 2; ++p) {
        s.chunk[c][p] = *(const u32x4 *)(codes[c] + at_most(i * 128 + fp8_offset(p), last));
      }
    }
    return s;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Slab &x, const Scale &sx, const u32x4 *w,
                                  const u32 *sw) {
    mma_mxfp8<STEP>(acc, x.chunk, sx.word, w, sw);
  }
};

struct Bf16Rows {
  static constexpr u32 CODE_BITS = 16;
  const u8 *values[CHUNKS];
  u32 last;

  __device__ void set(u32 c, const u8 *x, const u32 *, u64 row, u32 k) {
    values[c] = x + row * k * 2;
    last = k * 2 - 64;
  }
  struct Scale {};
  __device__ Scale scale(u32) const { return {}; }
  struct Slab {
    bf16x8 part[4][CHUNKS];
  };
  __device__ Slab slab(u32 i) const {
    Slab s;
    for (u32 c = 0; c < CHUNKS; ++c) {
      const u8 *group = values[c] + at_most(i * 256 + chunk_group() * 64, last);
      for (u32 p = 0; p < 4; ++p) s.part[p][c] = *(const bf16x8 *)(group + 16 * p);
    }
    return s;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Slab &x, const Scale &, const u32x4 *w,
                                  const u32 *sw) {
    bf16x8 expanded[CHUNKS][4];
    for (u32 c = 0; c < CHUNKS; ++c) dequantize_fp4<STEP>(w[c], sw[c], expanded[c]);
    for (u32 p = 0; p < 4; ++p) {
      bf16x8 b[CHUNKS];
      for (u32 c = 0; c < CHUNKS; ++c) b[c] = expanded[c][p];
      mma_bf16(acc, x.part[p], b);
    }
  }
};

/// The weights of one quad, as far as it has slabs.
struct Quad {
  u32x4 codes[4][TILES][CHUNKS];
  u32 scales[TILES][CHUNKS];
};

template <class Rows, u32 ROW_TILES, int STEP>
__device__ inline void multiply_slab(Acc acc[ROW_TILES][TILES], const Rows x[ROW_TILES],
                                     const typename Rows::Scale sx[ROW_TILES], const Quad &w,
                                     u32 slab, u32 row_tiles) {
  for (u32 m = 0; m < ROW_TILES; ++m) {
    if (m > 0 && m >= row_tiles) continue;
    typename Rows::Slab rows = x[m].slab(slab);
    for (u32 t = 0; t < TILES; ++t) {
      Rows::template multiply<STEP>(acc[m][t], rows, sx[m], w.codes[STEP][t], w.scales[t]);
    }
  }
}

/// `acc[m][t] += x[m] w[t]^T` over the quads `begin..end`, for the first `row_tiles` m.
template <class Rows, u32 ROW_TILES>
__device__ inline void multiply(Acc acc[ROW_TILES][TILES], const Rows x[ROW_TILES],
                                const Weights &weights, u32 begin, u32 end, u32 row_tiles) {
  for (u32 quad = begin; quad < end; ++quad) {
    u32 slab = quad * 4, slabs = weights.slabs - slab; // 4, but in the last quad
    Quad w;
    typename Rows::Scale sx[ROW_TILES];
    for (u32 t = 0; t < TILES; ++t) {
      for (u32 c = 0; c < CHUNKS; ++c) w.scales[t][c] = weights.scale(t, quad, c);
    }
    for (u32 m = 0; m < ROW_TILES; ++m) sx[m] = x[m].scale(quad);
    if (slabs >= 4) {
      for (u32 s = 0; s < 4; ++s) {
        for (u32 t = 0; t < TILES; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) w.codes[s][t][c] = weights.chunk(t, slab + s, c);
        }
      }
      multiply_slab<Rows, ROW_TILES, 0>(acc, x, sx, w, slab, row_tiles);
      multiply_slab<Rows, ROW_TILES, 1>(acc, x, sx, w, slab + 1, row_tiles);
      multiply_slab<Rows, ROW_TILES, 2>(acc, x, sx, w, slab + 2, row_tiles);
      multiply_slab<Rows, ROW_TILES, 3>(acc, x, sx, w, slab + 3, row_tiles);
    } else {
      for (u32 s = 0; s < 3; ++s) {
        for (u32 t = 0; t < TILES; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) {
            w.codes[s][t][c] = weights.chunk(t, slab + at_most(s, slabs - 1), c);
          }
        }
      }
      multiply_slab<Rows, ROW_TILES, 0>(acc, x, sx, w, slab, row_tiles);
      if (slabs > 1) multiply_slab<Rows, ROW_TILES, 1>(acc, x, sx, w, slab + 1, row_tiles);
      if (slabs > 2) multiply_slab<Rows, ROW_TILES, 2>(acc, x, sx, w, slab + 2, row_tiles);
    }
  }
}
