// select: `out[i] = x[indices[i]]`, rows of bf16.
//
// x: bf16 `[.., width]`. out: bf16 `[*count, width]`. `width` is a multiple of 8. One workgroup for
// each row of `out`. Must move 4 bytes a value.
#include "device.h"

struct SelectArgs {
  const u32 *count;
  const u32 *indices;
  const __bf16 *x;
  __bf16 *out;
  u32 width;
};

KERNEL(256) void select(SelectArgs args) {
  begin();
  u32 row = block_x();
  if (row >= *args.count) return;
  const __bf16 *from = args.x + (u64)args.indices[row] * args.width;
  __bf16 *to = args.out + (u64)row * args.width;
  for (u32 i = 8 * thread(); i < args.width; i += 8 * 256)
    *(u32x4 *)(to + i) = *(const u32x4 *)(from + i);
}
