// attention_split for gfx950. A workgroup of eight waves sums splits of rows, one after another of
// a list that the host makes, which knows how long rows are; each by itself, 64 keys (two tiles) a
// step: four waves would take as long for 32, and a lone sequence would wait twice as long for
// splits that are so long that their means are few bytes beside their keys. The waves share the
// scores (16 keys and a part of the 576 values each) and the columns of the result; each weighs
// both tiles, one after the other, the second while it mixes the first.
//
// Keys go from memory into operand registers, and from there into LDS, to be read transposed as
// values. Scores, weights and results of a head stay in the lanes that hold its query (`mma_own`),
// so that weights are made in operand order and factors need not travel.
//
// Two workgroups fit a compute unit, with 128 registers and 80 KiB of LDS each, so that 128 keys
// are on their way while others are summed. For that a part of the queries is read from LDS in
// every step, and addresses of values are made of one that is kept: as swizzling is an XOR, that
// one XOR where a slab or tile of columns begins.
#pragma once

/// Keys of a step, and tiles of 16 of them.
constexpr u32 STEP = 2 * TILE, KEY_TILES = STEP / 16;
constexpr u32 SPLIT_WAVES = KEY_TILES * PARTS;
static_assert(PARTS * SLABS == ENTRY / 32, "all parts have SLABS slabs");
/// Tiles of 16 columns of the result for each wave; so many are mixed at once.
constexpr u32 OWN_TILES = LATENT / 16 / SPLIT_WAVES, SOME = OWN_TILES / 2;
/// Slabs of each part of a query that are in LDS.
constexpr u32 LDS_SLABS = 4;
/// Bytes of a key's values.
constexpr u32 PITCH = 2 * LATENT;

struct SplitShared {
  /// Swizzled.
  __attribute__((aligned(16))) u8 values[STEP * PITCH];
  /// Parts of scores, as lanes have them.
  f32x4 scores[PARTS][KEY_TILES][WAVE];
  /// Of queries, as operands.
  bf16x8 queries[PARTS][LDS_SLABS][WAVE];
};
static_assert(2 * sizeof(SplitShared) <= 160 * 1024, "two workgroups fit");

/// A wave's part of 16 keys, as it is loaded.
struct Bf16Part : Bf16Keys {
  bf16x8 slabs[SLABS];

  __device__ void load(const u8 *entry, u32 part) {
    for (u32 s = 0; s < SLABS; ++s)
      slabs[s] = *(const bf16x8 *)(entry + 64 * (part * SLABS + s) + 16 * chunk_group());
  }

  /// Slab `s` as operand.
  __device__ bf16x8 operand(u32, u32 s) const { return slabs[s]; }
};

/// The same in E4M3 with scales, but for the rope.
struct Fp8Part : Fp8Keys {
  /// Words that hold a part's scales, wherever in the first they begin.
  static constexpr u32 WORDS = (SLABS + 6) / 4;
  typedef u32x4 __attribute__((aligned(8))) Codes;
  /// Of a slab of codes the first half.
  u32x4 slabs[SLABS];
  u32x4 scales;

  __device__ void load(const u8 *entry, u32 part) {
    scales = u32x4{0, 0, 0, 0};
    for (u32 w = 0; w < WORDS; ++w)
      scales[w] = *(const u32 *)(entry + SCALES_AT + part * SLABS / 4 * 4 + 4 * w);
    for (u32 s = 0; s < SLABS; ++s) {
      u32 slab = part * SLABS + s;
      u32 codes_at = 32 * slab + 8 * chunk_group();
      u32 rope_at = ROPE_AT + 64 * (slab - LATENT / 32) + 16 * chunk_group();
      if ((PARTS - 1) * SLABS + s < LATENT / 32) {
        u32x2 codes = *(const u32x2 *)(entry + codes_at);
        slabs[s] = u32x4{codes[0], codes[1], 0, 0};
      } else {
        // Of codes more than are used: at the end of two branches that load to the same registers
        // the compiler would wait.
        slabs[s] = *(const Codes *)(entry + (slab < LATENT / 32 ? codes_at : rope_at));
      }
    }
  }

  __device__ bf16x8 operand(u32 part, u32 s) const {
    if (part * SLABS + s >= LATENT / 32) return __builtin_bit_cast(bf16x8, slabs[s]);
    // The byte may be in this word or the next.
    u64 both = (u64)scales[s / 4 + 1] << 32 | scales[s / 4];
    u32 scale = (u32)(both >> 8 * (part * SLABS % 4 + s % 4)) & 0xff;
    return dequantize_fp8(u32x2{slabs[s][0], slabs[s][1]}, scale);
  }
};

