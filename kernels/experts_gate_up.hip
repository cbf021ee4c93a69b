// Routed experts, first half: h = quantize(silu(x g^T) * (x u^T)) for the sorted rows.
//
// x: rows in one of `mxfp4.h`'s forms [rows, hidden]. weights: for each expert an MXFP4 matrix
// [2 * width, hidden], width a multiple of 32; of every 64 of its rows the first 32 are gate rows
// and the others the up rows of the same hidden units. pairs, groups, group_count: see `sort.hip`.
// out: h by slot, in the same form as x: codes [slots, width] with scale words, or BF16; h itself
// is f32 before it is rounded. Slots without a pair are not written.
//
// experts_gate_up_*_4, for up to four rows, and (on sm_90) experts_gate_up_*_1, for one: each pair
// is a group of its own, whose slot is the pair. The pairs' experts are `chosen`, of `rows` rows;
// nothing is sorted.
// experts_gate_up_*_16, for groups of up to 16 rows: a workgroup takes a group and 32 hidden units.
// Its 8 waves each multiply an eighth of the quads of 512 values; their sums are added in ascending
// order. experts_gate_up_*_64, for groups of up to 64 (on sm_90 96): 128 units, see `rows64.h`.
// experts_gate_up_bf16_32 (on sm_90), for groups of up to 32: as well, see
// `arch/some_rows_sm90.h`.
// All have the same bits.
// Must move, once for each group: hidden * 17/32 bytes for each of 2 * width rows of weights, and
// the rows; matrix instructions: 4 * hidden / 128 for each 16 rows and 32 units (of BF16 four times
// as many).
#include "rows64.h"
#include "swiglu.h"

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
  const u32 *chosen;
  const u32 *rows;
};

/// Reads units `8 * part ..` of a row, where `hidden_place` says.
__device__ inline void load_units(const float *h, u32 row, u32 part, float x[8]) {
  for (u32 j = 0; j < 2; ++j) {
    f32x4 four = *(const f32x4 *)(h + hidden_place(row, part * 8 + 4 * j));
    for (u32 i = 0; i < 4; ++i) x[4 * j + i] = four[i];
  }
}

/// Rounds 16 rows of 32 units, where `hidden_place` says, to an MX block each; one wave.
template <class Block>
__device__ inline void store_blocks(const ExpertsGateUpArgs &args, const float *h, u32 slot,
                                    u32 rows, u32 block) {
  for (u32 e = lane(); e < 64; e += WAVE) {
    u32 row = e / 4, part = e % 4, words = scale_words(args.width);
    float x[8];
    load_units(h, row, part, x);
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

/// Grid: (width / 32, bound on groups), or, but for GROUPS, on pairs.
template <class Rows, u32 LAUNCH, class Store>
__device__ inline void few_rows(const ExpertsGateUpArgs &args, const Store &store) {
  constexpr bool BY_PAIR = LAUNCH != GROUPS;
  if (BY_PAIR)
    begin_alone();
  else
    begin();
  FEW_MEMORY(partial, SEGMENTS * PARTIAL<LAUNCH>);
  __shared__ __attribute__((aligned(16))) float h[16 * 32];
  u32 expert, first, rows, k = args.hidden;
  if constexpr (BY_PAIR) {
    expert = load_scalar(args.chosen + block_y()); // beyond the rows anything
    u32 pairs = load_scalar(args.rows) * args.top_k;
    loaded(expert);
    if (block_y() >= pairs) return;
    first = block_y();
    rows = 1;
  } else {
    if (block_y() >= *args.group_count) return;
    u32x4 group = args.groups[block_y()];
    expert = group[0], first = group[1], rows = group[2];
  }
  u64 tile = ((u64)expert * (args.width / 32) + block_x()) * TILES;
  Weights weights(args.weights, args.weight_scales, tile, k);
  auto row = [&](u32 i) {
    return (BY_PAIR ? first : args.pairs[first + at_most(i, rows - 1)]) / args.top_k;
  };
  auto x = soon<BY_PAIR>([&] { return Tile<Rows>(args.x, args.x_scales, k, row); });
  multiply_segment<Rows, LAUNCH>(partial, rows, x, weights, k);
  sync();
  for (u32 e = thread(); e < 512; e += SEGMENTS * WAVE) {
    u32 row = e / 32, unit = e % 32;
    if ((ROWS_ALONE || BY_PAIR) && row >= rows) break;
    float gate = total<LAUNCH>(partial, unit / 16, row, unit % 16);
    float up = total<LAUNCH>(partial, 2 + unit / 16, row, unit % 16);
    h[hidden_place(row, unit)] = gated(gate, up);
  }
  sync();
  if (wave() == 0) store(args, h, first, rows, block_x());
}

#if defined(__gfx950__)
#include "arch/experts_gate_up_gfx950.h"
#else
#include "arch/experts_gate_up_sm90.h"
#endif

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
      float x[8];
      load_units(h, row, part, x);
      bf16x8 y;
      for (u32 i = 0; i < 8; ++i) y[i] = (__bf16)x[i];
      ((bf16x8 *)args.out)[((u64)(slot + row) * args.width + block * 32) / 8 + part] = y;
    }
  }
};

#define EXPERTS_GATE_UP(form, Rows, Store)                                                   \
  SM90_KERNELS(                                                                              \
    SHARING_KERNEL(SEGMENTS *WAVE) void experts_gate_up_##form##_1(ExpertsGateUpArgs args) { \
      few_rows<Rows, ONE_ROW>(args, Store());                                                \
    })                                                                                       \
  SHARING_KERNEL(SEGMENTS *WAVE) void experts_gate_up_##form##_4(ExpertsGateUpArgs args) {   \
    few_rows<Rows, ROWS>(args, Store());                                                     \
  }                                                                                          \
  SHARING_KERNEL(SEGMENTS *WAVE) void experts_gate_up_##form##_16(ExpertsGateUpArgs args) {  \
    few_rows<Rows, GROUPS>(args, Store());                                                   \
  }                                                                                          \
  BLOCK_KERNEL void experts_gate_up_##form##_64(ExpertsGateUpArgs args) {                    \
    many_rows<Rows>(args, Store());                                                          \
  }
EXPERTS_GATE_UP(mxfp4, Fp4Rows, StoreFp4)
EXPERTS_GATE_UP(mxfp8, Fp8Rows, StoreFp8)
EXPERTS_GATE_UP(bf16, Bf16Rows, StoreBf16)
SM90_KERNELS(
  BLOCK_KERNEL void experts_gate_up_bf16_32(ExpertsGateUpArgs args) {
    some_rows(args, StoreBf16());
  })
