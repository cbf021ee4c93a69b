// Products of groups of up to 32 rows for sm_90: the instructions of `few_rows_sm90.h`, but the
// rows are copied to LDS once for all waves of a workgroup, each of which has four tiles of the
// matrix and all of k.
//
// Codes and rows are copied some slabs ahead: a wave's codes by the lanes that take them from
// there, a slab of rows by all. The order of additions is that of `segments.h` (SEGMENTED), or of
// `multiply` in `mxfp4.h`.
#pragma once
#include "../segments.h"

constexpr u32 SOME_WAVES = 4, SOME_THREADS = SOME_WAVES * WAVE, SOME_ROWS = 32;
/// Slabs in LDS: so few that two workgroups fit a processor.
template <bool SEGMENTED> constexpr u32 SOME_STAGES = SEGMENTED ? 3 : 4;
#define SOME_KERNEL extern "C" __global__ __attribute__((launch_bounds(SOME_THREADS, 2)))

/// A slab in LDS.
struct SomeSlab {
  u32x4 codes[SOME_WAVES][TILES][CHUNKS][WAVE];
  /// [eight][part][lane], see `SomeRows::place`; of BF16 all.
  u32x4 rows[SOME_ROWS / 8 * Bf16Rows::PARTS * WAVE];
};
/// What launches ask for: SOME_STAGES of them, and behind them totals of SEGMENTED products.
extern __shared__ __attribute__((aligned(128))) SomeSlab some_slabs[];
static_assert(sizeof(SomeSlab) == 24576);

/// The sums of EIGHTS eights of rows: tile `m` of 16 of them, and tile `t` of the matrix.
template <u32 EIGHTS> struct SomeSums {
  static constexpr u32 M = (EIGHTS + 1) / 2;
  Acc tiles[M][TILES] = {};

  __device__ float *eight(u32 e, u32 t) { return tiles[e / 2][t].v + 4 * (e % 2); }
};

/// The thread's totals of an eight and a tile: there are no registers for them.
template <bool SEGMENTED> __device__ inline f32x4 &some_totals(u32 e, u32 t) {
  return ((f32x4 *)&some_slabs[SOME_STAGES<SEGMENTED>])[(e * TILES + t) * SOME_THREADS + thread()];
}

