// attention_split for sm_90. Workgroups stay, one a processor: each takes a run of the splits of
// all rows, in order, so that entries of the next split are on their way while one is summed.
//
// Of its three warpgroups one copies entries into a ring in LDS, a warp eight keys of a tile; one
// scores them, a warp eight keys, with all of the queries in registers; and one mixes values, a
// warp 128 columns, for which each warp weighs the scores itself: the next tile's while it mixes
// one. Values in E4M3 are made bf16 by who scores them, in a second ring. (Where those who copy did
// half of that, it took longer: of the scores' instructions fewer then run beside it.)
//
// Neither transposed reads of eight keys in LDS collide, nor those of an operand's chunks of two
// keys or codes of four, if an operand's rows are the keys in the order of `key_of`. That order
// changes no bit: it is that of columns of scores, and within an instruction of what it adds up.
// Entries in BF16 stand one after the other, but of each line of 128 bytes the 16-byte parts are at
// their place ^ the line % 8, of which a key has nine: so a tensor map copies them. Entries with
// codes, and values made of these, stand 16 bytes more than a multiple of 128 apart. (Copies
// of BF16 to such places, without anything else, took 5 % longer.)
//
// Means of splits leave by way of LDS, 256 bytes of a head at once, while the next split is mixed.
// Of the time that 64 rows of 32768 keys take they were a tenth, when each split wrote its own: of
// more than the L2 cache holds, writing takes the memory four times as long as reading. So a
// workgroup that has all splits of a group folds their means in registers, in the order and with
// the roundings of a merge, and writes that of the group; and where workgroups have several splits
// each, runs of splits end where groups do, if the longest is no longer for it.
#pragma once
#include "attention_merge_sm90.h"
#include "boxes.h"
#include "warpgroups.h"

constexpr u32 COPIERS = 128, SCORERS = 128, MIXERS = 128;
constexpr u32 SCORING_WARPS = SCORERS / WAVE, MIXING_WARPS = MIXERS / WAVE;
/// Keys of a warp that copies or scores.
constexpr u32 OWN_KEYS = TILE / SCORING_WARPS;
/// Columns of a warp that mixes.
constexpr u32 WIDTH = LATENT / MIXING_WARPS;
constexpr u32 SPLIT_THREADS = COPIERS + SCORERS + MIXERS;
/// Of fewer splits of a workgroup it is not worth finding out whether they are a group.
constexpr u32 LEAST_RUN = 4;
/// Rows at most.
constexpr u32 MAX_ROWS = SPLIT_THREADS;

/// Bytes between entries of `bytes`.
constexpr u32 pitch(u32 bytes) { return (bytes + 111) / 128 * 128 + 16; }

template <class Keys> struct Rings {
  static constexpr bool CONVERTS = Keys::BYTES != Bf16Keys::BYTES;
  static constexpr u32 PITCH = CONVERTS ? pitch(Keys::BYTES) : Keys::BYTES;
  /// In BF16 five took up to 6 % longer where workgroups had several splits, also with but four of
  /// them in use; it is not known why.
  static constexpr u32 STAGES = CONVERTS ? 5 : 4;
  __attribute__((aligned(1024))) u8 entries[STAGES][TILE][PITCH];
  /// Values of entries that have been made bf16.
  static constexpr u32 VALUES_PITCH = pitch(2 * LATENT);
  static constexpr u32 TILES = CONVERTS ? 3 : STAGES;
  __attribute__((aligned(128))) u8 values[CONVERTS ? TILES : 1][CONVERTS ? TILE : 1][VALUES_PITCH];
  /// Of eight keys each, as lanes have them.
  f32x4 scores[TILES][SCORING_WARPS][WAVE];
  /// What a warp that mixes writes, of 16 heads.
  __attribute__((aligned(16))) u8 means[MIXING_WARPS][16][2 * WIDTH + 16];
  /// What rows see, and where their blocks begin in `tables`.
  u32 lens[MAX_ROWS], starts[MAX_ROWS];
  u32 sums[MAX_ROWS / WAVE];
  /// Which split the workgroup begins with, and which it ends before; their numbers among all.
  u32 first_heads, first_row, first_split, numbers[2];
  /// Entries are there; have been read by those who convert them; scores are there (and values);
  /// they have been mixed.
  u64 copied[STAGES], read[STAGES], scored[TILES], mixed[TILES];
};

