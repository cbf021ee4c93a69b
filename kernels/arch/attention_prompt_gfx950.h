// attention_prompt for gfx950. Each of four waves has 32 rows; all share tiles of 64 keys, which
// direct copies bring to LDS, one while the one before is used. Two workgroups fit a compute unit,
// with 256 registers and 80 KiB of LDS each: while one wave of a SIMD weighs, another multiplies.
//
// Instructions of 32 x 32 results. Scores have keys as rows and the wave's rows as columns, so that
// a lane has scores of one row, with its neighbour 32 lanes on all of a tile. Of 16 keys lanes have
// `8 (e / 4) + 4 (lane / 32) + e % 4`, e = 0..7: that is how weights are an operand, and values are
// read transposed in the same order.
//
// Grid: (heads, blocks), heads first, so that those of a die's workgroups, every eighth, are few
// and their keys stay in its cache. Blocks are taken in their order; but where all are resident at
// once, the second half of the workgroups takes the second half of the blocks from its end on, so
// that those that share a compute unit are about as long as others together.
#pragma once

/// A key without rope and a value.
constexpr u32 EXPANDED = NOPE + VALUE;
constexpr u32 WAVES = 4, ROWS = BLOCK / WAVES, KEYS = 64, STEPS = QUERY / 16;
/// Operands of keys, two at a time, and of values that are loaded before they are used.
constexpr u32 STEPS_AHEAD = 2, VALUES_AHEAD = 4;
/// Workgroups that an MI355X holds at once.
constexpr u32 RESIDENT = 2 * 256;
typedef __attribute__((ext_vector_type(16))) float f32x16;

/// Keys in LDS. 16 bytes of key `k` stand at their place ^ (k / 2 % 8) in each 128 of the key, and
/// at their place ^ (k % 4 * 4) in the 256 of its value.
struct Tile {
  u8 keys[QUERY / 64][KEYS][128];
  u8 values[KEYS][2 * VALUE];
};

/// A wave's part of the copies to tiles: 16 keys.
struct Copies {
  const u8 *keys_values, *ropes;
  u64 pitch;
  /// Bytes from a tile's begin in memory to the lane's 16, of 8 keys or 4 each.
  u32 nope[2], rope[2], value[4];

  __device__ Copies(const PromptArgs &args, u32 head, u32 key)
      : pitch(args.heads * 2 * EXPANDED) {
    keys_values = (const u8 *)(args.keys_values + head * EXPANDED) + key * pitch;
    ropes = (const u8 *)args.ropes + (u64)key * 2 * ROPE;
    place(KEYS - 1);
  }

  /// Of a tile's keys none beyond `last` is needed, which is copied in their place.
  __device__ void place(u32 last) {
    u32 first = 16 * wave(), part = lane() % 8, quarter = lane() / 16;
    auto at = [&](u32 key) { return key < last ? key : last; };
    for (u32 i = 0; i < 2; ++i) {
      u32 key = at(first + 8 * i + lane() / 8), chunk = 16 * (part ^ (4 * i + quarter));
      nope[i] = key * (u32)pitch + chunk;
      rope[i] = key * 2 * ROPE + chunk;
    }
    for (u32 i = 0; i < 4; ++i)
      value[i] = at(first + 4 * i + quarter) * (u32)pitch + 2 * NOPE +
                 16 * (lane() % 16 ^ 4 * quarter);
  }

  /// Starts the copies of the next tile to the one at `tile` in LDS.
  __device__ void start(u32 tile) {
    u32 keys = tile + 16 * 128 * wave(), values = tile + 16 * 2 * VALUE * wave();
    for (u32 i = 0; i < 2; ++i) {
      copy_to_lds(keys + 1024 * i, keys_values, nope[i]);
      copy_to_lds(keys + 1024 * i + KEYS * 128, keys_values + 128, nope[i]);
      copy_to_lds(keys + 1024 * i + 2 * KEYS * 128, ropes, rope[i]);
    }
    for (u32 i = 0; i < 4; ++i)
      copy_to_lds(values + 1024 * i + __builtin_offsetof(Tile, values), keys_values, value[i]);
    keys_values += KEYS * pitch;
    ropes += KEYS * 2 * ROPE;
  }
};

