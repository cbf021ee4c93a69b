//! The sampler against its formulas in f64.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use device::Gpu;
use hip::kernels::sample::MAX_TOP;
use hip::{Round, Sampler};
use model::{
    Batch, Carried, Draw, LateMask, OutputRow, RowOutput, SamplingParams, TokenCounts, TokenMask,
    Want, uniform,
};
use numbers::Random;

/// One row of logits for each output of the batch; `tokens` are those of the batch's rows.
fn run_batch(
    gpu: &Gpu,
    logits: &[f32],
    vocab: usize,
    batch: &Batch,
    tokens: &[u32],
) -> Vec<RowOutput> {
    let rows = batch.outputs.len();
    let mut sampler = Sampler::new(&gpu.device, &gpu.stream, vocab, rows).unwrap();
    let (memory, tokens) = (gpu.upload(logits), gpu.upload(tokens));
    let round = Round { batch, first: 0, rows, tokens: tokens.ptr(), slot: 1 };
    sampler.queue(&gpu.stream, &gpu.kernels, &memory, round).unwrap();
    gpu.stream.synchronize().unwrap();
    let results = sampler.results(1, &batch.outputs).unwrap();
    let tokens: Vec<u32> = gpu.download(sampler.tokens());
    assert!(results.iter().zip(tokens).all(|(result, token)| result.token == token));
    results
}

fn run(gpu: &Gpu, logits: &[f32], vocab: usize, outputs: &[OutputRow]) -> Vec<RowOutput> {
    run_batch(gpu, logits, vocab, &Batch { outputs: outputs.to_vec(), ..Batch::default() }, &[])
}

fn draw(params: SamplingParams, index: u64) -> Draw {
    Draw { params: Arc::new(params), index, counts: None, mask: None }
}

fn output(want: Want, logprobs: Option<usize>) -> OutputRow {
    OutputRow { row: 0, want, logprobs }
}

/// Ids in the order of the draw: by logit, lower ids first among equals.
fn order(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let by = |&id: &u32| logits[id as usize];
    ids.sort_by(|a, b| by(b).total_cmp(&by(a)).then(a.cmp(b)));
    ids
}

/// The logits that the draw sees, in f32 as the model's page has it.
fn adjusted(logits: &[f32], draw: &Draw) -> Vec<f32> {
    let (mut x, params) = (logits.to_vec(), &draw.params);
    if let Some(counts) = &draw.counts {
        let seen: HashSet<u32> =
            counts.prompt.iter().chain(counts.output.keys()).copied().collect();
        for id in seen {
            let x = &mut x[id as usize];
            let repetition = params.repetition_penalty;
            *x = if *x > 0.0 { *x / repetition } else { *x * repetition };
        }
        for (&id, &count) in &counts.output {
            x[id as usize] -= params.frequency_penalty * count as f32 + params.presence_penalty;
        }
    }
    for &(id, bias) in &params.logit_bias {
        x[id as usize] += bias;
    }
    if let Some(mask) = draw.mask.as_ref().and_then(LateMask::wait) {
        for (id, x) in (0..).zip(&mut x) {
            if !mask.allows(id) {
                *x = f32::NEG_INFINITY;
            }
        }
    }
    x
}

/// A row's weights, best first, their running sums, and how far all sums may be off on the device.
struct Exact {
    order: Vec<u32>,
    weights: Vec<f64>,
    errors: Vec<f64>,
    sums: Vec<f64>,
    error: f64,
}

