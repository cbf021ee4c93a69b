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

// A form of activations. `offset`: where in a row part `part` (of CODE_BITS / 4, 16 bytes each) of
// group `group` of a slab begins.

struct Fp4Rows {
  static constexpr u32 CODE_BITS = 4, PARTS = 1;
  __device__ static u32 offset(u32 slab, u32 group, u32, u32 k) {
    return at_most(slab * 64 + group * 16, k / 2 - 16);
  }
};

struct Fp8Rows {
  static constexpr u32 CODE_BITS = 8, PARTS = 2;
  __device__ static u32 offset(u32 slab, u32 group, u32 part, u32 k) {
    return at_most(slab * 128 + fp8_offset(group, part), k - 16);
  }
};

struct Bf16Rows {
  static constexpr u32 CODE_BITS = 16, PARTS = 4;
  __device__ static u32 offset(u32 slab, u32 group, u32 part, u32 k) {
    return at_most(slab * 256 + group * 64, 2 * k - 64) + 16 * part;
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

/// Up to 16 rows in memory, of which the lane has its part.
template <class Rows> struct Tile {
  const u8 *rows[CHUNKS];
  RowScales scales;
  u32 k;

  /// Row `i` is row `row(i)` of x.
  template <class RowAt>
  __device__ Tile(const u8 *x, const u32 *x_scales, u32 k, RowAt row) : k(k) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u64 at = row(chunk_row(c));
      rows[c] = x + at * k * Rows::CODE_BITS / 8;
      scales.set<Rows>(c, x_scales, at, k);
    }
  }
};

/// What a launch of products of few rows takes: so many waves it has to fill the time that one
/// waits.
enum Launch : u32 {
  ONE_ROW, // of which there is one
  ROWS,    // up to four, each by itself
  GROUPS,  // of up to 16 rows
};

// `multiply<Rows, LAUNCH>(memory, acc, rows, x, weights, begin, end)`: `acc[t] += x w[t]^T` over
// the quads `begin..end`, of `rows` rows of the tile that x is or finds (`soon`), and of others
// what may be, for T tiles of the matrix: TILES, or ROW_TILES<LAUNCH> for a wave that has a row and
// all of k. Value `i` is of row `sum_row(i)` of x and row `sum_col(i)` of w[t]. `memory`: the
// wave's `WAVE_MEMORY<LAUNCH, T>` floats of LDS, which may hold anything before and after. On
// gfx950 all weights of a quad are under way before any is used, but of GROUPS.
#if defined(__gfx950__)
#include "arch/few_rows_gfx950.h"
#else
#include "arch/few_rows_sm90.h"
#endif
