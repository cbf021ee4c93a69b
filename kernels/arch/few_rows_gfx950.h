// Products of few rows for gfx950: both operands come from memory to registers, codes of a quad at
// once.
#pragma once

/// How instructions multiply a form of activations with weights. `PIECES`: instructions for a slab.
/// `Piece`: the lane's operand of one of them, with `PARTS / PIECES` parts. `Operand`: the lane's
/// part of a tile of weights for a piece.
template <class Rows> struct Instructions;

template <> struct Instructions<Fp4Rows> {
  static constexpr u32 PIECES = 1;
  struct Piece {
    u32x4 chunk[CHUNKS][1];
  };
  struct Operand {
    u32x4 codes[CHUNKS];
  };
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *, u32) {
    Operand o;
    for (u32 c = 0; c < CHUNKS; ++c) o.codes[c] = w[c];
    return o;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *sx, const Operand &w,
                                  const u32 *sw) {
    mma_mxfp4<STEP>(acc, x.chunk, sx, w.codes, sw);
  }
};

template <> struct Instructions<Fp8Rows> {
  static constexpr u32 PIECES = 1;
  struct Piece {
    u32x4 chunk[CHUNKS][2];
  };
  typedef Instructions<Fp4Rows>::Operand Operand;
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *sw, u32 piece) {
    return Instructions<Fp4Rows>::operand<STEP>(w, sw, piece);
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *sx, const Operand &w,
                                  const u32 *sw) {
    mma_mxfp8<STEP>(acc, x.chunk, sx, w.codes, sw);
  }
};

template <> struct Instructions<Bf16Rows> {
  static constexpr u32 PIECES = 4;
  struct Piece {
    u32x4 chunk[CHUNKS][1];
  };
  struct Operand {
    bf16x8 values[CHUNKS];
  };
  template <int STEP> __device__ static Operand operand(const u32x4 *w, const u32 *sw, u32 piece) {
    Operand o;
    for (u32 c = 0; c < CHUNKS; ++c) o.values[c] = dequantize_fp4<STEP>(w[c][piece], sw[c]);
    return o;
  }
  template <int STEP>
  __device__ static void multiply(Acc &acc, const Piece &x, const u32 *, const Operand &w,
                                  const u32 *) {
    bf16x8 a[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) a[c] = __builtin_bit_cast(bf16x8, x.chunk[c][0]);
    mma_bf16(acc, a, w.values);
  }
};

/// None is used, but arrays have an element.
template <u32 LAUNCH, u32 T> constexpr u32 WAVE_MEMORY = 1;
#define FEW_MEMORY(name, floats) __shared__ float name[floats]

/// What sm_90 alone has.
#define SM90_KERNELS(...)

constexpr bool ROWS_ALONE = false;
__device__ inline u32 sum_row(u32 i) { return acc_row(i); }
__device__ inline u32 sum_col(u32 i) { return acc_col(i); }
/// The value of the lane that has sums of the same rows in the columns beside this one's.
__device__ inline u32 beside(u32 x) {
  return __builtin_amdgcn_update_dpp(0, x, 0xb1, 15, 15, true); // quad_perm:[1,0,3,2]
}

/// Tiles of the matrix for a wave that has a single row: so few that one row's waves are on nearly
/// all compute units.
template <u32 LAUNCH> constexpr u32 ROW_TILES = 2;

/// The weights of one quad, as far as it has slabs.
template <u32 T> struct Quad {
  u32x4 codes[4][T][CHUNKS];
  u32 scales[T][CHUNKS];
};

template <class Rows>
__device__ inline typename Instructions<Rows>::Piece piece_of(const Tile<Rows> &x, u32 slab,
                                                              u32 piece) {
  constexpr u32 EACH = Rows::PARTS / Instructions<Rows>::PIECES;
  typename Instructions<Rows>::Piece out;
  for (u32 c = 0; c < CHUNKS; ++c)
    for (u32 p = 0; p < EACH; ++p)
      out.chunk[c][p] = *(const u32x4 *)(x.rows[c] + Rows::offset(slab, chunk_group(),
                                                                  piece * EACH + p, x.k));
  return out;
}