impl Exact {
    fn new(logits: &[f32], temperature: f32) -> Exact {
        let order = order(logits);
        let largest = logits[order[0] as usize] as f64;
        let distance = |id: &u32| (largest - logits[*id as usize] as f64) / temperature as f64;
        let weights: Vec<f64> = order.iter().map(|id| (-distance(id)).exp()).collect();
        // The exponent is the product of a difference and a factor, each rounded by 2^-24 as it is
        // itself: the weight is off by three times that share of the distance; exp2 by one ulp,
        // 2^-23; and it is cut to a multiple of 2^-44.
        let error = |(id, weight): (&u32, &f64)| match weight {
            0.0 => 0.0,
            _ => weight * (3.0 * distance(id) * 2f64.powi(-24) + 2f64.powi(-23)) + 2f64.powi(-44),
        };
        let errors: Vec<f64> = order.iter().zip(&weights).map(error).collect();
        let mut sum = 0.0;
        let add = |weight: &f64| {
            sum += weight;
            sum
        };
        let sums = weights.iter().map(add).collect();
        Exact { order, weights, error: errors.iter().sum(), errors, sums }
    }

    /// Whether `token` may be drawn: whether sums within the error of the exact ones keep some
    /// number of tokens of which it is drawn. `strict`: by the exact sums alone.
    fn may_draw(&self, params: &SamplingParams, index: u64, token: u32, strict: bool) -> bool {
        let error = if strict { 0.0 } else { self.error };
        let least = |sign: f64| {
            let errors = self.errors.iter().map(|e| if strict { 0.0 } else { sign * e });
            let enough = |(w, e): (&f64, f64)| *w > 0.0 && w + e >= params.min_p as f64;
            self.weights.iter().zip(errors).take_while(|&pair| enough(pair)).count().max(1)
        };
        let top_k = if params.top_k == 0 { usize::MAX } else { params.top_k as usize };
        let at = self.order.iter().position(|&id| id == token).unwrap();
        let before = if at == 0 { 0.0 } else { self.sums[at - 1] };
        (least(-1.0)..=least(1.0)).any(|kept| {
            let kept = kept.min(top_k);
            let enough = params.top_p as f64 * self.sums[kept - 1];
            let cuts = (0..kept).filter(|&last| {
                if params.top_p == 1.0 {
                    return last == kept - 1;
                }
                let before = if last == 0 { 0.0 } else { self.sums[last - 1] };
                (last == 0 || before < enough + 2.0 * error)
                    && (last == kept - 1 || self.sums[last] >= enough - 2.0 * error)
            });
            cuts.into_iter().any(|last| {
                let target = uniform(params.seed, index) as f64 * self.sums[last];
                at <= last && before <= target + 2.0 * error && target - 2.0 * error < self.sums[at]
            })
        })
    }
}

/// Draws from each row of `logits` with each of `params` and checks the tokens; returns how many
/// were those that exact arithmetic draws.
fn check_draws(gpu: &Gpu, logits: &[f32], vocab: usize, draws: &[Draw]) -> usize {
    let outputs: Vec<_> = draws.iter().map(|d| output(Want::Sample(d.clone()), None)).collect();
    let results = run(gpu, logits, vocab, &outputs);
    let mut same = 0;
    for (i, (draw, result)) in draws.iter().zip(results).enumerate() {
        let logits = adjusted(&logits[i * vocab..(i + 1) * vocab], draw);
        if draw.params.temperature == 0.0 {
            assert_eq!(result.token, order(&logits)[0]);
            continue;
        }
        let exact = Exact::new(&logits, draw.params.temperature);
        let may = |strict| exact.may_draw(&draw.params, draw.index, result.token, strict);
        assert!(may(false), "row {i}: {:?} draws {}", draw.params, result.token);
        same += may(true) as usize;
    }
    same
}

fn parameters(i: usize) -> SamplingParams {
    let base = SamplingParams { seed: i as u64 * 77, ..SamplingParams::default() };
    match i % 8 {
        0 => base,
        1 => SamplingParams { top_p: 0.95, temperature: 0.6, ..base },
        2 => SamplingParams { top_k: 50, ..base },
        3 => SamplingParams { min_p: 0.05, ..base },
        4 => SamplingParams { top_k: 40, top_p: 0.5, min_p: 0.01, temperature: 2.0, ..base },
        5 => SamplingParams { top_p: 0.1, temperature: 1.5, ..base },
        6 => SamplingParams { temperature: 0.0, ..base },
        _ => SamplingParams { top_k: 1, temperature: 0.01, ..base },
    }
}

