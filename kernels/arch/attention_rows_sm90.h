// attention_rows for sm_90, keys in BF16: four rows of a group share keys in matrix instructions of
// a warpgroup, whose 64 rows are 16 heads of each.
//
// The last of three warpgroups scores and weighs tiles of keys, with most of the queries in
// registers, and leaves weights in LDS. The first two mix the tile before meanwhile, each half of
// the columns, and copy keys from memory into LDS, where two tiles are at once. Warp `w` of each
// has row `w`'s part of scores and results. What splits before summed to is in LDS as well.
//
// A tile of keys is matrices of 8 keys by 8 values, for each slab `[2 h + p][key / 8]`: in row
// `key % 8` values `16 p + 8 (i / 4) + 4 h + i % 4` of the slab. Instruction `h` of a slab so adds
// up the 16 values that are `mma_bf16`'s; their order changes no bit. Read transposed the same
// matrices are values by keys.
#pragma once
#include "warpgroups.h"
#include "wgmma.h"

constexpr u32 MIXERS = 256, WEIGHERS = 128;
/// Barriers: `MIXED + half` of the threads that mix half of the columns, when they have, and STORED
/// of those who weigh, when queries are in LDS.
constexpr u32 MIXED = 1, STORED = 3;
/// Slabs of queries that stay in registers, all but the last part's, and those in LDS.
constexpr u32 FIRST_SLABS = (PARTS - 1) * SLABS, LAST_SLABS = ENTRY / 32 - FIRST_SLABS;
/// Places of keys: with one more than there are, neither copies of an entry nor transposed reads
/// collide.
constexpr u32 PLACES = TILE + 1;

struct SharedByWarpgroups {
  __attribute__((aligned(128))) __bf16 keys[2][ENTRY / 32][4][PLACES][8];
  /// The last part, in matrices as keys are.
  __attribute__((aligned(128))) __bf16 queries[LAST_SLABS][4][64][8];
  /// In matrices of 8 heads by 8 keys.
  __attribute__((aligned(128))) __bf16 weights[2][8][TILE / 8][8][8];
  /// What splits before summed to, as threads have it.
  f32x4 totals[32][MIXERS];
  /// Factors of what was summed before.
  float factors[2][64];
  /// Of the split that ended with the tile the inverse of the sum of weights and the weight of its
  /// mean, and the factor of what splits before summed to.
  float joins[2][3][64];
  /// Sums of all weights.
  float sums[64];
  /// Threads that mix are done with a tile's place, and keys are there; those who weigh, and
  /// weights are there.
  u64 copied[2], weighed[2];
};
static_assert(sizeof(SharedByWarpgroups) == 230016, "what launches ask for");

/// Rows of a sequence, of which the last may stand for several that there are not.
struct Group {
  const AttentionArgs &args;
  SharedByWarpgroups &lds;
  u32 first_row, rows, first_head, len, split;

  __device__ Group(const AttentionArgs &args, SharedByWarpgroups &lds, u32 first_row, u32 rows)
      : args(args), lds(lds), first_row(first_row), rows(rows), first_head(16 * block_y()),
        len(args.positions[first_row] + rows), split(split_length(args, len)) {}

  /// The warp's row.
  __device__ u32 own() const { return wave() % 4 < rows ? wave() % 4 : rows - 1; }

  /// Where the lane's chunk `c` of heads stands among the warpgroup's 64 rows.
  __device__ static u32 place(u32 c) { return 16 * (wave() % 4) + chunk_row(c); }

  __device__ bool single() const { return split >= len; }
};

/// Copies keys: a warpgroup the columns that it mixes and half of the rope, a warp of eight keys.
struct Copier {
  static constexpr u32 KEYS = TILE / 4;
  const Group &group;
  const u32 *table;
  u32 block, place;

  __device__ Copier(const Group &group)
      : group(group), table(group.args.tables + group.args.table_starts[group.first_row]) {}

  /// Finds the keys of the tile from `first` on; the last key again for those beyond it.
  __device__ void look_up(u32 first) {
    u32 key = first + KEYS * (wave() % 4) + lane() % KEYS;
    key = key < group.len ? key : group.len - 1;
    u32 index = key / group.args.block_size;
    block = table[index];
    place = key - index * group.args.block_size;
  }

  /// Starts to copy the keys that have been found, 8 bytes a lane.
  __device__ void copy(u32 tile) const {
    constexpr u32 SLAB = 64 * PLACES, HALF = LATENT / 64;
    u32 slot = block * group.args.block_size + place, half = wave() / 4;
    u32 piece = lane() % 8, eighth = lane() / 8;
    u32 to = lds_address(&group.lds.keys[tile][0][piece % 2 * 2 + piece / 4]
                                        [KEYS * (wave() % 4)][piece / 2 % 2 * 4]);
    // 256 bytes of a key at once.
    u32 latent = to + SLAB * (HALF * half + eighth);
    for (u32 key = 0; key < KEYS; ++key) {
      const u8 *from = group.args.cache + (u64)shuffle(slot, key) * Bf16Keys::BYTES +
                       64 * HALF * half + 8 * lane();
      for (u32 i = 0; i < 2; ++i) copy_8_to_lds(latent + 16 * key + 4 * SLAB * i, from + 256 * i);
    }
    // 64 bytes of four keys.
    u32 rope = to + SLAB * (2 * HALF + half) + 16 * eighth;
    for (u32 key = 0; key < KEYS; key += 4) {
      const u8 *from = group.args.cache + (u64)shuffle(slot, key + eighth) * Bf16Keys::BYTES +
                       2 * LATENT + 64 * half + 8 * piece;
      copy_8_to_lds(rope + 16 * key, from);
    }
    count_with_copies(group.lds.copied[tile]);
  }
};

