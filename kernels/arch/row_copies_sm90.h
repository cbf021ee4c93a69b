// Rows of BF16 on their way to LDS, where sm_90's matrix instructions find them: copied some slabs
// ahead, as they stand in memory, and put in order by the wave that has copied them. What is under
// way takes no registers.
#pragma once
#include "warpgroups.h"

/// Where, of an eight that has been copied, part `p` of group `g` of row `r` stands: neither copies
/// nor those who take them from there collide.
__device__ inline u32 copied_place(u32 r, u32 g, u32 p) {
  return r * 16 + 4 * g + (p ^ (g / 2 | r % 2 * 2));
}

/// Makes pieces of 32 values of an eight that the wave has copied.
__device__ inline void order_copied(OperandRows (&eight)[4]) {
  u32x4 parts[4];
  for (u32 p = 0; p < 4; ++p)
    parts[p] = ((const u32x4 *)eight)[copied_place(lane() / 4, chunk_group(), p)];
  sync_wave();
  for (u32 p = 0; p < 4; ++p) store_operand(eight[p], parts[p]);
}

/// Brings rows to a ring of slabs: of WAVES waves, this one being `own` of them, each EACH eights
/// at most. A place in the ring is a `Slabs`:
///   AHEAD     how many slabs a copy is ahead of its use
///   eights()  the slab's rows
///   used(), parity(), filled()  the words that are waited for, in which phase, and arrived on
template <u32 WAVES, u32 EACH, class Slabs> struct RowCopies {
  const u8 *x;
  const u32 k, slabs, own, eights;
  u32 rows[EACH][4];

  template <class Work>
  __device__ RowCopies(const u8 *x, u32 k, const Work &work, u32 own, u32 eights)
      : x(x), k(k), slabs((k + 127) / 128), own(own), eights(eights) {
    for (u32 e = 0; e < EACH; ++e)
      for (u32 i = 0; i < 4; ++i) rows[e][i] = work.row(8 * eight(e) + row(i));
  }

  __device__ u32 eight(u32 e) const { return own + WAVES * e; }
  /// Of which row of an eight the lane copies 16 bytes the `i`th time: a row's are neighbours.
  __device__ static u32 row(u32 i) { return 2 * i + lane() / 16; }

  __device__ void copy(u32 slab, Slabs place) const {
    wait_for_bytes(place.used(), place.parity() ^ 1);
    u32 group = lane() % 16 / 4, part = lane() % 4;
    u32 offset = Bf16Rows::offset(slab, group, part, k);
    for (u32 e = 0; e < EACH; ++e) {
      if (eight(e) >= eights) break;
      u32x4 *to = (u32x4 *)place.eights()[eight(e)];
      for (u32 i = 0; i < 4; ++i)
        copy_async(to + copied_place(row(i), group, part), x + (u64)rows[e][i] * k * 2 + offset);
    }
  }
  __device__ void order(Slabs place) const {
    sync_wave();
    for (u32 e = 0; e < EACH; ++e)
      if (eight(e) < eights) order_copied(place.eights()[eight(e)]);
    operands_written();
    sync_wave();
    if (elected()) arrive_at(place.filled());
  }

  __device__ void run(Slabs &place) const {
    Slabs ahead = place;
    for (u32 slab = 0; slab < slabs + Slabs::AHEAD; ++slab) {
      if (slab < slabs) {
        copy(slab, ahead);
        ++ahead.before;
      }
      copies_started();
      if (slab < Slabs::AHEAD) continue;
      copies_done<Slabs::AHEAD>();
      order(place);
      ++place.before;
    }
  }
};
