// all_reduce_norm: `residual += parts[0] + parts[1] + ..` over the ranks' partial sums, each in its
// rank's own memory, then rms_norm of `residual`: the bits of sum_ranks and add_rms_norm. All ranks
// launch the same with the same number of rows. Two forms with the same bits:
//
// all_reduce_norm_pull: each rank reads all parts. One workgroup for each row, which meets its
// twins on the other ranks twice: before it reads their parts (what stood before this launch in
// their streams is done), and before it ends (they have read its own part, which may be written
// again). Workgroups wait for one another across ranks, so all must be resident at once: `rows` is
// at most 256, one for each compute unit of gfx950, two for each of sm_90.
// Must move 4 (ranks + 2) + 2 bytes a value, of which 4 (ranks - 1) from other devices.
//
// all_reduce_norm_push: each rank writes its part into the others' memory, for at most 16 rows: one
// way over the link instead of a flag's way and a read's way there and back. RANKS workgroups for
// each row: one for each peer that it writes to, and the last, which sums what comes.
// Must move 14 + 16 (ranks - 1) bytes a value, of which 8 (ranks - 1) to other devices.
//
// A value and the number of the row's launch, its epoch, go as one 64-bit word: who reads the epoch
// has the value. Nothing else is told thereby, so no fence is needed, and no second meeting: a part
// is read by its own rank alone. Slots alternate by the epoch's parity. Rank A writes a row's words
// of epoch e + 2 after its launch of e + 1 ended, for which it needed all words of e + 1 from B,
// which B wrote after its launch of e had ended: B has read what stood in A's place in the slot.
// Launches of the other form in between change nothing: they use neither slots nor these epochs.
// Epochs are compared for equality alone, so they may wrap around. The first is 1, as no word that
// is still zero may count; when 0 comes all words of the row have been written many times.
//
// parts: f32 `[rows, width]` of each rank. residual, weight, out, width: as in rms_norm.
// flags: u32 `[256][8]` of each rank, zero at first: word `[row][peer]` is written by that peer
// alone, with the number of times that it has come to meet at this row.
// slots: u64 `[2][16][ranks][8192]` of each rank, zero at first: words `[parity][row][peer]` are
// written by that peer alone, the epoch above the value's bits, in the order of `place`.
// epochs: u32 `[256]`, this rank's own number of meetings at each row; after it u32 `[16][8]`, the
// row's epoch for each of its workgroups of the second form (each its own, as one may end before
// another begins). They stand in memory so that a recorded launch counts on when it is replayed.
// stop: a word in host memory; once it is not zero nobody waits any more, and results are void.
#include "rms_norm.h"

constexpr u32 MAX_RANKS = 8;
constexpr u32 MAX_ROWS = 256;
constexpr u32 PUSH_ROWS = 16;
constexpr u32 MAX_WIDTH = 4 * 256 * STEPS;

struct AllReduceNormArgs {
  const u32 *rows;
  const float *parts[MAX_RANKS];
  u32 *flags[MAX_RANKS];
  u64 *slots[MAX_RANKS];
  const float *own_part;
  const u32 *own_flags;
  const u64 *own_slots;
  u32 *epochs;
  const u32 *stop;
  float *residual;
  const float *weight;
  __bf16 *out;
  u32 width;
  u32 rank;
  float eps;
};

/// Loads that stand before this are under way before what stands after it begins, also behind a
/// branch: compilers would rather load where the value is used.
__device__ inline void load_now() {
  asm volatile("" ::: "memory");
  loads_first();
}

/// Whether to wait no more, after so many polls; lets others run before the next one.
__device__ inline bool gives_up(const AllReduceNormArgs &args, u32 polls) {
  if (polls % 256 == 0 && peek(args.stop) != 0) return true;
  pause();
  return false;
}

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
    for (u32 polls = 1; (int)(peek(flag) - epoch) < 0; ++polls)
      if (gives_up(args, polls)) break;
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

template <u32 RANKS> __device__ inline void pull(const AllReduceNormArgs &args) {
  begin();
  u32 row = block_x(), width = args.width;
  u32 rows = *args.rows, epoch = args.epochs[row];
  load_now();
  if (row >= rows) return;
  u64 at = (u64)row * width;
  arrive<RANKS>(args, row, epoch + 1);
  Part x = load_row(args.residual + at, width);
  await<RANKS>(args, row, epoch + 1);
  add_parts<RANKS>(x, args, at);
  float factor = norm_factor(x, width, args.eps); // behind it all threads have read the parts
  arrive<RANKS>(args, row, epoch + 2);
  store_row(args.residual + at, x, width);
  store_normalized(args.out + at, x, args.weight, factor, width);
  await<RANKS>(args, row, epoch + 2);
  if (thread() == 0) args.epochs[row] = epoch + 2;
}

/// As `load_row`, but with the first values in place of those beyond the row's end: without a
/// branch no load waits for another.
__device__ inline Part load_all(const float *row, u32 width) {
  Part part;
  for (u32 s = 0; s < STEPS; ++s) {
    u32 i = column(s);
    part.v[s] = *(const f32x4 *)(row + (i < width ? i : 0));
  }
  return part;
}

/// Where value `j` of this thread's step `s` stands in a slot: neighbouring threads' words are
/// neighbours.
__device__ inline u32 place(u32 s, u32 j) { return 256 * (4 * s + j) + thread(); }

