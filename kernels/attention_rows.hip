// attention_rows: absorbed MLA over the paged cache, causal, for many rows. Shapes, formulas and
// order of arithmetic are in `mla.h`; the results have the bits of `attention.hip`.
//
// Grid: (groups, heads / 16 rounded up). Group `g` is rows `group_rows[g] .. group_rows[g + 1]`, up
// to four at positions `4 n ..` of a sequence: no tile and no split of keys ends between them, so
// that none has a tile without keys. On gfx950 a workgroup loads each tile of keys once for all of
// them: while each wave weighs one row's next tile, all mix the tile before. So it does on sm_90
// with keys in BF16, in another way: see `arch/attention_rows_sm90.h`. With keys in E4M3, for whose
// conversion there are no registers left, it takes rows one after another there.
//
// In the form for every target a workgroup takes 16 heads. Its waves share the scores (16 keys and
// a part of the 576 values each), and the columns of the result. Keys go from memory into operand
// registers, and from there into LDS, to be read transposed as values. Scores, weights and results
// of a head stay in the lanes that hold its query (`mma_own`), so that weights are made in operand
// order and factors need not travel.
//
// Must move 1152 (bf16) or 656 (E4M3) bytes a key and group.
// Matrix instructions: for each row and 32 keys 36 + 32 + 1.
#include "mla.h"

/// Tiles of 16 columns of the result for each wave, and how many tiles of values are loaded before
/// one is used.
constexpr u32 COLUMNS = LATENT / 16 / WAVES, AHEAD = 2;