/// A wave's rows.
struct WaveRows {
  float scale, reference = -__builtin_inff(), sum = 0;
  /// The lane's row's position.
  u32 position;
  bf16x8 query[STEPS];
  f32x16 columns[VALUE / 32];
  /// Where the lane's chunk of a key is in LDS, and its part of four keys' values.
  u32 key_at, value_at;

  __device__ WaveRows(const PromptArgs &args, const Block &block, u32 head, u32 row)
      : scale(args.scale), position(block.first + row) {
    u64 own = block.row + (row < block.rows ? row : block.rows - 1);
    const __bf16 *q = args.queries + (own * args.heads + head) * QUERY + lane() / 32 * 8;
    for (u32 s = 0; s < STEPS; ++s) query[s] = *(const bf16x8 *)(q + 16 * s);
    for (u32 c = 0; c < VALUE / 32; ++c) columns[c] = f32x16{};
    u32 key = lane() % 32, four = lane() % 16 / 4;
    key_at = 128 * key + 16 * (lane() / 32 ^ key / 2 % 8);
    value_at = 2 * VALUE * (lane() / 32 * 4 + four) + 64 * four + lane() / 16 % 2 * 32 +
               lane() % 4 * 8;
  }

  /// Adds a tile of keys from `first` on; some are `beyond` some row.
  __device__ void add(const Tile &tile, u32 first, bool beyond) {
    f32x16 scores[2] = {};
    bf16x8 keys[STEPS][2], values[KEYS / 16 * VALUE / 32];
    for (u32 s = 0; s < STEPS + STEPS_AHEAD; ++s) {
      for (u32 t = 0; t < 2 && s < STEPS; ++t)
        keys[s][t] = *(const bf16x8 *)(tile.keys[s / 4][32 * t] + (key_at ^ 32 * (s % 4)));
      if (s < STEPS_AHEAD) continue;
      loads_in_order();
      u32 now = s - STEPS_AHEAD;
      for (u32 t = 0; t < 2; ++t)
        scores[t] = __builtin_amdgcn_mfma_f32_32x32x16_bf16(keys[now][t], query[now], scores[t],
                                                            0, 0, 0);
    }
    auto load = [&](u32 i) {
      const u8 *p = tile.values[16 * (i / 4)] + (value_at ^ 64 * (i % 4));
      load_transposed((const __bf16 *)p, VALUE / 2, &values[i]); // 8 keys apart
    };
    for (u32 i = 0; i < VALUES_AHEAD; ++i) load(i);
    loads_in_order();
    if (beyond) {
      loads_first(); // a branch, so that other tiles are spared
      for (u32 t = 0; t < 2; ++t)
        for (u32 i = 0; i < 16; ++i) {
          u32 key = first + 32 * t + 8 * (i / 4) + lane() / 32 * 4 + i % 4;
          scores[t][i] = key > position ? -__builtin_inff() : scores[t][i];
        }
    }
    float top = scores[0][0];
    for (u32 i = 1; i < 32; ++i) top = __builtin_fmaxf(top, scores[i / 16][i % 16]);
    top = scale * over_halves(top);
    bool raise = top > reference + THRESHOLD;
    if (ballot(raise) != 0) {
      float factor = raise ? power_of_two(reference - top) : 1.0f;
      reference = raise ? top : reference;
      sum *= factor;
      for (u32 c = 0; c < VALUE / 32; ++c) columns[c] *= factor;
    }
    bf16x8 weights[KEYS / 16];
    f32x2 sums = {0, 0};
    for (u32 i = 0; i < 32; i += 2) {
      f32x2 w = {scores[i / 16][i % 16], scores[i / 16][i % 16 + 1]};
      w = __builtin_elementwise_fma(w, f32x2{scale, scale}, f32x2{-reference, -reference});
      for (u32 j = 0; j < 2; ++j) {
        w[j] = power_of_two(w[j]);
        weights[i / 8][i % 8 + j] = (__bf16)w[j];
      }
      sums += w;
    }
    sum += sums[0] + sums[1];
    for (u32 i = 0; i < 16; ++i) {
      if (i + VALUES_AHEAD < 16) load(i + VALUES_AHEAD);
      loads_in_order();
      columns[i % 4] = __builtin_amdgcn_mfma_f32_32x32x16_bf16(values[i], weights[i / 4],
                                                               columns[i % 4], 0, 0, 0);
    }
  }

