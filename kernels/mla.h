// What the forms of absorbed MLA share: `attention.hip`, for few rows, and `attention_rows.hip`,
// for many.
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
// Order of arithmetic, in every form: keys are taken in tiles of 32, tiles in splits of
// `split_length(len)`. A score is the sum of PARTS chains of matrix instructions over parts of the
// 576 values. Within a split weights are relative to a reference, the greatest score of the first
// tile, which is raised to a later tile's when that is more than 2^THRESHOLD times it; weights are
// rounded to bf16, and f32 sums of them and of weighted values are chains of matrix instructions.
// Of several splits each one's mean value is rounded to f16, at most 65504 (2^-11 of it, where
// weights are off by 2^-8); then they are merged in ascending order. Keys beyond `len` have weight
// 0; their values must be finite.
//
// In the form for every target a workgroup takes 16 heads. Its waves share the scores (16 keys and
// a part of the 576 values each), and the columns of the result. Keys go from memory into operand
// registers, and from there into LDS, to be read transposed as values. Scores, weights and results
// of a head stay in the lanes that hold its query (`mma_own`), so that weights are made in operand
// order and factors need not travel.
#pragma once
#include "device.h"

constexpr u32 LATENT = 512, ROPE = 64, ENTRY = LATENT + ROPE, TILE = 32;
constexpr u32 WAVES = 256 / WAVE;
/// Waves that share 16 keys' scores, each with SLABS of the slabs of 32 values.
constexpr u32 PARTS = WAVES / 2, SLABS = (ENTRY / 32 + PARTS - 1) / PARTS;
/// Tiles of 16 columns of the result for each wave, and how many tiles of values are loaded before
/// one is used.
constexpr u32 COLUMNS = LATENT / 16 / WAVES, AHEAD = 2;
/// Splits of a row at most: on gfx950 128, on sm_90, which has half as many processors, 64.
constexpr u32 MAX_SPLITS = 2 * WAVE;
/// The reference of weights is raised when a score's is 2^THRESHOLD times it.
constexpr float THRESHOLD = 8;

/// Whether the wave of part `part` has a slab `s`.
__device__ inline bool exists(u32 part, u32 s) {
  return PARTS * SLABS == ENTRY / 32 || part * SLABS + s < ENTRY / 32;
}

/// Keys in a split of a row that sees `len`: a multiple of TILE, so that there are as few splits of
/// at most `most` as there can be, all but the last of one length; more than `most` where those
/// would be more than MAX_SPLITS. Rows at positions `4 n .. 4 n + 3` have the same, as `most` is a
/// multiple of TILE.
__device__ inline u32 split_length(u32 len, u32 most) {
  u32 splits = (len + most - 1) / most;
  splits = splits < MAX_SPLITS ? splits : MAX_SPLITS;
  return (len + splits * TILE - 1) / (splits * TILE) * TILE;
}

struct AttentionArgs {
  const u32 *rows;
  const u32 *positions;
  const u32 *table_starts;
  const u32 *tables;
  const u32 *groups;
  const u32 *group_rows;
  const __bf16 *queries;
  const u8 *cache;
  __bf16 *out;
  _Float16 *partials;
  float *sums;
  u32 heads;
  u32 block_size;
  u32 max_splits;
  u32 split;
  float scale;
};

/// A wave's part of keys in bf16, as it is loaded.
struct Bf16Keys {
  static constexpr u32 BYTES = 2 * ENTRY;
  bf16x8 slabs[SLABS][CHUNKS];

  __device__ void load(const u8 *entry, u32 part, u32 c) {
    for (u32 s = 0; s < SLABS; ++s)
      if (exists(part, s))
        slabs[s][c] =
            *(const bf16x8 *)(entry + 64 * (part * SLABS + s) + 16 * chunk_group());
  }

  /// Slab `s` as operand.
  __device__ void operand(u32, u32 s, bf16x8 *out) const {
    for (u32 c = 0; c < CHUNKS; ++c) out[c] = slabs[s][c];
  }
};

/// The same in E4M3 with scales, but for the rope.
struct Fp8Keys {
  static constexpr u32 SCALES_AT = LATENT, ROPE_AT = SCALES_AT + LATENT / 32;
  static constexpr u32 BYTES = ROPE_AT + 2 * ROPE;
  /// Words that hold a part's scales, wherever in the first they begin.
  static constexpr u32 WORDS = (SLABS + 6) / 4;
  /// Of a slab of codes the first half.
  u32x4 slabs[SLABS][CHUNKS];
  u32x4 scales[CHUNKS];