/// Key `row` of eight keys of an operand.
__device__ inline u32 key_of(u32 row) { return row % 2 * 4 + row / 2 % 2 * 2 + row / 4; }

/// For `copy_bulk` of data that the L2 cache should drop before other.
__device__ inline u64 used_once() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline void copy_bulk(void *to, const void *from, u32 bytes, u32 word, u64 policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
               "[%0], [%1], %2, [%3], %4;" ::"r"(lds_address(to)),
               "l"(from), "r"(bytes), "r"(word), "l"(policy)
               : "memory");
}
/// The same of an entry in bf16.
__device__ inline void copy_entry(void *to, const TensorMap &map, u32 slot, u32 word, u64 policy) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
               ".L2::cache_hint [%0], [%1, {%2, %2, %3}], [%4], %5;" ::"r"(lds_address(to)),
               "l"(&map), "r"(0), "r"(slot), "r"(word), "l"(policy)
               : "memory");
}

/// A place in a ring of N, and how often the ring has been gone round, modulo 2.
template <u32 N> struct Place {
  u32 at = 0, phase = 0;
  __device__ void next() {
    if (++at == N) {
      at = 0;
      phase ^= 1;
    }
  }
};

/// The splits of a workgroup, of 16 heads of a row each.
struct Splits {
  const AttentionArgs &args;
  const u32 *lens;
  u32 rows, left;
  u32 heads, row, split, len, length;

  template <class Keys>
  __device__ Splits(const AttentionArgs &args, Rings<Keys> &lds)
      : args(args), lens(lds.lens), rows(*args.rows), left(lds.numbers[1] - lds.numbers[0]),
        heads(lds.first_heads), row(lds.first_row), split(lds.first_split) {
    find_length();
  }

  __device__ void find_length() {
    len = lens[row];
    length = split_length(args, len);
  }
  /// The first split of the group that begins here times 2^16, plus that behind its last one, if
  /// they are several and the workgroup has them all, else 0.
  __device__ u32 whole_group() const {
    u32 count = (len + length - 1) / length, group = group_length(count);
    u32 end = split + group < count ? split + group : count;
    return split % group == 0 && split + 1 < end && end - split <= left ? split << 16 | end : 0;
  }
  __device__ u32 begin() const { return split * length; }
  __device__ u32 end() const { return begin() + length < len ? begin() + length : len; }
  /// Goes on to the next one; returns whether it is another row's or of other heads.
  __device__ bool next() {
    --left;
    ++split;
    if (split * length < len) return false;
    split = 0;
    if (++row == rows) {
      row = 0;
      heads += 16;
    }
    if (left > 0) find_length();
    return true;
  }
};

template <class Keys>
__device__ inline void copy_all(const AttentionArgs &args, const TensorMap *map, Rings<Keys> &lds) {
  typedef Rings<Keys> R;
  Splits splits(args, lds);
  u32 own = OWN_KEYS * (wave() % 4), first = splits.begin(), block, in_block;
  /// Finds the lane's key of the tile, the last one for those beyond it, and goes on.
  auto look_up = [&] {
    u32 key = first + own + lane() % OWN_KEYS;
    key = key < splits.len ? key : splits.len - 1;
    u32 index = key / args.block_size;
    block = args.tables[lds.starts[splits.row] + index];
    in_block = key - index * args.block_size;
    first += TILE;
    if (first < splits.end()) return;
    splits.next();
    first = splits.begin();
  };
  look_up();
  u64 policy = used_once();
  for (Place<R::STAGES> to;; to.next()) {
    u32 slot = block * args.block_size + in_block;
    bool last = splits.left == 0;
    if (!last) look_up();
    if constexpr (R::CONVERTS)
      wait_for(lds.read[to.at], to.phase ^ 1);
    else
      wait_for(lds.mixed[to.at], to.phase ^ 1);
    u32 word = lds_address(&lds.copied[to.at]);
    if (lane() < OWN_KEYS) {
      u8 *entry = lds.entries[to.at][own + lane()];
      expect_bytes(word, Keys::BYTES);
      if constexpr (R::CONVERTS)
        copy_bulk(entry, args.cache + (u64)slot * Keys::BYTES, Keys::BYTES, word, policy);
      else
        copy_entry(entry, *map, slot, word, policy);
    }
    if (last) return;
  }
}

