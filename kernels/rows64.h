// Products of many rows at once with MXFP4 matrices: rows go through LDS, weights from memory to
// registers.
//
// 256 threads multiply M tiles of 16 rows with a block of 16 tiles of a matrix, a wave all of the
// rows with its share of these (`arch/rows64_*.h`). The order of additions is that of `segments.h`
// (SEGMENTED), or of `multiply` in `mxfp4.h`.
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