/// Rows with a few likely tokens, with many, and with a great many equal ones.
fn logits(random: &mut Random, row: usize, vocab: usize) -> Vec<f32> {
    (0..vocab)
        .map(|_| {
            let sum = (0..4).map(|_| random.value()).sum::<f32>();
            match row % 3 {
                0 => sum * 4.0 + if random.below(200) == 0 { 12.0 } else { 0.0 },
                1 => sum,
                _ => (sum * 2.0).round(),
            }
        })
        .collect()
}

#[test]
fn draws_what_exact_arithmetic_draws() {
    let gpu = device::gpu();
    let (vocab, rows) = (4096 + 36, 24);
    let mut random = Random(1);
    let logits: Vec<f32> =
        (0..rows).flat_map(|row| self::logits(&mut random, row / 8, vocab)).collect();
    let draws: Vec<Draw> = (0..rows).map(|i| draw(parameters(i), i as u64)).collect();
    let same = check_draws(&gpu, &logits, vocab, &draws);
    // Errors are below 2^-16 of a sum, and a target is near a boundary as seldom as that: of a few
    // dozen draws none, with these seeds.
    assert_eq!(same, rows - rows / 8);
}

#[test]
fn the_largest_vocabulary_and_the_smallest() {
    let gpu = device::gpu();
    let mut random = Random(2);
    let logits: Vec<f32> =
        [0, 2].iter().flat_map(|&row| self::logits(&mut random, row, 163_840)).collect();
    let draws = [draw(parameters(1), 0), draw(parameters(4), 3)];
    assert_eq!(check_draws(&gpu, &logits, 163_840, &draws), 2);
    assert_eq!(check_draws(&gpu, &[1.0, 1.0, 1.0, 0.0], 4, &draws[..1]), 1);
    assert_eq!(check_draws(&gpu, &[], 64, &[]), 0);
}

/// Sums of as many tokens as there may be, as likely as they may be together: one token, and all
/// others less likely by 2^-16.01, and by 2^-1.01, of which no bit of any weight may be lost, or
/// the sum does not reach `top_p`.
#[test]
fn sums_of_the_most_tokens() {
    let gpu = device::gpu();
    let vocab = 1 << 18;
    let logits: Vec<f32> = [-11.1f32, -0.7]
        .into_iter()
        .flat_map(|x| (0..vocab).map(move |id| if id == 4000 { 0.0 } else { x }))
        .collect();
    let index = (0..).find(|&index| uniform(7, index) > 0.999).unwrap();
    let params = SamplingParams { seed: 7, ..SamplingParams::default() };
    let most = SamplingParams { top_p: 1.0 - 2f32.powi(-24), ..params.clone() };
    assert_eq!(check_draws(&gpu, &logits, vocab, &[draw(params, index), draw(most, index)]), 2);
}

