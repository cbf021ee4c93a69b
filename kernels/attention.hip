// attention: absorbed MLA over the paged cache, causal. Row `r` sees its own position and all
// before it, `len` of them: per head `s_j = scale * (q . entry_j)` over latent and rope, `out =
// sum_j softmax(s)_j entry_j[..latent]`.
//
// queries: bf16 `[rows, heads, 576]` (latent 512, rope 64). cache: the layer's bf16 `[slots, 576]`;
// position `j` of row `r` is in slot `tables[table_starts[r] + j / block_size] * block_size + j %
// block_size`. out: bf16 `[rows, heads, 512]`. `scale` is times log2(e).
//
// Order of arithmetic, in every form: keys are taken in tiles of 32, tiles in splits of
// `split_length(len)`. Within a split, a running maximum and f32 sums as in online softmax, with
// weights rounded to bf16 (and summed so); then the splits' sums are merged in ascending order.
//
// A workgroup takes 16 heads of one row, head `h` in row `h % 16` of the matrix operands. Its waves
// share the scores (16 keys and a part of the 576 values each), and the columns of the result. Keys
// go from memory into operand registers, and from there into LDS, to be read transposed as values.
//
// attention_split, for few rows: grid (rows, heads / 16 rounded up, splits at most). A row's
// splits write their sums to `partials` f32 `[rows][grid z][heads][512]` and `sums` f32 `[..][2]`
// (maximum, sum of weights); the only split of a short row writes `out`. attention_merge: grid
// (rows, heads), 128 threads. attention_rows, for many rows: grid (rows, heads / 16 rounded up).
// Must move 1152 bytes a key, and with several splits twice their partials.
// Matrix instructions: for each 32 keys 36 + 32.
#include "device.h"

constexpr u32 LATENT = 512, ROPE = 64, ENTRY = LATENT + ROPE, TILE = 32;
constexpr u32 WAVES = 256 / WAVE;
/// Waves that share 16 keys' scores, each with SLABS of the slabs of 32 values.
constexpr u32 PARTS = WAVES / 2, SLABS = (ENTRY / 32 + PARTS - 1) / PARTS;
/// Tiles of 16 columns of the result for each wave.
constexpr u32 COLUMNS = LATENT / 16 / WAVES;
constexpr u32 MAX_SPLITS = 128, MIN_SPLIT = 256;

/// Keys in a split of a row that sees `len`: a multiple of TILE that makes at most MAX_SPLITS.
__device__ inline u32 split_length(u32 len) {
  return MIN_SPLIT * ((len + MIN_SPLIT * MAX_SPLITS - 1) / (MIN_SPLIT * MAX_SPLITS));
}

struct AttentionArgs {
  const u32 *rows;
  const u32 *positions;
  const u32 *table_starts;
  const u32 *tables;
  const __bf16 *queries;
  const __bf16 *cache;
  __bf16 *out;
  float *partials;
  float *sums;
  u32 heads;
  u32 block_size;
  u32 max_splits;
  float scale;
};

struct Shared {
  /// Swizzled.
  __attribute__((aligned(16))) __bf16 values[TILE][LATENT];
  __attribute__((aligned(16))) float scores[PARTS][PLACES];
  /// The weights as operand, in the chunks that `weight_chunk` says.
  __attribute__((aligned(16))) __bf16 weights[64][8];
  float factors[2][16];
};

/// Where the weights of 8 keys for a head stand: mixed within a group so that few collide.
__device__ inline u32 weight_chunk(u32 group, u32 head) {
  return 16 * group + (head ^ 4 * (-group & 3));
}

/// Sums over some keys, as they are added up: `sum` of weights relative to `2^max`. Each thread has
/// those of head `thread() / 16`.
struct Softmax {
  float max = -__builtin_inff(), sum = 0;
};

/// A wave's columns of the weighted sum of values.
struct Columns {
  Acc tile[COLUMNS];
};

struct Task {
  const AttentionArgs &args;
  Shared &lds;
  u32 row, first_head, len;
  u32 key_tile, part;
  bf16x8 query[SLABS][CHUNKS];
  bf16x8 keys[SLABS][CHUNKS];
  /// Blocks of the keys that are loaded next.
  u32 blocks[CHUNKS];

