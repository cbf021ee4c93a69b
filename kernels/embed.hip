// embed: `out[r] = table[tokens[r]]`.
//
// A row's token may be one that the batch before this one drew, and that nobody but the device
// knows: where `carried[r]` is not NONE it is `drawn[carried[r]]`, and is put in `tokens` for those
// who come after.
//
// table: bf16 `[vocab, width]` in the blocks of `device.h`, as any matrix. out: f32 `[rows,
// width]`. `width` is a multiple of 32. One workgroup for each row. Must move 6 bytes a value; the
// table's come in runs of 16 bytes. No arithmetic.
#include "device.h"

struct EmbedArgs {
  const u32 *rows;
  u32 *tokens;
  const u32 *carried;
  const u32 *drawn;
  const bf16x8 *table;
  float *out;
  u32 width;
  u32 vocab;
};

constexpr u32 NONE = ~0u;

KERNEL(256) void embed(EmbedArgs args) {
  begin();
  u32 row = block_x();
  if (row >= *args.rows) return;
  u32 carried = args.carried[row], token;
  if (carried == NONE) {
    token = args.tokens[row];
  } else {
    // The host looks at what was drawn later than this.
    u32 drawn = args.drawn[carried];
    token = drawn < args.vocab ? drawn : 0;
    if (thread() == 0) args.tokens[row] = token;
  }
  WeightsRow from =
      args.table + (u64)(token / 16) * (args.width / 32) * 64 + weights_row(token % 16);
  float *to = args.out + (u64)row * args.width;
  for (u32 i = thread(); i < args.width / 8; i += 256) {
    bf16x8 x = from[(u64)i * 16];
    *(f32x4 *)(to + 8 * i) = f32x4{(float)x[0], (float)x[1], (float)x[2], (float)x[3]};
    *(f32x4 *)(to + 8 * i + 4) = f32x4{(float)x[4], (float)x[5], (float)x[6], (float)x[7]};
  }
}