/// Where an entry is in LDS.
template <class Keys> struct Entry {
  const u8 *at;

  __device__ Entry(const u8 *at, u32) : at(at) {}

  /// The lane's part of slab `s`: a chunk, or eight codes.
  __device__ u32x4 slab(u32 s) const {
    if (s >= LATENT / 32)
      return *(const u32x4 *)(at + Keys::ROPE_AT + 64 * (s - LATENT / 32) + 16 * chunk_group());
    u32x2 codes = *(const u32x2 *)(at + 32 * s + 8 * chunk_group());
    return u32x4{codes[0], codes[1], 0, 0};
  }
};
template <> struct Entry<Bf16Keys> {
  /// Where slabs `2 * i` would begin in the first line.
  u32 places[4];

  /// Of key `key` of a tile.
  __device__ Entry(const u8 *at, u32 key) {
    for (u32 i = 0; i < 4; ++i)
      places[i] = lds_address(at) + 16 * (chunk_group() ^ (key + i) % 8);
  }

  __device__ u32x4 slab(u32 s) const {
    u32 line = s / 2, address = (places[line % 4] ^ 64 * ((line / 4 + s) % 2)) + 128 * line;
    return *(const __attribute__((address_space(3))) u32x4 *)(u64)address;
  }
};

/// Eight E4M3 values times the power of two in byte `step` of `scale`. As `dequantize_fp8`, in
/// fewer instructions.
__device__ inline u32x4 widen(u32x4 codes, u32 scale, u32 step) {
  u32 factor = scale_bf16x2(scale, step);
  u32x4 pairs;
  for (u32 p = 0; p < 4; ++p) {
    // Two codes, each in an upper byte.
    u32 two = __nvvm_prmt(codes[p / 2], 0, p % 2 == 0 ? 0x1404 : 0x3424);
    u32 bits = (two >> 4 & 0x07f007f0) | (two & 0x80008000);
    pairs[p] = multiply_bf16x2(multiply_bf16x2(bits, 0x7b807b80), factor);
  }
  return pairs;
}

template <class Keys>
__device__ inline void score_all(const AttentionArgs &args, Rings<Keys> &lds) {
  typedef Rings<Keys> R;
  Splits splits(args, lds);
  u32 warp = wave() % 4, own_key = OWN_KEYS * warp + key_of(lane() / 4);
  u32 query[ENTRY / 32][2][4]; // as two instructions of each slab take it
  // Words that were as loaded would be copied into their places before every instruction.
  u32 zero = args.heads >> 31;
  Place<R::STAGES> from;
  Place<R::TILES> to;
  for (bool other = true; splits.left > 0; other = splits.next()) {
    if (other)
      for (u32 c = 0; c < CHUNKS; ++c) {
        u32 head = splits.heads + chunk_row(c);
        head = head < args.heads ? head : args.heads - 1;
        const __bf16 *q =
            args.queries + ((u64)splits.row * args.heads + head) * ENTRY + 8 * chunk_group();
        for (u32 s = 0; s < ENTRY / 32; ++s) {
          u32x4 chunk = *(const u32x4 *)(q + 32 * s);
          for (u32 w = 0; w < 4; ++w) query[s][w / 2][w % 2 * 2 + c] = chunk[w] ^ zero;
        }
      }
    for (u32 first = splits.begin(); first < splits.end(); first += TILE) {
      wait_for(lds.copied[from.at], from.phase);
      if constexpr (R::CONVERTS) wait_for(lds.mixed[to.at], to.phase ^ 1);
      const u8 *at = lds.entries[from.at][own_key];
      Entry<Keys> entry(at, own_key);
      u8 *values = lds.values[R::CONVERTS ? to.at : 0][R::CONVERTS ? own_key : 0];
      u32x4 scales = {};
      if constexpr (R::CONVERTS) scales = *(const u32x4 *)(at + Keys::SCALES_AT);
      float part[PARTS][4] = {};
      u32x4 next[PARTS];
      auto load = [&](u32 s) {
        for (u32 p = 0; p < PARTS; ++p)
          if (exists(p, s)) next[p] = entry.slab(p * SLABS + s);
      };
      load(0);
      for (u32 s = 0; s < SLABS; ++s) {
        u32x4 key[PARTS];
        for (u32 p = 0; p < PARTS; ++p) key[p] = next[p];
        if (s + 1 < SLABS) load(s + 1);
        for (u32 p = 0; p < PARTS; ++p) {
          if (!exists(p, s)) continue;
          u32 slab = p * SLABS + s;
          if (R::CONVERTS && slab < LATENT / 32) {
            key[p] = widen(key[p], scales[slab / 4], slab % 4);
            *(u32x4 *)(values + 64 * slab + 16 * chunk_group()) = key[p];
          }
          for (u32 h = 0; h < 2; ++h) {
            const u32 *q = query[slab][h];
            mma_m16n8k16(part[p], q[0], q[1], q[2], q[3], key[p][2 * h], key[p][2 * h + 1]);
          }
        }
      }
      f32x4 score;
      for (u32 i = 0; i < 4; ++i) {
        float sum = part[0][i];
        for (u32 p = 1; p < PARTS; ++p) sum += part[p][i];
        u32 key = first + OWN_KEYS * warp + key_of(acc_col(i));
        score[i] = key < splits.len ? sum * args.scale : -__builtin_inff();
      }
      lds.scores[to.at][warp][lane()] = score;
      if constexpr (R::CONVERTS) count(lds.read[from.at]);
      count(lds.scored[to.at]);
      from.next();
      to.next();
    }
  }
}