  __device__ void load(const u8 *entry, u32 part, u32 c) {
    scales[c] = u32x4{0, 0, 0, 0};
    for (u32 w = 0; w < WORDS; ++w)
      scales[c][w] = *(const u32 *)(entry + SCALES_AT + part * SLABS / 4 * 4 + 4 * w);
    for (u32 s = 0; s < SLABS; ++s) {
      u32 slab = part * SLABS + s;
      if (slab < LATENT / 32) {
        u32x2 codes = *(const u32x2 *)(entry + 32 * slab + 8 * chunk_group());
        slabs[s][c][0] = codes[0];
        slabs[s][c][1] = codes[1];
      } else if (exists(part, s)) {
        u32 at = ROPE_AT + 64 * (slab - LATENT / 32) + 16 * chunk_group();
        slabs[s][c] = *(const u32x4 *)(entry + at);
      }
    }
  }

  __device__ void operand(u32 part, u32 s, bf16x8 *out) const {
    for (u32 c = 0; c < CHUNKS; ++c)
      if (part * SLABS + s < LATENT / 32) {
        // The byte may be in this word or the next.
        u64 both = (u64)scales[c][s / 4 + 1] << 32 | scales[c][s / 4];
        u32 scale = (u32)(both >> 8 * (part * SLABS % 4 + s % 4)) & 0xff;
        out[c] = dequantize_fp8(u32x2{slabs[s][c][0], slabs[s][c][1]}, scale);
      } else {
        out[c] = __builtin_bit_cast(bf16x8, slabs[s][c]);
      }
  }
};

