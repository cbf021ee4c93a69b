// Routed experts, first half: h = quantize(silu(x g^T) * (x u^T)) for the sorted rows.
//
// x: rows in one of `mxfp4.h`'s forms [rows, hidden]. weights: for each expert an MXFP4 matrix
// [2 * width, hidden], width a multiple of 32; of every 64 of its rows the first 32 are gate rows
// and the others the up rows of the same hidden units. pairs, groups, group_count: see `sort.hip`.
// out: h by slot, in the same form as x: codes [slots, width] with scale words, or BF16; h itself
// is f32 before it is rounded. Slots without a pair are not written.
//
// A workgroup takes a group of rows and 32 hidden units. Its 8 waves each multiply an eighth of the
// quads of 512 values; their sums are added in ascending order. Must move, once for each group:
// hidden * 34 bytes of weights and scales for each workgroup (64 rows of hidden * 17/32 bytes);
// matrix instructions: 4 * hidden / 128 for each 16 rows (of BF16 four times as many).
#include "segments.h"

struct ExpertsGateUpArgs {
  const u8 *x;
  const u32 *x_scales;
  const u32x4 *weights;
  const u32 *weight_scales;
  const u32 *pairs;
  const u32x4 *groups;
  const u32 *group_count;
  u8 *out;
  u8 *out_scales;
  u32 top_k;
  u32 hidden;
  u32 width;
};

/// Rounds 16 rows of 32 units, [row][swizzled(row, unit)], to an MX block each; one wave.
template <class Block>
__device__ inline void store_blocks(const ExpertsGateUpArgs &args, const float *h, u32 slot,
                                    u32 rows, u32 block) {
  for (u32 e = lane(); e < 64; e += WAVE) {
    u32 row = e / 4, part = e % 4, words = scale_words(args.width);
    float x[8];
    for (u32 i = 0; i < 8; ++i) x[i] = h[row * 32 + hidden_swizzle(row, part * 8 + i)];
    u32 scale = Block::scale(block_amax(x));
    if (row >= rows) continue;
    Block::store(x, scale, args.out, ((u64)(slot + row) * args.width + block * 32) / 8 + part);
    u8 *scales = args.out_scales + (u64)(slot + row) * words * 4;
    if (part == 0) scales[scale_byte_at(block)] = scale;
    // The last block of a row fills up the scales of its quad.
    for (u32 b = block + 1 + part; block == args.width / 32 - 1 && b < words * 4; b += 4) {
      scales[scale_byte_at(b)] = 127;
    }
  }
}

/// Grid: (width / 32, bound on groups).
template <class Rows, class Store, u32 ROW_TILES>
__device__ inline void gate_up(const ExpertsGateUpArgs &args, const Store &store) {
  __shared__ float partial[SEGMENTS * 1024];
  __shared__ float h[16 * 32];
  if (block_y() >= *args.group_count) return;
  u32x4 group = args.groups[block_y()];
  u32 expert = group[0], first = group[1], rows = group[2], k = args.hidden;
  u64 tile = ((u64)expert * (args.width / 32) + block_x()) * TILES;
  Weights weights(args.weights, args.weight_scales, tile, k);

  Rows x[ROW_TILES];
  for (u32 m = 0; m < ROW_TILES; ++m) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 row = at_most(m * 16 + chunk_row(c), rows - 1);
      x[m].set(c, args.x, args.x_scales, args.pairs[first + row] / args.top_k, k);
    }
  }
  Acc acc[ROW_TILES][TILES] = {};
  multiply_segment<Rows, ROW_TILES>(acc, x, weights, k, (rows + 15) / 16);

  for (u32 m = 0; m < ROW_TILES; ++m) {
    if (m * 16 >= rows) break;
    spread(acc[m], partial);
    sync();
    for (u32 e = thread(); e < 512; e += SEGMENTS * WAVE) {
      u32 row = e / 32, unit = e % 32;
      float g = total(partial, unit / 16, row, unit % 16);
      float u = total(partial, 2 + unit / 16, row, unit % 16);
      h[row * 32 + hidden_swizzle(row, unit)] = g / (1.0f + exp(-g)) * u;
    }
    sync();
    if (wave() == 0) store(args, h, first + m * 16, rows - m * 16, block_x());
  }
}

struct StoreFp4 {
  __device__ void operator()(const ExpertsGateUpArgs &args, const float *h, u32 slot, u32 rows,
                             u32 block) const {
    store_blocks<Fp4Block>(args, h, slot, rows, block);
  }
};
struct StoreFp8 {
  __device__ void operator()(const ExpertsGateUpArgs &args, const float *h, u32 slot, u32 rows,
                             u32 block) const {
    store_blocks<Fp8Block>(args, h, slot, rows, block);
  }
};
struct StoreBf16 {
  __device__ void operator()(const ExpertsGateUpArgs &args, const float *h, u32 slot, u32 rows,
                             u32 block) const {
    for (u32 e = lane(); e < 64; e += WAVE) {
      u32 row = e / 4, part = e % 4;
      if (row >= rows) continue;
      bf16x8 x;
      for (u32 i = 0; i < 8; ++i) x[i] = (__bf16)h[row * 32 + hidden_swizzle(row, part * 8 + i)];
      ((bf16x8 *)args.out)[((u64)(slot + row) * args.width + block * 32) / 8 + part] = x;
    }
  }
};

#define EXPERTS_GATE_UP(form, Rows, Store, row_tiles)                                  \
  KERNEL(SEGMENTS * WAVE)                                                              \
  void experts_gate_up_##form##_##row_tiles(ExpertsGateUpArgs args) {                  \
    gate_up<Rows, Store, row_tiles>(args, Store());                                    \
  }
EXPERTS_GATE_UP(mxfp4, Fp4Rows, StoreFp4, 1)
EXPERTS_GATE_UP(mxfp4, Fp4Rows, StoreFp4, 4)
EXPERTS_GATE_UP(mxfp8, Fp8Rows, StoreFp8, 1)
EXPERTS_GATE_UP(mxfp8, Fp8Rows, StoreFp8, 4)
EXPERTS_GATE_UP(bf16, Bf16Rows, StoreBf16, 1)
EXPERTS_GATE_UP(bf16, Bf16Rows, StoreBf16, 2)
