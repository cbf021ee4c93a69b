// Rows of BF16 to MX blocks of 32.
//
// x [rows, width] BF16, 16-byte aligned, width a multiple of 32. codes: [rows, width / 2] FP4 (the
// even value in the low nibble) or [rows, width] E4M3. scales: [rows, scale_words(width)] words as
// in `mx.h`. Exactly `crates/mx`: no rounding differs. Moves 2 + 17/32 (FP4) or 2 + 33/32 (E4M3)
// bytes a value, once.
#include "mx.h"

struct QuantizeArgs {
  const u16 *x;
  u8 *codes;
  u8 *scales;
  const u32 *rows;
  u32 width;
};

/// Grid: (scale_words(width) * 128 / (8 * 256) rounded up, bound on rows).
template <class Block>
__device__ inline void quantize(const QuantizeArgs &args) {
  begin();
  u32 row = block_y(), k = (block_x() * 256 + thread()) * 8, words = scale_words(args.width);
  // Whole waves leave: words * 128 is a multiple of 512.
  if (row >= *args.rows || k >= words * 128) return;
  float x[8] = {};
  bool inside = k < args.width;
  if (inside) {
    u32x4 pairs = *(const u32x4 *)(args.x + (u64)row * args.width + k);
    for (u32 i = 0; i < 4; ++i) {
      x[2 * i] = __builtin_bit_cast(float, pairs[i] << 16);
      x[2 * i + 1] = __builtin_bit_cast(float, pairs[i] & 0xffff0000);
    }
  }
  u32 scale = Block::scale(block_amax(x));
  if (inside) Block::store(x, scale, args.codes, ((u64)row * args.width + k) / 8);
  if (k % 32 == 0) {
    args.scales[(u64)row * words * 4 + scale_byte_at(k / 32)] = inside ? scale : 127;
  }
}

KERNEL(256) void quantize_mxfp4(QuantizeArgs args) { quantize<Fp4Block>(args); }
KERNEL(256) void quantize_mxfp8(QuantizeArgs args) { quantize<Fp8Block>(args); }
