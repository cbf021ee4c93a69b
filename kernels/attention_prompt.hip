// attention_prompt: expanded MLA, causal, for chunks of prompts. The row at position `p` of its
// sequence sees keys `0 ..= p` of that: per head `s_j = scale * (q . key_j)`, where a key has 128
// values of its head and 64 of rope that all heads share, and `out = sum_j softmax(s)_j value_j`.
//
// queries: bf16 `[rows, heads, 192]` (nope 128, rope 64). keys_values: bf16 `[keys, heads, 256]`
// (nope 128, value 128) and ropes: bf16 `[keys, 64]`, one sequence's after another's, each up to
// the position of its chunk's last row. out: bf16 `[rows, heads, 128]`. Chunks are cut into blocks
// of up to 128 rows. `scale` is positive, and times log2(e).
//
// Order of arithmetic: keys are taken in tiles of 64 (gfx950) or 128 (sm_90) from key 0 on. A score
// is a chain of matrix instructions over the 192 values in ascending order. Weights are relative to
// a reference, the greatest score of the row's first tile, which is raised to a later tile's when
// that is more than 2^THRESHOLD times it; they are summed in f32 as they are, lane by lane, lanes
// at last, and rounded to bf16 for the weighted sum of values, a chain of matrix instructions in
// ascending keys. So what a row's result is made of depends on its position alone: keys beyond it
// have weight 0 where they are in a tile, and a tile that has no others changes nothing. Keys of
// its block are finite; others, of another sequence it may be, or of nobody, are not used.
//
// A workgroup takes one head and blocks, which are listed in the order to take them in.
// Must move 2 (192 + 128) bytes for each row and head, 512 for each key and head, 128 a key and 16
// a block.
// Operations: 2 (192 + 128) for each row, head and key that the row sees. Matrix instructions on
// gfx950: for 32 rows of a head and 32 keys 12 + 8.
#include "device.h"

constexpr u32 NOPE = 128, ROPE = 64, VALUE = 128, QUERY = NOPE + ROPE;
/// Rows of a block at most.
constexpr u32 BLOCK = 128;
/// The reference of weights is raised when a score's is 2^THRESHOLD times it.
constexpr float THRESHOLD = 8;

/// Rows of one sequence at neighbouring positions: the first one's number and position, and where
/// the sequence's keys begin.
struct alignas(16) Block {
  u32 row, rows, first, key;
};

struct PromptArgs {
  const __bf16 *queries;
  const __bf16 *keys_values;
  const __bf16 *ropes;
  __bf16 *out;
  const Block *blocks;
  u32 count;
  u32 heads;
  float scale;
};

#if defined(__gfx950__)
#include "arch/attention_prompt_gfx950.h"
#else
#include "arch/attention_prompt_sm90.h"
#endif
