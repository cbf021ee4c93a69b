// out = x w^T with an MXFP4 matrix.
//
// x: rows in one of `mxfp4.h`'s forms [rows, k]. w: MXFP4 [n, k], its rows padded to a multiple of
// 64. out [rows, n] f32. matmul_mxfp4_*_16: a workgroup takes 64 columns and 16 rows; its 8 waves
// each multiply an eighth of the quads, as `segments.h` says. matmul_mxfp4_*_64: 256 columns and 64
// rows (on sm_90 96), see `rows64.h`; the same bits. Must move w once for each 16 or 64 rows, x
// once for each 64 or 256 columns, and out.
#include "rows64.h"

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

/// Grid: (n / 64 rounded up, bound on rows / 16 rounded up).
template <class Rows> __device__ inline void few_rows(const MatmulMxfp4Args &args) {
  begin();
  FEW_MEMORY(partial, SEGMENTS * PARTIAL<GROUPS>);
  u32 first = block_y() * 16, all = *args.rows;
  if (first >= all) return;
  Weights weights(args.w, args.w_scales, block_x() * TILES, args.k);
  auto row = [&](u32 i) { return at_most(first + i, all - 1); };
  auto x = soon([&] { return Tile<Rows>(args.x, args.x_scales, args.k, row); });
  multiply_segment<Rows>(partial, all - first, x, weights, args.k);
  sync();
  for (u32 e = thread(); e < 1024; e += SEGMENTS * WAVE) {
    u32 row = first + e / 64, column = block_x() * 64 + e % 64;
    if (ROWS_ALONE && row >= all) break;
    float sum = total(partial, e % 64 / 16, e / 64, e % 16);
    if (row < all && column < args.n) args.out[(u64)row * args.n + column] = sum;
  }
}

#if defined(__gfx950__)
#include "arch/matmul_mxfp4_gfx950.h"
#else
#include "arch/matmul_mxfp4_sm90.h"
#endif

#define MATMUL_MXFP4(form, Rows)                                          \
  SHARING_KERNEL(SEGMENTS *WAVE) void matmul_mxfp4_##form##_16(MatmulMxfp4Args args) { \
    few_rows<Rows>(args);                                                 \
  }                                                                       \
  BLOCK_KERNEL void matmul_mxfp4_##form##_64(MatmulMxfp4Args args) {      \
    many_rows<Rows>(args);                                                \
  }
MATMUL_MXFP4(mxfp4, Fp4Rows)
MATMUL_MXFP4(mxfp8, Fp8Rows)
MATMUL_MXFP4(bf16, Bf16Rows)