/// What is summed over a split or a group: the columns of a warp that mixes.
struct Sums {
  Softmax softmax;
  Acc columns[WIDTH / 16] = {};

  __device__ void scale(const float (&factor)[CHUNKS]) {
    for (u32 t = 0; t < WIDTH / 16; ++t)
      for (u32 i = 0; i < ACC_VALUES; ++i) columns[t].v[i] *= factor[own_chunk(i)];
  }

  /// Adds a split to those of its group before, as a merge does.
  __device__ void fold(const Sums &split) {
    float own[CHUNKS], weight[CHUNKS], inverse[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) {
      inverse[c] = 1.0f / split.softmax.sum[c];
      own[c] = join(softmax.max[c], softmax.sum[c], split.softmax.max[c], split.softmax.sum[c],
                    weight[c]);
    }
    for (u32 t = 0; t < WIDTH / 16; ++t)
      for (u32 i = 0; i < ACC_VALUES; i += RUN) {
        u32 c = own_chunk(i);
        const float *x = split.columns[t].v + i;
        HalfRun mean = rounded(x[0] * inverse[c], x[1] * inverse[c]);
        float *y = columns[t].v + i;
        for (u32 j = 0; j < RUN; ++j)
          y[j] = __builtin_fmaf(y[j], own[c], (float)mean[j] * weight[c]);
      }
  }
};

/// Writes the result of the only split of a row, or the mean of split `split` or of the group that
/// begins with it.
template <class Keys>
__device__ inline void write(const Splits &splits, Rings<Keys> &lds, u32 first_column,
                             const Sums &sums, u32 split, bool group) {
  const AttentionArgs &args = splits.args;
  const Softmax &softmax = sums.softmax;
  // The result is its own mean.
  bool single = (group ? GROUP : 1) * splits.length >= splits.len;
  u64 row_at = (u64)splits.row * args.heads + splits.heads;
  u64 at = ((u64)splits.row * args.max_splits + split) * args.heads + splits.heads;
  float factor[CHUNKS];
  for (u32 c = 0; c < CHUNKS; ++c) {
    factor[c] = 1.0f / softmax.sum[c];
    u32 head = chunk_row(c);
    if (first_column > 0 || chunk_group() > 0 || splits.heads + head >= args.heads) continue;
    f32x2 *to = (f32x2 *)args.sums + at + head;
    if (!single) *to = f32x2{softmax.max[c], softmax.sum[c]};
    if (group) to[args.heads] = f32x2{0, 0};
  }
  auto &rows = lds.means[wave() % MIXING_WARPS];
  u8 *own = rows[lane() % 16] + lane() / 16 * 16;
  auto store = [&](auto pair) {
    for (u32 t = 0; t < WIDTH / 16; ++t) {
      u32x4 words; // of heads 0 .. 7 and 8 .. 15, and the same of the next eight columns
      for (u32 i = 0; i < ACC_VALUES; i += RUN) {
        float f = factor[own_chunk(i)];
        words[i / RUN] = pair(sums.columns[t].v[i], sums.columns[t].v[i + 1], f);
      }
      store_matrices(own + 32 * t, __builtin_bit_cast(bf16x8, words));
    }
  };
  copied_out(); // what was written before
  sync_wave();
  if (single)
    store([](float x, float y, float f) {
      return __builtin_bit_cast(u32, Bf16Run{(__bf16)__builtin_fmaf(x, f, 0.0f),
                                             (__bf16)__builtin_fmaf(y, f, 0.0f)});
    });
  else
    store([](float x, float y, float f) {
      return __builtin_bit_cast(u32, rounded(x * f, y * f));
    });
  operands_written();
  sync_wave();
  u32 head = lane();
  if (head >= 16 || splits.heads + head >= args.heads) return;
  u8 *to = single ? (u8 *)(args.out + (row_at + head) * LATENT)
                  : (u8 *)(args.partials + (at + head) * LATENT);
  copy_out(to + 2 * first_column, rows[head], 2 * WIDTH);
}

