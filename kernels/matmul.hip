// matmul: `out = x w^T`, BF16 operands, sums in f32; for each of a batch of matrices (the heads).
//
// x: bf16 `[rows, x_stride]`, of which batch `b` multiplies the `k` columns from `b * x_batch` on.
// weights: `[batch][tiles][slabs]` blocks of 1024 bytes (see `device.h`): `n` rows padded to
// `16 * tiles`, `k = 32 * slabs`. out: `[rows, out_stride]`, batch `b`'s `n` columns from
// `b * out_batch` on; f32, or in the `_bf16` kernels bf16 rounded to nearest even.
// `x_stride`, `x_batch` are multiples of 8.
//
// Order of additions, in every form: k is cut into segments of `segment` slabs; each is one chain
// of matrix instructions in ascending k from zero; the segments' sums are added in ascending order.
// `segment` depends on the matrix alone, so a row's bits do not depend on form or batch.
//
// With several segments over workgroups, their sums go to `partials`, f32 `[batch][row_blocks]
// [segments][rows of a workgroup][16 * tiles]`, and the last workgroup to arrive at its `counters`
// (`[batch][row_blocks][grid x]`, zero before the launch and after it) adds them up.
//
// matmul_16, up to 16 rows: bound by the weights' 2 n k bytes, each read once, from memory into
// operand registers. A wave multiplies a tile of weights in one segment. Grid: (tiles / WAVES
// rounded up, segments, batch).
// matmul_64, matmul_rows: bound by matrix instructions as rows become many. A workgroup computes 64
// x 64 or 128 x 128 results; both operands go to LDS by direct copies in operand order, several
// stages deep. Grid: (tiles / 4 rounded up, rows / 64 rounded up * segments, batch), and (tiles / 8
// rounded up, rows / 128 rounded up, batch).
// Matrix instructions: ceil(rows / 16) * tiles * slabs * batch.
#include "device.h"

constexpr u32 WAVES = 256 / WAVE;

struct MatmulArgs {
  const u32 *rows;
  const __bf16 *x;
  const u32x4 *weights;
  void *out;
  float *partials;
  u32 *counters;
  u32 x_stride;
  u32 x_batch;
  u32 out_stride;
  u32 out_batch;
  u32 n;
  u32 slabs;
  u32 segment;
  u32 row_blocks;
};

/// What a workgroup computes: up to `height` rows from `first_row` on, `width` columns from
/// `first_column` on, in slabs `begin..end`, which is segment `part` of `parts`, or all.
struct Area {
  u32 rows;
  u32 first_row;
  u32 height;
  u32 first_column;
  u32 width;
  u32 part;
  u32 parts;
  u32 begin;
  u32 end;

  /// Workgroup `block` of those for the same columns.
  __device__ Area(const MatmulArgs &args, u32 height, u32 width, bool split, u32 block)
      : rows(*args.rows), height(height), first_column(block_x() * width), width(width) {
    parts = split ? (args.slabs + args.segment - 1) / args.segment : 1;
    first_row = block / parts * height;
    part = block % parts;
    begin = part * args.segment;
    end = parts > 1 && begin + args.segment < args.slabs ? begin + args.segment : args.slabs;
  }

  __device__ const u32x4 *weights(const MatmulArgs &args, u32 tile) const {
    u32 tiles = (args.n + 15) / 16;
    tile = tile < tiles ? tile : tiles - 1;
    return args.weights + (((u64)block_z() * tiles + tile) * args.slabs + begin) * 64;
  }

  /// Row `row`'s values from the area's first slab on; the last row again for those beyond it.
  __device__ const __bf16 *x(const MatmulArgs &args, u32 row) const {
    row = row < rows ? row : rows - 1;
    return args.x + (u64)row * args.x_stride + (u64)block_z() * args.x_batch + (u64)begin * 32;
  }

  /// Adds up all parts.
  template <typename Out>
  __device__ void add_parts(const MatmulArgs &args, const float *partials, u32 stride) const {
    Out *out = (Out *)args.out + (u64)block_z() * args.out_batch;
    u32 count = rows - first_row < height ? rows - first_row : height;
    for (u32 i = thread(); i < count * width; i += 256) {
      u32 row = i / width, column = first_column + i % width;
      if (column >= args.n) continue;
      const float *from = partials + (u64)row * stride + column;
      float sum = *from;
      for (u32 p = 1; p < parts; ++p) sum += from[(u64)p * height * stride];
      out[(u64)(first_row + row) * args.out_stride + column] = (Out)sum;
    }
  }

