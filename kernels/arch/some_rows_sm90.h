// Products of groups of up to 32 rows of BF16 for sm_90: the instructions and turns of
// `rows64_sm90.h`, whose `Work` says what there is to do. Few rows leave room in LDS for codes and
// scales as well: lanes copy there what they will take, many slabs ahead, those of the turns after
// among them. The totals of SEGMENTED products are in registers.
//
// The order of additions is that of `segments.h` (SEGMENTED), or of `multiply` in `mxfp4.h`.
#pragma once
#include "../rows64.h"

constexpr u32 SOME_ROWS = 32, SOME_EIGHTS = SOME_ROWS / 8, STAGES_OF_CODES = 7;
static_assert(SOME_EIGHTS == LOADERS / WAVE);
#define SOME_KERNEL BLOCK_KERNEL

/// What lanes take of a slab's codes and, if it begins a quad, of the quad's scales.
struct Stage {
  u32x4 codes[OWN_TILES][CHUNKS][MULTIPLIERS];
  u32 scales[OWN_TILES][CHUNKS][MULTIPLIERS];
};

/// What launches ask for. On `filled` loaders arrive when a slab of rows is there, on `used`
/// multipliers' waves that are done with it.
struct SomeBlock {
  Stage stages[STAGES_OF_CODES];
  OperandRows slabs[8][SOME_EIGHTS][4];
  u32x4 spare[512];
  u64 filled[8], used[8];
  u32 notes[SOME_ROWS];
};
extern __shared__ __attribute__((aligned(128))) SomeBlock some_block[];
static_assert(sizeof(SomeBlock) == 217344);

/// A place in the ring of slabs of rows: how many were filled or used before.
struct SomeSlabs {
  static constexpr u32 COUNT = 8, AHEAD = 4;
  u32 before = 0;

  __device__ u32 filled() const { return lds_address(&some_block->filled[before % COUNT]); }
  __device__ u32 used() const { return lds_address(&some_block->used[before % COUNT]); }
  __device__ u32 parity() const { return before / COUNT % 2; }
  __device__ OperandRows (*eights() const)[4] { return some_block->slabs[before % COUNT]; }
};

/// Brings the rows: a wave an eight.
template <class Work> __device__ inline void load_rows(Work work) {
  const Operands operands = work.operands();
  Turns<Work> turns(work, operands.k, SomeSlabs::COUNT);
  SomeSlabs place;
  for (u32 t = block_x(); t < turns.count; t += blocks_x()) {
    work.take(turns[t].group);
    RowCopies<SOME_EIGHTS, 1, SomeSlabs>(operands.x, operands.k, work, wave() - BLOCK_WAVES,
                                         at_most((work.rows + 7) / 8, SOME_EIGHTS))
        .run(place);
  }
}

/// What the lane takes of all its codes and scales, one slab after another, turn after turn.
template <class Work> struct Codes {
  const Operands operands;
  const Turns<Work> &turns;
  const u32 slabs;
  /// Of the turn, and the next, which is looked up while there is time.
  Work work, following;
  u32 turn, block, end, slab = 0;
  const u32x4 *codes;
  const u32 *scales;

  __device__ Codes(const Work &work, const Turns<Work> &turns)
      : operands(work.operands()), turns(turns), slabs((operands.k + 127) / 128), work(work),
        following(work), turn(block_x()) {
    if (turn < turns.count) following.take(turns[turn].group);
    begin();
  }

  __device__ void begin() {
    if (turn >= turns.count) return;
    work = following;
    block = turns[turn].block;
    end = turns[turn].end;
    find();
    following.take(turns[at_most(turn + blocks_x(), turns.count - 1)].group);
  }
  __device__ void find() {
    u64 tile = work.tile(Place(block).four) + own_tile(0) % 4;
    Weights weights(operands.weights, operands.weight_scales, tile, operands.k);
    codes = weights.codes;
    scales = weights.scales;
  }

  /// Starts copying the next slab's, if there is one.
  __device__ void copy(u32 stage) {
    if (turn < turns.count) {
      Stage &to = some_block->stages[stage];
      for (u32 t = 0; t < OWN_TILES; ++t)
        for (u32 c = 0; c < CHUNKS; ++c)
          copy_async(&to.codes[t][c][thread()],
                     codes + (t * 2 * slabs + slab) * 64 + slot(c));
      u32 quads = (slabs + 3) / 4;
      for (u32 t = 0; t < OWN_TILES && slab % 4 == 0; ++t)
        for (u32 c = 0; c < CHUNKS; ++c)
          copy_word_async(&to.scales[t][c][thread()],
                          scales + (t * 2 * quads + slab / 4) * 64 + slot(c));
      if (++slab == slabs) {
        slab = 0;
        if (++block == end) {
          turn += blocks_x();
          begin();
        } else {
          find();
        }
      }
    }
    copies_started();
  }
};