/// Draws at the far end of rows where all tokens but a few are less than 2^-16 times as likely as
/// the largest: so many that no list in LDS holds a group of them.
#[test]
fn tokens_far_below_the_largest_are_drawn_as_well() {
    let gpu = device::gpu();
    let vocab: usize = 9004;
    let mut random = Random(8);
    let base = SamplingParams { seed: 7, ..SamplingParams::default() };
    let index = |least: f32| (0..).find(|&index| uniform(7, index) > least).unwrap();
    // Less than one far token from the end of what is kept.
    let (last, late) = (index(1.0 - 4e-6), index(0.998));
    let far = (-11.2f64).exp();
    let total = 1.0 + (vocab - 1) as f64 * far;
    let mut logits = Vec::new();
    let mut draws = Vec::new();
    let mut add = |row: Vec<f32>, params: SamplingParams, index: u64, mask: Option<LateMask>| {
        logits.extend(row);
        draws.push(Draw { params: Arc::new(params), index, counts: None, mask });
    };
    // One, and all others equal.
    let equal: Vec<f32> = (0..vocab).map(|id| if id == 4000 { 0.0 } else { -11.2 }).collect();
    add(equal.clone(), base.clone(), late, None);
    add(equal.clone(), base.clone(), last, None);
    for top_k in [1, 2, 700, 6000] {
        add(equal.clone(), SamplingParams { top_k, ..base.clone() }, last, None);
    }
    // What is kept ends with the last near token; with the first far one; with the fourth.
    for kept in [1.0 - 0.5 * far, 1.0 + 0.5 * far, 1.0 + 3.5 * far] {
        let top_p = (kept / total) as f32;
        add(equal.clone(), SamplingParams { top_p, ..base.clone() }, last, None);
    }
    // Five, and all others in a few groups, or in all.
    for spread in [0.2, 12.0] {
        let mut row: Vec<f32> =
            (0..vocab).map(|_| -11.2 - spread * (random.value() + 1.0)).collect();
        row[1500] = 0.0;
        (2..6).for_each(|i| row[i * 1500] = -5.0 - i as f32 / 2.0);
        add(row.clone(), base.clone(), late, None);
        add(row.clone(), SamplingParams { top_p: 0.99, ..base.clone() }, last, None);
        for top_k in [5, 6, 5000] {
            let params = SamplingParams { top_k, top_p: 0.9999, ..base.clone() };
            add(row.clone(), params, last, None);
        }
        // Of these a third may be drawn, and none of the five but one.
        let mask = LateMask::default();
        let allowed = |id: u32| u32::from(id % 3 == 2 || id == 1500);
        let words = (0..vocab.div_ceil(32) as u32)
            .map(|word| (0..32).fold(0, |w, b| w | allowed(word * 32 + b) << b));
        mask.set(Some(Arc::new(TokenMask::new(words.collect()))));
        row[4] = 20.0;
        add(row, base.clone(), late, Some(mask));
    }
    assert_eq!(check_draws(&gpu, &logits, vocab, &draws), draws.len());
}

/// The most likely tokens end with the last near one, and with the first far one.
#[test]
fn the_first_far_token_may_be_the_last_of_the_most_likely() {
    let gpu = device::gpu();
    let vocab = 4096;
    let row: Vec<f32> = (0..vocab).map(|id| if id % 216 == 10 { 0.5 } else { -11.0 }).collect();
    let near = row.iter().filter(|&&x| x > 0.0).count();
    assert_eq!(near + 1, MAX_TOP);
    for top in [near, near + 1] {
        let results = run(&gpu, &row, vocab, &[output(Want::Score(3), Some(top))]);
        check_logprobs(&row, &Exact::new(&row, 1.0), &results[0], top);
    }
}

#[test]
fn equal_logits_are_drawn_in_order_of_id() {
    let gpu = device::gpu();
    let vocab = 8192;
    for index in 0..4 {
        let params = SamplingParams { seed: 5, ..SamplingParams::default() };
        let want = Want::Sample(draw(params.clone(), index));
        let results = run(&gpu, &vec![-3.5; vocab], vocab, &[output(want, None)]);
        let expected = (uniform(params.seed, index) as f64 * vocab as f64) as u32;
        assert_eq!(results[0].token, expected);
    }
}