  /// Writes the waves' results, tiles from `row` and `column` on, to `out`, or as the area's part;
  /// then the last workgroup adds up all parts.
  template <typename Out, u32 M, u32 N>
  __device__ void store(const MatmulArgs &args, const Acc (&acc)[M][N], u32 row, u32 column) const {
    Out *out = (Out *)args.out + (u64)block_z() * args.out_batch;
    u32 stride = (args.n + 15) / 16 * 16;
    u64 block = (u64)block_z() * args.row_blocks + first_row / height;
    float *partials = args.partials + block * parts * height * stride;
    float *own = partials + (u64)part * height * stride;
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n)
        for (u32 i = 0; i < ACCUMULATORS; ++i) {
          u32 r = row + 16 * m + acc_row(i), c = column + 16 * n + acc_col(i);
          if (r >= rows || c >= args.n) continue;
          if (parts == 1)
            out[(u64)r * args.out_stride + c] = (Out)acc[m][n].v[i];
          else
            own[(u64)(r - first_row) * stride + c] = acc[m][n].v[i];
        }
    if (parts == 1) return;
    u32 groups = (stride + width - 1) / width;
    if (last_to_arrive(args.counters + block * groups + block_x(), parts))
      add_parts<Out>(args, partials, stride);
  }
};

/// `acc += x w^T` over `STEPS` slabs from `slab` on, of a tile of rows and a tile of weights.
template <u32 STEPS>
__device__ inline void add_slabs(Acc &acc, const __bf16 *const *x, const u32x4 *weights, u32 slab) {
  bf16x8 a[STEPS][CHUNKS], b[STEPS][CHUNKS];
  for (u32 s = 0; s < STEPS; ++s)
    for (u32 c = 0; c < CHUNKS; ++c) {
      b[s][c] =
          __builtin_bit_cast(bf16x8, load_once(weights + (u64)(slab + s) * 64 + slot(c)));
      a[s][c] = *(const bf16x8 *)(x[c] + (u64)(slab + s) * 32);
    }
  loads_first();
  for (u32 s = 0; s < STEPS; ++s) mma_bf16(acc, a[s], b[s]);
}

template <typename Out> __device__ inline void few_rows(const MatmulArgs &args) {
  constexpr u32 UNROLL = 8;
  Area area(args, 16, 16 * WAVES, true, block_y());
  if (area.rows == 0) return;
  Acc acc[1][1] = {};
  u32 tile = block_x() * WAVES + wave();
  if (16 * tile < args.n) {
    const u32x4 *weights = area.weights(args, tile);
    const __bf16 *x[CHUNKS];
    for (u32 c = 0; c < CHUNKS; ++c) x[c] = area.x(args, chunk_row(c)) + 8 * chunk_group();
    u32 k = 0, count = area.end - area.begin;
    for (; k + UNROLL <= count; k += UNROLL) add_slabs<UNROLL>(acc[0][0], x, weights, k);
    for (; k < count; ++k) add_slabs<1>(acc[0][0], x, weights, k);
  }
  area.store<Out>(args, acc, 0, 16 * tile);
}

/// A slab of k in LDS: T tiles of each operand.
template <u32 T> struct Stage {
  u32x4 x[T][64];
  u32x4 weights[T][64];
};