template <class Keys> __device__ inline void mix_all(const AttentionArgs &args, Rings<Keys> &lds) {
  typedef Rings<Keys> R;
  Splits splits(args, lds);
  u32 first_column = WIDTH * (wave() % MIXING_WARPS);
  u32 own_key = lane() / 8 * 8 + key_of(lane() % 8);
  Place<R::TILES> weighed, tile;
  auto next_scores = [&] {
    wait_for(lds.scored[weighed.at], weighed.phase);
    Scores scores;
    for (u32 w = 0; w < SCORING_WARPS; ++w) {
      f32x4 own = lds.scores[weighed.at][w][lane()];
      for (u32 i = 0; i < 4; ++i) scores.v[w / 2][w % 2 * 4 + i] = own[i];
    }
    weighed.next();
    return scores;
  };
  Sums total;    // of the group's splits before, if the workgroup has all of it
  u32 group = 0; // see `whole_group`
  for (; splits.left > 0; splits.next()) {
    if (group == 0 && splits.left >= LEAST_RUN) group = splits.whole_group();
    Sums sums;
    Weights weights = sums.softmax.weigh(next_scores());
    for (u32 first = splits.begin(); first < splits.end(); first += TILE) {
      const u8 *values;
      if constexpr (R::CONVERTS) {
        values = lds.values[tile.at][own_key];
      } else {
        wait_for(lds.copied[tile.at], tile.phase);
        values = lds.entries[tile.at][own_key];
      }
      Scores scores;
      bool more = first + TILE < splits.end();
      if (more) scores = next_scores();
      if (ballot(weights.factor[0] != 1.0f || weights.factor[1] != 1.0f) != 0)
        sums.scale(weights.factor);
      // Where eight columns begin, of which there are 16; of two lines in bf16.
      u32 address = lds_address(values + 2 * first_column);
      auto place = [&](u32 n) {
        if constexpr (R::CONVERTS) return address + 16 * n;
        u32 line = n / 8, turn = (own_key + 2 * (wave() % MIXING_WARPS) + line) % 8;
        return (address + 128 * line + 16 * turn) ^ 16 * (n % 8);
      };
      u32x4 x0 = __builtin_bit_cast(u32x4, weights.operand[0]);
      u32x4 x1 = __builtin_bit_cast(u32x4, weights.operand[1]);
      auto mix = [&] {
        for (u32 n = 0; n < WIDTH / 8; ++n) {
          u32x4 y = load_matrices_transposed(place(n));
          float *own = sums.columns[n / 2].v + n % 2 * 4;
          mma_m16n8k16(own, x0[0], x1[0], x0[1], x1[1], y[0], y[1]);
          mma_m16n8k16(own, x0[2], x1[2], x0[3], x1[3], y[2], y[3]);
        }
      };
      if (more) {
        mix();
        weights = sums.softmax.weigh(scores); // between the instructions above
      } else {
        mix();
      }
      count(lds.mixed[tile.at]);
      tile.next();
    }
    u32 first = splits.split;
    if (group != 0) {
      total.fold(sums);
      if (first + 1 < group % 65536) continue;
      sums = total;
      total = Sums{};
      first = group >> 16;
    }
    write(splits, lds, first_column, sums, first, group != 0);
    group = 0;
  }
  copied_out(); // LDS outlives no thread
}