template <u32 ROWS> struct Shared {
  static constexpr u32 TILES = ROWS > 1 ? 2 : 1;
  /// Swizzled.
  __attribute__((aligned(16))) __bf16 values[TILES][TILE][LATENT];
  /// Parts of scores, as lanes have them.
  f32x4 scores[PARTS][ROWS][2][ACC_VALUES / 4][WAVE];
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

/// More of what rows that are taken together need.
template <u32 ROWS> struct SharedByRows {
  /// What the wave that weighs a row leaves to all. Weights as operand, as lanes have them.
  bf16x8 weights[2][ROWS][CHUNKS][WAVE];
  __attribute__((aligned(16))) float factors[2][16][ROWS];
  /// Of the split that ended the inverse of the sum of weights and the weight of its mean, and the
  /// factor of what splits before summed to.
  __attribute__((aligned(16))) float joins[3][16][ROWS];
  /// What splits before summed to for half of the rows, as threads have it: registers are few.
  f32x4 totals[ROWS / 2][COLUMNS][ACC_VALUES / 4][256];
};

/// `totals = own * totals + weight * mean`, where `columns * inverse` is the mean of a split.
__device__ inline void add_split(Columns &totals, const Columns &columns, const float *inverse,
                                 const float *weight, const float *own) {
  for (u32 t = 0; t < COLUMNS; ++t)
    for (u32 i = 0; i < ACC_VALUES; ++i) {
      u32 c = own_chunk(i);
      float mean = (float)rounded(columns.tile[t].v[i] * inverse[c]);
      totals.tile[t].v[i] = __builtin_fmaf(totals.tile[t].v[i], own[c], mean * weight[c]);
    }
}

typedef f32x4 Parked[COLUMNS][ACC_VALUES / 4][256];

/// Columns to LDS and back, each thread's own.
__device__ inline void park(Parked &to, const Columns &from) {
  for (u32 t = 0; t < COLUMNS; ++t)
    for (u32 i = 0; i < ACC_VALUES; i += 4) {
      const float *v = from.tile[t].v + i;
      to[t][i / 4][thread()] = f32x4{v[0], v[1], v[2], v[3]};
    }
}
__device__ inline void fetch(Columns &to, const Parked &from) {
  for (u32 t = 0; t < COLUMNS; ++t)
    for (u32 i = 0; i < ACC_VALUES; ++i) to.tile[t].v[i] = from[t][i / 4][thread()][i % 4];
}

template <class Keys>
__device__ inline void attend_one(const AttentionArgs &args, Shared<1> &lds, u32 row) {
  Task<Keys, 1> task(args, lds, row, 1);
  u32 length = split_length(args, task.len);
  Softmax softmax, total;
  if (length >= task.len) {
    sum(task, 0, task.len, softmax);
    return task.finish(0, softmax.sum, task.columns[0]);
  }
  Columns totals = {};
  for (u32 begin = 0; begin < task.len; begin += length) {
    u32 end = begin + length < task.len ? begin + length : task.len;
    sum(task, begin, end, softmax);
    float inverse[CHUNKS], weight[CHUNKS], own[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) {
      inverse[c] = 1.0f / softmax.sum[c];
      own[c] = join(total.max[c], total.sum[c], softmax.max[c], softmax.sum[c], weight[c]);
    }
    add_split(totals, task.columns[0], inverse, weight, own);
  }
  task.finish(0, total.sum, totals);
}

/// Rows that are taken together: wave `r` weighs row `r`, and while it does so for a tile of keys,
/// all mix the tile before.
template <class Keys, u32 ROWS>
__device__ inline void attend(const AttentionArgs &args, Shared<ROWS> &lds,
                              SharedByRows<ROWS> &shared, u32 first_row, u32 rows) {
  static_assert(ROWS == WAVES);
  Task<Keys, ROWS> task(args, lds, first_row, rows);
  u32 own_row = wave();
  Softmax softmax, total;
  Columns totals[ROWS / 2] = {};
  for (u32 r = 0; r < ROWS / 2; ++r) park(shared.totals[r], totals[r]);
  auto weigh = [&](u32 tile, const Scores &scores) {
    Weights w = softmax.weigh(scores);
    for (u32 c = 0; c < CHUNKS; ++c) {
      shared.weights[tile][own_row][c][lane()] = w.operand[c];
      shared.factors[tile][chunk_row(c)][own_row] = w.factor[c];
    }
  };
  auto weights_of = [&](u32 tile, Weights *w) {
    for (u32 r = 0; r < ROWS; ++r)
      for (u32 c = 0; c < CHUNKS; ++c) {
        w[r].operand[c] = shared.weights[tile][r][c][lane()];
        w[r].factor[c] = shared.factors[tile][chunk_row(c)][r];
      }
  };
  /// The split that has been weighed ends.
  auto join_splits = [&] {
    for (u32 c = 0; c < CHUNKS; ++c) {
      float weight;
      float own = join(total.max[c], total.sum[c], softmax.max[c], softmax.sum[c], weight);
      shared.joins[0][chunk_row(c)][own_row] = 1.0f / softmax.sum[c];
      shared.joins[1][chunk_row(c)][own_row] = weight;
      shared.joins[2][chunk_row(c)][own_row] = own;
    }
    softmax = Softmax{};
  };
  auto add_splits = [&] {
    for (u32 r = 0; r < ROWS; ++r) {
      float inverse[CHUNKS], weight[CHUNKS], own[CHUNKS];
      for (u32 c = 0; c < CHUNKS; ++c) {
        inverse[c] = shared.joins[0][chunk_row(c)][r];
        weight[c] = shared.joins[1][chunk_row(c)][r];
        own[c] = shared.joins[2][chunk_row(c)][r];
      }
      if (r < ROWS / 2) {
        add_split(totals[r], task.columns[r], inverse, weight, own);
      } else {
        Columns parked;
        fetch(parked, shared.totals[r - ROWS / 2]);
        add_split(parked, task.columns[r], inverse, weight, own);
        park(shared.totals[r - ROWS / 2], parked);
      }
      task.columns[r] = Columns{};
    }
  };
  u32 length = split_length(args, task.len), split_end = length, tile = 0;
  task.start(0);
  task.score(0, TILE);
  sync();
  weigh(0, task.scores(own_row, 0));
  sync();
  for (u32 next = TILE; next < task.len; next += TILE) {
    tile ^= 1;
    task.score(tile, next + TILE);
    sync();
    bool ends = next == split_end;
    if (ends) {
      join_splits();
      split_end += length;
    }
    Scores scores = task.scores(own_row, next);
    Weights w[ROWS];
    weights_of(tile ^ 1, w);
    for (u32 r = 0; r < ROWS; ++r) task.scale(r, w[r].factor);
    task.mix(tile ^ 1, w);
    weigh(tile, scores);
    sync();
    if (ends) add_splits();
  }
  sync();
  join_splits();
  Weights w[ROWS];
  weights_of(tile, w);
  for (u32 r = 0; r < ROWS; ++r) task.scale(r, w[r].factor);
  task.mix(tile, w);
  for (u32 c = 0; c < CHUNKS; ++c) shared.factors[tile ^ 1][chunk_row(c)][own_row] = total.sum[c];
  sync();
  bool single = length >= task.len;
  if (!single) add_splits();
  for (u32 r = 0; r < ROWS; ++r) {
    float sums[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) sums[c] = shared.factors[tile ^ 1][chunk_row(c)][r];
    if (r >= rows) break;
    if (single) {
      task.finish(r, sums, task.columns[r]);
      continue;
    }
    Columns parked;
    if (r >= ROWS / 2) fetch(parked, shared.totals[r - ROWS / 2]);
    task.finish(r, sums, r < ROWS / 2 ? totals[r] : parked);
  }
}

struct SharedTogether {
  Shared<WAVES> tiles;
  SharedByRows<WAVES> rows;
};

template <class Keys, bool TOGETHER>
__device__ inline void take_group(const AttentionArgs &args, u32 first, u32 rows) {
  if constexpr (TOGETHER) {
    __shared__ union {
      Shared<1> one;
      SharedTogether several;
    } lds;
    if (rows > 1) return attend<Keys>(args, lds.several.tiles, lds.several.rows, first, rows);
    attend_one<Keys>(args, lds.one, first);
  } else {
    __shared__ Shared<1> lds;
    for (u32 r = 0; r < rows; ++r) attend_one<Keys>(args, lds, first + r);
  }
}

template <class Keys> __device__ inline void attend_group(const AttentionArgs &args) {
  begin();
  u32 group = block_x();
  if (group >= *args.groups) return;
  u32 first = args.group_rows[group];
  take_group<Keys, ROWS_SHARE_KEYS>(args, first, args.group_rows[group + 1] - first);
}

#if defined(__gfx950__)
KERNEL(256) void attention_rows(AttentionArgs args) { attend_group<Bf16Keys>(args); }
#else
#include "arch/attention_rows_sm90.h"
#endif
KERNEL(256) void attention_rows_fp8(AttentionArgs args) { attend_group<Fp8Keys>(args); }
