//! Expanded attention of a prompt's chunks against f64, and against other chunks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use device::Gpu;
use hip::kernels::attention::ROPE;
use hip::kernels::attention_prompt::{Buffers, Chunk, NOPE, VALUE, attention_prompt, list};
use mx::bf16::{from_f32, to_f32};
use random::Random;

const SCALE: f32 = 0.1447;
const QUERY: usize = NOPE + ROPE;
const EXPANDED: usize = NOPE + VALUE;

/// A prompt.
struct Prompt {
    heads: usize,
    len: usize,
    queries: Vec<u16>,
    keys_values: Vec<u16>,
    ropes: Vec<u16>,
}

impl Prompt {
    fn new(random: &mut Random, heads: usize, len: usize, size: f32) -> Prompt {
        Prompt {
            heads,
            len,
            queries: random.bf16s(len * heads * QUERY, size),
            keys_values: random.bf16s(len * heads * EXPANDED, 1.0),
            ropes: random.bf16s(len * ROPE, 1.0),
        }
    }

    /// bf16 `[rows, heads, VALUE]` of the rows from `first` on, alone.
    fn run(&self, gpu: &Gpu, first: usize, rows: usize) -> Vec<u16> {
        run(gpu, &[(self, first, rows)]).remove(0)
    }

    fn key_value(&self, key: usize, head: usize) -> (impl Iterator<Item = f64>, &[u16]) {
        let (nope, value) =
            self.keys_values[(key * self.heads + head) * EXPANDED..][..EXPANDED].split_at(NOPE);
        let rope = &self.ropes[key * ROPE..][..ROPE];
        (nope.iter().chain(rope).map(|&code| f64::from(to_f32(code))), value)
    }

    /// Checks one row and head. Bound: a score's error is at most QUERY + 4 roundings of partial
    /// sums, each below the sum of absolute products, so weights are off by a factor within
    /// e^(score error), 2^-21 for the exponential and its argument, and, where they multiply
    /// values, 2^-8 for bf16. Weights off by factors within 1 +- e move a weighted mean by at most
    /// 2 e / (1 - e) of the mean of absolute values. f32 sums add a rounding for each key, the
    /// result's bf16 2^-8.
    fn check(&self, out: &[u16], row: usize, head: usize) {
        let at = row * self.heads + head;
        let query = &self.queries[at * QUERY..][..QUERY];
        let len = row + 1;
        let mut scores = Vec::with_capacity(len);
        let mut score_error = 0f64;
        for key in 0..len {
            let terms = query.iter().zip(self.key_value(key, head).0);
            let terms = terms.map(|(&q, k)| f64::from(to_f32(q)) * k);
            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t: f64| (s + t, a + t.abs()));
            scores.push(f64::from(SCALE) * sum);
            let roundings = (QUERY + 4) as f64 * 2f64.powi(-24);
            score_error = score_error.max(f64::from(SCALE) * size * roundings);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let factor = score_error.exp() * (1.0 + 2f64.powi(-21)) * (1.0 + 2f64.powi(-8)) - 1.0;
        let mixed = 2.0 * factor / (1.0 - factor) + (len + 12) as f64 * 2f64.powi(-23);
        let (mut exact, mut size) = ([0f64; VALUE], [0f64; VALUE]);
        for (key, weight) in weights.iter().enumerate() {
            for (i, &value) in self.key_value(key, head).1.iter().enumerate() {
                let term = weight / sum * f64::from(to_f32(value));
                exact[i] += term;
                size[i] += term.abs();
            }
        }
        for (i, &code) in out[at * VALUE..][..VALUE].iter().enumerate() {
            let bound = mixed * size[i] * (1.0 + 2f64.powi(-8)) + 2f64.powi(-8) * exact[i].abs();
            let found = f64::from(to_f32(code));
            assert!((found - exact[i]).abs() <= bound, "{row} {head} {i}: {found} {}", exact[i]);
        }
    }
}

