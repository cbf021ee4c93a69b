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

/// What the lane has taken of them: a slab's codes, and the scales of what is left of its quad.
struct Taken {
  /// Where the slab after has its.
  u32 stage = 0;
  OwnCodes codes;
  OwnScales scales;

  /// Takes those of the next slab, which begins a quad if `fresh`, and has others brought to where
  /// the slab before had its.
  template <class Work> __device__ void next(Codes<Work> &ahead, bool fresh) {
    copies_done<STAGES_OF_CODES - 2>();
    const Stage &from = some_block->stages[stage];
    if (fresh) {
      for (u32 t = 0; t < OWN_TILES; ++t)
        for (u32 c = 0; c < CHUNKS; ++c) scales.own[t][c] = from.scales[t][c][thread()];
    } else {
      scales.skip(1);
    }
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) codes[t][c] = from.codes[t][c][thread()];
    ahead.copy(stage == 0 ? STAGES_OF_CODES - 1 : stage - 1);
    if (++stage == STAGES_OF_CODES) stage = 0;
  }
};

/// The products of EIGHTS eights of rows with the wave's tiles of the blocks of a turn.
template <u32 EIGHTS, bool SEGMENTED, class Work> struct SomeProduct : OwnSums<4 * EIGHTS> {
  static constexpr u32 SUMS = 4 * EIGHTS;
  using OwnSums<SUMS>::sums, OwnSums<SUMS>::add;
  const Work &work;
  const u32 slabs;
  /// Whether the rows of a turn stay for all of its blocks.
  const bool stay;
  Codes<Work> &ahead;
  Taken &taken;
  SomeSlabs &place;
  float totals[OWN_TILES][SUMS];
  /// Whether the quad's scales are wide.
  bool wide;

  __device__ SomeProduct(const Work &work, bool stay, Codes<Work> &ahead, Taken &taken,
                         SomeSlabs &place)
      : work(work), slabs(ahead.slabs), stay(stay), ahead(ahead), taken(taken), place(place) {}

  /// The wave is done with a slab of rows.
  __device__ static void release(SomeSlabs place) {
    if (elected()) arrive_at(place.used());
  }

  /// Adds slab `slab`.
  template <bool WIDE> __attribute__((always_inline)) __device__ void add_slab(u32 slab) {
    bool fresh = slab % 4 == 3 || slab + 1 == slabs;
    wait_for_bytes(place.filled(), place.parity());
    OwnSums<SUMS>::template add_slab<WIDE>(
        taken.codes, taken.scales, 0, eights_at(place.eights()), [] {}, [&] {
          taken.next(ahead, fresh);
          this->template expand<0, true>(taken.codes, taken.scales, 0); // as good for any
        });
    wgmma_wait<0>(); // the assembler does not follow batches into another slab
    if (!stay) release(place);
    ++place.before;
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
      wide = taken.scales.are_wide();
#pragma nounroll
      for (u32 slab = 4 * quad; slab < at_most(4 * quad + 4, slabs); ++slab)
        if (wide)
          add_slab<true>(slab);
        else
          add_slab<false>(slab);
      if (!SEGMENTED) continue;
      while (quads * (segment + 1) / SEGMENTS <= quad) ++segment;
      if (quads * (segment + 1) / SEGMENTS != quad + 1) continue;
      add_segment(first);
      first = false;
    }
    for (u32 t = 0; t < OWN_TILES; ++t) wgmma_wait(sums[t]);
  }

  __device__ void run(const Turn &turn) {
    this->clear();
    this->template expand<0, true>(taken.codes, taken.scales, 0);
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
  for (u32 stage = 0; stage < STAGES_OF_CODES - 1; ++stage) ahead.copy(stage);
  Taken taken;
  taken.next(ahead, true);
  SomeSlabs place;
  for (u32 t = block_x(); t < turns.count; t += blocks_x()) {
    Turn turn = turns[t];
    work.take(turn.group);
#define EIGHTS_OF_ROWS(e)                                                             \
  case e:                                                                             \
    SomeProduct<e, SEGMENTED, Work>(work, turns.stay, ahead, taken, place).run(turn); \
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
