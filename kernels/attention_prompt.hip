// attention_prompt: expanded MLA, causal, for a chunk of a prompt. Row `r` of the chunk is at
// position `first + r` and sees keys `0 ..= first + r`: per head `s_j = scale * (q . key_j)`, where
// a key has 128 values of its head and 64 of rope that all heads share, and `out = sum_j
// softmax(s)_j value_j`.
//
// queries: bf16 `[rows, heads, 192]` (nope 128, rope 64). keys_values: bf16 `[len, heads, 256]`
// (nope 128, value 128) and ropes: bf16 `[len, 64]`, where `len = first + rows`. out: bf16 `[rows,
// heads, 128]`. `scale` is positive, and times log2(e).
//
// Order of arithmetic: keys are taken in tiles of 64 (gfx950) or 128 (sm_90) from key 0 on. A score
// is a chain of matrix instructions over the 192 values in ascending order. Weights are relative to
// a reference, the greatest score of the row's first tile, which is raised to a later tile's when
// that is more than 2^THRESHOLD times it; they are summed in f32 as they are, lane by lane, lanes
// at last, and rounded to bf16 for the weighted sum of values, a chain of matrix instructions in
// ascending keys. So what a row's result is made of depends on its position alone: keys beyond it
// have weight 0 where they are in a tile, a tile that has no others changes nothing, and what
// stands there is finite.
//
// A workgroup takes one head and blocks of 128 rows; those that see the most keys come first.
// Must move 2 (192 + 128) bytes for each row and head, 512 for each key and head and 128 a key.
// Operations: 2 (192 + 128) for each row, head and key that the row sees. Matrix instructions on
// gfx950: for 32 rows of a head and 32 keys 12 + 8.
#include "device.h"

constexpr u32 NOPE = 128, ROPE = 64, VALUE = 128, QUERY = NOPE + ROPE;
/// Rows of a block.
constexpr u32 BLOCK = 128;
/// The reference of weights is raised when a score's is 2^THRESHOLD times it.
constexpr float THRESHOLD = 8;

struct PromptArgs {
  const __bf16 *queries;
  const __bf16 *keys_values;
  const __bf16 *ropes;
  __bf16 *out;
  u32 rows;
  u32 first;
  u32 heads;
  float scale;
};

#if defined(__gfx950__)
#include "arch/attention_prompt_gfx950.h"
#else
#include "arch/attention_prompt_sm90.h"
#endif
