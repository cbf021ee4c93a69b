// Absorbed MLA over the paged cache, causal: what `attention.hip` has the same on every target.
//
// Row `r` sees its own position and all before it, `len` of them: per head `s_j = scale * (q .
// entry_j)` over latent and rope, `out = sum_j softmax(s)_j entry_j[..latent]`.
//
// queries: bf16 `[rows, heads, 576]` (latent 512, rope 64). cache: the layer's entries; position
// `j` of row `r` is in slot `tables[table_starts[r] + j / block_size] * block_size + j %
// block_size`. out: bf16 `[rows, heads, 512]`. `scale` is times log2(e).
// An entry is 576 bf16 (1152 bytes), or 512 E4M3, 16 scale bytes (E8M0) of 32 of them each, and 64
// bf16 (656 bytes): what `rope_and_cache.hip` writes. An E4M3 value times its scale is exact in
// bf16, so that arithmetic is the same from there on.
//
// Order of arithmetic: keys are taken in tiles of 32, tiles in splits of
// `split_length(len)`. A score is the sum of PARTS chains of matrix instructions over parts of the
// 576 values. Within a split weights are relative to a reference, the greatest score of the first
// tile, which is raised to a later tile's when that is more than 2^THRESHOLD times it; weights are
// rounded to bf16, and f32 sums of them and of weighted values are chains of matrix instructions.
// Of several splits each one's mean value is rounded to f16, at most 65504 (2^-11 of it, where
// weights are off by 2^-8); then they are merged in ascending order. On sm_90 splits of a row are
// in groups of up to eight: of several groups those of each are merged by themselves, and the
// groups' means are rounded and merged in turn. Keys beyond a row's or a split's last have weight 0
// where they are in a tile; their values must be finite.
#pragma once
#include "device.h"

constexpr u32 LATENT = 512, ROPE = 64, ENTRY = LATENT + ROPE, TILE = 32;
/// Parts of a key's values, each but the last with SLABS of the slabs of 32.
constexpr u32 PARTS = 128 / WAVE, SLABS = (ENTRY / 32 + PARTS - 1) / PARTS;
/// Splits of a row at most: on gfx950 128, on sm_90, which has half as many processors, 64.
constexpr u32 MAX_SPLITS = 2 * WAVE;
/// The reference of weights is raised when a score's is 2^THRESHOLD times it.
constexpr float THRESHOLD = 8;

/// Whether part `part` has a slab `s`.
__device__ inline bool exists(u32 part, u32 s) {
  return PARTS * SLABS == ENTRY / 32 || part * SLABS + s < ENTRY / 32;
}

struct AttentionArgs {
  const u32 *rows;
  const u32 *positions;
  const u32 *table_starts;
  const u32 *tables;
  const __bf16 *queries;
  const u8 *cache;
  __bf16 *out;
  _Float16 *partials;
  float *sums;
  u32 heads;
  u32 block_size;
  u32 max_splits;
  /// See `split_length`.
  u32 split, split_more;
  float scale;
  /// On gfx950, for `attention_split`: how many workgroups there are along x, the number of splits
  /// of all rows, and of each split its row times 2^16 plus its number in the row.
  u32 workgroups;
  const u32 *split_count;
  const u32 *splits;
};

/// Keys in a split of a row that sees `len`: a multiple of TILE, all but the last of one length. As
/// many splits as the launcher's `split_keys` says, or fewer as that is rounded up.
__device__ inline u32 split_length(const AttentionArgs &args, u32 len) {
  u32 splits = (len + args.split_more) / args.split;
  splits = splits < 1 ? 1 : splits < MAX_SPLITS ? splits : MAX_SPLITS;
  return (len + splits * TILE - 1) / (splits * TILE) * TILE;
}

struct Bf16Keys {
  static constexpr u32 BYTES = 2 * ENTRY;
};

struct Fp8Keys {
  static constexpr u32 SCALES_AT = LATENT, ROPE_AT = SCALES_AT + LATENT / 32;
  static constexpr u32 BYTES = ROPE_AT + 2 * ROPE;
};

/// A row's scores of a tile of keys, for the lane's heads.
struct Scores {
  float v[2][ACC_VALUES];
};

/// A row's weights of a tile of keys for the lane's heads, and factors for what was summed before.
struct Weights {
  bf16x8 operand[CHUNKS];
  float factor[CHUNKS];
};

/// Sums of weights relative to `2^max`, for the lane's heads.
struct Softmax {
  float max[CHUNKS], sum[CHUNKS];

  __device__ Softmax() {
    for (u32 c = 0; c < CHUNKS; ++c) {
      max[c] = -__builtin_inff();
      sum[c] = 0;
    }
  }

  /// The weights of scores, which are added to the sums.
  __device__ Weights weigh(const Scores &s) {
    Weights w;
    bf16x8 ones[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) {
      float top = -__builtin_inff();
      for (u32 t = 0; t < 2; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i)
          if (own_chunk(i) == c) top = __builtin_fmaxf(top, s.v[t][i]);
      top = max_over_groups(top);
      bool raise = top > max[c] + THRESHOLD;
      w.factor[c] = raise ? power_of_two(max[c] - top) : 1.0f;
      max[c] = raise ? top : max[c];
      for (u32 t = 0; t < 2; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i)
          if (own_chunk(i) == c)
            w.operand[c][operand_place(t, i)] = (__bf16)power_of_two(s.v[t][i] - max[c]);
      for (u32 i = 0; i < 8; ++i) ones[c][i] = (__bf16)1.0f;
    }
    Acc acc = {};
    mma_own(acc, w.operand, ones);
    for (u32 c = 0; c < CHUNKS; ++c)
      sum[c] = __builtin_fmaf(sum[c], w.factor[c], acc.v[2 * c]);
    return w;
  }
};