/// The products of EIGHTS eights of rows with the wave's tiles of the blocks of a turn.
template <u32 EIGHTS, bool SEGMENTED, class Work> struct SomeProduct {
  static constexpr u32 SUMS = 4 * EIGHTS;
  const Work &work;
  const u32 slabs;
  /// Whether the rows of a turn stay for all of its blocks.
  const bool stay;
  Codes<Work> &ahead;
  u32 &stage;
  SomeSlabs &place;
  float sums[OWN_TILES][SUMS], totals[OWN_TILES][SUMS];
  bool add;
  u32x4 codes[OWN_TILES][CHUNKS], expanded[2][CHUNKS];
  u32 scales[OWN_TILES][CHUNKS];

  /// Takes the scales of a quad. Returns whether any lane has one of 2 or more.
  __device__ bool take_scales() {
    copies_done<STAGES_OF_CODES - 2>();
    u32 any = 0;
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) {
        scales[t][c] = some_block->stages[stage].scales[t][c][thread()];
        any |= scales[t][c];
      }
    return ballot((any & 0x80808080) != 0) != 0;
  }
  /// Takes codes, and has others brought to where the slab before had its.
  __device__ void take_codes() {
    copies_done<STAGES_OF_CODES - 2>();
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c)
        codes[t][c] = some_block->stages[stage].codes[t][c][thread()];
    ahead.copy(stage == 0 ? STAGES_OF_CODES - 1 : stage - 1);
    if (++stage == STAGES_OF_CODES) stage = 0;
  }

  /// The wave is done with a slab of rows.
  __device__ static void release(SomeSlabs place) {
    if (elected()) arrive_at(place.used());
  }

  /// Batches are those of `BlockProduct`. Expands the operands of one and starts adding their
  /// products, while those of the batch before are in use.
  template <u32 BATCH, bool WIDE> __device__ void add_batch(u32 step, u64 matrices) {
    constexpr u32 T = BATCH % OWN_TILES, P = BATCH / OWN_TILES;
    u32x4 (&own)[CHUNKS] = expanded[BATCH % 2];
    for (u32 c = 0; c < CHUNKS; ++c) own[c] = expand_fp4<WIDE>(codes[T][c][P], scales[T][c], step);
    wgmma_begin();
    wgmma_slab(sums[T], own, matrices + P * (sizeof(OperandRows) >> 4), add || P > 0);
    wgmma_end();
    wgmma_wait<1>();
  }
  template <u32 STEP, bool WIDE> __device__ void add_slab(u32 slab) {
    take_codes();
    wait_for_bytes(place.filled(), place.parity());
    u64 matrices = eights_at(place.eights());
    add_batch<0, WIDE>(STEP, matrices);
    add_batch<1, WIDE>(STEP, matrices);
    add_batch<2, WIDE>(STEP, matrices);
    add_batch<3, WIDE>(STEP, matrices);
    // Earlier the assembler has batches wait for one another.
    if (!stay && slab > 0) release({place.before - 1});
    add_batch<4, WIDE>(STEP, matrices);
    add_batch<5, WIDE>(STEP, matrices);
    add_batch<6, WIDE>(STEP, matrices);
    add_batch<7, WIDE>(STEP, matrices);
    ++place.before;
    add = true;
  }
  template <bool WIDE> __device__ void add_quad(u32 slab) {
    add_slab<0, WIDE>(slab);
    if (slab + 1 < slabs) add_slab<1, WIDE>(slab + 1);
    if (slab + 2 < slabs) add_slab<2, WIDE>(slab + 2);
    if (slab + 3 < slabs) add_slab<3, WIDE>(slab + 3);
    wgmma_wait<0>(); // the assembler does not follow batches into another quad
  }

  /// Adds a segment's sums to the totals.
  __device__ void add_segment(bool first) {
    for (u32 t = 0; t < OWN_TILES; ++t) {
      wgmma_wait(sums[t]);
      for (u32 i = 0; i < SUMS; ++i) {
        float total = first ? 0 : totals[t][i];
        totals[t][i] = total + copied(sums[t][i]);
      }
    }
    add = false;
  }

  __device__ void add_block() {
    u32 quads = (slabs + 3) / 4, segment = 0;
    bool first = true;
    add = false;
#pragma nounroll
    for (u32 quad = 0; quad < quads; ++quad) {
      if (take_scales())
        add_quad<true>(4 * quad);
      else
        add_quad<false>(4 * quad);
      if (!SEGMENTED) continue;
      while (quads * (segment + 1) / SEGMENTS <= quad) ++segment;
      if (quads * (segment + 1) / SEGMENTS != quad + 1) continue;
      add_segment(first);
      first = false;
    }
    for (u32 t = 0; t < OWN_TILES; ++t) wgmma_wait(sums[t]);
    if (!stay) release({place.before - 1});
  }

  __device__ void run(const Turn &turn) {
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 i = 0; i < SUMS; ++i) sums[t][i] = 0;
    if constexpr (Work::NOTES) {
      u32 note = work.note(at_most(thread(), SOME_ROWS - 1));
      sync_block(); // nobody is left that reads those of the turn before
      if (thread() < SOME_ROWS) some_block->notes[thread()] = note;
      sync_block();
    }
    SomeSlabs begin = place;
    for (u32 block = turn.block; block < turn.end; ++block) {
      if (stay) place = begin;
      add_block();
      for (u32 m = 0; m < (EIGHTS + 1) / 2; ++m) {
        Acc own[OWN_TILES] = {};
        for (u32 t = 0; t < OWN_TILES; ++t)
          for (u32 i = 0; i < 8 && 8 * m + i < SUMS; ++i)
            own[t].v[i] = copied((SEGMENTED ? totals : sums)[t][8 * m + i]);
        work.use(own, m, Place(block, some_block->notes, some_block->spare));
      }
    }
    for (; stay && begin.before != place.before; ++begin.before) release(begin);
  }
};

