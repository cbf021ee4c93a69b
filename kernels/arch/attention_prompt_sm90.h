// attention_prompt for sm_90. A thread of the last of three warpgroups copies boxes of queries, of
// keys and of values to LDS. The first two have 64 rows each of the workgroup's 128: for a tile of
// keys one starts the scores of that and the weighted sum of the tile before, waits for the former
// and weighs them; the other's instructions follow meanwhile. On an H200 4,096 rows of as many keys
// and 16 heads take 134 us, 642 TFLOP/s of what rows see; without these turns 151 us.
//
// Workgroups stay, one a processor, and take blocks of heads in turns: in their order, and every
// second time from the other end, so that all have about as much to do.
//
// Boxes of keys and values reach beyond a block's last key, where another sequence's may stand, or
// nothing. Scores there are not used; values have weight 0 and are made 0 before they are
// multiplied, as they may not be finite.
// Grid: (workgroups).
#pragma once
#include "boxes.h"
#include "warpgroups.h"

constexpr u32 CONSUMERS = 256, KEYS = 128, GROUP_ROWS = BLOCK / 2, STAGES = 2;
/// Bytes of a box, 64 values of 128 rows, and boxes of a key and a value.
constexpr u32 BOX = 128 * 128, KEY_BOXES = QUERY / 64, VALUE_BOXES = VALUE / 64;
/// Barriers: `TURN + g` lets warpgroup `g` start its matrix instructions, at `CLEARED + g` it has
/// cleared values.
constexpr u32 TURN = 1, CLEARED = 3;

/// The parameter.
struct BoxedArgs {
  /// Of queries, by column, head and row, of keys and values likewise, and of ropes by column and
  /// row: boxes of 64 columns of 128 rows, 128 bytes of a row together, in which each 16 stand at
  /// their place ^ the row % 8. What is beyond the last row is 0.
  TensorMap queries, keys_values, ropes;
  PromptArgs args;
};

/// What launches ask for.
struct SharedPrompt {
  alignas(1024) u8 queries[KEY_BOXES][BOX];
  u8 keys[STAGES][KEY_BOXES][BOX];
  u8 values[STAGES][VALUE_BOXES][BOX];
  /// Where copies arrive when they are there, and waves when they have used what was there.
  u64 queries_there, queries_used;
  u64 keys_there[STAGES], keys_used[STAGES], values_there[STAGES], values_used[STAGES];
};
extern __shared__ __attribute__((aligned(1024))) SharedPrompt shared_prompt[];
static_assert(sizeof(SharedPrompt) == 214016 && sizeof(BoxedArgs) == 448);

/// The blocks that a workgroup takes.
struct Blocks {
  const PromptArgs &args;
  Block block;
  u32 round = 0, head, keys, tiles;

  __device__ Blocks(const PromptArgs &args) : args(args) {}

  /// Goes on with the next one, if there is one.
  __device__ bool next() {
    u32 place = round % 2 == 0 ? block_x() : blocks_x() - 1 - block_x();
    u32 index = round++ * blocks_x() + place;
    if (index >= args.count * args.heads) return false;
    block = args.blocks[index / args.heads];
    head = index % args.heads;
    keys = block.first + block.rows;
    tiles = (keys + KEYS - 1) / KEYS;
    return true;
  }
};

/// Copies all operands; one thread.
__device__ inline void copy_all(const BoxedArgs &boxed) {
  SharedPrompt &lds = *shared_prompt;
  u32 turn = 0, count = 0;
  for (Blocks at(boxed.args); at.next(); ++turn)
    for (u32 tile = 0; tile < at.tiles; ++tile, ++count) {
      u32 stage = count % STAGES, parity = count / STAGES % 2 ^ 1;
      u32 first = at.block.key + tile * KEYS;
      u32 there = lds_address(&lds.keys_there[stage]);
      wait_for_bytes(lds_address(&lds.keys_used[stage]), parity);
      expect_bytes(there, KEY_BOXES * BOX);
      u32 to = lds_address(lds.keys[stage]);
      copy_box_3d(to, boxed.keys_values, 0, at.head, first, there);
      copy_box_3d(to + BOX, boxed.keys_values, 64, at.head, first, there);
      copy_box(to + 2 * BOX, boxed.ropes, 0, first, there);
      if (tile == 0) {
        u32 there = lds_address(&lds.queries_there);
        wait_for_bytes(lds_address(&lds.queries_used), turn % 2 ^ 1);
        expect_bytes(there, KEY_BOXES * BOX);
        for (u32 i = 0; i < KEY_BOXES; ++i)
          copy_box_3d(lds_address(lds.queries[i]), boxed.queries, 64 * i, at.head, at.block.row,
                      there);
      }
      there = lds_address(&lds.values_there[stage]);
      wait_for_bytes(lds_address(&lds.values_used[stage]), parity);
      expect_bytes(there, VALUE_BOXES * BOX);
      for (u32 i = 0; i < VALUE_BOXES; ++i)
        copy_box_3d(lds_address(lds.values[stage][i]), boxed.keys_values, NOPE + 64 * i, at.head,
                    first, there);
    }
}

