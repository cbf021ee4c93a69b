// What each rank does with all ranks' parts once they have been moved to it.
//
// sum_ranks: `out = parts[0] + parts[1] + ..` in this order. parts: f32 `[ranks][.., width]`,
// `part_stride` values from one rank's to the next. out: f32 `[rows, width]`. Multiples of 4.
// gather_columns: `out[r] = parts[0][r] | parts[1][r] | ..`. parts as before; out: f32 `[rows,
// ranks * width]`.
// Grid: (width / 1024 rounded up, rows). Must move 4 (ranks + 1) and 8 bytes a value.
#include "device.h"

struct RanksArgs {
  const u32 *rows;
  const float *parts;
  float *out;
  u64 part_stride;
  u32 width;
  u32 ranks;
};

KERNEL(256) void sum_ranks(RanksArgs args) {
  begin();
  u32 row = block_y(), i = 4 * (256 * block_x() + thread());
  if (row >= *args.rows || i >= args.width) return;
  u64 at = (u64)row * args.width + i;
  f32x4 sum = *(const f32x4 *)(args.parts + at);
  for (u32 r = 1; r < args.ranks; ++r)
    sum += *(const f32x4 *)(args.parts + r * args.part_stride + at);
  *(f32x4 *)(args.out + at) = sum;
}

KERNEL(256) void gather_columns(RanksArgs args) {
  begin();
  u32 row = block_y(), i = 4 * (256 * block_x() + thread());
  if (row >= *args.rows || i >= args.width) return;
  const float *from = args.parts + (u64)row * args.width + i;
  float *to = args.out + (u64)row * args.ranks * args.width + i;
  for (u32 r = 0; r < args.ranks; ++r)
    *(f32x4 *)(to + (u64)r * args.width) = *(const f32x4 *)(from + r * args.part_stride);
}