/// A value of a split's mean as it is merged with others.
__device__ inline _Float16 rounded(float x) {
  return (_Float16)__builtin_fmaxf(__builtin_fminf(x, 65504.0f), -65504.0f);
}

/// Keys `begin .. end` of a row.
template <class Part> struct Split {
  const AttentionArgs &args;
  SplitShared &lds;
  u32 end, own_wave, key_tile, part;
  const u32 *table;
  bf16x8 query[SLABS - LDS_SLABS];
  Part keys;
  /// Block of the key that is loaded next, and its place there.
  u32 block, place;
  /// Where in `values` the lane's chunk of slab 0 of a key goes, and where it reads a tile's values
  /// for the wave's first 16 columns.
  u32 write_at, read_at;
  Acc columns[OWN_TILES];
  Softmax softmax;

  __device__ Split(const AttentionArgs &args, SplitShared &lds, u32 own_wave, u32 row, u32 begin,
                   u32 end)
      : args(args), lds(lds), end(end), own_wave(own_wave), key_tile(own_wave % KEY_TILES),
        part(own_wave / KEY_TILES % PARTS),
        table(args.tables + load_scalar(args.table_starts + row)) {
    u32 own = lane();
    recompute(own); // else what is made of it stays in registers from one split to the next
    u32 key = 16 * key_tile + own % 16, first = own / 4;
    write_at = PITCH * key + 16 * swizzled(key, own / 16);
    read_at = PITCH * first + 16 * swizzled(first, 2 * OWN_TILES * own_wave + own % 4 / 2) +
              own % 2 * 8;
    for (u32 t = 0; t < OWN_TILES; ++t) columns[t] = Acc{};
    look_up(begin);
    load();
    look_up(begin + STEP);
    u32 head = 16 * block_y() + own % 16, last = args.heads - 1;
    head = head < last ? head : last;
    const __bf16 *q = args.queries + (u64)row * args.heads * ENTRY +
                      (head * ENTRY + 32 * SLABS * part + own / 16 * 8);
    for (u32 s = LDS_SLABS; s < SLABS; ++s) query[s - LDS_SLABS] = *(const bf16x8 *)(q + 32 * s);
    if (key_tile == 0)
      for (u32 s = 0; s < LDS_SLABS; ++s)
        lds.queries[part][s][lane()] = *(const bf16x8 *)(q + 32 * s);
    sync();
  }

  /// Finds the keys from `first` on; the last key again for those beyond it.
  __device__ void look_up(u32 first) {
    u32 key = first + 16 * key_tile + chunk_row(0), last = end - 1;
    key = key < last ? key : last;
    u32 index = key / args.block_size;
    block = table[index];
    place = key - index * args.block_size;
  }

  /// Loads the wave's part of the keys that have been found.
  __device__ void load() {
    u64 slot = (u64)block * args.block_size + place;
    keys.load(args.cache + slot * Part::BYTES, part);
  }

  /// The loaded keys' part of the scores, and their values, into LDS; then loads those from `next`
  /// on.
  __device__ void score(u32 next) {
    Acc acc = {};
    recompute(write_at);
    for (u32 s = 0; s < SLABS; ++s) {
      u32 slab = part * SLABS + s;
      bf16x8 own = s < LDS_SLABS ? lds.queries[part][s][lane()] : query[s - LDS_SLABS];
      bf16x8 key = keys.operand(part, s);
      mma_own(acc, &own, &key);
      if (slab < LATENT / 32) *(bf16x8 *)(lds.values + (write_at ^ 64 * slab)) = key;
    }
    loads_first();
    if (next < end) {
      load();
      look_up(next + STEP);
    }
    lds.scores[part][key_tile][lane()] = f32x4{acc.v[0], acc.v[1], acc.v[2], acc.v[3]};
  }

  /// The scores of the step's tiles, from key `first` on, times the scale. Keys beyond the split's
  /// end get no weight: the last step may have but one tile of it.
  __device__ void scores(u32 first, Scores *s) {
    for (u32 t = 0; t < KEY_TILES; ++t) {
      f32x4 sum = lds.scores[0][t][lane()];
      for (u32 p = 1; p < PARTS; ++p) sum += lds.scores[p][t][lane()];
      for (u32 i = 0; i < ACC_VALUES; ++i) s[t / 2].v[t % 2][i] = sum[i] * args.scale;
    }
    if (first + STEP > end) {
      loads_first(); // a branch, so that other steps are spared
      for (u32 t = 0; t < KEY_TILES; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i)
          if (first + 16 * t + other_row(i) >= end) s[t / 2].v[t % 2][i] = -__builtin_inff();
    }
  }

  /// What was summed before, times the factor of new weights.
  __device__ void scale(const Weights &w) {
    if (ballot(w.factor[0] != 1.0f) != 0)
      for (u32 t = 0; t < OWN_TILES; ++t)
        for (u32 i = 0; i < ACC_VALUES; ++i) columns[t].v[i] *= w.factor[0];
  }

  struct Some {
    bf16x8 tiles[SOME];
  };

  /// The values of tile `tile` for some of the wave's columns, under way before what follows.
  __device__ Some values(u32 tile, u32 some) {
    Some x;
    for (u32 t = 0; t < SOME; ++t) {
      const u8 *p = lds.values + TILE * PITCH * tile + (read_at ^ 32 * (SOME * some + t));
      load_transposed((const __bf16 *)p, LATENT, &x.tiles[t]);
    }
    loads_in_order();
    return x;
  }

  /// Adds weights times values.
  __device__ void mix(u32 some, const Some &x, const Weights &w) {
    for (u32 t = 0; t < SOME; ++t) mma_own(columns[SOME * some + t], w.operand, &x.tiles[t]);
  }

  __device__ void sum(u32 begin) {
    for (u32 first = begin; first < end; first += STEP) {
      score(first + STEP);
      sync();
      Scores s[2];
      scores(first, s);
      recompute(read_at);
      Some x = values(0, 0);
      Weights w = softmax.weigh(s[0]);
      if (first > begin) scale(w); // else zeros, not worth a wait for loads
      mix(0, x, w);
      x = values(0, 1);
      Weights second = softmax.weigh(s[1]);
      loads_in_order();
      mix(1, x, w);
      x = values(1, 0);
      Some y = values(1, 1);
      scale(second);
      mix(0, x, second);
      mix(1, y, second);
      sync();
    }
  }

  /// Calls `f(head, column, values)` for the lane's runs of results that there are.
  template <typename F> __device__ void each(F f) {
    u32 own = lane();
    recompute(own);
    u32 head = 16 * block_y() + own % 16;
    if (head < args.heads)
      for (u32 t = 0; t < OWN_TILES; ++t)
        f(head, 16 * (OWN_TILES * own_wave + t) + own / 16 * 4, columns[t].v);
  }
};

