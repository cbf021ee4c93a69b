// The merge of splits' means for sm_90, in two steps: those of up to GROUP splits one after another
// are folded into their group's, which is rounded as theirs are, and groups' means are folded in
// the same way; of one group the result is not rounded before. A workgroup of `attention_split`
// that has all splits of a group folds them itself. Then but one mean is written, in the place of
// the first split, or the result; the second split's sum of weights is 0 and says so.
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

/// How the splits of a row are joined: member `m` of group `g` at `GROUP * g + m`.
struct Joins {
  /// The factor of what was folded of the group before, and the weight of the mean.
  f32x2 splits[MAX_GROUPS * GROUP];
  /// Each group's greatest reference.
  float maxima[MAX_GROUPS];

  /// Finds them by what splits have left in `sums`, of which lane `l` has places `l` and
  /// `WAVE + l`. Returns at bit `GROUP * g + 1` whether group `g` is folded.
  __device__ u64 find(const f32x2 (&sums)[2], u32 count, u32 length) {
    u32 member = lane() % GROUP;
    u64 folded = 0;
    for (u32 h = 0; h < 2; ++h) {
      u32 place = WAVE * h + lane(), split = place / GROUP * length + member;
      bool exists = member < length && split < count;
      u64 own = ballot(exists && member == 1 && sums[h][1] == 0);
      folded |= own << WAVE * h;
      exists = exists && (member == 0 || !(own >> lane() / GROUP * GROUP & 2));
      float max = exists ? sums[h][0] : -__builtin_inff();
      for (u32 d = 1; d < GROUP; d *= 2) {
        float other = shuffle(max, lane() - d);
        if (member >= d && other > max) max = other;
      }
      float before = shuffle(max, lane() - 1);
      if (member == 0) before = -__builtin_inff();
      float factor = power_of_two(before - max), reach = power_of_two(sums[h][0] - max);
      splits[place] = exists ? f32x2{factor, sums[h][1] * reach} : f32x2{1, 0};
      if (member == GROUP - 1) maxima[place / GROUP] = max;
    }
    sync_wave();
    return folded;
  }

  __device__ Merged fold(u32 group, const f16x4 (&means)[GROUP]) const {
    Merged x;
    x.max = maxima[group];
    for (u32 m = 0; m < GROUP; ++m) {
      f32x2 f = splits[GROUP * group + m];
      x.sum = __builtin_fmaf(x.sum, f[0], f[1]);
      for (u32 c = 0; c < 4; ++c)
        x.columns[c] = __builtin_fmaf(x.columns[c], f[0], (float)means[m][c] * f[1]);
    }
    return x;
  }
};

constexpr u32 MERGING_WAVES = 4;

/// Grid: (rows, heads, parts of the columns: 1, 2 or 4). A lane has four columns. Waves share the
/// part's quarters of the columns, and of fewer than four the groups. `FEW`: all means are on their
/// way at once, also of splits that turn out to be folded. Otherwise there is one part, and of more
/// than the first two groups, or where workgroups probably had whole ones, they are loaded when it
/// is known that they are there.
template <bool FEW> __device__ inline void merge_splits(const AttentionArgs &args) {
  begin();
  u32 row = block_x(), head = block_y();
  u32 rows = *args.rows, len = args.positions[row] + 1; // at once
  loads_first();
  if (row >= rows) return;
  u32 length = split_length(args, len);
  if (length >= len) return;
  u32 splits = (len + length - 1) / length, groups = group_count(splits);
  u32 group = group_length(splits);
  u32 log_quarters = FEW ? 2 - blocks_z() / 2 : 2;
  u32 column = (WAVE << log_quarters) * (FEW ? block_z() : 0) +
               thread() % (WAVE << log_quarters); // of four
  u64 first_at = (u64)row * args.max_splits * args.heads + head;
  bool at_once = rows * ((args.heads + 15) / 16) * splits < group * args.workgroups;
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
    if (own_group(i) >= groups) break;
    load(i, 0);
    if (FEW || (i < 2 && at_once))
      for (u32 m = 1; m < GROUP; ++m) load(i, m);
    loads_first();
  }
  __shared__ Joins joins_of[MERGING_WAVES];
  Joins &joins = joins_of[wave()];
  u64 folded = joins.find(sums, splits, group);
  auto is_folded = [&](u32 g) { return (folded >> (GROUP * g + 1) & 1) != 0; };
  bf16x4 *out = (bf16x4 *)args.out + ((u64)row * args.heads + head) * (LATENT / 4) + column;
  __shared__ f16x4 group_means[MAX_GROUPS][LATENT / 4];
  __shared__ f32x2 group_sums[MAX_GROUPS];
  auto load_rest = [&](u32 i) {
    if (FEW || (i < 2 && at_once)) return;
    for (u32 m = 1; m < GROUP; ++m) load(i, m);
    loads_first();
  };
  if (groups == 1) {
    if (own_group(0) > 0 || is_folded(0)) return;
    load_rest(0);
    return joins.fold(0, means[0]).write(out);
  }
  Merged all;
#pragma unroll
  for (u32 i = 0; i < MAX_GROUPS; ++i) {
    u32 g = own_group(i);
    if (g >= groups) break;
    Merged x;
    f16x4 mean = means[i][0];
    if (is_folded(g)) {
      x.max = joins.maxima[g];
      x.sum = joins.splits[GROUP * g][1];
    } else {
      load_rest(i);
      x = joins.fold(g, means[i]);
      mean = x.mean();
    }
    if constexpr (FEW) {
      group_means[g][column % (WAVE << log_quarters)] = mean;
      group_sums[g] = f32x2{x.max, x.sum};
    } else {
      all.add(x.max, x.sum, mean);
    }
  }
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