/// Finds the splits of the workgroup: all are shared out evenly, in the order of heads, rows and
/// keys, by groups where then none has more. Returns whether there are any.
template <class Keys>
__device__ inline bool find_splits(const AttentionArgs &args, Rings<Keys> &lds) {
  u32 own = 0, row = thread();
  if (row < *args.rows) {
    u32 len = args.positions[row] + 1, length = split_length(args, len);
    lds.lens[row] = len;
    lds.starts[row] = args.table_starts[row];
    own = (len + length - 1) / length;
  }
  u32 own_groups = group_count(own);
  // Of splits and of groups at once.
  u32 before = wave_prefix_sum(own_groups << 16 | own);
  if (lane() == WAVE - 1) lds.sums[wave()] = before;
  sync();
  u32 of_all = 0;
  for (u32 w = 0; w < MAX_ROWS / WAVE; ++w) {
    if (w == wave()) before += of_all;
    of_all += lds.sums[w];
  }
  u32 splits = of_all & 0xffff, splits_before = (before & 0xffff) - own;
  u32 head_tiles = (args.heads + 15) / 16, all = splits * head_tiles;
  u32 workgroups = blocks_x() < all ? blocks_x() : all;
  if (block_x() >= workgroups) return false;
  u32 groups = of_all >> 16, all_groups = groups * head_tiles;
  auto most = [&](u32 count) { return (count + workgroups - 1) / workgroups; };
  if (all >= LEAST_RUN * workgroups && most(all_groups) * splits <= most(all) * groups) {
    u32 groups_before = (before >> 16) - own_groups;
    for (u32 i = 0; i < 2; ++i) {
      u32 number = all_groups * (block_x() + i) / workgroups, heads = number / groups;
      u32 in_row = number % groups - groups_before;
      if (in_row >= own_groups) continue;
      u32 split = in_row * group_length(own);
      if (i == 0) {
        lds.first_heads = 16 * heads;
        lds.first_row = row;
        lds.first_split = split;
      }
      lds.numbers[i] = heads * splits + splits_before + split;
    }
  } else {
    u32 first = all * block_x() / workgroups, end = all * (block_x() + 1) / workgroups;
    u32 in_row = first % splits - splits_before;
    if (in_row < own) {
      lds.first_heads = first / splits * 16;
      lds.first_row = row;
      lds.first_split = in_row;
      lds.numbers[0] = first;
      lds.numbers[1] = end;
    }
  }
  sync();
  return true;
}

template <class Keys>
__device__ inline void take_splits(const AttentionArgs &args, const TensorMap *map) {
  begin();
  extern __shared__ __attribute__((aligned(1024))) u8 memory[];
  Rings<Keys> &lds = *(Rings<Keys> *)memory;
  static_assert(sizeof(lds) <= 232448, "what launches ask for");
  if (thread() == 0) {
    for (u32 i = 0; i < Rings<Keys>::STAGES; ++i) {
      expect_arrivals(lds_address(&lds.copied[i]), TILE);
      expect_arrivals(lds_address(&lds.read[i]), SCORERS);
    }
    for (u32 i = 0; i < Rings<Keys>::TILES; ++i) {
      expect_arrivals(lds_address(&lds.scored[i]), SCORERS);
      expect_arrivals(lds_address(&lds.mixed[i]), MIXERS);
    }
    operands_written();
  }
  if (!find_splits(args, lds)) return;
  if (thread() < MIXERS) {
    take_registers<240>();
    mix_all(args, lds);
  } else if (thread() < MIXERS + SCORERS) {
    take_registers<232>();
    score_all(args, lds);
  } else {
    give_registers<32>();
    copy_all(args, map, lds);
  }
}

/// The parameter of attention_split.
struct SplitArgs {
  /// Of entries, by column of a line, line and slot: boxes of an entry, with 16 bytes of a line at
  /// their place ^ the line in LDS % 8.
  TensorMap entries;
  AttentionArgs args;
};

STAYING_KERNEL(SPLIT_THREADS)
void attention_split(const __attribute__((grid_constant)) SplitArgs args) {
  take_splits<Bf16Keys>(args.args, &args.entries);
}
STAYING_KERNEL(SPLIT_THREADS) void attention_split_fp8(AttentionArgs args) {
  take_splits<Fp8Keys>(args, nullptr);
}
