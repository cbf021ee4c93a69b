// attention: absorbed MLA over the paged cache, causal. Shapes, formulas and order of arithmetic:
// `mla.h`.
//
// attention_split: any number of workgroups, on gfx950 for each of heads / 16 rounded up (y); they
// stay and take splits one after another: see `arch/attention_split_*.h`. Graphs fix the grid, and
// a workgroup for each split that the longest rows might have took its LDS and its turn also where
// there was none: of 64 rows of 4096 keys all but 448 of 8192. A row's splits write their means to
// `partials` f16 `[rows][max_splits][heads][512]` and `sums` f32 `[..][2]` (reference, sum of
// weights); the only split of a short row writes `out`. attention_merge merges the means, with 128
// threads for each row and head: see `arch/attention_merge_*.h`.
// Must move 1152 (bf16) or 656 (E4M3) bytes a key, and with several splits their partials, written
// and then read: 32.3 KiB for 16 heads, on gfx950 as many as are a twentieth of the rest; on sm_90,
// with 320 keys, they are 9.0 % of what these have in bf16 and 15.7 % in E4M3, or as little as an
// eighth of that where workgroups have whole groups of splits.
// Longer splits make a lone sequence wait for more steps one after another: on an H100, 64
// sequences of 4096 keys took 11 % less time with 512 keys than with 256 (in f32), one took 58 %
// more.
// Matrix instructions: for each row and 32 keys 36 + 32 + 1.
#include "mla.h"

#if defined(__gfx950__)
#include "arch/attention_split_gfx950.h"
#include "arch/attention_merge_gfx950.h"
#else
#include "arch/attention_split_sm90.h"
#endif
