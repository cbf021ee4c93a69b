// `rows64.h` for gfx950: slabs of the rows are copied to LDS, in operand order, some stages ahead;
// weights are loaded two slabs ahead.
#pragma once

/// Of a workgroup of 256 threads and a group of up to 64 rows.
#define BLOCK_KERNEL KERNEL(256)

/// Sums of M tiles of rows and the wave's tiles of the matrix.
template <u32 M> struct Sums {
  Acc tile[M][OWN_TILES];

  __device__ void add(const Sums &other) {
    for (u32 m = 0; m < M; ++m)
      for (u32 t = 0; t < OWN_TILES; ++t)
        for (u32 i = 0; i < ACCUMULATORS; ++i) tile[m][t].v[i] += other.tile[m][t].v[i];
  }
};

/// Slabs of rows on their way.
template <class Rows> struct Staged {
  static constexpr u32 STAGES = Rows::PARTS == 4 ? 2 : 4;
  u32x4 chunks[STAGES][4][Rows::PARTS][64];
};

/// The thread's copies of slabs of M tiles of rows.
template <class Rows, u32 M> struct RowCopies {
  static constexpr u32 PARTS = Rows::PARTS, STAGES = Staged<Rows>::STAGES;
  static constexpr u32 ALL = M * PARTS * 64, COUNT = (ALL + 255) / 256;
  /// What each wave that copies at all starts at least for each slab: copies, and loads of weights.
  static constexpr u32 LEAST = ALL < 256 ? 1 : ALL / 256;
  /// `sync_copies` counts loads to registers too.
  static constexpr u32 LOADS = OWN_TILES * CHUNKS;
  /// What may be under way when a slab is needed: no more than was started after its copies.
  static constexpr u32 LEFT = STAGES == 2 ? LOADS : (STAGES - 2) * (LEAST + LOADS);
  const u8 *from[COUNT];
  u32 k;

  /// Row `i` is row `row(i)` of x.
  template <class RowAt> __device__ RowCopies(const u8 *x, u32 k, RowAt row) : k(k) {
    for (u32 i = 0; i < COUNT; ++i) {
      u32 chunk = at_most(256 * i + thread(), ALL - 1);
      u64 at = row(chunk / 64 / PARTS * 16 + lds_row(chunk % 64));
      from[i] = x + at * k * Rows::CODE_BITS / 8;
    }
  }

  __device__ void start(Staged<Rows> &staged, u32 slab) const {
    for (u32 i = 0; i < COUNT; ++i) {
      u32 first = 256 * i + wave() * WAVE, chunk = first + lane();
      u32x4 *to = &staged.chunks[slab % STAGES][0][0][0] + first;
      u32 offset = Rows::offset(slab, lds_group(chunk % 64), chunk / 64 % PARTS, k);
      if (first < ALL) copy_to_lds(to, from[i] + offset);
    }
  }
};