/// The results of chunks `(prompt, first, rows)` in one launch. Their rows stand behind another row
/// of a batch and before one; there are no keys beyond theirs.
fn run(gpu: &Gpu, parts: &[(&Prompt, usize, usize)]) -> Vec<Vec<u16>> {
    let heads = parts[0].0.heads;
    let (query, result) = (heads * QUERY, heads * VALUE);
    let (mut chunks, mut total) = (Vec::new(), 0);
    let mut queries = vec![0; query];
    let (mut keys_values, mut ropes) = (Vec::<u16>::new(), Vec::<u16>::new());
    for &(prompt, first, rows) in parts {
        let len = first + rows;
        chunks.push(Chunk { row: 1 + total, rows, first, table: 0 });
        total += rows;
        queries.extend(&prompt.queries[first * query..len * query]);
        keys_values.extend(&prompt.keys_values[..len * heads * EXPANDED]);
        ropes.extend(&prompt.ropes[..len * ROPE]);
    }
    let queries = gpu.upload_into(&queries, (total + 2) * query);
    let keys_values = gpu.upload_into(&keys_values, keys_values.len() + 130 * heads * EXPANDED);
    let ropes = gpu.upload_into(&ropes, ropes.len() + 130 * ROPE);
    let out = gpu.poisoned((total + 2) * result / 2);
    let buffers =
        Buffers { queries: &queries, keys_values: &keys_values, ropes: &ropes, out: &out };
    let blocks = gpu.upload(&list(&chunks));
    attention_prompt(&gpu.stream, &gpu.kernels, &chunks, blocks.ptr(), buffers, heads, SCALE)
        .unwrap();
    let values: Vec<u16> = gpu.download(&out);
    let (before, rest) = values.split_at(result);
    let (mut rest, after) = rest.split_at(total * result);
    assert!(before.iter().chain(after).all(|&v| v == u16::MAX), "others' rows");
    let mut results = Vec::new();
    for chunk in chunks {
        let (own, others) = rest.split_at(chunk.rows * result);
        results.push(own.to_vec());
        rest = others;
    }
    results
}

/// One launch for all, and chunks of any size that begin anywhere.
#[test]
fn rows_are_right_and_the_same_bits_in_every_chunk() {
    let gpu = device::gpu();
    let mut random = Random::new(1);
    let cases: [(usize, f32, &[usize]); 6] = [
        (1, 1.0, &[1]),
        (3, 1.0, &[1, 1, 30, 32, 3]),
        (2, 4.0, &[63, 1, 64, 130, 129, 4]),
        (1, 0.3, &[127, 2, 255, 33, 60]),
        // Weights are almost all of one key's.
        (5, 12.0, &[17, 128, 96]),
        (2, 2.0, &[5, 600, 64]),
    ];
    for (heads, size, chunks) in cases {
        let prompt = Prompt::new(&mut random, heads, chunks.iter().sum(), size);
        let all = prompt.run(&gpu, 0, prompt.len);
        for row in 0..prompt.len {
            for head in 0..heads {
                prompt.check(&all, row, head);
            }
        }
        let (width, mut first) = (heads * VALUE, 0);
        for &rows in chunks {
            let found = prompt.run(&gpu, first, rows);
            for (i, row) in found.chunks(width).enumerate() {
                let expected = &all[(first + i) * width..][..width];
                assert!(row == expected, "row {} of a chunk from {first} on", first + i);
            }
            first += rows;
        }
        let last = prompt.len - 1;
        assert!(prompt.run(&gpu, last, 1) == all[last * width..], "the last row alone");
    }
}