/// Where the words of `row` from `peer` stand in a rank's slots.
template <u32 RANKS> __device__ inline u32 slot(u32 epoch, u32 row, u32 peer) {
  return ((epoch % 2 * PUSH_ROWS + row) * RANKS + peer) * MAX_WIDTH;
}

/// (Clang 22 takes element 0 of a vector that is cast in place.)
__device__ inline u32 bits(float x) { return __builtin_bit_cast(u32, x); }

/// The values in words.
__device__ inline f32x4 values(const u64 *words) {
  f32x4 v;
  for (u32 j = 0; j < 4; ++j) v[j] = __builtin_bit_cast(float, (u32)words[j]);
  return v;
}

/// Writes this rank's part of a row to `peer`.
template <u32 RANKS>
__device__ inline void send(const AllReduceNormArgs &args, const Part &part, u32 row, u32 peer,
                            u32 epoch) {
  u64 *to = args.slots[0];
  for (u32 r = 1; r < RANKS; ++r)
    if (r == peer) to = args.slots[r];
  to += slot<RANKS>(epoch, row, args.rank);
  for (u32 s = 0; s < STEPS; ++s) {
    if (column(s) >= args.width) return;
    for (u32 j = 0; j < 4; ++j) post(to + place(s, j), (u64)epoch << 32 | bits(part.v[s][j]));
  }
}

/// `x += parts[0] + parts[1] + ..` with this rank's `own` part and the words that the peers write,
/// so many steps at once that their words fit the registers; 0 beyond the row's end.
template <u32 RANKS>
__device__ inline void add_words(Part &x, const Part &own, const AllReduceNormArgs &args, u32 row,
                                 u32 epoch) {
  constexpr u32 AT_ONCE = 16 / RANKS;
  const u64 *from = args.own_slots + slot<RANKS>(epoch, row, 0);
  const u32 peers = ((1 << RANKS) - 1) & ~(1 << args.rank);
#pragma unroll
  for (u32 first = 0; first < STEPS; first += AT_ONCE) {
    u64 words[AT_ONCE][RANKS][4];
    // Bit `RANKS * s + r`: words of step `first + s` from rank `r`, of any lane of the wave.
    u32 missing = 0;
    for (u32 s = 0; s < AT_ONCE; ++s) {
      if (ballot(column(first + s) < args.width)) missing |= peers << RANKS * s;
      for (u32 r = 0; r < RANKS; ++r)
        for (u32 j = 0; j < 4; ++j)
          words[s][r][j] = bits(own.v[first + s][j]); // that of `rank` remains
    }
    for (u32 polls = 1; missing != 0; ++polls) {
      // All loads of a round are under way at once.
      for (u32 s = 0; s < AT_ONCE; ++s)
        for (u32 r = 0; r < RANKS; ++r)
          if (missing >> (RANKS * s + r) & 1)
            for (u32 j = 0; j < 4; ++j)
              words[s][r][j] = peek(from + MAX_WIDTH * r + place(first + s, j));
      for (u32 s = 0; s < AT_ONCE; ++s)
        for (u32 r = 0; r < RANKS; ++r) {
          bool there = column(first + s) >= args.width, all = true;
          for (u32 j = 0; j < 4; ++j) all &= words[s][r][j] >> 32 == epoch;
          if (!ballot(!there && !all)) missing &= ~(1 << (RANKS * s + r));
        }
      if (missing != 0 && gives_up(args, polls)) break;
    }
    for (u32 s = 0; s < AT_ONCE; ++s) {
      f32x4 sum = values(words[s][0]);
      for (u32 r = 1; r < RANKS; ++r) sum += values(words[s][r]);
      bool inside = column(first + s) < args.width;
      x.v[first + s] = inside ? x.v[first + s] + sum : f32x4{0, 0, 0, 0};
    }
  }
}

template <u32 RANKS> __device__ inline void push(const AllReduceNormArgs &args) {
  begin();
  u32 row = block_x(), width = args.width;
  u32 peer = (args.rank + 1 + block_y()) % RANKS; // the last, to be started last, is this rank
  u64 at = (u64)row * width;
  u32 *own_epoch = args.epochs + MAX_ROWS + MAX_RANKS * row + peer;
  u32 rows = *args.rows, epoch = *own_epoch + 1;
  Part part = load_all(args.own_part + at, width);
  if (peer != args.rank) {
    load_now();
    if (row >= rows) return;
    send<RANKS>(args, part, row, peer, epoch);
    sync(); // all threads have read the epoch
  } else {
    Part x = load_all(args.residual + at, width), weight = load_all(args.weight, width);
    load_now();
    if (row >= rows) return;
    add_words<RANKS>(x, part, args, row, epoch);
    float factor = norm_factor(x, width, args.eps); // behind it all threads have read the row
    store_row(args.residual + at, x, width);
    store_normalized(args.out + at, x, weight, factor, width);
  }
  if (thread() == 0) *own_epoch = epoch;
}

RESIDENT_KERNEL void all_reduce_norm_pull_2(AllReduceNormArgs args) { pull<2>(args); }
RESIDENT_KERNEL void all_reduce_norm_pull_4(AllReduceNormArgs args) { pull<4>(args); }
RESIDENT_KERNEL void all_reduce_norm_pull_8(AllReduceNormArgs args) { pull<8>(args); }
KERNEL(256) void all_reduce_norm_push_2(AllReduceNormArgs args) { push<2>(args); }
KERNEL(256) void all_reduce_norm_push_4(AllReduceNormArgs args) { push<4>(args); }
KERNEL(256) void all_reduce_norm_push_8(AllReduceNormArgs args) { push<8>(args); }
