// swiglu: `out = g / (1 + e^-g) * u` for rows `[g | u]`.
//
// gate_up: f32 `[rows, 2 * width]`. out: bf16 `[rows, width]`, rounded to nearest even. `width` is
// a multiple of 4. Grid: (width / 1024 rounded up, rows). Must move 10 bytes a value.
#include "swiglu.h"

struct SwigluArgs {
  const u32 *rows;
  const float *gate_up;
  __bf16 *out;
  u32 width;
};

KERNEL(256) void swiglu(SwigluArgs args) {
  begin();
  u32 row = block_y(), i = 4 * (256 * block_x() + thread());
  if (row >= *args.rows || i >= args.width) return;
  const float *from = args.gate_up + (u64)row * 2 * args.width + i;
  f32x4 gate = *(const f32x4 *)from, up = *(const f32x4 *)(from + args.width);
  bf16x4 y;
  for (u32 j = 0; j < 4; ++j) y[j] = (__bf16)gated(gate[j], up[j]);
  *(bf16x4 *)(args.out + (u64)row * args.width + i) = y;
}