/// A wave's share of the copies into stages: half of the waves copy x, the others weights, each
/// chunks that follow one another in a stage.
template <u32 T> struct Copies {
  static constexpr u32 COUNT = sizeof(Stage<T>) / 16 / 256;
  const u8 *from[COUNT];
  u32 step;

  __device__ Copies(const MatmulArgs &args, const Area &area) {
    bool weights = wave() >= WAVES / 2;
    step = weights ? 1024 : 64;
    for (u32 i = 0; i < COUNT; ++i) {
      u32 chunk = (wave() % (WAVES / 2) * COUNT + i) * WAVE + lane(), tile = chunk / 64;
      u32 row = lds_row(chunk % 64), group = lds_group(chunk % 64);
      if (weights)
        from[i] =
            (const u8 *)(area.weights(args, area.first_column / 16 + tile) + 16 * group + row);
      else
        from[i] = (const u8 *)(area.x(args, area.first_row + tile * 16 + row) + group * 8);
    }
  }

  /// Starts the next slab's copies.
  __device__ void start(Stage<T> &stage) {
    u8 *to = (u8 *)&stage + (u64)wave() * COUNT * WAVE * 16;
    for (u32 i = 0; i < COUNT; ++i) {
      copy_to_lds(to + i * WAVE * 16, from[i]);
      from[i] += step;
    }
  }
};

template <u32 T, u32 M, u32 N>
__device__ inline void add_stage(Acc (&acc)[M][N], const Stage<T> &stage, u32 x, u32 weights) {
  bf16x8 a[M][CHUNKS], b[N][CHUNKS];
  for (u32 c = 0; c < CHUNKS; ++c) {
    u32 chunk = WAVE * c + lane();
    for (u32 m = 0; m < M; ++m) a[m][c] = __builtin_bit_cast(bf16x8, stage.x[x + m][chunk]);
    for (u32 n = 0; n < N; ++n)
      b[n][c] = __builtin_bit_cast(bf16x8, stage.weights[weights + n][chunk]);
  }
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n) mma_bf16(acc[m][n], a[m], b[n]);
}

/// T x T tiles for a workgroup, whose waves stand in two rows, each with M x N tiles.
template <u32 T, u32 STAGES, bool SPLIT, typename Out>
__device__ inline void many_rows(const MatmulArgs &args) {
  constexpr u32 M = T / 2, N = T / (WAVES / 2), COPIES = Copies<T>::COUNT;
  __shared__ Stage<T> stages[STAGES];
  Area area(args, 16 * T, 16 * T, SPLIT, block_y());
  if (area.first_row >= area.rows) return;
  u32 x = wave() / (WAVES / 2) * M, weights = wave() % (WAVES / 2) * N;
  u32 row = area.first_row + 16 * x, column = area.first_column + 16 * weights;
  bool busy = row < area.rows && column < args.n;
  u32 count = area.end - area.begin;
  Copies<T> copies(args, area);
  for (u32 s = 0; s < STAGES - 1; ++s)
    if (s < count) copies.start(stages[s]);
  Acc acc[M][N] = {}, sum[M][N];
  for (u32 m = 0; m < M; ++m)
    for (u32 n = 0; n < N; ++n)
      for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] = -0.0f; // -0 + x is x for every x
  u32 stage = 0, end = args.segment < count ? args.segment : count;
  for (u32 k = 0; k < count; ++k) {
    if (k + STAGES - 1 <= count)
      sync_copies<(STAGES - 2) * COPIES>();
    else
      sync_copies<0>();
    if (k + STAGES - 1 < count) copies.start(stages[stage == 0 ? STAGES - 1 : stage - 1]);
    if (busy) add_stage(acc, stages[stage], x, weights);
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    if (k + 1 < end) continue;
    end = end + args.segment < count ? end + args.segment : count;
    for (u32 m = 0; m < M; ++m)
      for (u32 n = 0; n < N; ++n) {
        for (u32 i = 0; i < ACCUMULATORS; ++i) sum[m][n].v[i] += acc[m][n].v[i];
        acc[m][n] = Acc{};
      }
  }
  area.store<Out>(args, sum, row, column);
}

KERNEL(256) void matmul_16(MatmulArgs args) { few_rows<float>(args); }
KERNEL(256) void matmul_16_bf16(MatmulArgs args) { few_rows<__bf16>(args); }
KERNEL(256) void matmul_64(MatmulArgs args) { many_rows<4, 5, true, float>(args); }
KERNEL(256) void matmul_64_bf16(MatmulArgs args) { many_rows<4, 5, true, __bf16>(args); }
KERNEL(256) void matmul_rows(MatmulArgs args) { many_rows<8, 3, false, float>(args); }
KERNEL(256) void matmul_rows_bf16(MatmulArgs args) { many_rows<8, 3, false, __bf16>(args); }
