// out = x w^T with an MXFP4 matrix.
//
// x: rows in one of `mxfp4.h`'s forms [rows, k]. w: MXFP4 [n, k], its rows padded to a multiple of
// 64. out [rows, n] f32. A workgroup takes 64 columns and 16 * ROW_TILES rows; its 8 waves each
// multiply an eighth of the quads, as `segments.h` says. Must move w once for each 16 * ROW_TILES
// rows, x once for each 64 columns, and out.
#include "segments.h"

struct MatmulMxfp4Args {
  const u8 *x;
  const u32 *x_scales;
  const u32x4 *w;
  const u32 *w_scales;
  float *out;
  const u32 *rows;
  u32 n;
  u32 k;
};

/// Grid: (n / 64 rounded up, bound on rows / (16 * ROW_TILES) rounded up).
template <class Rows, u32 ROW_TILES>
__device__ inline void matmul(const MatmulMxfp4Args &args) {
  __shared__ float partial[SEGMENTS * 1024];
  u32 first = block_y() * 16 * ROW_TILES, all = *args.rows;
  if (first >= all) return;
  u32 rows = at_most(all - first, 16 * ROW_TILES);
  Weights weights(args.w, args.w_scales, block_x() * TILES, args.k);
  Rows x[ROW_TILES];
  for (u32 m = 0; m < ROW_TILES; ++m) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 row = at_most(m * 16 + chunk_row(c), rows - 1);
      x[m].set(c, args.x, args.x_scales, first + row, args.k);
    }
  }
  Acc acc[ROW_TILES][TILES] = {};
  multiply_segment<Rows, ROW_TILES>(acc, x, weights, args.k, (rows + 15) / 16);

  for (u32 m = 0; m < ROW_TILES; ++m) {
    if (m * 16 >= rows) break;
    spread(acc[m], partial);
    sync();
    for (u32 e = thread(); e < 1024; e += SEGMENTS * WAVE) {
      u32 row = e / 64, column = block_x() * 64 + e % 64;
      float sum = total(partial, e % 64 / 16, row, e % 16);
      if (m * 16 + row < rows && column < args.n) {
        args.out[(u64)(first + m * 16 + row) * args.n + column] = sum;
      }
    }
    sync();
  }
}

#define MATMUL_MXFP4(form, Rows, row_tiles)                                                        \
  KERNEL(SEGMENTS * WAVE) void matmul_mxfp4_##form##_##row_tiles(MatmulMxfp4Args args) {           \
    matmul<Rows, row_tiles>(args);                                                                 \
  }
MATMUL_MXFP4(mxfp4, Fp4Rows, 1)
MATMUL_MXFP4(mxfp4, Fp4Rows, 4)
MATMUL_MXFP4(mxfp8, Fp8Rows, 1)
MATMUL_MXFP4(mxfp8, Fp8Rows, 4)
MATMUL_MXFP4(bf16, Bf16Rows, 1)
MATMUL_MXFP4(bf16, Bf16Rows, 2)
