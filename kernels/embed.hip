// embed: `out[r] = table[tokens[r]]`.
//
// table: bf16 `[vocab, width]` in the blocks of `device.h`, as any matrix. out: f32 `[rows,
// width]`. `width` is a multiple of 32. One workgroup for each row. Must move 6 bytes a value; the
// table's come in runs of 16 bytes. No arithmetic.
#include "device.h"

struct EmbedArgs {
  const u32 *rows;
  const u32 *tokens;
  const bf16x8 *table;
  float *out;
  u32 width;
};

KERNEL(256) void embed(EmbedArgs args) {
  u32 row = block_x();
  if (row >= *args.rows) return;
  u32 token = args.tokens[row];
  const bf16x8 *from = args.table + (u64)(token / 16) * (args.width / 32) * 64 + token % 16;
  float *to = args.out + (u64)row * args.width;
  for (u32 i = thread(); i < args.width / 8; i += 256) {
    bf16x8 x = from[(u64)i * 16];
    *(f32x4 *)(to + 8 * i) = f32x4{(float)x[0], (float)x[1], (float)x[2], (float)x[3]};
    *(f32x4 *)(to + 8 * i + 4) = f32x4{(float)x[4], (float)x[5], (float)x[6], (float)x[7]};
  }
}
