// The merge of splits' means for sm_90, in two steps: those of up to GROUP splits one after another
// are folded into their group's, which is rounded as theirs are, and groups' means are folded in the
// same way; of one group the result is not rounded before. A workgroup of `attention_split` that has
// all splits of a group folds them itself. Then but one mean is written, in the place of the first
// split, or the result; the second split's sum of weights is 0 and says so.
#pragma once

/// Splits of a group at most, and groups of a row.
constexpr u32 GROUP = 8, MAX_GROUPS = 8;

/// Groups of a row of so many splits: as few as can be.
__device__ inline u32 group_count(u32 splits) { return (splits + GROUP - 1) / GROUP; }

/// Splits of each of them, all but the last: as even as can be.
__device__ inline u32 group_length(u32 splits) {
  u32 groups = group_count(splits);
  return (splits + groups - 1) / groups;
}

/// Two values of a mean as they are merged with others, at most 65504.
__device__ inline HalfRun rounded(float x, float y) {
  u32 both;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
  return __builtin_bit_cast(HalfRun, both);
}

/// Joins the sum of weights of a split, or a group, to that of those before: `max` and `sum` become
/// both's. Returns the factor of what was summed before; `weight` becomes that of the mean.
__device__ inline float join(float &max, float &sum, float other_max, float other_sum,
                             float &weight) {
  float both = max > other_max ? max : other_max;
  float own = power_of_two(max - both);
  weight = other_sum * power_of_two(other_max - both);
  max = both;
  sum = __builtin_fmaf(sum, own, weight);
  return own;
}

/// What some means sum to, in four columns.
struct Merged {
  float max = -__builtin_inff(), sum = 0;
  f32x4 columns = {0, 0, 0, 0};

  /// Adds a group.
  __device__ void add(float other_max, float other_sum, f16x4 mean) {
    float weight, own = join(max, sum, other_max, other_sum, weight);
    for (u32 c = 0; c < 4; ++c)
      columns[c] = __builtin_fmaf(columns[c], own, (float)mean[c] * weight);
  }

  __device__ f16x4 mean() const {
    float inverse = 1.0f / sum;
    HalfRun low = rounded(columns[0] * inverse, columns[1] * inverse);
    HalfRun high = rounded(columns[2] * inverse, columns[3] * inverse);
    return f16x4{low[0], low[1], high[0], high[1]};
  }

  __device__ void write(bf16x4 *to) const {
    float factor = 1.0f / sum;
    bf16x4 y;
    for (u32 c = 0; c < 4; ++c) y[c] = (__bf16)__builtin_fmaf(columns[c], factor, 0.0f);
    *to = y;
  }
};

/// How the splits of a row are joined, for a wave: its lane `8 * i + m` has member `m` of groups
/// `i` and `4 + i`.
struct Joins {
  /// The group's greatest reference up to the member, the factor of what was folded before, and the
  /// weight of the mean.
  float max[2], factor[2], weight[2];
  u32 folded[2];

  /// By what splits have left in `sums`.
  __device__ Joins(const f32x2 (&sums)[2], u32 splits, u32 length) {
    u32 member = lane() % GROUP;
    for (u32 h = 0; h < 2; ++h) {
      u32 split = (MAX_GROUPS / 2 * h + lane() / GROUP) * length + member;
      bool exists = member < length && split < splits;
      folded[h] = ballot(exists && member == 1 && sums[h][1] == 0);
      exists = exists && (member == 0 || !(folded[h] >> lane() / GROUP * GROUP & 2));
      float top = exists ? sums[h][0] : -__builtin_inff();
      for (u32 d = 1; d < GROUP; d *= 2) {
        float other = shuffle(top, lane() - d);
        if (member >= d && other > top) top = other;
      }
      float before = shuffle(top, lane() - 1);
      if (member == 0) before = -__builtin_inff();
      max[h] = top;
      factor[h] = exists ? power_of_two(before - top) : 1;
      weight[h] = exists ? sums[h][1] * power_of_two(sums[h][0] - top) : 0;
    }
  }

  /// What the lane of a group's member has.
  template <typename T> __device__ static T of(const T (&x)[2], u32 group, u32 member) {
    u32 half = MAX_GROUPS / 2;
    return shuffle(group < half ? x[0] : x[1], group % half * GROUP + member);
  }

  __device__ bool is_folded(u32 group) const {
    u32 half = MAX_GROUPS / 2;
    return ((group < half ? folded[0] : folded[1]) >> group % half * GROUP & 2) != 0;
  }