/// Scores and weighs all tiles of keys.
__device__ inline void weigh_all(const Group &group) {
  SharedByWarpgroups &lds = group.lds;
  // Pairs of values as instruction `h` of a slab takes them.
  u32 query[FIRST_SLABS][2][4];
  for (u32 c = 0; c < CHUNKS; ++c) {
    u32 head = group.first_head + chunk_row(c), at = chunk_group() / 2 * 8 + chunk_group() % 2 * 2;
    head = head < group.args.heads ? head : group.args.heads - 1;
    u64 row = (u64)(group.first_row + group.own()) * group.args.heads + head;
    const __bf16 *q = group.args.queries + row * ENTRY + at;
    for (u32 s = 0; s < ENTRY / 32; ++s)
      for (u32 h = 0; h < 2; ++h)
        for (u32 p = 0; p < 2; ++p) {
          u32 pair = *(const u32 *)(q + 32 * s + 16 * p + 4 * h);
          if (s < FIRST_SLABS)
            query[s][h][c + 2 * p] = pair;
          else
            *(u32 *)&lds.queries[s - FIRST_SLABS][2 * h + p][Group::place(c)][2 * chunk_group()] =
                pair;
        }
  }
  operands_written();
  await(STORED, WEIGHERS);
  u64 last_part = matrices_at(&lds.queries, 1024, 128);
  u32 end = group.len - (group.rows - 1 - group.own()), split_end = group.split;
  Softmax softmax, total;
  for (u32 first = 0, tile = 0, phase = 0; first < group.len; first += TILE) {
    wait_for(lds.copied[tile], phase);
    operands_written();
    u64 keys = matrices_at(&lds.keys[tile], 16 * PLACES, 128);
    float sum[16], chain[16];
    auto score = [&](u32 part, float(&to)[16]) {
      for (u32 s = 0; s < SLABS; ++s)
        for (u32 h = 0; h < 2 && exists(part, s); ++h) {
          u32 slab = part * SLABS + s;
          u64 matrices = keys + (4 * slab + 2 * h) * PLACES;
          if (slab < FIRST_SLABS) {
            const u32 *q = query[slab][h];
            wgmma(to, q[0], q[1], q[2], q[3], matrices, s + h > 0);
          } else {
            wgmma(to, last_part + (4 * s + 2 * h) * 64, matrices, s + h > 0);
          }
        }
    };
    wgmma_begin();
    score(0, sum);
    for (u32 part = 1; part < PARTS; ++part) {
      if (part > 1) wgmma_begin();
      score(part, chain);
      wgmma_end();
      if (part == 1) wgmma_wait(sum);
      wgmma_wait(chain);
      for (u32 i = 0; i < 16; ++i) sum[i] += chain[i];
    }
    Scores scores;
    for (u32 i = 0; i < 16; ++i)
      scores.v[i / ACC_VALUES][i % ACC_VALUES] = sum[i] * group.args.scale;
    if (first + TILE > end) {
      loads_first(); // a branch, so that other tiles are spared
      for (u32 t = 0; t < 2; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i)
          if (first + 16 * t + other_row(i) >= end) scores.v[t][i] = -__builtin_inff();
    }
    Weights weights = softmax.weigh(scores);
    for (u32 c = 0; c < CHUNKS; ++c) {
      store_matrices(lds.weights[tile][2 * (wave() % 4) + c][lane() / 8][lane() % 8],
                     weights.operand[c]);
      lds.factors[tile][Group::place(c)] = weights.factor[c];
    }
    bool last = first + TILE >= group.len;
    if (!group.single() && (last || first + TILE == split_end)) {
      for (u32 c = 0; c < CHUNKS; ++c) {
        float weight;
        float own = join(total.max[c], total.sum[c], softmax.max[c], softmax.sum[c], weight);
        lds.joins[tile][0][Group::place(c)] = 1.0f / softmax.sum[c];
        lds.joins[tile][1][Group::place(c)] = weight;
        lds.joins[tile][2][Group::place(c)] = own;
      }
      softmax = Softmax{};
      split_end += group.split;
    }
    if (last)
      for (u32 c = 0; c < CHUNKS; ++c)
        lds.sums[Group::place(c)] = group.single() ? softmax.sum[c] : total.sum[c];
    operands_written();
    count(lds.weighed[tile]);
    phase ^= tile;
    tile ^= 1;
  }
}