/// Chunks of several prompts in one launch, in any order and whatever the neighbours are made of,
/// have the bits that each has alone.
#[test]
fn neighbours_change_no_bit() {
    let gpu = device::gpu();
    let mut random = Random::new(7);
    let heads = 2;
    let cases: [(usize, usize); 12] = [
        (0, 1),
        (0, 63),
        (10, 54),
        (64, 1),
        (0, 127),
        (99, 29),
        (0, 0),
        (128, 1),
        (7, 0),
        (40, 300),
        (0, 5),
        (190, 3),
    ];
    let prompts = cases.map(|(first, rows)| Prompt::new(&mut random, heads, first + rows, 2.0));
    let part = |i: usize| (&prompts[i], cases[i].0, cases[i].1);
    let alone: Vec<Vec<u16>> = (0..cases.len()).map(|i| run(&gpu, &[part(i)]).remove(0)).collect();
    let order = random.permutation(cases.len());
    for order in [(0..cases.len()).collect(), (0..cases.len()).rev().collect(), order] {
        let parts: Vec<_> = order.iter().map(|&i| part(i)).collect();
        for (&i, found) in order.iter().zip(run(&gpu, &parts)) {
            assert!(found == alone[i], "{:?} in {order:?}", cases[i]);
        }
    }
    let mut broken = Prompt::new(&mut random, heads, 130, 1.0);
    for values in [&mut broken.queries, &mut broken.keys_values, &mut broken.ropes] {
        values.fill(u16::MAX);
    }
    let beside = |i: usize| [(&broken, 1, 7 * (i % 5)), part(i), (&broken, 0, 129)];
    let parts: Vec<_> = (0..cases.len()).flat_map(beside).collect();
    for (i, found) in run(&gpu, &parts).chunks(3).enumerate() {
        assert!(found[1] == alone[i], "{:?} beside NaN", cases[i]);
    }
}

/// What stands at keys that a row does not see, or in rows beside it, changes none of its bits.
#[test]
fn later_keys_and_other_rows_change_no_bit() {
    let gpu = device::gpu();
    let mut random = Random::new(2);
    let (heads, len, seen) = (2, 200, 75);
    let mut prompt = Prompt::new(&mut random, heads, len, 1.0);
    let expected = prompt.run(&gpu, 0, len);
    let other = Prompt::new(&mut random, heads, len, 30.0);
    for (own, other, width) in [
        (&mut prompt.queries, other.queries, heads * QUERY),
        (&mut prompt.keys_values, other.keys_values, heads * EXPANDED),
        (&mut prompt.ropes, other.ropes, ROPE),
    ] {
        own.truncate(seen * width);
        own.extend(&other[seen * width..]);
    }
    let found = prompt.run(&gpu, 0, len);
    let same = seen * heads * VALUE;
    assert!(found[..same] == expected[..same] && found[same..] != expected[same..]);
}

/// One key far above all others takes all the weight, wherever it stands; also all keys far below
/// zero have weights.
#[test]
fn extreme_scores() {
    let gpu = device::gpu();
    for peak in [0, 31, 32, 63, 64, 100, 127, 128, 299] {
        let mut prompt = Prompt::new(&mut Random::new(3), 1, 300, 1.0);
        prompt.queries.iter_mut().for_each(|q| *q &= 0x7fff);
        prompt.keys_values[peak * EXPANDED..][..EXPANDED].fill(from_f32(1000.0));
        let out = prompt.run(&gpu, peak, 300 - peak);
        assert!(out.iter().all(|&value| value == from_f32(1000.0)), "peak at {peak}");
    }
    let mut prompt = Prompt::new(&mut Random::new(4), 1, 130, 1.0);
    prompt.queries.fill(from_f32(10.0));
    prompt.keys_values.chunks_mut(EXPANDED).for_each(|key| key[..NOPE].fill(from_f32(-2.0)));
    prompt.ropes.fill(0);
    let out = prompt.run(&gpu, 0, 130);
    (0..130).for_each(|row| prompt.check(&out, row, 0));
}

#[test]
fn no_rows_are_no_work() {
    let gpu = device::gpu();
    let prompt = Prompt::new(&mut Random::new(5), 2, 10, 1.0);
    assert!(prompt.run(&gpu, 7, 0).is_empty());
}

/// More blocks of heads than a GPU has processors, so that where workgroups stay they take several,
/// and than are resident elsewhere.
#[test]
fn workgroups_take_several_blocks() {
    let gpu = device::gpu();
    let heads = 260;
    let prompt = Prompt::new(&mut Random::new(6), heads, 140, 1.0);
    let out = prompt.run(&gpu, 0, 140);
    for row in [0, 64, 127, 128, 139] {
        (0..heads).for_each(|head| prompt.check(&out, row, head));
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("rows_are_right_and_the_same_bits_in_every_chunk");
    device::in_every_schedule("later_keys_and_other_rows_change_no_bit");
    device::in_every_schedule("neighbours_change_no_bit");
}