__device__ inline u32 bf16_pair(float low, float high) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// A warpgroup's 64 rows. Of the two of a thread, `lane() / 4` of the wave's 16 and 8 on, it has of
/// each 8 keys or columns `lane() % 4 * 2 ..`.
struct Consumer {
  const PromptArgs &args;
  SharedPrompt &lds;
  const u32 group = wave() / 4;
  u32 turn = 0, count = 0;
  float scores[KEYS / 2], columns[VALUE / 2];
  u32 weights[KEYS / 16][4];
  float reference[2], sum[2], factor[2];
  /// The first row's position.
  u32 position;

  __device__ Consumer(const PromptArgs &args) : args(args), lds(*shared_prompt) {}

  /// One wave is done with it.
  __device__ static void release(const u64 &word) {
    if (elected()) arrive_at(lds_address(&word));
  }

  /// Starts the scores of the tile in turn.
  __device__ void start_scores() {
    u32 stage = count % STAGES;
    wait_for_bytes(lds_address(&lds.keys_there[stage]), count / STAGES % 2);
    u64 rows = box_at(lds_address(lds.queries) + group * GROUP_ROWS * 128, 16);
    u64 keys = box_at(lds_address(lds.keys[stage]), 16);
    wgmma_begin();
    for (u32 s = 0; s < QUERY / 16; ++s) {
      u32 at = (s / 4 * BOX + s % 4 * 32) / 16;
      wgmma(scores, rows + at, keys + at, s > 0);
    }
    wgmma_end();
  }

  /// The values of the tile before that in turn are there.
  __device__ u32 await_values() {
    u32 before = count - 1, stage = before % STAGES;
    wait_for_bytes(lds_address(&lds.values_there[stage]), before / STAGES % 2);
    return stage;
  }

  /// Clears the values of that tile from key `end` of it on. Both warpgroups write these zeros, so
  /// that none waits for the other.
  __device__ void clear_values(u32 end) {
    u32 stage = await_values();
    for (u32 i = end * 8 + thread() % (CONSUMERS / 2); i < BOX / 16; i += CONSUMERS / 2)
      for (u32 b = 0; b < VALUE_BOXES; ++b) ((u32x4 *)lds.values[stage][b])[i] = u32x4{};
    operands_written();
    await(CLEARED + group, CONSUMERS / 2);
  }

  /// Starts to add the weighted values of the tile before that in turn.
  __device__ void start_columns() {
    u32 stage = await_values();
    u64 values = box_at(lds_address(lds.values[stage]), BOX);
    wgmma_begin();
    for (u32 k = 0; k < KEYS / 16; ++k)
      wgmma_transposed(columns, weights[k], values + k * 16 * 128 / 16);
    wgmma_end();
  }

  /// All that was started is done.
  __device__ void finish_columns() {
    wgmma_wait(columns);
    release(lds.values_used[(count - 1) % STAGES]);
  }

  /// The weights of the scores, which are of keys from `first` on, in their place, and the factors
  /// of what was summed before.
  __device__ void weigh(u32 first) {
    for (u32 i = 0; i < KEYS / 2; ++i) asm volatile("" : "+f"(scores[i])::"memory");
    u32 lowest = position - lane() / 4 - wave() % 4 * 16;
    if (first + KEYS > lowest + 1)
      for (u32 i = 0; i < KEYS / 2; ++i) {
        u32 key = first + i / 4 * 8 + lane() % 4 * 2 + i % 2;
        scores[i] = key > position + i / 2 % 2 * 8 ? -__builtin_inff() : scores[i];
      }
    for (u32 h = 0; h < 2; ++h) {
      float top = scores[2 * h];
      for (u32 i = 0; i < KEYS / 2; ++i)
        if (i / 2 % 2 == h) top = __builtin_fmaxf(top, scores[i]);
      top = args.scale * max_over_groups(top);
      bool raise = top > reference[h] + THRESHOLD;
      factor[h] = raise ? power_of_two(reference[h] - top) : 1.0f;
      reference[h] = raise ? top : reference[h];
      float sums[2] = {0, 0};
      for (u32 i = 0; i < KEYS / 2; ++i)
        if (i / 2 % 2 == h) {
          scores[i] = power_of_two(__builtin_fmaf(scores[i], args.scale, -reference[h]));
          sums[i % 2] += scores[i];
        }
      sum[h] = __builtin_fmaf(sum[h], factor[h], sums[0] + sums[1]);
    }
  }