/// The product of M tiles of rows, of which row `i` is row `row(i)` of x, with the wave's tiles.
template <class Rows, u32 M, bool SEGMENTED> struct BlockProduct {
  static constexpr u32 STAGES = Staged<Rows>::STAGES;
  /// Slabs of weights that are loaded ahead.
  static constexpr u32 AHEAD = 2;
  typedef RowCopies<Rows, M> Copies;
  struct Scales {
    u32 weights[OWN_TILES][CHUNKS], rows[M][CHUNKS];
  };
  Sums<M> sums = {}, segment = {};
  Staged<Rows> &staged;
  const Weights &weights;
  Copies copies;
  RowScales row_scales[M];
  u32x4 codes[4][OWN_TILES][CHUNKS];
  Scales scales, next;

  template <class RowAt>
  __device__ BlockProduct(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                          const Weights &weights, u32 k, RowAt row)
      : staged(staged), weights(weights), copies(x, k, row) {
    for (u32 m = 0; m < M; ++m)
      for (u32 c = 0; c < CHUNKS; ++c)
        row_scales[m].template set<Rows>(c, x_scales, row(16 * m + chunk_row(c)), k);
  }

  __device__ void load_codes(u32 step, u32 slab) {
    slab = at_most(slab, weights.slabs - 1);
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) codes[step][t][c] = weights.chunk(own_tile(t) % 4, slab, c);
  }
  __device__ void load_scales(u32 quad) {
    quad = at_most(quad, (weights.slabs - 1) / 4);
    for (u32 t = 0; t < OWN_TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) next.weights[t][c] = weights.scale(own_tile(t) % 4, quad, c);
    for (u32 m = 0; m < M; ++m) row_scales[m].template load<Rows>(quad, next.rows[m]);
  }

  /// Adds slab `slab`, the `STEP`th of its quad.
  template <u32 STEP> __device__ void add_slab(u32 slab) {
    if (slab + STAGES - 1 <= weights.slabs)
      sync_copies<Copies::LEFT>();
    else
      sync_copies<0>();
    if (slab + STAGES - 1 < weights.slabs) copies.start(staged, slab + STAGES - 1);
    load_codes((STEP + AHEAD) % 4, slab + AHEAD);
    typedef Instructions<Rows> With;
    constexpr u32 EACH = Rows::PARTS / With::PIECES;
    for (u32 p = 0; p < With::PIECES; ++p) {
      typename With::Operand w[OWN_TILES];
      for (u32 t = 0; t < OWN_TILES; ++t)
        w[t] = With::template operand<STEP>(codes[STEP][t], scales.weights[t], p);
      for (u32 m = 0; m < M; ++m) {
        typename With::Piece x;
        for (u32 c = 0; c < CHUNKS; ++c)
          for (u32 e = 0; e < EACH; ++e)
            x.chunk[c][e] = staged.chunks[STEP % STAGES][m][p * EACH + e][WAVE * c + lane()];
        for (u32 t = 0; t < OWN_TILES; ++t)
          With::template multiply<STEP>((SEGMENTED ? segment : sums).tile[m][t], x, scales.rows[m],
                                        w[t], scales.weights[t]);
      }
    }
  }

  __device__ const Sums<M> &run() {
    u32 slabs = weights.slabs, quads = (slabs + 3) / 4, current = 0;
    load_scales(0);
    for (u32 s = 0; s < STAGES - 1; ++s)
      if (s < slabs) copies.start(staged, s);
    for (u32 s = 0; s < AHEAD; ++s) load_codes(s, s);
    for (u32 quad = 0; quad < quads; ++quad) {
      scales = next;
      load_scales(quad + 1);
      add_slab<0>(4 * quad);
      if (4 * quad + 1 < slabs) add_slab<1>(4 * quad + 1);
      if (4 * quad + 2 < slabs) add_slab<2>(4 * quad + 2);
      if (4 * quad + 3 < slabs) add_slab<3>(4 * quad + 3);
      if (!SEGMENTED) continue;
      while (quads * (current + 1) / SEGMENTS <= quad) ++current;
      if (quads * (current + 1) / SEGMENTS != quad + 1) continue;
      sums.add(segment);
      segment = {};
    }
    return sums;
  }
};

template <class Rows, u32 M, bool SEGMENTED, class RowAt, class Use>
__device__ inline void multiply_tiles(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                                      const Weights &weights, u32 k, RowAt row, Use use) {
  BlockProduct<Rows, M, SEGMENTED> product(staged, x, x_scales, weights, k, row);
  const Sums<M> &sums = product.run();
  for (u32 m = 0; m < M; ++m) use(sums.tile[m], m);
}

/// Multiplies `rows` rows of x, 1 to 64 (all, if more), of which row `i` is row `row(i)`, and calls
/// `use(sums, m)` with the wave's sums of each tile of them: value `i` is of row `sum_row(i)` of
/// the rows' tile and row `sum_col(i)` of the matrix's.
template <class Rows, bool SEGMENTED, class RowAt, class Use>
__device__ inline void multiply_block(Staged<Rows> &staged, const u8 *x, const u32 *x_scales,
                                      const Weights &weights, u32 k, u32 rows, RowAt row,
                                      Use use) {
  if (rows > 48)
    multiply_tiles<Rows, 4, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else if (rows <= 16)
    multiply_tiles<Rows, 1, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else if (rows <= 32)
    multiply_tiles<Rows, 2, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
  else
    multiply_tiles<Rows, 3, SEGMENTED>(staged, x, x_scales, weights, k, row, use);
}
