// embed: `out[r] = table[tokens[r]]`.
//
// table: bf16 `[vocab, width]`, plain rows. out: f32 `[rows, width]`. `width` is a multiple of 8.
// One workgroup for each row. Must move 6 bytes a value. No arithmetic.
#include "device.h"

struct EmbedArgs {
  const u32 *rows;
  const u32 *tokens;
  const __bf16 *table;
  float *out;
  u32 width;
};

KERNEL(256) void embed(EmbedArgs args) {
  u32 row = block_x();
  if (row >= *args.rows) return;
  const __bf16 *from = args.table + (u64)args.tokens[row] * args.width;
  float *to = args.out + (u64)row * args.width;
  for (u32 i = 8 * thread(); i < args.width; i += 8 * 256) {
    bf16x8 x = *(const bf16x8 *)(from + i);
    *(f32x4 *)(to + i) = f32x4{(float)x[0], (float)x[1], (float)x[2], (float)x[3]};
    *(f32x4 *)(to + i + 4) = f32x4{(float)x[4], (float)x[5], (float)x[6], (float)x[7]};
  }
}