template <bool SEGMENTED, class Work> __device__ inline void multiply_some_turns(Work work) {
  Turns<Work> turns(work, work.operands().k, SomeSlabs::COUNT);
  Codes<Work> ahead(work, turns);
  u32 stage = 0;
  for (; stage < STAGES_OF_CODES - 1; ++stage) ahead.copy(stage);
  stage = 0;
  SomeSlabs place;
  for (u32 t = block_x(); t < turns.count; t += blocks_x()) {
    work.take(turns[t].group);
#define EIGHTS_OF_ROWS(e)                                                                     \
  case e:                                                                                     \
    SomeProduct<e, SEGMENTED, Work>{work, ahead.slabs, turns.stay, ahead, stage, place}.run( \
        turns[t]);                                                                            \
    break
    switch (at_most((work.rows + 7) / 8, SOME_EIGHTS)) {
      EIGHTS_OF_ROWS(1);
      EIGHTS_OF_ROWS(2);
      EIGHTS_OF_ROWS(3);
      EIGHTS_OF_ROWS(4);
    }
#undef EIGHTS_OF_ROWS
  }
}

/// Grid: as many workgroups as the device holds.
template <bool SEGMENTED, class Work> __device__ inline void multiply_some(Work work) {
  if (thread() < SomeSlabs::COUNT) {
    expect_arrivals(lds_address(&some_block->filled[thread()]), SOME_EIGHTS);
    expect_arrivals(lds_address(&some_block->used[thread()]), BLOCK_WAVES);
  }
  sync();
  if (wave() < BLOCK_WAVES) {
    take_registers<208>();
    multiply_some_turns<SEGMENTED>(work);
  } else {
    give_registers<88>();
    load_rows(work);
  }
}
