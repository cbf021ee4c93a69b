// gather_entries: cache entries of sequences, one after another and one sequence's after another's:
// what the expanded form of attention is made of (`attention_prompt.hip`).
//
// Entry `j` of the `len` of a sequence is in slot `table[j / block_size] * block_size + j %
// block_size` of `cache`, where `table` is `tables` from the sequence's start on, in the form that
// `rope_and_cache.hip` writes: bf16 `[576]`, or in the `_fp8` kernel E4M3 `[512]`, E8M0 `[16]` and
// bf16 `[64]`. latents: bf16 `[all len, 512]`; an E4M3 value times its scale is exact in it. ropes:
// bf16 `[all len, 64]`.
// Grid: (sum of all len / 32, each rounded up): a workgroup moves 32 entries of one sequence, a
// thread 16 bytes of nine results.
// Must move 2304 (bf16) or 1808 (E4M3) bytes an entry, 4 a block and 16 a sequence.
#include "device.h"

constexpr u32 LATENT = 512, ROPE = 64;
/// Pieces of 16 bytes of a result's latent, and of all of it.
constexpr u32 LATENT_PIECES = LATENT / 8, PIECES = LATENT_PIECES + ROPE / 8;
constexpr u32 THREADS = 256, ENTRIES = 32, EACH = ENTRIES * PIECES / THREADS;
static_assert(EACH * THREADS == ENTRIES * PIECES);

/// A sequence: the first of its workgroups, where its entries begin in the results, how many they
/// are, and where its blocks begin in `tables`.
struct alignas(16) Sequence {
  u32 begin, start, len, table;
};

struct GatherArgs {
  const Sequence *sequences;
  const u32 *tables;
  const u8 *cache;
  bf16x8 *latents;
  bf16x8 *ropes;
  u32 count;
  u32 block_size;
};

struct Bf16Entry {
  static constexpr u32 BYTES = 2 * (LATENT + ROPE);
  /// Of a piece, as it is loaded.
  struct Piece {
    bf16x8 values;
  };
  __device__ static Piece load(const u8 *entry, u32 piece) {
    return {((const bf16x8 *)entry)[piece]};
  }
  __device__ static bf16x8 values(Piece x, u32) { return x.values; }
};

struct Fp8Entry {
  static constexpr u32 ROPE_AT = LATENT + LATENT / 32, BYTES = ROPE_AT + 2 * ROPE;
  /// Of a latent's the first half counts, and more is loaded to have one load for all lanes.
  struct Piece {
    u32x4 words;
    u32 scale;
  };
  typedef u32x4 __attribute__((aligned(8))) Words;
  __device__ static Piece load(const u8 *entry, u32 piece) {
    bool latent = piece < LATENT_PIECES;
    u32 at = latent ? 8 * piece : ROPE_AT + 16 * (piece - LATENT_PIECES);
    return {*(const Words *)(entry + at), entry[LATENT + (latent ? piece / 4 : 0)]};
  }
  __device__ static bf16x8 values(Piece x, u32 piece) {
    if (piece >= LATENT_PIECES) return __builtin_bit_cast(bf16x8, x.words);
    return dequantize_fp8(u32x2{x.words[0], x.words[1]}, x.scale);
  }
};

/// The last one that begins at the workgroup or before it: those without entries begin where the
/// next one does.
__device__ inline Sequence own_sequence(const GatherArgs &args) {
  u32 begun = 0;
  for (u32 i = 0; i < args.count; i += WAVE) {
    u32 at = i + lane();
    begun += __builtin_popcountg(ballot(at < args.count && args.sequences[at].begin <= block_x()));
  }
  return args.sequences[begun - 1];
}

template <class Entry> __device__ inline void gather(const GatherArgs &args) {
  begin();
  Sequence own = own_sequence(args);
  const u32 *table = args.tables + own.table;
  typename Entry::Piece pieces[EACH];
  u32 first = (block_x() - own.begin) * ENTRIES;
  for (u32 i = 0; i < EACH; ++i) {
    u32 at = thread() + i * THREADS, entry = first + at / PIECES;
    entry = entry < own.len ? entry : own.len - 1;
    u32 block = entry / args.block_size, place = entry - block * args.block_size;
    u64 slot = (u64)table[block] * args.block_size + place;
    pieces[i] = Entry::load(args.cache + slot * Entry::BYTES, at % PIECES);
  }
  loads_first();
  for (u32 i = 0; i < EACH; ++i) {
    u32 at = thread() + i * THREADS, entry = first + at / PIECES, piece = at % PIECES;
    if (entry >= own.len) continue;
    bf16x8 values = Entry::values(pieces[i], piece);
    u64 to = own.start + entry;
    if (piece < LATENT_PIECES)
      args.latents[to * LATENT_PIECES + piece] = values;
    else
      args.ropes[to * (ROPE / 8) + piece - LATENT_PIECES] = values;
  }
}

KERNEL(THREADS) void gather_entries(GatherArgs args) { gather<Bf16Entry>(args); }
KERNEL(THREADS) void gather_entries_fp8(GatherArgs args) { gather<Fp8Entry>(args); }
