// Matmuls whose workgroup cuts k into 8 segments, one for each of its waves.
//
// Segment s of q quads is `q s / 8 .. q (s + 1) / 8`; the segments' sums are added in ascending
// order through LDS. The order depends on k alone.
#pragma once
#include "mxfp4.h"

constexpr u32 SEGMENTS = 8;

/// Where LDS has element (row, col) of the 16 x 16 sums of tile `tile`. Lanes that hold a column of
/// results, and lanes that read a row of four tiles or two rows of two, all use different banks.
__device__ inline u32 partial_at(u32 tile, u32 row, u32 col) {
  u32 place = row ^ (row / 4 & 3) ^ (tile & 1) << 1 ^ tile >> 1;
  return tile * 256 + place * 16 + col;
}

/// Floats of a wave's part of LDS.
template <u32 LAUNCH>
constexpr u32 PARTIAL = WAVE_MEMORY<LAUNCH, TILES> > 1024 ? WAVE_MEMORY<LAUNCH, TILES> : 1024;

/// Writes the wave's segment of the products of a tile of rows with four tiles of the matrix to its
/// part of `partial` [SEGMENTS][PARTIAL]; on sm_90 those of `rows` rows alone.
template <class Rows, u32 LAUNCH = GROUPS, class TileOf>
__device__ inline void multiply_segment(float *partial, u32 rows, const TileOf &x,
                                        const Weights &weights, u32 k) {
  u32 quads = Weights::quads(k);
  Acc acc[TILES] = {};
  multiply<Rows, LAUNCH>(partial + wave() * PARTIAL<LAUNCH>, acc, rows, x, weights,
                         quads * wave() / SEGMENTS, quads * (wave() + 1) / SEGMENTS);
  for (u32 t = 0; t < TILES; ++t)
    for (u32 i = 0; i < ACCUMULATORS; ++i)
      if (!ROWS_ALONE || sum_row(i) < rows)
        partial[wave() * PARTIAL<LAUNCH> + partial_at(t, sum_row(i), sum_col(i))] = acc[t].v[i];
}

/// The sum of all segments of an element.
template <u32 LAUNCH = GROUPS>
__device__ inline float total(const float *partial, u32 tile, u32 row, u32 col) {
  u32 at = partial_at(tile, row, col);
  float sum = 0;
  for (u32 s = 0; s < SEGMENTS; ++s) sum += partial[s * PARTIAL<LAUNCH> + at];
  return sum;
}

/// Where 16 rows of 32 hidden units have one; fours of a row stay together. Lanes that hold a
/// column of results, and lanes that read fours of several rows, use different banks.
__device__ inline u32 hidden_place(u32 row, u32 unit) {
  return (row ^ row / 8) * 32 + (unit ^ (row / 2 & 1) << 2 ^ (row / 4 & 1) << 4);
}
