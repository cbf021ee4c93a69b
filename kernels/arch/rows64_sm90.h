// `rows64.h` for sm_90. Two warpgroups multiply, by their matrix instructions. The matrix's rows
// are what these find in registers, so that a wave expands its own tiles and nobody else needs
// them. The rows of x, expanded to BF16 where they are codes, are in LDS, where a third warpgroup
// brings them some slabs ahead.
//
// Workgroups, of which a device holds one for each processor, take what there is to do in turns: a
// group of rows and a run of its matrix's blocks. A run is of one block, unless LDS holds all
// slabs of the rows, which then stay for several.
//
// A kernel says what it multiplies by a `Work`: groups of rows, each with a matrix.
//   groups()     how many there are
//   operands()   what they are made of
//   fours()      how often a matrix has four tiles
//   take(g)      turns to group g, of `rows` rows from 1 on (if more than BLOCK_ROWS, so many)
//   row(i)       which row of x is the group's row i, or its last
//   tile(four)   the first of four tiles of its matrix (the last four, beyond them)
//   NOTES, note(i)  whether `use` wants to know something of the group's rows, and what of row i
//   use(sums, m, place)  takes the wave's sums of its tiles with tile m of the rows: value i is of
//                row `sum_row(i)` and of the matrix's tile's row `sum_col(i)`
#pragma once
#include "row_copies_sm90.h"

constexpr u32 MULTIPLIERS = 256, LOADERS = 128;
/// Threads of a workgroup, and rows that it takes.
constexpr u32 BLOCK_THREADS = MULTIPLIERS + LOADERS, BLOCK_ROWS = 96;
#define BLOCK_KERNEL STAYING_KERNEL(BLOCK_THREADS)

/// Which four tiles of the matrix the wave's are of: four `own` of the block's, whose first is
/// `begin`. `notes` are by row of the group. `spare`: 8 KB of LDS where multipliers of SEGMENTED
/// products may leave something for one another.
struct Place {
  u32 own, begin, four;
  const u32 *notes;
  void *spare;
  __device__ Place(u32 block, const u32 *notes = nullptr, void *spare = nullptr)
      : own(own_tile(0) / 4), begin(block * (BLOCK_TILES / 4)), four(begin + own), notes(notes),
        spare(spare) {}
};

/// The operands of products.
struct Operands {
  const u8 *x;
  const u32 *x_scales;
  const u32x4 *weights;
  const u32 *weight_scales;
  u32 k;
};

/// A slab of rows in LDS: of each eight of them four pieces of 32 values.
struct Slab {
  OperandRows eights[BLOCK_ROWS / 8][4];
};

/// What launches ask for.
struct SharedBlock {
  /// The last four are totals, of SEGMENTED products: for each tile of rows, one of the wave's and
  /// half of their sums, what each thread has.
  Slab slabs[8];
  /// For each slab, where loaders arrive when it is there, and multipliers' waves when it was used.
  u64 filled[8], used[8];
  /// Of the rows in hand.
  u32 notes[BLOCK_ROWS];
};
extern __shared__ __attribute__((aligned(128))) SharedBlock shared_block[];
static_assert(sizeof(SharedBlock) == 197120);
static_assert(BLOCK_ROWS / 16 * OWN_TILES * 2 * MULTIPLIERS * sizeof(f32x4) <= 4 * sizeof(Slab));

/// Those of the first tile may be overwritten when all have taken them.
__device__ inline f32x4 *totals_begin() { return (f32x4 *)&shared_block->slabs[4]; }
__device__ inline f32x4 *totals() { return totals_begin() + thread(); }