  __device__ Task(const AttentionArgs &args, Shared &lds, u32 row)
      : args(args), lds(lds), row(row), first_head(16 * block_y()),
        len(args.positions[row] + 1), key_tile(wave() % 2), part(wave() / 2) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 head = first_head + chunk_row(c);
      head = head < args.heads ? head : args.heads - 1;
      const __bf16 *q = args.queries + ((u64)row * args.heads + head) * ENTRY + 8 * chunk_group();
      for (u32 s = 0; s < SLABS; ++s)
        if (exists(s))
          query[s][c] = *(const bf16x8 *)(q + 32 * (part * SLABS + s));
    }
  }

  /// Whether the wave's slab `s` is one of the entry's.
  __device__ bool exists(u32 s) {
    return PARTS * SLABS == ENTRY / 32 || part * SLABS + s < ENTRY / 32;
  }

  /// The lane's key of the tile from `first` on; the last key again for those beyond it.
  __device__ u32 key(u32 first, u32 c) {
    u32 k = first + 16 * key_tile + chunk_row(c);
    return k < len ? k : len - 1;
  }

  /// Finds the blocks of the keys from `first` on.
  __device__ void look_up(u32 first) {
    const u32 *table = args.tables + args.table_starts[row];
    for (u32 c = 0; c < CHUNKS; ++c) blocks[c] = table[key(first, c) / args.block_size];
  }

  /// Loads the wave's part of the keys from `first` on, whose blocks have been found.
  __device__ void load(u32 first) {
    for (u32 c = 0; c < CHUNKS; ++c) {
      u64 slot = (u64)blocks[c] * args.block_size + key(first, c) % args.block_size;
      const __bf16 *entry = args.cache + slot * ENTRY + 8 * chunk_group();
      for (u32 s = 0; s < SLABS; ++s)
        if (exists(s))
          keys[s][c] = *(const bf16x8 *)(entry + 32 * (part * SLABS + s));
    }
  }

  /// The loaded keys' part of the scores, and their values, into LDS.
  __device__ void score() {
    Acc acc = {};
    for (u32 s = 0; s < SLABS; ++s) {
      u32 slab = part * SLABS + s;
      if (exists(s)) mma_bf16(acc, query[s], keys[s]);
      if (slab < LATENT / 32)
        for (u32 c = 0; c < CHUNKS; ++c)
          *(bf16x8 *)&lds.values[16 * key_tile + chunk_row(c)]
                                [8 * swizzled(chunk_row(c), 4 * slab + chunk_group())] = keys[s][c];
    }
    for (u32 i = 0; i < ACCUMULATORS; ++i)
      lds.scores[part][place(acc_row(i), 16 * key_tile + acc_col(i))] = acc.v[i];
  }

  /// Takes the scores of the keys from `first` on into `softmax`, and leaves their weights and the
  /// factor for what was summed before in LDS. 16 threads for each head, two keys each.
  __device__ void weigh(u32 first, Softmax &softmax) {
    u32 head = thread() / 16, key = thread() % 16 * 2;
    f32x2 s = {0, 0};
    for (u32 p = 0; p < PARTS; ++p) s += *(const f32x2 *)&lds.scores[p][place(head, key)];
    for (u32 i = 0; i < 2; ++i)
      s[i] = first + key + i < len ? s[i] * args.scale : -__builtin_inff();
    float max = s[0] > s[1] ? s[0] : s[1];
    for (u32 mask = 8; mask > 0; mask /= 2) {
      float other = shuffle_xor(max, mask);
      max = max > other ? max : other;
    }
    max = softmax.max > max ? softmax.max : max;
    __bf16 w[2] = {(__bf16)exp2(s[0] - max), (__bf16)exp2(s[1] - max)};
    float sum = (float)w[0] + (float)w[1];
    for (u32 mask = 8; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    float factor = exp2(softmax.max - max);
    softmax.max = max;
    softmax.sum = __builtin_fmaf(softmax.sum, factor, sum);
    u32 at = transposed_place(key);
    for (u32 i = 0; i < 2; ++i) lds.weights[weight_chunk(at / 8, head)][at % 8 + i] = w[i];
    if (key == 0) lds.factors[0][head] = factor;
  }

  /// `columns = factor * columns + weights * values`.
  __device__ void mix(Columns &columns) {
    bf16x8 a[CHUNKS], b[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) 
      a[c] = *(const bf16x8 *)lds.weights[weight_chunk(chunk_group(), chunk_row(c))];
    float factor[ACCUMULATORS];
    for (u32 i = 0; i < ACCUMULATORS; ++i) factor[i] = lds.factors[0][acc_row(i)];
    for (u32 t = 0; t < COLUMNS; ++t) {
      for (u32 i = 0; i < ACCUMULATORS; ++i) columns.tile[t].v[i] *= factor[i];
      load_transposed(lds.values[0], LATENT, wave() * COLUMNS + t, b);
      mma_bf16(columns.tile[t], a, b);
      if (t % 2 == 1) loads_first(); // not all at once: registers are few
    }
  }

  /// Sums over keys `begin..end`.
  __device__ void sum(u32 begin, u32 end, Softmax &softmax, Columns &columns) {
    softmax = Softmax{};
    columns = Columns{};
    look_up(begin);
    load(begin);
    look_up(begin + TILE);
    for (u32 first = begin; first < end; first += TILE) {
      score();
      loads_first();
      if (first + TILE < end) {
        load(first + TILE);
        look_up(first + 2 * TILE);
      }
      sync();
      weigh(first, softmax);
      sync();
      mix(columns);
      sync();
    }
  }

  /// Calls `f(head, column, value)` for the lane's results of heads that there are.
  template <typename F> __device__ void each(const Columns &columns, F f) {
    for (u32 t = 0; t < COLUMNS; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i) {
        u32 head = first_head + acc_row(i);
        u32 column = 16 * (wave() * COLUMNS + t) + acc_col(i);
        if (head < args.heads) f(head, column, columns.tile[t].v[i]);
      }
  }

  /// Writes `columns / sum` to `out`.
  __device__ void finish(const Softmax &softmax, const Columns &columns) {
    if (thread() % 16 == 0) lds.factors[0][thread() / 16] = 1.0f / softmax.sum;
    sync();
    __bf16 *out = args.out + (u64)row * args.heads * LATENT;
    each(columns, [&](u32 head, u32 column, float value) {
      out[head * LATENT + column] = (__bf16)(value * lds.factors[0][head - first_head]);
    });
  }
};