#[test]
fn bias_penalties_and_masks_come_first() {
    let gpu = device::gpu();
    let vocab = 1024;
    let mut random = Random(3);
    let rows = 6;
    let logits: Vec<f32> = (0..rows).flat_map(|_| self::logits(&mut random, 1, vocab)).collect();
    let mut draws = Vec::new();
    for i in 0..rows {
        let row = &logits[i * vocab..(i + 1) * vocab];
        let best = order(row);
        let mut params = SamplingParams {
            temperature: if i < 4 { 0.0 } else { 1.0 },
            presence_penalty: 0.5,
            frequency_penalty: 0.3,
            repetition_penalty: 1.3,
            ..parameters(i)
        };
        params.logit_bias = vec![(best[9], 1.25), (best[0], -0.125), (7, -100.0)];
        let output: HashMap<u32, u32> = best[..5].iter().map(|&id| (id, 1 + id % 3)).collect();
        let prompt = Arc::new(best[3..12].iter().copied().collect());
        let mask = LateMask::default();
        // Every third token, other ones in each row, in fewer words than the vocabulary has.
        let allowed = |id: u32| u32::from(id % 3 == i as u32 / 2);
        let words = (0..20u32).map(|word| (0..32).fold(0, |w, b| w | allowed(word * 32 + b) << b));
        mask.set((i % 2 == 1).then(|| Arc::new(TokenMask::new(words.collect()))));
        draws.push(Draw {
            params: Arc::new(params),
            index: i as u64,
            counts: Some(Arc::new(TokenCounts { prompt, output })),
            mask: Some(mask),
        });
    }
    assert_eq!(check_draws(&gpu, &logits, vocab, &draws), 2);
}

/// A row's own token, which only the device knows when the row's draw is planned, counts as
/// generated: as if the host had counted it.
#[test]
fn a_carried_token_counts_as_generated() {
    let gpu = device::gpu();
    let (vocab, rows) = (1024, 7);
    let mut random = Random(6);
    let mut logits: Vec<f32> =
        (0..rows).flat_map(|_| self::logits(&mut random, 1, vocab)).collect();
    // A free place that stays free must not stand for token 0, which all its bits would mean.
    let best = order(&logits[..vocab])[0] as usize;
    logits.swap(0, best);
    let (mut batch, mut drawn) = (Batch { tokens: vec![9; rows], ..Batch::default() }, Vec::new());
    for i in 0..rows {
        let row = &logits[i * vocab..(i + 1) * vocab];
        let best = order(row);
        let [first, second] = [best[0], best[1]].map(|id| row[id as usize]);
        // The most likely token was drawn: if that counts, the second is drawn next. It was
        // generated before, is the prompt's alone, has a bias alone, or is new; one row's token is
        // known; one wants no penalties; one has a bias and is penalized for its repetition alone.
        // The bias makes it the most likely one in spite of what it was before.
        let bias = match i {
            0 => vec![(best[0], second - (first / 1.3 - 2.5) + 0.5)],
            1 => vec![(best[0], second - first / 1.3 + 0.5)],
            2 => vec![(best[0], 0.125)],
            6 => vec![(best[0], second - first / 1.3 - 0.25)],
            _ => vec![],
        };
        // So many that each wave looks through some of them.
        let many = best[..1].iter().chain(&best[9..209]).copied();
        let output = if i == 0 { many.clone().collect() } else { vec![best[5]] };
        let prompt = Arc::new(if i == 1 { many.collect() } else { HashSet::from([3]) });
        let params = SamplingParams {
            temperature: 0.0,
            presence_penalty: if i >= 5 { 0.0 } else { 1.5 },
            frequency_penalty: if i >= 5 { 0.0 } else { 1.0 },
            repetition_penalty: if i == 5 { 1.0 } else { 1.3 },
            logit_bias: bias,
            ..parameters(i)
        };
        let counts = TokenCounts { prompt, output: output.into_iter().map(|id| (id, 1)).collect() };
        let counts = (i != 5).then(|| Arc::new(counts));
        let want = Want::Sample(Draw { counts, ..draw(params, i as u64) });
        batch.outputs.push(OutputRow { row: i, want, logprobs: Some(5) });
        if i != 4 {
            batch.carried.push(Carried { row: i, output: rows - 1 - i });
        }
        drawn.insert(0, best[0]);
    }
    let resolved = batch.resolved(&drawn).unwrap();
    let found = run_batch(&gpu, &logits, vocab, &batch, &resolved.tokens);
    assert_eq!(found, run_batch(&gpu, &logits, vocab, &resolved, &[]));
    let unknown = Batch { carried: Vec::new(), ..batch };
    let without = run_batch(&gpu, &logits, vocab, &unknown, &[]);
    let differ = found.iter().zip(&without).map(|(a, b)| a.token != b.token);
    assert_eq!(differ.collect::<Vec<_>>(), [true, true, true, true, false, false, true]);
}

