//! Attention over the paged cache against f64.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use device::Gpu;
use hip::Platform;
use hip::kernels::Rows;
use hip::kernels::attention::{
    Buffers, LATENT, MAX_ROWS, Places, ROPE, Workspace, attention, splits,
};
use model::CacheFormat;
use mx::bf16::to_f32;
use random::Random;

const ENTRY: usize = LATENT + ROPE;
const SCALE: f32 = 0.1447;

/// Most keys that are one split.
fn one_split(format: CacheFormat) -> usize {
    match (device::platform(), format) {
        (Platform::Cuda, _) => 320,
        (Platform::Hip, CacheFormat::Fp8) => 1972,
        (Platform::Hip, _) => 1124,
    }
}

/// How often the means are rounded to f16 of a row that sees `len` keys.
fn roundings(format: CacheFormat, len: usize) -> i32 {
    let groups = device::platform() == Platform::Cuda && len > 8 * one_split(format);
    i32::from(len > one_split(format)) + i32::from(groups)
}

/// Rows of several sequences over one cache with shuffled blocks.
struct Case {
    heads: usize,
    block_size: usize,
    /// Position of each row, and where its sequence's blocks begin in `tables`.
    positions: Vec<u32>,
    starts: Vec<u32>,
    tables: Vec<u32>,
    queries: Vec<u16>,
    cache: Vec<u16>,
}

impl Case {
    /// A sequence for each of `sequences`, with rows at these positions. Entries beyond a
    /// sequence's last row are never written.
    fn new(
        random: &mut Random,
        heads: usize,
        block_size: usize,
        sequences: &[&[u32]],
        size: f32,
    ) -> Case {
        let blocks =
            |rows: &&[u32]| (*rows.iter().max().unwrap() as usize + 1).div_ceil(block_size);
        let total: usize = sequences.iter().map(blocks).sum();
        let order = random.permutation(total);
        let tables: Vec<u32> = order.into_iter().map(|block| block as u32).collect();
        let (mut positions, mut starts, mut start) = (Vec::new(), Vec::new(), 0);
        for rows in sequences {
            positions.extend_from_slice(rows);
            starts.extend(rows.iter().map(|_| start as u32));
            start += blocks(rows);
        }
        let queries = random.bf16s(positions.len() * heads * ENTRY, size);
        let cache = random.bf16s(total * block_size * ENTRY, 1.0);
        Case { heads, block_size, positions, starts, tables, queries, cache }
    }

    /// bf16 `[rows, heads, LATENT]` by the kernels, launched for up to `bound` rows.
    fn run(&self, gpu: &Gpu, bound: usize) -> Vec<u16> {
        let entries: Vec<u8> = self.cache.iter().flat_map(|code| code.to_ne_bytes()).collect();
        self.run_on(gpu, bound, CacheFormat::Bf16, &entries)
    }

    /// The same with these entries in the cache.
    fn run_on(&self, gpu: &Gpu, bound: usize, format: CacheFormat, entries: &[u8]) -> Vec<u16> {
        let rows = self.positions.len();
        let max_len = self.positions.iter().max().map_or(1, |&last| last as usize + 1);
        let workspace = Workspace::new(&gpu.device, self.heads, max_len, bound).unwrap();
        let positions = gpu.upload_into(&self.positions, bound);
        let starts = gpu.upload_into(&self.starts, bound);
        let tables = gpu.upload(&self.tables);
        let queries = gpu.upload_into(&self.queries, bound * self.heads * ENTRY);
        // The layer's part begins somewhere.
        let mut cache = vec![0; 128];
        cache.extend_from_slice(entries);
        let cache = gpu.upload(&cache);
        let out = gpu.poisoned(bound * self.heads * LATENT / 2);
        let (queries, cache) = (&queries, &cache);
        let buffers = Buffers { queries, cache, format, cache_offset: 128, out: &out };
        let (stream, kernels) = (&gpu.stream, &gpu.kernels);
        let (heads, block) = (self.heads, self.block_size);
        let mut sent = Vec::new(); // to outlive the launches
        for first_row in (0..bound.max(1)).step_by(MAX_ROWS) {
            let own = &self.positions[first_row.min(rows)..rows.min(first_row + MAX_ROWS)];
            let list = splits(own, format, device::platform());
            let counts = gpu.upload(&[own.len() as u32, list.len() as u32]);
            let list = gpu.upload(&list);
            let places = Places {
                first_row,
                positions: positions.ptr() + 4 * first_row as u64,
                table_starts: starts.ptr() + 4 * first_row as u64,
                tables: tables.ptr(),
                split_count: counts.ptr() + 4,
                splits: list.ptr(),
            };
            let rows = Rows { count: counts.ptr(), bound: (bound - first_row).min(MAX_ROWS) };
            attention(stream, kernels, &workspace, rows, places, buffers, heads, block, SCALE)
                .unwrap();
            sent.push((counts, list));
        }
        let mut values: Vec<u16> = gpu.download(&out);
        let own = rows * heads * LATENT;
        assert!(values[own..].iter().all(|&v| v == u16::MAX), "rows beyond the last");
        values.truncate(own);
        values
    }

