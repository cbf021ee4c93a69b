// Products of up to 64 rows at once with an MXFP4 matrix: rows go through LDS, weights from memory
// to registers.
//
// A workgroup of 256 threads multiplies M tiles of 16 rows with 16 tiles of the matrix, a wave all
// of the rows with its share of these (`BlockProduct` in `arch/rows64_*.h`). The order of additions
// is that of `segments.h` (SEGMENTED), or of `multiply` in `mxfp4.h`.
#pragma once
#include "segments.h"

constexpr u32 BLOCK_WAVES = 256 / WAVE;
/// Tiles of the matrix for a workgroup, and for a wave.
constexpr u32 BLOCK_TILES = 16, OWN_TILES = BLOCK_TILES / BLOCK_WAVES;

/// Tile `t` of those that the wave multiplies. Of each four tiles (32 gate and 32 up rows, for
/// `experts_gate_up`) it has tile i together with tile i + 2.
__device__ inline u32 own_tile(u32 t) {
  u32 first = wave() * OWN_TILES / 4 * 4 + wave() * OWN_TILES % 4 / 2;
  return first + t % (OWN_TILES / 2) + t / (OWN_TILES / 2) * 2;
}

#if defined(__gfx950__)
#include "arch/rows64_gfx950.h"
#else
#include "arch/rows64_sm90.h"
#endif

template <class Rows, u32 M, bool SEGMENTED, class RowAt, class Use>
__device__ inline void multiply_tiles(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                                      const Weights &weights, u32 k, RowAt row, Use use) {
  BlockProduct<Rows, M, SEGMENTED> product(staged, x, x_scales, weights, k, row);
  const Sums<M> &sums = product.run();
  for (u32 m = 0; m < M; ++m) use(sums.tile[m], m);
}

/// Multiplies `rows` rows of x, 1 to 64 (all, if more), of which row `i` is row `row(i)`, and calls
/// `use(sums, m)` with the wave's sums of each tile of them: value `i` is of row `sum_row(i)` of
/// the rows' tile and row `sum_col(i)` of the matrix's.
template <class Rows, bool SEGMENTED, class RowAt, class Use>
__device__ inline void multiply_block(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                                      const Weights &weights, u32 k, u32 rows, RowAt row,
                                      Use use) {
  if (rows > 48)
    multiply_tiles<Rows, 4, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else if (rows <= 16)
    multiply_tiles<Rows, 1, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else if (rows <= 32)
    multiply_tiles<Rows, 2, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else
    multiply_tiles<Rows, 3, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
}