/// The factors of `add_split` for the lane's heads.
struct Join {
  float inverse[CHUNKS], weight[CHUNKS], own[CHUNKS];
};

/// `totals = own * totals + weight * mean`, where `columns * inverse` is the mean of a split, and
/// `columns = 0`.
__device__ inline void add_split(SharedByWarpgroups &lds, float (&columns)[128], const Join &join) {
  for (u32 n = 0; n < 32; ++n) {
    f32x4 t = lds.totals[n][thread()];
    for (u32 i = 0; i < 4; ++i) {
      u32 c = own_chunk(i);
      float mean = (float)rounded(columns[4 * n + i] * join.inverse[c]);
      t[i] = __builtin_fmaf(t[i], join.own[c], mean * join.weight[c]);
      columns[4 * n + i] = 0;
    }
    lds.totals[n][thread()] = t;
    if (n % 4 == 3) loads_in_order(); // registers are few
  }
}

/// Copies keys and mixes the values of all tiles.
__device__ inline void mix_all(const Group &group) {
  SharedByWarpgroups &lds = group.lds;
  u32 half = wave() / 4, split_end = group.split;
  Copier copier(group);
  for (u32 tile = 0; tile < 2 && tile * TILE < group.len; ++tile) {
    copier.look_up(tile * TILE);
    copier.copy(tile);
  }
  float columns[128];
  for (u32 i = 0; i < 128; ++i) columns[i] = 0;
  for (u32 n = 0; n < 32; ++n) lds.totals[n][thread()] = f32x4{0, 0, 0, 0};
  for (u32 first = 0, tile = 0, phase = 0; first < group.len;
       first += TILE, phase ^= tile, tile ^= 1) {
    wait_for(lds.weighed[tile], phase);
    operands_written();
    float factor[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) factor[c] = lds.factors[tile][Group::place(c)];
    if (ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0)
      for (u32 i = 0; i < 128; ++i) columns[i] *= factor[own_chunk(i)];
    u64 weights = matrices_at(&lds.weights[tile], 128, 16 * TILE);
    u64 values = matrices_at(&lds.keys[tile][half * (LATENT / 64)], 128, 16 * PLACES);
    wgmma_begin();
    for (u32 k = 0; k < 2; ++k) wgmma_transposed(columns, weights + 16 * k, values + 16 * k);
    wgmma_end();
    copier.look_up(first + 2 * TILE);
    wgmma_wait(columns);
    bool ends = !group.single() && (first + TILE >= group.len || first + TILE == split_end);
    Join join;
    // Before the copy, after which they may be written again.
    if (ends)
      for (u32 c = 0; c < CHUNKS; ++c) {
        join.inverse[c] = lds.joins[tile][0][Group::place(c)];
        join.weight[c] = lds.joins[tile][1][Group::place(c)];
        join.own[c] = lds.joins[tile][2][Group::place(c)];
      }
    await(MIXED + half, MIXERS / 2);
    if (first + 2 * TILE < group.len) copier.copy(tile);
    if (ends) {
      add_split(lds, columns, join);
      split_end += group.split;
    }
  }
  u32 row = wave() % 4;
  if (row >= group.rows) return;
  __bf16 *out = group.args.out + (u64)(group.first_row + row) * group.args.heads * LATENT +
                LATENT / 2 * half + chunk_group() / 2 * 8 + chunk_group() % 2 * 2;
  float factor[CHUNKS];
  for (u32 c = 0; c < CHUNKS; ++c) factor[c] = 1.0f / lds.sums[Group::place(c)];
  for (u32 n = 0; n < 32; ++n) {
    f32x4 t = lds.totals[n][thread()];
    u32 column = n / 4 * 32 + n % 2 * 16 + n / 2 % 2 * 4;
    for (u32 c = 0; c < CHUNKS; ++c) {
      u32 head = group.first_head + chunk_row(c);
      if (head >= group.args.heads) continue;
      Bf16Run y;
      for (u32 i = 0; i < RUN; ++i) {
        float x = group.single() ? columns[4 * n + 2 * c + i] : t[2 * c + i];
        y[i] = (__bf16)__builtin_fmaf(x, factor[c], 0.0f);
      }
      *(Bf16Run *)(out + head * LATENT + column) = y;
    }
  }
}

KERNEL(MIXERS + WEIGHERS) void attention_rows(AttentionArgs args) {
  begin();
  extern __shared__ __attribute__((aligned(128))) u8 memory[];
  SharedByWarpgroups &lds = *(SharedByWarpgroups *)memory;
  if (block_x() >= *args.groups) return;
  // The last first: they see the most keys.
  u32 index = *args.groups - 1 - block_x(), first_row = args.group_rows[index];
  Group group(args, lds, first_row, args.group_rows[index + 1] - first_row);
  if (thread() < 2) {
    expect_arrivals(lds_address(&lds.copied[thread()]), 2 * MIXERS);
    expect_arrivals(lds_address(&lds.weighed[thread()]), WEIGHERS);
  }
  sync();
  if (wave() < MIXERS / WAVE) {
    give_registers<160>();
    mix_all(group);
  } else {
    take_registers<184>();
    weigh_all(group);
  }
}