    /// Entries of random FP8, whose values the cache gets.
    fn fill_from_fp8(&mut self, random: &mut Random) -> Vec<u8> {
        let mut entries = Vec::new();
        for entry in self.cache.chunks_mut(ENTRY) {
            // All but NaN.
            let codes: Vec<u8> = (0..LATENT).map(|_| random.below(255) as u8).collect();
            let codes: Vec<u8> =
                codes.into_iter().map(|c| if c == 0x7f { 0xff - 1 } else { c }).collect();
            let scales: Vec<u8> = (0..LATENT / 32).map(|_| 116 + random.below(8) as u8).collect();
            for (i, value) in entry[..LATENT].iter_mut().enumerate() {
                let exact = mx::e4m3::decode(codes[i]) * mx::e8m0::decode(scales[i / 32]);
                *value = mx::bf16::from_f32(exact);
                assert_eq!(to_f32(*value), exact, "BF16 holds what FP8 and a scale make");
            }
            let rope = entry[LATENT..].iter().flat_map(|code| code.to_ne_bytes());
            entries.extend(codes.into_iter().chain(scales).chain(rope));
        }
        entries
    }

    fn entry(&self, row: usize, key: usize) -> &[u16] {
        let block = self.tables[self.starts[row] as usize + key / self.block_size] as usize;
        let slot = block * self.block_size + key % self.block_size;
        &self.cache[slot * ENTRY..(slot + 1) * ENTRY]
    }