/// |log-probability - exact|: the logit's two distances and the logarithm round by 2^-24 of
/// themselves each, the logarithm's argument by 2^-24 and log2 by an ulp, the sum by its own error.
fn check_logprobs(logits: &[f32], exact: &Exact, result: &RowOutput, top: usize) {
    let largest = logits[exact.order[0] as usize] as f64;
    let total = *exact.sums.last().unwrap();
    let close = |id: u32, found: f32| {
        let below = logits[id as usize] as f64 - largest;
        let expected = below - total.ln();
        let error = (below.abs() + 2.0 * total.ln() + 1.0) * 2f64.powi(-22) + exact.error / total;
        assert!((found as f64 - expected).abs() <= error, "{id}: {expected}, {found}");
    };
    close(result.token, result.logprob.unwrap());
    assert_eq!(result.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), exact.order[..top]);
    result.top.iter().for_each(|&(id, found)| close(id, found));
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let gpu = device::gpu();
    let vocab = 4096;
    let mut random = Random(4);
    let rows = 6;
    let mut logits: Vec<f32> =
        (0..rows).flat_map(|row| self::logits(&mut random, row, vocab)).collect();
    // One token has all the probability: the others have no weight, but log-probabilities.
    logits[70] = 60.0;
    let tops = [20, 5, 3, 0, 1, 20];
    let outputs: Vec<OutputRow> = (0..rows)
        .map(|i| {
            let params = SamplingParams { logit_bias: vec![(11, 80.0)], ..parameters(i) };
            let want = match i % 2 {
                0 => Want::Score(i as u32 * 600),
                _ => Want::Sample(draw(params, 9)),
            };
            output(want, Some(tops[i]))
        })
        .collect();
    let results = run(&gpu, &logits, vocab, &outputs);
    for (i, (result, row)) in results.iter().zip(logits.chunks(vocab)).enumerate() {
        assert_eq!(result.token, if i % 2 == 0 { i as u32 * 600 } else { 11 });
        check_logprobs(row, &Exact::new(row, 1.0), result, tops[i]);
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let gpu = device::gpu();
    let mut sampler = Sampler::new(&gpu.device, &gpu.stream, 64, 1).unwrap();
    let memory = gpu.upload(&[0f32; 64]);
    let bias = SamplingParams { logit_bias: vec![(64, 1.0)], ..SamplingParams::default() };
    for (output, part) in [
        (output(Want::Score(64), None), "token 64"),
        (output(Want::Score(0), Some(21)), "21 log-probabilities"),
        (output(Want::Sample(draw(bias, 0)), None), "token 64"),
    ] {
        let batch = Batch { outputs: vec![output], ..Batch::default() };
        let round = Round { batch: &batch, first: 0, rows: 1, tokens: 0, slot: 0 };
        let error = sampler.queue(&gpu.stream, &gpu.kernels, &memory, round).unwrap_err();
        assert!(error.0.contains(part), "{error}");
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("log_probabilities_are_those_of_the_raw_logits");
    device::in_every_schedule("bias_penalties_and_masks_come_first");
    device::in_every_schedule("a_carried_token_counts_as_generated");
    device::in_every_schedule("tokens_far_below_the_largest_are_drawn_as_well");
}