/// The factors for two partial results when they become one, whose maximum `max` becomes.
__device__ inline void join(float &max, float &sum, float other_max, float other_sum, float &own,
                            float &other) {
  float both = max > other_max ? max : other_max;
  own = exp2(max - both);
  other = exp2(other_max - both);
  max = both;
  sum = __builtin_fmaf(sum, own, other_sum * other);
}

PACKED_KERNEL void attention_split(AttentionArgs args) {
  __shared__ Shared lds;
  u32 row = block_x(), split = block_z();
  if (row >= *args.rows) return;
  u32 len = args.positions[row] + 1, length = split_length(len), begin = split * length;
  if (begin >= len) return;
  Task task(args, lds, row);
  Softmax softmax;
  Columns columns;
  task.sum(begin, begin + length < len ? begin + length : len, softmax, columns);
  if (length >= len) return task.finish(softmax, columns);
  u64 at = ((u64)row * args.max_splits + split) * args.heads;
  u32 head = task.first_head + thread() / 16;
  if (thread() % 16 == 0 && head < args.heads) {
    args.sums[2 * (at + head)] = softmax.max;
    args.sums[2 * (at + head) + 1] = softmax.sum;
  }
  task.each(columns, [&](u32 head, u32 column, float value) {
    args.partials[(at + head) * LATENT + column] = value;
  });
}

KERNEL(128) void attention_merge(AttentionArgs args) {
  u32 row = block_x(), head = block_y();
  if (row >= *args.rows) return;
  u32 len = args.positions[row] + 1, length = split_length(len);
  if (length >= len) return;
  float max = -__builtin_inff(), sum = 0;
  f32x4 columns = {0, 0, 0, 0};
  for (u32 split = 0; split * length < len; ++split) {
    u64 at = ((u64)row * args.max_splits + split) * args.heads + head;
    f32x4 x = *(const f32x4 *)(args.partials + at * LATENT + 4 * thread());
    float own, other;
    join(max, sum, args.sums[2 * at], args.sums[2 * at + 1], own, other);
    for (u32 i = 0; i < 4; ++i) columns[i] = __builtin_fmaf(columns[i], own, x[i] * other);
  }
  float factor = 1.0f / sum;
  bf16x4 y;
  for (u32 i = 0; i < 4; ++i) y[i] = (__bf16)(columns[i] * factor);
  *(bf16x4 *)(args.out + ((u64)row * args.heads + head) * LATENT + 4 * thread()) = y;
}

KERNEL(256) void attention_rows(AttentionArgs args) {
  __shared__ Shared lds;
  u32 row = block_x();
  if (row >= *args.rows) return;
  Task task(args, lds, row);
  u32 length = split_length(task.len);
  Softmax softmax, total;
  Columns columns, totals = {};
  for (u32 begin = 0; begin < task.len; begin += length) {
    u32 end = begin + length < task.len ? begin + length : task.len;
    task.sum(begin, end, softmax, columns);
    float own, other;
    join(total.max, total.sum, softmax.max, softmax.sum, own, other);
    if (thread() % 16 == 0) {
      lds.factors[0][thread() / 16] = own;
      lds.factors[1][thread() / 16] = other;
    }
    sync();
    for (u32 t = 0; t < COLUMNS; ++t)
      for (u32 i = 0; i < ACCUMULATORS; ++i)
        totals.tile[t].v[i] = __builtin_fmaf(totals.tile[t].v[i], lds.factors[0][acc_row(i)],
                                             columns.tile[t].v[i] * lds.factors[1][acc_row(i)]);
    sync();
  }
  task.finish(total, totals);
}
