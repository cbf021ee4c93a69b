// all_reduce_norm: `residual += parts[0] + parts[1] + ..` over the ranks' partial sums, each in its
// rank's own memory and read from there, then rms_norm of `residual`: the bits of sum_ranks and
// add_rms_norm. For few rows: each rank reads all parts.
//
// parts: f32 `[rows, width]` of each rank. residual, weight, out, width: as in rms_norm.
// One workgroup for each row, which meets its twins on the other ranks twice: before it reads their
// parts (what stood before this launch in their streams is done), and before it ends (they have
// read its own part, which may be written again). All ranks launch the same with the same number of
// rows. Workgroups wait for one another across ranks, so all must be resident at once: `rows` is at
// most 256, one for each compute unit of gfx950, two for each of sm_90.
//
// flags: u32 `[256][8]` of each rank, zero at first: word `[row][peer]` is written by that peer
// alone, with the number of times that it has come to meet at this row. epochs: u32 `[256]`, this
// rank's own number, so that a recorded launch counts on when it is replayed. stop: a word in host
// memory; once it is not zero nobody waits any more, and results are void.
// Must move 4 (ranks + 2) + 2 bytes a value, of which 4 (ranks - 1) from other devices.
#include "rms_norm.h"

constexpr u32 MAX_RANKS = 8;

struct AllReduceNormArgs {
  const u32 *rows;
  const float *parts[MAX_RANKS];
  u32 *flags[MAX_RANKS];
  const u32 *own_flags;
  u32 *epochs;
  const u32 *stop;
  float *residual;
  const float *weight;
  __bf16 *out;
  u32 width;
  u32 rank;
  float eps;
};

/// Tells the twins of `row` that this workgroup has come for the `epoch`th time.
template <u32 RANKS>
__device__ inline void arrive(const AllReduceNormArgs &args, u32 row, u32 epoch) {
  if (thread() != 0) return;
  release();
  for (u32 r = 0; r < RANKS; ++r)
    if (r != args.rank) post(args.flags[r] + MAX_RANKS * row + args.rank, epoch);
}

/// Waits until all twins have come for the `epoch`th time.
template <u32 RANKS>
__device__ inline void await(const AllReduceNormArgs &args, u32 row, u32 epoch) {
  u32 peer = thread();
  if (peer < RANKS && peer != args.rank) {
    const u32 *flag = args.own_flags + MAX_RANKS * row + peer;
    // A twin may be one meeting ahead.
    for (u32 polls = 1; (int)(peek(flag) - epoch) < 0; ++polls) {
      if (polls % 256 == 0 && peek(args.stop) != 0) break;
      pause();
    }
    acquire();
  }
  sync();
}

/// `x += parts[0] + parts[1] + ..`, so many steps at once that their loads fit the registers.
template <u32 RANKS>
__device__ inline void add_parts(Part &x, const AllReduceNormArgs &args, u64 at) {
  constexpr u32 AT_ONCE = 16 / RANKS;
  const float *parts[RANKS];
  for (u32 r = 0; r < RANKS; ++r) parts[r] = args.parts[r] + at;
  for (u32 first = 0; first < STEPS; first += AT_ONCE) {
    f32x4 v[AT_ONCE][RANKS];
    for (u32 s = 0; s < AT_ONCE; ++s) {
      u32 i = column(first + s);
      for (u32 r = 0; r < RANKS; ++r)
        v[s][r] = i < args.width ? *(const f32x4 *)(parts[r] + i) : f32x4{0, 0, 0, 0};
    }
    for (u32 s = 0; s < AT_ONCE; ++s) {
      f32x4 sum = v[s][0];
      for (u32 r = 1; r < RANKS; ++r) sum += v[s][r];
      x.v[first + s] += sum;
    }
  }
}

template <u32 RANKS> __device__ inline void all_reduce_norm(const AllReduceNormArgs &args) {
  u32 row = block_x(), width = args.width;
  if (row >= *args.rows) return;
  u64 at = (u64)row * width;
  u32 epoch = args.epochs[row];
  arrive<RANKS>(args, row, epoch + 1);
  Part x = load_row(args.residual + at, width);
  await<RANKS>(args, row, epoch + 1);
  add_parts<RANKS>(x, args, at);
  float factor = norm_factor(x, width, args.eps); // behind it all threads have read their parts
  arrive<RANKS>(args, row, epoch + 2);
  store_row(args.residual + at, x, width);
  store_normalized(args.out + at, x, args.weight, factor, width);
  await<RANKS>(args, row, epoch + 2);
  if (thread() == 0) args.epochs[row] = epoch + 2;
}

RESIDENT_KERNEL void all_reduce_norm_2(AllReduceNormArgs args) { all_reduce_norm<2>(args); }
RESIDENT_KERNEL void all_reduce_norm_4(AllReduceNormArgs args) { all_reduce_norm<4>(args); }
RESIDENT_KERNEL void all_reduce_norm_8(AllReduceNormArgs args) { all_reduce_norm<8>(args); }