/// The same value, of which the compiler does not know it: what is made of it is not made early and
/// kept, for which there are no registers.
__device__ inline u32 opaque(u32 x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// The threads that multiply meet.
__device__ inline void sync_block() { await(1, MULTIPLIERS); }

/// How many slabs were filled or used before.
template <bool SEGMENTED> struct Slabs {
  static constexpr u32 COUNT = SEGMENTED ? 4 : 8, AHEAD = 2;
  u32 before = 0;

  __device__ u32 index() const { return before % COUNT; }
  __device__ u32 filled() const { return lds_address(&shared_block->filled[index()]); }
  __device__ u32 used() const { return lds_address(&shared_block->used[index()]); }
  __device__ u32 parity() const { return before / COUNT % 2; }
  __device__ OperandRows (*eights() const)[4] { return shared_block->slabs[index()].eights; }
};

/// What a workgroup does in turn `turn`.
struct Turn {
  u32 group, block, end;
};

/// What there is to do.
template <class Work> struct Turns {
  u32 blocks, run, runs, count;
  /// Whether all slabs of rows stay: there is LDS for so many.
  bool stay;

  __device__ Turns(const Work &work, u32 k, u32 slabs) {
    u32 groups = work.groups();
    blocks = (work.fours() + BLOCK_TILES / 4 - 1) / (BLOCK_TILES / 4);
    stay = (k + 127) / 128 <= slabs;
    // So long that each workgroup has a few.
    run = at_most(groups * blocks / (4 * blocks_x()), stay ? 8 : 1);
    run = run == 0 ? 1 : run;
    runs = (blocks + run - 1) / run;
    run = (blocks + runs - 1) / runs; // alike: a workgroup's may all be the last of their groups
    count = groups * runs;
  }
  __device__ Turn operator[](u32 turn) const {
    u32 block = turn % runs * run;
    return Turn{turn / runs, block, at_most(block + run, blocks)};
  }
};

/// The thread's part of a slab of a row as it is loaded: its groups' `PARTS`.
template <class Rows> struct Loaded {
  u32x4 parts[Rows::PARTS];
};

/// Piece `p` of what was loaded, as BF16; `scale` is the row's word of scales of the quad.
template <int STEP>
__device__ inline u32x4 expand(const Loaded<Fp4Rows> &row, u32 scale, u32 p) {
  return __builtin_bit_cast(u32x4, dequantize_row_fp4<STEP>(row.parts[0][p], scale));
}
template <int STEP>
__device__ inline u32x4 expand(const Loaded<Fp8Rows> &row, u32 scale, u32 p) {
  u32 words[4], s = scale_bf16x2(scale, STEP);
  dequantize_fp8(row.parts[p / 2][p % 2 * 2], s, words);
  dequantize_fp8(row.parts[p / 2][p % 2 * 2 + 1], s, words + 2);
  return u32x4{words[0], words[1], words[2], words[3]};
}

/// Brings the rows of a group, codes: a wave EACH eights of them at most, 4 / EACH slabs at once.
/// What is under way is waited for when a slab is stored, all of it.
template <class Rows, bool SEGMENTED, u32 EACH> struct Loader {
  static constexpr u32 AT_ONCE = 4 / EACH;
  const u32 k, slabs, quads, eights;
  const u8 *x[EACH];
  RowScales row_scales[EACH];
  u32 scales[EACH][CHUNKS], next[EACH][CHUNKS];
  Loaded<Rows> loaded[AT_ONCE][EACH];

  /// The wave's eight `e`.
  __device__ static u32 eight(u32 e) { return wave() - BLOCK_WAVES + LOADERS / WAVE * e; }

  template <class Work>
  __device__ Loader(const Operands &operands, const Work &work, u32 tiles)
      : k(operands.k), slabs((k + 127) / 128), quads((slabs + 3) / 4), eights(2 * tiles) {
    for (u32 e = 0; e < EACH; ++e) {
      u64 row = work.row(8 * eight(e) + lane() / 4);
      x[e] = operands.x + row * k * Rows::CODE_BITS / 8;
      for (u32 c = 0; c < CHUNKS; ++c)
        row_scales[e].template set<Rows>(c, operands.x_scales, row, k);
    }
  }

  __device__ void load(u32 slab) {
    for (u32 s = 0; s < AT_ONCE; ++s)
      for (u32 e = 0; e < EACH; ++e)
        for (u32 p = 0; p < Rows::PARTS; ++p) {
          u32 offset = Rows::offset(at_most(slab + s, slabs - 1), chunk_group(), p, k);
          loaded[s][e].parts[p] = u32x4{0, 0, 0, 0}; // so that nothing older is kept
          if (eight(e) < eights) loaded[s][e].parts[p] = *(const u32x4 *)(x[e] + offset);
        }
  }
  __device__ void load_scales(u32 quad) {
    for (u32 e = 0; e < EACH; ++e)
      row_scales[e].template load<Rows>(at_most(quad, quads - 1), next[e]);
  }

  /// Stores slab `slab`, the `STEP`th of its quad, if there is one.
  template <int STEP> __device__ void store(u32 slab, Slabs<SEGMENTED> &place) {
    if (slab >= slabs) return;
    wait_for_bytes(place.used(), place.parity() ^ 1);
    for (u32 e = 0; e < EACH; ++e)
      if (eight(e) < eights)
        for (u32 p = 0; p < 4; ++p)
          store_operand(place.eights()[eight(e)][p],
                        expand<STEP>(loaded[STEP % AT_ONCE][e], scales[e][0], p));
    operands_written();
    sync_wave();
    if (elected()) arrive_at(place.filled());
    ++place.before;
  }

  __device__ void run(Slabs<SEGMENTED> &place) {
    load_scales(0);
    load(0);
    for (u32 quad = 0; quad < quads; ++quad) {
      for (u32 e = 0; e < EACH; ++e)
        for (u32 c = 0; c < CHUNKS; ++c) scales[e][c] = next[e][c];
      load_scales(quad + 1);
      u32 slab = 4 * quad;
      store<0>(slab, place);
      if (AT_ONCE == 1) load(slab + 1);
      store<1>(slab + 1, place);
      if (AT_ONCE <= 2) load(slab + 2);
      store<2>(slab + 2, place);
      if (AT_ONCE == 1) load(slab + 3);
      store<3>(slab + 3, place);
      if (quad + 1 < quads) load(slab + 4);
    }
  }
};

/// Brings the first codes and scales of a block nearer; a wave.
template <class Work>
__device__ inline void prefetch_block(const Work &work, const Operands &operands, u32 block) {
  if (lane() >= BLOCK_TILES) return;
  u64 tile = work.tile(block * (BLOCK_TILES / 4) + lane() / 4) + lane() % 4;
  Weights weights(operands.weights, operands.weight_scales, tile, operands.k);
  prefetch_bulk(weights.codes, at_most(4, weights.slabs) * 1024);
  prefetch_bulk(weights.scales, 256);
}

template <class Rows, bool SEGMENTED, u32 EACH, class Work>
__device__ inline void load(const Operands &operands, const Work &work, u32 tiles,
                            Slabs<SEGMENTED> &place) {
  if constexpr (Rows::CODE_BITS == 16)
    RowCopies<LOADERS / WAVE, EACH, Slabs<SEGMENTED>>(operands.x, operands.k, work,
                                                      wave() - BLOCK_WAVES, 2 * tiles)
        .run(place);
  else
    Loader<Rows, SEGMENTED, EACH>(operands, work, tiles).run(place);
}

template <class Rows, bool SEGMENTED, class Work>
__device__ inline void load_all(Work work) {
  const Operands operands = work.operands();
  Turns<Work> turns(work, operands.k, Slabs<SEGMENTED>::COUNT);
  Slabs<SEGMENTED> place;
  for (u32 t = block_x(); t < turns.count; t += blocks_x()) {
    Turn turn = turns[t];
    work.take(turn.group);
    if (wave() == BLOCK_WAVES) prefetch_block(work, operands, turn.block);
    u32 tiles = at_most((work.rows + 15) / 16, BLOCK_ROWS / 16);
    if (tiles > 4)
      load<Rows, SEGMENTED, 3>(operands, work, tiles, place);
    else if (tiles > 2)
      load<Rows, SEGMENTED, 2>(operands, work, tiles, place);
    else
      load<Rows, SEGMENTED, 1>(operands, work, tiles, place);
  }
}

/// What the lane has of a slab's codes.
typedef u32x4 OwnCodes[OWN_TILES][CHUNKS];

/// What the lane has of a quad's scales, or of what is left of it.
struct OwnScales {
  u32 own[OWN_TILES][CHUNKS];

  /// Whether any lane of the warpgroup has one of 2 or more. Its waves must agree: matrix
  /// instructions of a warpgroup are to be the same for all four.
  __device__ bool are_wide() const {
    u32 any = 0;
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) any |= own[t][c];
    return any_of(2 + wave() / 4, 4 * WAVE, (any & 0x80808080) != 0);
  }
  /// Goes on so many slabs.
  __device__ void skip(u32 count) {
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) own[t][c] >>= 8 * count;
  }
};