    /// Checks one row and head. Bound: a score's error is at most ENTRY + 4 roundings of partial
    /// sums, each below the sum of absolute products, so weights are off by a factor within
    /// e^(score error), 2^-21 for the exponential and its argument, and 2^-8 for bf16. Weights off
    /// by factors within 1 +- e move a weighted mean by at most 2 e / (1 - e) of the mean of
    /// absolute values. f32 sums add a rounding for each key, the result's bf16 2^-8; where there
    /// are several splits, f16 moves their means by 2^-11 of them, 2^-25 at least, and on CUDA as
    /// much again those of groups, where there are several.
    fn check(&self, format: CacheFormat, out: &[u16], row: usize, head: usize) {
        let q = &self.queries[(row * self.heads + head) * ENTRY..][..ENTRY];
        let len = self.positions[row] as usize + 1;
        let mut scores = Vec::with_capacity(len);
        let mut score_error = 0f64;
        for key in 0..len {
            let pairs = q.iter().zip(self.entry(row, key));
            let terms = pairs.map(|(q, k)| f64::from(to_f32(*q)) * f64::from(to_f32(*k)));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
            scores.push(f64::from(SCALE) * sum);
            let roundings = (ENTRY + 4) as f64 * 2f64.powi(-24);
            score_error = score_error.max(f64::from(SCALE) * size * roundings);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let factor = score_error.exp() * (1.0 + 2f64.powi(-21)) * (1.0 + 2f64.powi(-8)) - 1.0;
        let mixed = 2.0 * factor / (1.0 - factor) + (len + 12) as f64 * 2f64.powi(-23);
        let (mut exact, mut size) = (vec![0f64; LATENT], vec![0f64; LATENT]);
        for (key, weight) in weights.iter().enumerate() {
            for (i, value) in self.entry(row, key)[..LATENT].iter().enumerate() {
                let term = weight / sum * f64::from(to_f32(*value));
                exact[i] += term;
                size[i] += term.abs();
            }
        }
        let out = &out[(row * self.heads + head) * LATENT..][..LATENT];
        let half = (1.0 + 2f64.powi(-11)).powi(roundings(format, len)) - 1.0;
        for i in 0..LATENT {
            let split = half * (size[i] + 2f64.powi(-14));
            let inner = mixed * size[i] + split;
            let bound = inner * (1.0 + 2f64.powi(-8)) + 2f64.powi(-8) * exact[i].abs();
            let found = f64::from(to_f32(out[i]));
            assert!((found - exact[i]).abs() <= bound, "{row} {head} {i}: {found} {}", exact[i]);
        }
    }

    fn check_all(&self, format: CacheFormat, out: &[u16]) {
        for row in 0..self.positions.len() {
            for head in 0..self.heads {
                self.check(format, out, row, head);
            }
        }
    }

    /// `count` heads from `first` on.
    fn of_heads(&self, first: usize, count: usize) -> Case {
        let rows = self.queries.chunks(self.heads * ENTRY);
        let own = rows.flat_map(|row| &row[first * ENTRY..(first + count) * ENTRY]);
        Case {
            heads: count,
            queries: own.copied().collect(),
            positions: self.positions.clone(),
            starts: self.starts.clone(),
            tables: self.tables.clone(),
            cache: self.cache.clone(),
            ..*self
        }
    }

    /// Row `row` alone.
    fn alone(&self, row: usize) -> Case {
        let width = self.heads * ENTRY;
        Case {
            positions: vec![self.positions[row]],
            starts: vec![self.starts[row]],
            queries: self.queries[row * width..(row + 1) * width].to_vec(),
            tables: self.tables.clone(),
            cache: self.cache.clone(),
            ..*self
        }
    }
}

#[test]
fn rows_are_right_and_the_same_bits_alone() {
    let gpu = device::gpu();
    let mut random = Random::new(1);
    let one = one_split(CacheFormat::Bf16) as u32;
    let prompt: Vec<u32> = (one - 7..one + 7).collect();
    let cases: [(usize, usize, &[&[u32]], f32); 9] = [
        (1, 16, &[&[0]], 1.0),
        (4, 16, &[&[30, 31, 32], &[0, 1]], 1.0),
        (16, 7, &[&[63, 319, 320]], 0.3),
        (3, 1, &[&[40], &[5]], 8.0),
        (20, 64, &[&[one + 56], &[17]], 2.0),
        (16, 16, &[&[0, 1, 2, 3, 4, 5], &[100], &prompt, &[30, 31]], 1.0),
        (5, 8, &[&[317, 318, 319, 320, 321], &[7], &[8, 9, 10, 11]], 4.0),
        // Where a step of 64 keys ends, or the first of its two tiles.
        (2, 16, &[&[62, 63, 64, 94, 95, 96, 126, 127, 128]], 1.0),
        // Of two splits and of three, on CUDA of six and seven, also of an odd number of tiles.
        (1, 32, &[&[1699, 1700, 1701, 2000]], 0.5),
    ];
    for (heads, block_size, sequences, size) in cases {
        let case = Case::new(&mut random, heads, block_size, sequences, size);
        let rows = case.positions.len();
        let split = case.run(&gpu, rows + 1);
        case.check_all(CacheFormat::Bf16, &split);
        let width = heads * LATENT;
        for row in 0..rows {
            let own = &split[row * width..(row + 1) * width];
            assert!(case.alone(row).run(&gpu, 1) == own, "row {row} alone gives other bits");
        }
    }
}

/// A cache in FP8 gives the bits of a BF16 cache of the same values, while both have one split.
#[test]
fn fp8_entries_are_their_values() {
    let gpu = device::gpu();
    let mut random = Random::new(5);
    let one = one_split(CacheFormat::Bf16) as u32;
    let prompt: Vec<u32> = (one - 12..one).collect();
    let several: Vec<u32> = (1968..1976).collect();
    let cases: [(usize, usize, &[&[u32]]); 4] = [
        (16, 16, &[&prompt, &[40]]),
        (5, 7, &[&[3, 4, 5]]),
        (2, 16, &[&several, &[63, 64, 96]]),
        (1, 16, &[&[2983, 2984, 2985, 3100]]),
    ];
    for (heads, block_size, sequences) in cases {
        let mut case = Case::new(&mut random, heads, block_size, sequences, 0.1);
        let entries = case.fill_from_fp8(&mut random);
        let rows = case.positions.len();
        let found = case.run_on(&gpu, rows, CacheFormat::Fp8, &entries);
        case.check_all(CacheFormat::Fp8, &found);
        if case.positions.iter().all(|&position| position < one) {
            assert!(case.run(&gpu, rows) == found);
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let gpu = device::gpu();
    let mut case = Case::new(&mut Random::new(2), 4, 16, &[&[20]], 1.0);
    (case.positions, case.starts, case.queries) = (vec![], vec![], vec![]);
    for bound in [0, 1, 65] {
        assert!(case.run(&gpu, bound).is_empty());
    }
}

/// Tokens of several sequences that are computed again, in three launches.
#[test]
fn more_rows_than_a_launch_has() {
    let gpu = device::gpu();
    let one = one_split(CacheFormat::Bf16) as u32;
    let sequences: [&[u32]; 4] = [
        &(0..250).collect::<Vec<u32>>(),
        &(one - 4..one + 6).collect::<Vec<u32>>(),
        &(3..260).collect::<Vec<u32>>(),
        &(0..83).collect::<Vec<u32>>(),
    ];
    let case = Case::new(&mut Random::new(6), 2, 16, &sequences, 1.0);
    let found = case.run(&gpu, 600);
    let width = 2 * LATENT;
    for row in [0, 249, 250, 251, 254, 255, 256, 257, 259, 511, 512, 516, 599] {
        for head in 0..2 {
            case.check(CacheFormat::Bf16, &found, row, head);
        }
        let own = &found[row * width..(row + 1) * width];
        assert!(case.alone(row).run(&gpu, 1) == own, "row {row} alone gives other bits");
    }
}

/// More rows and heads than a GPU has processors, so that where workgroups stay they go on from row
/// to row and from heads to others.
#[test]
fn many_rows_of_many_heads() {
    let gpu = device::gpu();
    let rows: Vec<[u32; 1]> = (0..40).map(|row| [row * 7 % 36]).collect();
    let sequences: Vec<&[u32]> = rows.iter().map(|row| &row[..]).collect();
    let case = Case::new(&mut Random::new(8), 80, 4, &sequences, 1.0);
    let split = case.run(&gpu, 41);
    case.check_all(CacheFormat::Bf16, &split);
}

/// More splits than workgroups, so that on gfx950 each takes several: of other rows, of another
/// length, after longer and shorter ones. Of few heads there are workgroups for all.
#[test]
fn workgroups_take_several_splits() {
    let gpu = device::gpu();
    let mut random = Random::new(9);
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        let two_splits = one_split(format) as u32 + 5;
        let rows: Vec<[u32; 1]> =
            (0..60).map(|row| [if row == 20 { two_splits } else { row * 29 % 48 }]).collect();
        let sequences: Vec<&[u32]> = rows.iter().map(|row| &row[..]).collect();
        let mut case = Case::new(&mut random, 400, 16, &sequences, 0.3);
        let mut entries = case.fill_from_fp8(&mut random);
        if format == CacheFormat::Bf16 {
            entries = case.cache.iter().flat_map(|code| code.to_ne_bytes()).collect();
        }
        let few = case.of_heads(368, 32);
        let found = case.run_on(&gpu, 61, format, &entries);
        let expected = few.run_on(&gpu, 61, format, &entries);
        for row in 0..rows.len() {
            for head in [0, 199, 399] {
                case.check(format, &found, row, head);
            }
            let width = 32 * LATENT;
            let own = &found[(row * 400 + 368) * LATENT..][..width];
            assert!(own == &expected[row * width..][..width], "row {row}: other bits");
        }
    }
}

/// A last split of one key; as many splits as there may be, and so many keys that they are longer.
#[test]
fn long_sequences() {
    let gpu = device::gpu();
    let (one_key, most) = match device::platform() {
        Platform::Cuda => (38 * 320, 64 * 320),
        Platform::Hip => (19 * 608, 128 * 576),
    };
    let cases: [(usize, &[u32]); 3] =
        [(2, &[one_key - 1, one_key, one_key + 1]), (1, &[most - 1]), (1, &[most + 39])];
    for (heads, rows) in cases {
        let case = Case::new(&mut Random::new(7), heads, 64, &[rows], 1.0);
        let split = case.run(&gpu, rows.len());
        case.check_all(CacheFormat::Bf16, &split);
    }
}

/// On CUDA workgroups that have all splits of a group fold them: all of them, those of a group that
/// happen to be together, or none, as of a row alone. On HIP there are no groups.
fn folded_have_the_bits_of_merged(cases: &[(usize, &[u32])]) {
    if device::platform() == Platform::Hip {
        return;
    }
    let gpu = device::gpu();
    let mut random = Random::new(10);
    for format in [CacheFormat::Bf16, CacheFormat::Fp8] {
        for &(heads, rows) in cases {
            let mut case = Case::new(&mut random, heads, 16, &[rows], 0.3);
            let mut entries = case.fill_from_fp8(&mut random);
            if format == CacheFormat::Bf16 {
                entries = case.cache.iter().flat_map(|code| code.to_ne_bytes()).collect();
            }
            let found = case.run_on(&gpu, rows.len(), format, &entries);
            let width = heads * LATENT;
            for row in [0, 1, rows.len() / 2, rows.len() - 3, rows.len() - 1] {
                case.check(format, &found, row, row % heads);
                let alone = case.alone(row).run_on(&gpu, 1, format, &entries);
                let own = &found[row * width..(row + 1) * width];
                assert!(alone == own, "row {row} of {} alone gives other bits", rows.len());
            }
        }
    }
}

#[test]
fn folded_groups_are_splits_merged() {
    // Two groups; one, which is the row.
    folded_have_the_bits_of_merged(&[(16, &[4095; 64]), (16, &[1023; 128])]);
}

#[test]
fn groups_are_folded_in_rows_of_all_lengths() {
    let mixed: Vec<u32> = (0..90).map(|row| row * 317 % 9000).collect();
    folded_have_the_bits_of_merged(&[
        (16, &[20_479; 64]), // eight
        (16, &[20_479; 40]),
        (20, &[8000; 32]),
        (5, &[3000; 256]),
        (16, &mixed),
    ]);
}

/// One key far above all others takes all the weight, wherever it stands.
#[test]
fn extreme_scores() {
    let gpu = device::gpu();
    for (peak, value, found) in [
        (0, 1000.0, 1000.0),
        (31, 1000.0, 1000.0),
        (300, 1000.0, 1000.0),
        (639, 1000.0, 1000.0),
        (640, 1000.0, 1000.0),
        (1239, 1000.0, 1000.0),
        // More than a split's mean can be: the next to 65504 in bf16.
        (100, 1e5, 65536.0),
    ] {
        let mut case = Case::new(&mut Random::new(4), 2, 16, &[&[1239]], 1.0);
        case.queries.iter_mut().for_each(|q| *q &= 0x7fff);
        let block = case.tables[peak / 16] as usize;
        let at = (block * 16 + peak % 16) * ENTRY;
        case.cache[at..at + ENTRY].fill(mx::bf16::from_f32(value));
        let out = case.run(&gpu, 1);
        let expected = to_f32(mx::bf16::from_f32(found));
        for &value in &out {
            assert_eq!(to_f32(value), expected, "peak at {peak}");
        }
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("rows_are_right_and_the_same_bits_alone");
    device::in_every_schedule("fp8_entries_are_their_values");
    device::in_every_schedule("workgroups_take_several_splits");
}