template <u32 ROWS> struct Shared {
  static constexpr u32 TILES = ROWS > 1 ? 2 : 1;
  /// Swizzled.
  __attribute__((aligned(16))) __bf16 values[TILES][TILE][LATENT];
  /// Parts of scores, as lanes have them.
  f32x4 scores[PARTS][ROWS][2][ACC_VALUES / 4][WAVE];
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

/// A wave's columns of the weighted sum of values.
struct Columns {
  Acc tile[COLUMNS];
};

/// Rows `first_row ..` of a sequence, of which the last may stand for several that there are not.
template <class Keys, u32 ROWS> struct Task {
  const AttentionArgs &args;
  Shared<ROWS> &lds;
  u32 first_row, last, first_head, len;
  u32 key_tile, part;
  const u32 *table;
  bf16x8 query[ROWS][SLABS][CHUNKS];
  Keys keys;
  /// Blocks of the keys that are loaded next, and places in them.
  u32 blocks[CHUNKS], places[CHUNKS];
  Columns columns[ROWS];

  __device__ Task(const AttentionArgs &args, Shared<ROWS> &lds, u32 first_row, u32 rows)
      : args(args), lds(lds), first_row(first_row), last(rows - 1), first_head(16 * block_y()),
        len(args.positions[first_row] + rows), key_tile(wave() % 2), part(wave() / 2 % PARTS),
        table(args.tables + args.table_starts[first_row]) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 head = first_head + chunk_row(c);
      head = head < args.heads ? head : args.heads - 1;
      for (u32 r = 0; r < ROWS; ++r) {
        const __bf16 *q =
            args.queries + ((u64)row(r) * args.heads + head) * ENTRY + 8 * chunk_group();
        for (u32 s = 0; s < SLABS; ++s)
          if (exists(part, s))
            query[r][s][c] = *(const bf16x8 *)(q + 32 * (part * SLABS + s));
      }
    }
  }

  __device__ u32 row(u32 r) { return first_row + (r < last ? r : last); }

  /// Keys that row `r` sees.
  __device__ u32 end(u32 r) { return len - (r < last ? last - r : 0); }

  /// Finds the keys from `first` on; the last key again for those beyond it.
  __device__ void look_up(u32 first) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 key = first + 16 * key_tile + chunk_row(c);
      key = key < len ? key : len - 1;
      u32 block = key / args.block_size;
      blocks[c] = table[block];
      places[c] = key - block * args.block_size;
    }
  }

  /// Loads the wave's part of the keys that have been found.
  __device__ void load() {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u64 slot = (u64)blocks[c] * args.block_size + places[c];
      keys.load(args.cache + slot * Keys::BYTES, part, c);
    }
  }

  /// The loaded keys' part of the scores, and their values, into LDS; then loads those from `next`
  /// on.
  __device__ void score(u32 tile, u32 next) {
    Acc acc[ROWS] = {};
    for (u32 s = 0; s < SLABS; ++s) {
      u32 slab = part * SLABS + s;
      bf16x8 key[CHUNKS];
      if (exists(part, s)) {
        keys.operand(part, s, key);
        for (u32 r = 0; r < ROWS; ++r) mma_own(acc[r], query[r][s], key);
      }
      if (slab < LATENT / 32)
        for (u32 c = 0; c < CHUNKS; ++c) {
          u32 chunk = swizzled(chunk_row(c), 4 * slab + chunk_group());
          *(bf16x8 *)&lds.values[tile][16 * key_tile + chunk_row(c)][8 * chunk] = key[c];
        }
    }
    loads_first();
    if (next < len) {
      load();
      look_up(next + TILE);
    }
    for (u32 r = 0; r < ROWS; ++r)
      for (u32 i = 0; i < ACC_VALUES; i += 4) {
        const float *v = acc[r].v + i;
        lds.scores[part][r][key_tile][i / 4][lane()] = f32x4{v[0], v[1], v[2], v[3]};
      }
  }

  /// Row `r`'s scores of the keys from `first` on, times the scale.
  __device__ Scores scores(u32 r, u32 first) {
    Scores s;
    for (u32 t = 0; t < 2; ++t)
      for (u32 i = 0; i < ACC_VALUES; i += 4) {
        f32x4 sum = lds.scores[0][r][t][i / 4][lane()];
        for (u32 p = 1; p < PARTS; ++p) sum += lds.scores[p][r][t][i / 4][lane()];
        for (u32 j = 0; j < 4; ++j) s.v[t][i + j] = sum[j] * args.scale;
      }
    if (first + TILE > end(r)) {
      loads_first(); // a branch, so that other tiles are spared
      for (u32 t = 0; t < 2; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i)
          if (first + 16 * t + other_row(i) >= end(r)) s.v[t][i] = -__builtin_inff();
    }
    return s;
  }

  /// What was summed before, times the factors of new weights.
  __device__ void scale(u32 r, const float *factor) {
    bool raised = false;
    for (u32 c = 0; c < CHUNKS; ++c) raised |= factor[c] != 1.0f;
    if (ballot(raised) != 0)
      for (u32 t = 0; t < COLUMNS; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i) columns[r].tile[t].v[i] *= factor[own_chunk(i)];
  }

  /// Adds weights times values.
  __device__ void mix(u32 tile, const Weights *w) {
    bf16x8 b[COLUMNS][CHUNKS];
    // Some in advance; not all at once: registers are few.
    for (u32 t = 0; t < COLUMNS + AHEAD; ++t) {
      if (t < COLUMNS) load_transposed(lds.values[tile][0], LATENT, wave() * COLUMNS + t, b[t]);
      if (t < AHEAD) continue;
      loads_in_order();
      for (u32 r = 0; r < ROWS; ++r)
        mma_own(columns[r].tile[t - AHEAD], w[r].operand, b[t - AHEAD]);
    }
  }

  /// Loads the first keys.
  __device__ void start(u32 first) {
    for (u32 r = 0; r < ROWS; ++r) columns[r] = Columns{};
    look_up(first);
    load();
    look_up(first + TILE);
  }

  /// Calls `f(head, column, values)` for the lane's runs of row `r`'s results that there are.
  template <typename F> __device__ void each(const Columns &columns, F f) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 head = first_head + chunk_row(c);
      if (head < args.heads)
        for (u32 t = 0; t < COLUMNS; ++t)
          for (u32 i = 0; i < ACC_VALUES; i += RUN)
            if (own_chunk(i) == c)
              f(head, 16 * (wave() * COLUMNS + t) + other_row(i), c, columns.tile[t].v + i);
    }
  }

  /// Writes `columns / sum` to row `r` of `out`.
  __device__ void finish(u32 r, const float *sum, const Columns &columns) {
    float factor[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) factor[c] = 1.0f / sum[c];
    __bf16 *out = args.out + (u64)row(r) * args.heads * LATENT;
    each(columns, [&](u32 head, u32 column, u32 c, const float *v) {
      Bf16Run y;
      for (u32 i = 0; i < RUN; ++i) y[i] = (__bf16)__builtin_fmaf(v[i], factor[c], 0.0f);
      *(Bf16Run *)(out + head * LATENT + column) = y;
    });
  }
};

/// A value of a split's mean as it is merged with others.
__device__ inline _Float16 rounded(float x) {
  return (_Float16)__builtin_fmaxf(__builtin_fminf(x, 65504.0f), -65504.0f);
}

/// Joins a split's sum of weights to that of splits before: `max` and `sum` become both's. Returns
/// the factor of what was summed before; `weight` becomes that of the split's mean.
__device__ inline float join(float &max, float &sum, float other_max, float other_sum,
                             float &weight) {
  float both = max > other_max ? max : other_max;
  float own = power_of_two(max - both);
  weight = other_sum * power_of_two(other_max - both);
  max = both;
  sum = __builtin_fmaf(sum, own, weight);
  return own;
}

/// Sums over keys `begin..end` for one row.
template <class Keys>
__device__ inline void sum(Task<Keys, 1> &task, u32 begin, u32 end, Softmax &softmax) {
  softmax = Softmax{};
  task.start(begin);
  for (u32 first = begin; first < end; first += TILE) {
    task.score(0, first + TILE < end ? first + TILE : task.len);
    sync();
    Weights w = softmax.weigh(task.scores(0, first));
    task.scale(0, w.factor);
    task.mix(0, &w);
    sync();
  }
}