/// The wave's sums of products of its tiles with rows, of each tile SUMS. They are made in batches
/// of 32 values and one of the wave's tiles: a batch's operands are expanded while those of the one
/// before are in use.
template <u32 SUMS> struct OwnSums {
  float sums[OWN_TILES][SUMS];
  /// Whether there are any yet.
  bool add;
  u32x4 expanded[2][CHUNKS];

  __device__ void clear() {
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 i = 0; i < SUMS; ++i) sums[t][i] = 0;
  }

  /// Expands the operands of batch `BATCH`.
  template <u32 BATCH, bool WIDE>
  __device__ void expand(const OwnCodes &codes, const OwnScales &scales, u32 step) {
    constexpr u32 T = BATCH % OWN_TILES, P = BATCH / OWN_TILES;
    for (u32 c = 0; c < CHUNKS; ++c)
      expanded[BATCH % 2][c] = expand_fp4<WIDE>(codes[T][c][P], scales.own[T][c], step);
  }
  /// Starts adding their products. Those of the batch before are done.
  template <u32 BATCH> __device__ void multiply(u64 matrices) {
    wgmma_begin();
    wgmma_slab(sums[BATCH % OWN_TILES], expanded[BATCH % 2], matrices,
               add || BATCH >= OWN_TILES);
    wgmma_end();
    wgmma_wait<1>();
  }

  /// Adds a slab's products with the rows at `matrices`. The first batch's operands are expanded.
  /// Calls `done` when nothing of the slab before is in use, and `ahead` while the last batch is.
  /// Unless WIDE no scale is of 2 or more. Matrices have hardly any, so WIDE is short, not fast.
  /// (What is called, rather than inlined, has its operands in memory: here and below.)
  template <bool WIDE, class Done, class Ahead>
  __attribute__((always_inline)) __device__ void add_slab(OwnCodes &codes, const OwnScales &scales,
                                                          u32 step, u64 matrices, Done done,
                                                          Ahead ahead) {
    constexpr u32 PIECE = sizeof(OperandRows) >> 4;
    if constexpr (WIDE) {
#pragma nounroll
      for (u32 p = 0; p < 4; ++p) {
        expand<0, true>(codes, scales, step);
        multiply<0>(matrices + p * PIECE);
        expand<1, true>(codes, scales, step);
        multiply<1>(matrices + p * PIECE);
        wgmma_wait<0>();
        add = true;
        for (u32 t = 0; t < OWN_TILES; ++t)
          for (u32 c = 0; c < CHUNKS; ++c) codes[t][c] = codes[t][c].yzwx;
      }
      done();
    } else {
      multiply<0>(matrices);
      done();
      expand<1, false>(codes, scales, step);
      multiply<1>(matrices);
      expand<2, false>(codes, scales, step);
      multiply<2>(matrices + PIECE);
      expand<3, false>(codes, scales, step);
      multiply<3>(matrices + PIECE);
      expand<4, false>(codes, scales, step);
      multiply<4>(matrices + 2 * PIECE);
      expand<5, false>(codes, scales, step);
      multiply<5>(matrices + 2 * PIECE);
      expand<6, false>(codes, scales, step);
      multiply<6>(matrices + 3 * PIECE);
      expand<7, false>(codes, scales, step);
      multiply<7>(matrices + 3 * PIECE);
      add = true;
    }
    ahead();
  }
};
static_assert(OWN_TILES == 2);