  __device__ Merged fold(u32 group, const f16x4 (&means)[GROUP]) const {
    Merged x;
    x.max = of(max, group, GROUP - 1);
    for (u32 m = 0; m < GROUP; ++m) {
      float f = of(factor, group, m), w = of(weight, group, m);
      x.sum = __builtin_fmaf(x.sum, f, w);
      for (u32 c = 0; c < 4; ++c)
        x.columns[c] = __builtin_fmaf(x.columns[c], f, (float)means[m][c] * w);
    }
    return x;
  }
};

constexpr u32 MERGING_WAVES = 4;

/// Grid: (rows, heads, parts of the columns: 1, 2 or 4). A lane has four columns. Waves share the
/// part's quarters of the columns, and of fewer than four the groups. `FEW`: all means are on their
/// way at once, also those of splits that turn out to be folded; otherwise there is one part.
template <bool FEW> __device__ inline void merge_splits(const AttentionArgs &args) {
  begin();
  u32 row = block_x(), head = block_y();
  if (row >= *args.rows) return;
  u32 len = args.positions[row] + 1, length = split_length(args, len);
  if (length >= len) return;
  u32 splits = (len + length - 1) / length, groups = group_count(splits);
  u32 group = group_length(splits);
  u32 log_quarters = FEW ? 2 - blocks_z() / 2 : 2;
  u32 column = (WAVE << log_quarters) * (FEW ? block_z() : 0) +
               thread() % (WAVE << log_quarters); // of four
  u64 first_at = (u64)row * args.max_splits * args.heads + head;
  auto own_group = [&](u32 i) { return FEW ? (wave() + MERGING_WAVES * i) >> log_quarters : i; };
  f32x2 sums[2];
  for (u32 h = 0; h < 2; ++h) {
    u32 split = (MAX_GROUPS / 2 * h + lane() / GROUP) * group + lane() % GROUP;
    split = split < splits ? split : splits - 1;
    sums[h] = ((const f32x2 *)args.sums)[first_at + (u64)split * args.heads];
  }
  f16x4 means[MAX_GROUPS][GROUP];
  auto load = [&](u32 i, u32 m) {
    u32 split = own_group(i) * group + (m < group ? m : group - 1);
    split = split < splits ? split : splits - 1;
    u64 at = first_at + (u64)split * args.heads;
    means[i][m] = ((const f16x4 *)args.partials)[at * (LATENT / 4) + column];
  };
#pragma unroll
  for (u32 i = 0; i < MAX_GROUPS; ++i) {
    if (own_group(i) >= groups) continue;
    for (u32 m = 0; m < (FEW ? GROUP : 1); ++m) load(i, m);
    loads_first();
  }
  Joins joins(sums, splits, group);
  bf16x4 *out = (bf16x4 *)args.out + ((u64)row * args.heads + head) * (LATENT / 4) + column;
  __shared__ f16x4 group_means[MAX_GROUPS][LATENT / 4];
  __shared__ f32x2 group_sums[MAX_GROUPS];
  Merged all;
#pragma unroll
  for (u32 i = 0; i < MAX_GROUPS; ++i) {
    u32 g = own_group(i);
    if (g >= groups) continue;
    bool folded = joins.is_folded(g);
    if (folded && groups == 1) continue;
    if (!FEW && !folded) {
      for (u32 m = 1; m < GROUP; ++m) load(i, m);
      loads_first();
    }
    Merged x;
    f16x4 mean = means[i][0];
    if (folded) {
      x.max = Joins::of(joins.max, g, 0);
      x.sum = Joins::of(joins.weight, g, 0);
    } else {
      x = joins.fold(g, means[i]);
      if (groups == 1) x.write(out);
      mean = x.mean();
    }
    if constexpr (FEW) {
      group_means[g][column % (WAVE << log_quarters)] = mean;
      group_sums[g] = f32x2{x.max, x.sum};
    } else {
      all.add(x.max, x.sum, mean);
    }
  }
  if (groups == 1) return;
  if constexpr (FEW) {
    sync();
    if (thread() >= WAVE << log_quarters) return;
    for (u32 g = 0; g < groups; ++g)
      all.add(group_sums[g][0], group_sums[g][1], group_means[g][thread()]);
  }
  all.write(out);
}

/// Of so many threads that this many workgroups fit a processor.
#define MERGE_KERNEL(workgroups) \
  extern "C" __global__ __attribute__((launch_bounds(MERGING_WAVES * WAVE, workgroups)))
MERGE_KERNEL(8) void attention_merge(AttentionArgs args) { merge_splits<false>(args); }
MERGE_KERNEL(3) void attention_merge_few(AttentionArgs args) { merge_splits<true>(args); }
