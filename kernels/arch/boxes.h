// Copies of boxes of tensors, which one instruction of sm_90 starts.
#pragma once
#include "wgmma.h"

/// `CUtensorMap`: how a tensor in memory is cut into boxes that one instruction copies.
struct alignas(64) TensorMap {
  u64 words[16];
};

/// Starts copying the box of `map` that begins at column `x` of row `y` to LDS; it arrives on
/// `word`.
__device__ inline void copy_box(u32 to, const TensorMap &map, u32 x, u32 y, u32 word) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
               "l"(&map), "r"(x), "r"(y), "r"(word)
               : "memory");
}

/// The same of the box that begins at (x, y, z).
__device__ inline void copy_box_3d(u32 to, const TensorMap &map, u32 x, u32 y, u32 z, u32 word) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
               "l"(&map), "r"(x), "r"(y), "r"(z), "r"(word)
               : "memory");
}

/// The same of the box that begins at (0, x, y, z).
__device__ inline void copy_box(u32 to, const TensorMap &map, u32 x, u32 y, u32 z, u32 word) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
               "l"(&map), "r"(0), "r"(x), "r"(y), "r"(z), "r"(word)
               : "memory");
}