/// The product of EIGHTS eights of rows of a workgroup with the wave's tiles, four of each of some
/// blocks of the matrix, or (SEGMENTED) of one.
template <class Rows, u32 EIGHTS, bool SEGMENTED, class Find> struct SomeRows {
  static constexpr u32 STAGES = SOME_STAGES<SEGMENTED>, M = SomeSums<EIGHTS>::M;
  /// Chunks of a slab of a row, the rows whose chunks all threads copy at once, and how often.
  static constexpr u32 ROW_CHUNKS = 4 * Rows::PARTS, AT_ONCE = SOME_THREADS / ROW_CHUNKS;
  static constexpr u32 TIMES = (8 * EIGHTS + AT_ONCE - 1) / AT_ONCE;
  struct Scales {
    u32 weights[TILES][CHUNKS], rows[M][CHUNKS];
  };
  const Find find;
  const u32 k, slabs, blocks;
  /// Those whose codes are copied next, and the slab of codes and of rows.
  Weights weights;
  u32 copied_block = 0, copied_codes = 0, copied_rows = 0;
  const u8 *x[TIMES];
  RowScales row_scales[M];
  bool first = true;
  Scales scales, next;
  SomeSums<EIGHTS> acc;

  /// `find(block)` finds the weights of block `0..blocks`, and of any after.
  __device__ SomeRows(const Find &find, u32 k, u32 blocks)
      : find(find), k(k), slabs((k + 127) / 128), blocks(blocks), weights(find(0)) {}

  /// Which group, part and, the `i`th time, row the thread copies.
  __device__ static u32 own_group() { return thread() % ROW_CHUNKS / Rows::PARTS; }
  __device__ static u32 own_part() { return thread() % Rows::PARTS; }
  __device__ static u32 own_row(u32 i) { return thread() / ROW_CHUNKS + i * AT_ONCE; }

  /// Where part `part` of eight `e` stands that lane `lane` takes, so that neither that nor copying
  /// all of a row collides.
  __device__ static u32 place(u32 e, u32 part, u32 lane) {
    return (e * Rows::PARTS + part) * WAVE + (lane ^ part * (8 / Rows::PARTS));
  }

  __device__ void copy_codes(u32 stage) {
    for (u32 t = 0; t < TILES; ++t) {
      const u32x4 *from = weights.codes + ((u64)t * slabs + copied_codes) * 64;
      for (u32 c = 0; c < CHUNKS; ++c)
        copy_async(&some_slabs[stage].codes[wave()][t][c][lane()], from + slot(c));
    }
    if (++copied_codes < slabs) return;
    copied_codes = 0;
    weights = find(++copied_block);
  }
  __device__ void copy_rows(u32 stage) {
    u32 offset = Rows::offset(copied_rows, own_group(), own_part(), k);
    for (u32 i = 0; i < TIMES; ++i) {
      u32 row = own_row(i);
      if (row >= 8 * EIGHTS) break;
      u32 at = place(row / 8, own_part(), row % 8 * 4 + own_group());
      copy_async(&some_slabs[stage].rows[at], x[i] + offset);
    }
    copied_rows = copied_rows + 1 < slabs ? copied_rows + 1 : 0;
  }
  __device__ void load_scales(u32 block, u32 quad) {
    Weights weights = find(block);
    for (u32 t = 0; t < TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) next.weights[t][c] = weights.scale(t, quad, c);
  }
  __device__ void load_row_scales(u32 quad) {
    for (u32 m = 0; m < M; ++m) row_scales[m].template load<Rows>(quad, next.rows[m]);
  }

  /// Whether any lane has a scale of 2 or more.
  __device__ bool is_wide() const {
    u32 any = 0;
    for (u32 t = 0; t < TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) any |= scales.weights[t][c];
    for (u32 m = 0; m < M; ++m)
      for (u32 c = 0; c < CHUNKS; ++c) any |= scales.rows[m][c];
    return ballot((any & 0x80808080) != 0) != 0;
  }

  template <bool WIDE> __device__ void add_slab(u32 stage, u32 step) {
    const SomeSlab &from = some_slabs[stage];
    u32x4 codes[TILES][CHUNKS];
    for (u32 t = 0; t < TILES; ++t)
      for (u32 c = 0; c < CHUNKS; ++c) codes[t][c] = from.codes[wave()][t][c][lane()];
    for (u32 p = 0; p < 4; ++p) {
      u32x4 rows[EIGHTS];
      for (u32 e = 0; e < EIGHTS; ++e) {
        u32x4 parts[Rows::PARTS];
        for (u32 i = 0; i < Rows::PARTS; ++i) parts[i] = from.rows[place(e, i, lane())];
        rows[e] = row_chunk<WIDE>(parts, scales.rows[e / 2][e % 2], step, p);
      }
      for (u32 t = 0; t < TILES; ++t) {
        u32x4 w[CHUNKS];
        for (u32 c = 0; c < CHUNKS; ++c) {
          Scaling<126, WIDE> scaled(scales.weights[t][c], step);
          w[c] = fp4_pairs(codes[t][c][p]);
          for (u32 i = 0; i < 4; ++i) w[c][i] = scaled(w[c][i]);
        }
        for (u32 e = 0; e < EIGHTS; ++e)
          for (u32 i = 0; i < 4; i += 2)
            mma_m16n8k16(acc.eight(e, t), w[0][i], w[1][i], w[0][i + 1], w[1][i + 1], rows[e][i],
                         rows[e][i + 1]);
      }
    }
  }

  /// Gives `use` a block and its sums. Row `i` is row `row(i)` of x.
  template <class RowAt, class Use>
  __device__ void run(const u8 *rows, const u32 *scale_words, RowAt row, const Use &use) {
    u32 quads = (slabs + 3) / 4, all = blocks * slabs;
    load_scales(0, 0);
    loads_first();
    for (u32 s = 0; s < STAGES - 1; ++s)
      if (s < all) copy_codes(s);
    // Where the rows are may have to be loaded.
    for (u32 i = 0; i < TIMES; ++i) x[i] = rows + (u64)row(own_row(i)) * k * Rows::CODE_BITS / 8;
    for (u32 m = 0; m < M; ++m)
      for (u32 c = 0; c < CHUNKS; ++c)
        row_scales[m].template set<Rows>(c, scale_words, row(16 * m + chunk_row(c)), k);
    load_row_scales(0);
    for (u32 s = 0; s < STAGES - 1; ++s) {
      if (s < all) copy_rows(s);
      copies_started();
    }
    u32 stage = 0, ahead = STAGES - 1, segment = 0, block = 0, slab = 0;
    bool wide = false;
#pragma nounroll
    for (u32 i = 0; i < all; ++i) {
      u32 quad = slab / 4;
      if (slab % 4 == 0) {
        scales = next;
        bool last = quad + 1 == quads;
        load_scales(block + last, last ? 0 : quad + 1);
        load_row_scales(last ? 0 : quad + 1);
        wide = is_wide();
      }
      copies_done<STAGES - 2>();
      sync(); // all have copied their part of this slab, and are done with the one before
      if (i + STAGES - 1 < all) {
        copy_codes(ahead);
        copy_rows(ahead);
      }
      copies_started();
      if (wide)
        add_slab<true>(stage, slab % 4);
      else
        add_slab<false>(stage, slab % 4);
      ahead = stage;
      stage = (stage + 1) % STAGES;
      bool ends = ++slab == slabs;
      if (SEGMENTED) {
        if (!ends && slab % 4 != 0) continue;
        while (quads * (segment + 1) / SEGMENTS <= quad) ++segment;
        if (quads * (segment + 1) / SEGMENTS == quad + 1) add_segment();
      } else if (ends) {
        use(block++, acc.tiles);
        acc = SomeSums<EIGHTS>();
        slab = 0;
      }
    }
    if (!SEGMENTED) return;
    sync(); // nobody is left that reads the copies
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 t = 0; t < TILES; ++t) {
        f32x4 total = some_totals<SEGMENTED>(e, t);
        for (u32 i = 0; i < 4; ++i) acc.eight(e, t)[i] = total[i];
      }
    use(0, acc.tiles);
  }

 private:
  __device__ void add_segment() {
    for (u32 e = 0; e < EIGHTS; ++e)
      for (u32 t = 0; t < TILES; ++t) {
        f32x4 total = {0, 0, 0, 0};
        if (!first) total = some_totals<SEGMENTED>(e, t);
        for (u32 i = 0; i < 4; ++i) {
          total[i] += acc.eight(e, t)[i];
          acc.eight(e, t)[i] = 0;
        }
        some_totals<SEGMENTED>(e, t) = total;
      }
    first = false;
  }
};

/// Gives `use` the sums of `rows` rows, up to 32, with the wave's tiles of `blocks` blocks (one, if
/// SEGMENTED), and of other rows what may be. All waves of the workgroup take part. They may use
/// the slabs in LDS when they have the sums of a SEGMENTED product.
template <class Rows, bool SEGMENTED, class RowAt, class Find, class Use>
__device__ inline void multiply_some(const u8 *x, const u32 *x_scales, u32 rows, RowAt row,
                                     const Find &find, u32 k, u32 blocks, const Use &use) {
  if (rows <= 16)
    SomeRows<Rows, 2, SEGMENTED, Find>(find, k, blocks).run(x, x_scales, row, use);
  else if (rows <= 24)
    SomeRows<Rows, 3, SEGMENTED, Find>(find, k, blocks).run(x, x_scales, row, use);
  else
    SomeRows<Rows, 4, SEGMENTED, Find>(find, k, blocks).run(x, x_scales, row, use);
}