  /// What was summed before times the factors, and weights as operands.
  __device__ void prepare() {
    if (ballot(factor[0] != 1.0f || factor[1] != 1.0f) != 0)
      for (u32 i = 0; i < VALUE / 2; ++i) columns[i] *= factor[i / 2 % 2];
    for (u32 i = 0; i < KEYS / 2; i += 2)
      weights[i / 8][i / 2 % 4] = bf16_pair(scores[i], scores[i + 1]);
  }

  __device__ void take(const Blocks &at) {
    position = at.block.first + group * GROUP_ROWS + wave() % 4 * 16 + lane() / 4;
    for (u32 h = 0; h < 2; ++h) {
      reference[h] = -__builtin_inff();
      sum[h] = 0;
    }
    for (u32 i = 0; i < VALUE / 2; ++i) columns[i] = 0;
    wait_for_bytes(lds_address(&lds.queries_there), turn++ % 2);
    start_scores();
    wgmma_wait<0>();
    release(lds.keys_used[count % STAGES]);
    weigh(0);
    prepare();
    ++count;
    for (u32 tile = 1; tile < at.tiles; ++tile) {
      await(TURN + group, CONSUMERS);
      start_scores();
      start_columns();
      arrive_for(TURN + (group ^ 1), CONSUMERS);
      wgmma_wait<1>();
      release(lds.keys_used[count % STAGES]);
      weigh(tile * KEYS);
      finish_columns();
      prepare();
      ++count;
    }
    release(lds.queries_used);
    if (at.keys % KEYS != 0) clear_values(at.keys % KEYS);
    start_columns();
    finish_columns();
    finish(at);
  }

  /// Writes the rows that exist to `out`.
  __device__ void finish(const Blocks &at) {
    u32 lane4 = lane() % 4;
    for (u32 h = 0; h < 2; ++h) {
      float all = sum[h] + shuffle_xor(sum[h], 1);
      all += shuffle_xor(all, 2);
      float inverse = 1.0f / all;
      u32 row = position - at.block.first + 8 * h;
      __bf16 *out =
          args.out + ((u64)(at.block.row + row) * args.heads + at.head) * VALUE + 8 * lane4;
      for (u32 c = 0; c < VALUE / 8; c += 4) {
        // Of 8 columns times four a lane has two of each; it gets all of one 8.
        u32 pair[4];
        for (u32 i = 0; i < 4; ++i) {
          const float *x = columns + 4 * (c + i) + 2 * h;
          pair[i] = bf16_pair(__builtin_fmaf(x[0], inverse, 0.0f),
                              __builtin_fmaf(x[1], inverse, 0.0f));
        }
        for (u32 b = 0; b < 2; ++b)
          for (u32 i = 0; i < 4; ++i) {
            u32 mask = 1 << b;
            if (i & mask) continue;
            bool odd = (lane4 & mask) != 0;
            u32 low = pair[i], high = pair[i | mask], other = shuffle_xor(odd ? low : high, mask);
            pair[i] = odd ? other : low;
            pair[i | mask] = odd ? high : other;
          }
        if (row < at.block.rows)
          *(u32x4 *)(out + 8 * c) = u32x4{pair[0], pair[1], pair[2], pair[3]};
      }
    }
  }
};

STAYING_KERNEL(CONSUMERS + 128)
void attention_prompt(const __attribute__((grid_constant)) BoxedArgs boxed) {
  begin();
  SharedPrompt &lds = *shared_prompt;
  if (thread() == 0) {
    auto expect = [&](u64 &there, u64 &used) {
      expect_arrivals(lds_address(&there), 1);
      expect_arrivals(lds_address(&used), CONSUMERS / WAVE);
    };
    expect(lds.queries_there, lds.queries_used);
    for (u32 s = 0; s < STAGES; ++s) {
      expect(lds.keys_there[s], lds.keys_used[s]);
      expect(lds.values_there[s], lds.values_used[s]);
    }
    operands_written();
  }
  sync();
  if (wave() < CONSUMERS / WAVE) {
    take_registers<240>();
    Consumer consumer(boxed.args);
    if (consumer.group == 1) arrive_for(TURN, CONSUMERS);
    for (Blocks at(boxed.args); at.next();) consumer.take(at);
  } else {
    give_registers<24>();
    if (wave() == CONSUMERS / WAVE && elected()) copy_all(boxed);
  }
}