/// Sums split `number` of a row: its result if there is no other, else its part of a merge.
template <class Part>
__device__ inline void take_split(const AttentionArgs &args, SplitShared &lds,
                                  u32 own_wave, u32 row, u32 number) {
  u32 len = load_scalar(args.positions + row) + 1, length = split_length(args, len);
  u32 begin = number * length;
  Split<Part> split(args, lds, own_wave, row, begin, begin + length < len ? begin + length : len);
  split.sum(begin);
  float max = split.softmax.max[0], sum = split.softmax.sum[0], factor = 1.0f / sum;
  if (length >= len)
    return split.each([&](u32 head, u32 column, const float *v) {
      Bf16Run y;
      for (u32 i = 0; i < RUN; ++i) y[i] = (__bf16)__builtin_fmaf(v[i], factor, 0.0f);
      *(Bf16Run *)(args.out + ((u64)row * args.heads + head) * LATENT + column) = y;
    });
  u64 at = ((u64)row * args.max_splits + number) * args.heads;
  split.each([&](u32 head, u32 column, const float *v) {
    HalfRun x;
    for (u32 i = 0; i < RUN; ++i) x[i] = rounded(v[i] * factor);
    *(HalfRun *)(args.partials + (at + head) * LATENT + column) = x;
    if (column == 0) *(f32x2 *)(args.sums + 2 * (at + head)) = f32x2{max, sum};
  });
}

/// Takes every `args.workgroups`-th split of the list. Between two, all waves have met at the end
/// of the first one's last step, so that LDS is free.
template <class Part> __device__ inline void take_splits(const AttentionArgs &args) {
  begin();
  __shared__ SplitShared lds;
  u32 own_wave = wave(), count = *args.split_count;
  for (u32 i = block_x(); i < count; i += args.workgroups) {
    u32 split = load_scalar(args.splits + i);
    take_split<Part>(args, lds, own_wave, split >> 16, split & 0xffff);
  }
}

SHARING_KERNEL(SPLIT_WAVES *WAVE) void attention_split(AttentionArgs args) {
  take_splits<Bf16Part>(args);
}
SHARING_KERNEL(SPLIT_WAVES *WAVE) void attention_split_fp8(AttentionArgs args) {
  take_splits<Fp8Part>(args);
}