/// The products of M tiles of rows with the wave's tiles of the blocks of a turn.
template <u32 M, bool SEGMENTED, class Work> struct BlockProduct : OwnSums<8 * M> {
  using OwnSums<8 * M>::sums, OwnSums<8 * M>::add;
  const Work &work;
  const Operands &operands;
  const u32 slabs;
  /// Whether slabs are given back at the turn's end, not when they are done with.
  const bool stay;
  Slabs<SEGMENTED> place;
  /// The wave's first tile of the block, and its scales.
  const u32x4 *weights;
  const u32 *weight_scales;
  u32 block, end;
  bool first;
  OwnCodes codes[2];
  /// Of what is left of the quad, and whether they are wide, and of the quad after.
  OwnScales scales, next;
  bool wide;

  __device__ BlockProduct(const Work &work, const Operands &operands, bool stay,
                          Slabs<SEGMENTED> place, const Turn &turn)
      : work(work), operands(operands), slabs((operands.k + 127) / 128), stay(stay),
        place(place), block(turn.block), end(turn.end) {}

  __device__ u32 quads() const { return (slabs + 3) / 4; }

  /// The wave's weights of block `block`.
  __device__ Weights of_block(u32 block) const {
    u64 tile = work.tile(Place(opaque(block)).four);
    return Weights(operands.weights, operands.weight_scales, tile, operands.k);
  }
  __device__ void find(u32 block) {
    Weights own = of_block(block);
    weights = own.codes + own_tile(0) % 4 * slabs * 64;
    weight_scales = own.scales + own_tile(0) % 4 * quads() * 64;
  }

  // Beyond the last slab and quad the last are loaded again.
  __device__ void load_slab(u32 slab, u32 to) {
    const u32x4 *from = weights + at_most(slab, slabs - 1) * 64;
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c)
        codes[to][t][c] = load_once(from + t * 2 * slabs * 64 + slot(c));
  }
  __device__ void load_scales(u32 quad) {
    const u32 *from = weight_scales + at_most(quad, quads() - 1) * 64;
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) next.own[t][c] = from[t * 2 * quads() * 64 + slot(c)];
  }

  /// Has codes and scales of a quad of block `block` come nearer.
  __device__ void prefetch(u32 block, u32 quad) const {
    if (!elected()) return;
    Weights own = of_block(block);
    for (u32 t = 0; t < OWN_TILES; ++t) {
      u32 tile = own_tile(t) % 4;
      prefetch_bulk(own.codes + (tile * slabs + 4 * quad) * 64,
                    at_most(4, slabs - 4 * quad) * 1024);
      prefetch_bulk(own.scales + (tile * quads() + quad) * 64, 256);
    }
  }

  /// The wave is done with a slab.
  __device__ static void release(Slabs<SEGMENTED> place) {
    if (elected()) arrive_at(place.used());
  }

  /// Adds slab `slab`, the `STEP`th of two.
  template <u32 STEP, bool WIDE>
  __attribute__((always_inline)) __device__ void add_slab(u32 slab) {
    // Before the wait, beyond which the assembler does not put them off.
    bool ends = STEP == 1 && slab + 1 == slabs && block + 1 < end;
    bool fresh = STEP == 1 && (ends || slab % 4 == 3); // the next slab's quad
    if (ends) find(block + 1);
    if (fresh) load_scales(ends ? 0 : slab / 4 + 1);
    load_slab(ends ? 0 : slab + 1, 1 - STEP);
    place.before = opaque(place.before);
    wait_for_bytes(place.filled(), place.parity());
    auto done = [&] {
      if (STEP == 1 && !stay) release(Slabs<SEGMENTED>{place.before - 1});
    };
    OwnSums<8 * M>::template add_slab<WIDE>(
        codes[STEP], scales, STEP, eights_at(place.eights()), done, [&] {
          if (fresh) {
            scales = next;
            if (slab + 1 < slabs) wide = scales.are_wide();
          } else if (STEP == 1) {
            scales.skip(2);
          }
          // Wide is as good for any.
          this->template expand<0, STEP == 1 || WIDE>(codes[1 - STEP], scales, 1 - STEP);
        });
    ++place.before;
  }

  /// Adds two slabs, or what there is of them.
  template <bool WIDE> __attribute__((always_inline)) __device__ void add_two(u32 slab) {
    add_slab<0, WIDE>(slab);
    if (slab + 1 < slabs) add_slab<1, WIDE>(slab + 1);
    wgmma_wait<0>(); // the assembler does not follow batches into other slabs
    if (!stay) release(Slabs<SEGMENTED>{place.before - 1});
  }

  /// Adds a segment's sums to the totals.
  __device__ void add_segment() {
    f32x4 *to = totals();
    for (u32 t = 0; t < OWN_TILES; ++t) {
      wgmma_wait(sums[t]);
      for (u32 i = 0; i < 2 * M; ++i) {
        f32x4 &total = to[((i / 2 * OWN_TILES + t) * 2 + i % 2) * MULTIPLIERS];
        f32x4 sum = {0, 0, 0, 0};
        if (!first) sum = total;
        for (u32 j = 0; j < 4; ++j) sum[j] += sums[t][4 * i + j];
        total = sum;
      }
    }
    add = false;
    first = false;
  }

  /// Gives away the sums.
  __device__ void use() {
    for (u32 t = 0; t < OWN_TILES; ++t) wgmma_wait(sums[t]);
    if (SEGMENTED) {
#pragma unroll 1
      for (u32 m = 0; m < M; ++m) {
        Acc own[OWN_TILES];
        for (u32 t = 0; t < OWN_TILES; ++t)
          for (u32 h = 0; h < 2; ++h) {
            f32x4 half = totals()[((m * OWN_TILES + t) * 2 + h) * MULTIPLIERS];
            for (u32 i = 0; i < 4; ++i) own[t].v[4 * h + i] = half[i];
          }
        if (m == 0) sync_block();
        work.use(own, m, Place(block, shared_block->notes, totals_begin()));
      }
      return;
    }
    for (u32 m = 0; m < M; ++m) {
      Acc own[OWN_TILES];
      for (u32 t = 0; t < OWN_TILES; ++t)
        for (u32 i = 0; i < 8; ++i) own[t].v[i] = copied(sums[t][8 * m + i]);
      work.use(own, opaque(m), Place(block, shared_block->notes));
    }
  }

  __device__ void add_block() {
    u32 quads = this->quads(), current = 0;
    add = false;
    first = true;
    wide = scales.are_wide();
#pragma nounroll
    for (u32 quad = 0; quad < quads; ++quad) {
      if (quad + 1 < quads)
        prefetch(block, quad + 1);
      else if (block + 1 < end)
        prefetch(block + 1, 0);
#pragma nounroll
      for (u32 slab = 4 * quad; slab < at_most(4 * quad + 4, slabs); slab += 2)
        if (wide)
          add_two<true>(slab);
        else
          add_two<false>(slab);
      if (!SEGMENTED) continue;
      while (quads * (current + 1) / SEGMENTS <= quad) ++current;
      if (quads * (current + 1) / SEGMENTS == quad + 1) add_segment();
    }
  }

  /// Loads what a block begins with.
  __device__ void begin() {
    find(block);
    load_scales(0);
    scales = next;
    load_slab(0, 0);
    this->template expand<0, true>(codes[0], scales, 0);
  }

  /// Returns where the slabs after the turn's stand.
  __device__ Slabs<SEGMENTED> run() {
    Slabs<SEGMENTED> start = place;
    this->clear();
    u32 note = 0;
    if constexpr (Work::NOTES) note = work.note(at_most(thread(), BLOCK_ROWS - 1));
    begin();
    if (Work::NOTES) {
      sync_block(); // nobody is left that reads those of the turn before
      if (thread() < BLOCK_ROWS) shared_block->notes[thread()] = note;
      sync_block();
    }
    for (;;) {
      add_block();
      use();
      if (++block == end) break;
      place = start;
      if (slabs % 2 != 0) begin(); // else the last slab has begun
    }
    for (u32 left = stay ? slabs : 0; left > 0; --left)
      release(Slabs<SEGMENTED>{place.before - left});
    return place;
  }
};