  /// The greater one of the lane's and its neighbour's, 32 lanes on.
  __device__ static float over_halves(float x) {
    u32 bits = __builtin_bit_cast(u32, x);
    u32x2 halves = __builtin_amdgcn_permlane32_swap(bits, bits, false, false);
    u32 low = halves[0], high = halves[1];
    return __builtin_fmaxf(__builtin_bit_cast(float, low), __builtin_bit_cast(float, high));
  }

  /// Writes the row, if it exists, to `out`.
  __device__ void finish(__bf16 *out, bool exists) {
    float all = sum + shuffle_xor(sum, 32), factor = 1.0f / all;
    for (u32 c = 0; c < VALUE / 32; ++c)
      for (u32 i = 0; i < 16; i += 8) {
        u32x2 runs[2];
        for (u32 h = 0; h < 2; ++h) {
          bf16x4 run;
          for (u32 j = 0; j < 4; ++j)
            run[j] = (__bf16)__builtin_fmaf(columns[c][i + 4 * h + j], factor, 0.0f);
          runs[h] = __builtin_bit_cast(u32x2, run);
        }
        // Of 16 columns the first lane gets the first 8, its neighbour the others.
        u32x2 x = __builtin_amdgcn_permlane32_swap(runs[0][0], runs[1][0], false, false);
        u32x2 y = __builtin_amdgcn_permlane32_swap(runs[0][1], runs[1][1], false, false);
        u32x4 eight = {x[0], y[0], x[1], y[1]};
        if (exists) *(u32x4 *)(out + 32 * c + 2 * i + lane() / 32 * 8) = eight;
      }
  }
};

KERNEL(WAVES *WAVE) __attribute__((amdgpu_waves_per_eu(2)))
void attention_prompt(PromptArgs args) {
  begin();
  __shared__ Tile tiles[2];
  u32 head = block_x(), turn = block_y(), half = (args.count + 1) / 2;
  if (args.count * args.heads <= RESIDENT && turn >= half) turn = args.count - 1 - (turn - half);
  Block block = args.blocks[turn];
  u32 row = ROWS * wave(), last = block.first + block.rows - 1;
  Copies copies(args, head, block.key);
  u32 at = (u32)(u64)(__attribute__((address_space(3))) void *)tiles;
  auto copy = [&](u32 first, u32 tile) {
    if (first + KEYS > last + 1) copies.place(last - first);
    copies.start(at + tile * sizeof(Tile));
  };
  copy(0, 0);
  WaveRows rows(args, block, head, row + lane() % 32);
  // Else the compiler would wait for queries, and so for copies, in the loop.
  __builtin_amdgcn_s_waitcnt(0);
  u32 now = 0, lowest = block.first + row;
  for (u32 first = 0; first <= last; first += KEYS, now ^= 1) {
    sync_copies<0>();
    if (first + KEYS <= last) copy(first + KEYS, now ^ 1);
    if (row < block.rows && first < lowest + ROWS)
      rows.add(tiles[now], first, first + KEYS > lowest + 1);
  }
  u32 own = row + lane() % 32;
  rows.finish(args.out + ((u64)(block.row + own) * args.heads + head) * VALUE, own < block.rows);
}