template <class Rows, int STEP, u32 T>
__device__ inline void
multiply_slab(Acc (&acc)[T],
              const typename Instructions<Rows>::Piece (&x)[Instructions<Rows>::PIECES],
              const u32 *sx, const Quad<T> &w) {
  typedef Instructions<Rows> With;
  for (u32 t = 0; t < T; ++t)
    for (u32 p = 0; p < With::PIECES; ++p) {
      auto operand = With::template operand<STEP>(w.codes[STEP][t], w.scales[t], p);
      With::template multiply<STEP>(acc[t], x[p], sx, operand, w.scales[t]);
    }
}

template <class Rows, int STEP, u32 T>
__device__ inline void multiply_slab(Acc (&acc)[T], const Tile<Rows> &x, const u32 *sx,
                                     const Quad<T> &w, u32 slab) {
  typedef Instructions<Rows> With;
  typename With::Piece pieces[With::PIECES];
  for (u32 p = 0; p < With::PIECES; ++p) pieces[p] = piece_of(x, slab, p);
  multiply_slab<Rows, STEP>(acc, pieces, sx, w);
}

/// What `find()` gives.
template <bool FIRST = false, class Find> __device__ inline auto soon(Find find) {
  return find();
}

template <class Rows, u32 LAUNCH = GROUPS, u32 T>
__device__ inline void multiply(float *, Acc (&acc)[T], u32, const Tile<Rows> &x,
                                const Weights &weights, u32 begin, u32 end) {
  constexpr bool AT_ONCE = LAUNCH != GROUPS;
  for (u32 quad = begin; quad < end; ++quad) {
    u32 slab = quad * 4, slabs = weights.slabs - slab; // 4, but in the last quad
    Quad<T> w;
    u32 sx[CHUNKS];
    for (u32 t = 0; t < T; ++t) {
      for (u32 c = 0; c < CHUNKS; ++c) w.scales[t][c] = weights.scale(t, quad, c);
    }
    x.scales.template load<Rows>(quad, sx);
    if (slabs >= 4) {
      for (u32 s = 0; s < 4; ++s) {
        for (u32 t = 0; t < T; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) w.codes[s][t][c] = weights.chunk(t, slab + s, c);
        }
      }
      if (AT_ONCE && (T == ROW_TILES<LAUNCH> || Rows::PARTS == 1)) { // else there are no registers
        typedef Instructions<Rows> With;
        typename With::Piece pieces[4][With::PIECES];
        for (u32 s = 0; s < 4; ++s)
          for (u32 p = 0; p < With::PIECES; ++p) pieces[s][p] = piece_of(x, slab + s, p);
        loads_first();
        multiply_slab<Rows, 0>(acc, pieces[0], sx, w);
        multiply_slab<Rows, 1>(acc, pieces[1], sx, w);
        multiply_slab<Rows, 2>(acc, pieces[2], sx, w);
        multiply_slab<Rows, 3>(acc, pieces[3], sx, w);
        continue;
      }
      if (AT_ONCE) loads_first();
      multiply_slab<Rows, 0>(acc, x, sx, w, slab);
      multiply_slab<Rows, 1>(acc, x, sx, w, slab + 1);
      multiply_slab<Rows, 2>(acc, x, sx, w, slab + 2);
      multiply_slab<Rows, 3>(acc, x, sx, w, slab + 3);
    } else {
      for (u32 s = 0; s < 3; ++s) {
        for (u32 t = 0; t < T; ++t) {
          for (u32 c = 0; c < CHUNKS; ++c) {
            w.codes[s][t][c] = weights.chunk(t, slab + at_most(s, slabs - 1), c);
          }
        }
      }
      multiply_slab<Rows, 0>(acc, x, sx, w, slab);
      if (slabs > 1) multiply_slab<Rows, 1>(acc, x, sx, w, slab + 1);
      if (slabs > 2) multiply_slab<Rows, 2>(acc, x, sx, w, slab + 2);
    }
  }
}