template <bool SEGMENTED, class Work>
__device__ inline void multiply_turns(Work work) {
  const Operands operands = work.operands();
  Turns<Work> turns(work, operands.k, Slabs<SEGMENTED>::COUNT);
  Slabs<SEGMENTED> place;
  for (u32 t = block_x(); t < turns.count; t += blocks_x()) {
    Turn turn = turns[t];
    work.take(turn.group);
#define TILES_OF_ROWS(m)                                                                      \
  case m:                                                                                     \
    place = BlockProduct<m, SEGMENTED, Work>(work, operands, turns.stay, place, turn).run(); \
    break
    switch (at_most((work.rows + 15) / 16, BLOCK_ROWS / 16)) {
      TILES_OF_ROWS(1);
      TILES_OF_ROWS(2);
      TILES_OF_ROWS(3);
      TILES_OF_ROWS(4);
      TILES_OF_ROWS(5);
      TILES_OF_ROWS(6);
    }
#undef TILES_OF_ROWS
  }
}

/// Grid: as many workgroups as the device holds.
template <class Rows, bool SEGMENTED, class Work>
__device__ inline void multiply_all(Work work) {
  if (thread() < Slabs<SEGMENTED>::COUNT) {
    expect_arrivals(lds_address(&shared_block->filled[thread()]), LOADERS / WAVE);
    expect_arrivals(lds_address(&shared_block->used[thread()]), BLOCK_WAVES);
  }
  sync();
  if (wave() < BLOCK_WAVES) {
    take_registers<SEGMENTED ? 208 : 216>();
    multiply_turns<SEGMENTED>(work);
  } else {
    give_registers<SEGMENTED ? 88 : 72>();
    load_all<Rows, SEGMENTED>(work);
  }
}
