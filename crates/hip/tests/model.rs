//! The whole forward pass on GPUs against the CPU backend.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../cpu/tests/apart/mod.rs"]
mod apart;
mod device;
mod rounded;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use checkpoint::{Activations, Checkpoint};
use cpu::{Cpu, Group};
use device::there_are;
use hip::{AllReduce, Device, Gpu, Meeting, Options, Runtime, warm_up};
use model::{
    Batch, CacheFormat, Carried, DeviceError, Draw, Limits, Model, OutputRow, Ranks, RowOutput,
    SamplingParams, Span, TokenCounts, Want,
};

const LIMITS: Limits =
    Limits { max_model_len: 1024, max_num_batched_tokens: 288, block_size: 16, num_blocks: 160 };
const OPTIONS: Options = Options {
    activations: Activations::Bf16,
    cache: CacheFormat::Native,
    max_num_seqs: 16,
    graphs: true,
    all_reduce: AllReduce::OneShot,
    watchdog: Duration::from_secs(600),
};

/// A path in this repository, or where `MOONROCK_TEST_DATA` has what the tests need of it.
fn data(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("MOONROCK_TEST_DATA").map_or(here, PathBuf::from).join(name)
}

fn on_cpu(model: &str, activations: Activations, cache: CacheFormat) -> Ranks {
    let checkpoint = Arc::new(Checkpoint::open(&data(model)).unwrap());
    let groups = Group::new(1);
    Ranks::start(1, move |rank| {
        let backend = Cpu::new(groups[rank].clone(), activations).with_cache(cache);
        Model::load(backend, &checkpoint, rank, 1, &LIMITS, &|_| {})
    })
    .unwrap()
}

fn on_cpu_in_bf16(model: &str, activations: Activations, cache: CacheFormat) -> Ranks {
    let checkpoint = Arc::new(Checkpoint::open(&data(model)).unwrap());
    let groups = Group::new(1);
    Ranks::start(1, move |rank| {
        let backend = Cpu::new(groups[rank].clone(), activations).with_cache(cache);
        let backend = rounded::Rounded(backend);
        Model::load(backend, &checkpoint, rank, 1, &LIMITS, &|_| {})
    })
    .unwrap()
}

fn on_gpus(model: &str, ranks: usize, options: Options) -> Ranks {
    let checkpoint = Arc::new(Checkpoint::open(&data(model)).unwrap());
    let runtime = device::runtime();
    let meeting = (ranks > 1).then(|| Meeting::new(&runtime, ranks).unwrap());
    Ranks::start(ranks, move |rank| {
        let device = Device::open(&runtime, rank).map_err(DeviceError::from)?;
        let group = meeting.as_ref().map(|meeting| meeting.join(rank, &device).unwrap());
        let backend = Gpu::new(&device, group, checkpoint.config(), &LIMITS, options)?;
        Model::load(backend, &checkpoint, rank, ranks, &LIMITS, &|_| {})
    })
    .unwrap()
}

fn greedy(row: usize) -> OutputRow {
    let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let want = Want::Sample(Draw { params, index: 0, counts: None, mask: None });
    OutputRow { row, want, logprobs: Some(5) }
}

/// Runs of prompts `(ids, from, to, first block)`: every row's logits are wanted.
fn batch(runs: &[(&[u32], usize, usize, u32)]) -> Batch {
    let mut batch = Batch::default();
    for &(ids, from, to, first) in runs {
        let row = batch.tokens.len();
        let blocks = (first..first + ids.len().div_ceil(LIMITS.block_size) as u32).collect();
        batch.spans.push(Span { row, rows: to - from, position: from, blocks, generated: false });
        batch.tokens.extend(&ids[from..to]);
        for i in from..to {
            let mut output = greedy(row + i - from);
            if let Some(&next) = ids.get(i + 1) {
                output.want = Want::Score(next);
            }
            batch.outputs.push(output);
        }
    }
    batch
}

/// The same of generated tokens.
fn generated(mut batch: Batch) -> Batch {
    batch.spans.iter_mut().for_each(|span| span.generated = true);
    batch
}

/// Generated tokens, and prompts behind them.
fn beside(mut batch: Batch, prompts: Batch) -> Batch {
    let rows = batch.tokens.len();
    batch.tokens.extend(prompts.tokens);
    batch.spans.extend(prompts.spans.into_iter().map(|s| Span { row: s.row + rows, ..s }));
    let outputs = prompts.outputs.into_iter().map(|o| OutputRow { row: o.row + rows, ..o });
    batch.outputs.extend(outputs);
    batch
}

fn ids(count: usize, seed: u64, vocab: u32) -> Vec<u32> {
    (0..count as u64).map(|i| (model::uniform(seed, i) * vocab as f32) as u32).collect()
}

/// Differences of the log-probabilities of known tokens, in ascending order.
struct Differences(Vec<f64>);

impl Differences {
    fn new(a: &[RowOutput], b: &[RowOutput]) -> Differences {
        let scored = a.iter().zip(b).filter(|(a, b)| a.token == b.token);
        let mut all: Vec<f64> = scored
            .map(|(a, b)| (a.logprob.unwrap() as f64 - b.logprob.unwrap() as f64).abs())
            .collect();
        assert!(all.len() + 3 > a.len(), "only {} rows are about the same token", all.len());
        all.sort_by(f64::total_cmp);
        Differences(all)
    }

    /// Of all but the `beyond` greatest the greatest, and the mean.
    fn worst_and_mean(&self, beyond: usize) -> (f64, f64) {
        let all = &self.0[..self.0.len() - beyond];
        (all[all.len() - 1], all.iter().sum::<f64>() / all.len() as f64)
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let greatest = &self.0[self.0.len().saturating_sub(5)..];
        let (worst, mean) = self.worst_and_mean(beyond(self.0.len()));
        write!(f, "greatest {greatest:.4?}; of the others {worst:.4}, mean {mean:.4}")
    }
}

/// GPUs round more values to BF16 than the twin: beside the inputs of matrix products and the KV
/// cache also the queries, heads' keys and values or sums in the latent space, the weights of the
/// softmax, and each expert's part of a row. That is about twice as many roundings of the same
/// size: with random signs the root of 2 more, and as the worst of them meet in the softmax,
/// `SLACK` for the mean and the worst.
const SLACK: f64 = 3.0;

/// Rows of so many are not looked at, those that differ most: they may take another expert, which
/// changes a row, and a little those that see it, more than rounding does. Of Kimi-K2.6's 384
/// random scores the eighth and the ninth are about 0.05 standard deviations apart, of the demo's
/// 24 the sixth and the seventh 0.13, and rounding x to BF16 moves them by some 0.003: about one
/// row in twenty or thirty takes another expert in each layer.
fn beyond(rows: usize) -> usize {
    rows / 4
}

const TINY: &str = "tests/data/tiny-k2/mxfp4";

fn agrees_with_the_cpu(
    model: &str,
    ids: &[u32],
    ranks: &[usize],
    forms: &[Activations],
    cache: CacheFormat,
) {
    let beyond = beyond(ids.len());
    let prompt = || batch(&[(ids, 0, ids.len(), 3)]);
    for &activations in forms {
        let expected = on_cpu(model, activations, cache).run(prompt()).unwrap();
        // GPUs' own format is BF16.
        let cached = if cache == CacheFormat::Native { CacheFormat::Bf16 } else { cache };
        let twin = on_cpu_in_bf16(model, activations, cached).run(prompt()).unwrap();
        let rounding = Differences::new(&expected, &twin);
        let (worst, mean) = rounding.worst_and_mean(beyond);
        let mut on_fewest: Option<Vec<RowOutput>> = None;
        for &ranks in ranks {
            if !there_are(ranks) {
                continue;
            }
            let options = Options { activations, cache, ..OPTIONS };
            let found = on_gpus(model, ranks, options).run(prompt()).unwrap();
            let own = Differences::new(&expected, &found);
            eprintln!("{model} {activations:?} on {ranks}: {own}; rounding alone: {rounding}");
            let (own_worst, own_mean) = own.worst_and_mean(beyond);
            assert!(own_worst <= SLACK * worst && own_mean <= SLACK * mean);
            // Each rank rounds its own part of what an expert adds to a row. From there on nearly
            // every value is rounded otherwise: they are as far apart as each is from the CPU.
            let apart = Differences::new(on_fewest.get_or_insert_with(|| found.clone()), &found);
            eprintln!("  from fewer ranks: {apart}");
            let (worst_apart, mean_apart) = apart.worst_and_mean(beyond);
            assert!(worst_apart <= SLACK * worst && mean_apart <= SLACK * mean);
        }
    }
}

#[test]
fn log_probabilities_agree_with_the_cpu_in_every_precision() {
    let forms = [Activations::Bf16, Activations::Mxfp8, Activations::Mxfp4];
    agrees_with_the_cpu(TINY, &ids(40, 1, 1024), &[1], &forms, CacheFormat::Native);
}

#[test]
fn log_probabilities_agree_with_the_cpu_on_2_and_4_ranks() {
    let forms = [Activations::Mxfp4];
    agrees_with_the_cpu(TINY, &ids(40, 1, 1024), &[2, 4], &forms, CacheFormat::Native);
}

#[test]
fn log_probabilities_agree_with_the_cpu_with_an_fp8_cache() {
    let forms = [Activations::Bf16];
    agrees_with_the_cpu(TINY, &ids(40, 1, 1024), &[1], &forms, CacheFormat::Fp8);
}

/// The model that ships, with Kimi-K2's head geometry: a short prompt on two ranks. With
/// `MOONROCK_FULL`, a longer one on 1, 2 and 4 ranks in every precision.
#[test]
fn log_probabilities_of_the_demo_model_agree_with_the_cpu() {
    let model = "models/demo";
    if std::env::var_os("MOONROCK_FULL").is_none() {
        let (ids, forms) = (ids(12, 1, 2304), [Activations::Mxfp4]);
        return agrees_with_the_cpu(model, &ids, &[2], &forms, CacheFormat::Native);
    }
    let forms = [Activations::Mxfp4, Activations::Mxfp8, Activations::Bf16];
    agrees_with_the_cpu(model, &ids(40, 1, 2304), &[1, 2, 4], &forms, CacheFormat::Native);
}

/// A checkpoint that `MOONROCK_TEST_CHECKPOINT` names, such as one in Kimi-K2.6's shape that
/// `moonrock make-checkpoint` has made, or the small one.
#[test]
fn log_probabilities_of_any_model_agree_with_the_cpu_and_over_ranks() {
    let model = std::env::var("MOONROCK_TEST_CHECKPOINT").unwrap_or(TINY.into());
    let vocab = Checkpoint::open(&data(&model)).unwrap().config().vocab_size as u32;
    let forms = [Activations::Bf16];
    agrees_with_the_cpu(&model, &ids(40, 1, vocab), &[1, 2, 4], &forms, CacheFormat::Native);
}

/// One rank of a model, in the hands of the test: of two, or alone.
fn rank(
    runtime: &Arc<Runtime>,
    meeting: Option<&Meeting>,
    rank: usize,
    options: Options,
) -> Model<Gpu> {
    let checkpoint = Checkpoint::open(&data(TINY)).unwrap();
    let device = Device::open(runtime, rank).unwrap();
    let group = meeting.map(|meeting| meeting.join(rank, &device).unwrap());
    let ranks = if group.is_some() { 2 } else { 1 };
    let backend = Gpu::new(&device, group, checkpoint.config(), &LIMITS, options).unwrap();
    Model::load(backend, &checkpoint, rank, ranks, &LIMITS, &|_| {}).unwrap()
}

fn queue(model: &mut Model<Gpu>, batch: &Arc<Batch>) {
    model.compute(batch).unwrap();
    model.draw(batch).unwrap();
}

/// A prompt, then decode steps of it; each takes what the one before has drawn.
fn carried_steps(ids: &[u32], steps: usize, first_block: u32) -> Vec<Arc<Batch>> {
    let drawn = |row: usize, draws: usize| {
        let params = SamplingParams {
            temperature: 1.5,
            seed: 9,
            presence_penalty: 2.0,
            frequency_penalty: 1.0,
            repetition_penalty: 1.5,
            ..SamplingParams::default()
        };
        let prompt = Arc::new(ids.iter().copied().collect());
        // What was generated before the token that is carried, the test does not know: nothing.
        let counts = Some(Arc::new(TokenCounts { prompt, ..TokenCounts::default() }));
        let draw = Draw { params: Arc::new(params), index: draws as u64, counts, mask: None };
        OutputRow { row, want: Want::Sample(draw), logprobs: Some(5) }
    };
    let blocks: Vec<u32> = (first_block..first_block + 4).collect();
    let span = |rows, position| Span {
        row: 0,
        rows,
        position,
        blocks: blocks.clone(),
        generated: position > 0,
    };
    let prompt = Batch {
        tokens: ids.to_vec(),
        spans: vec![span(ids.len(), 0)],
        outputs: vec![drawn(ids.len() - 1, 0)],
        ..Batch::default()
    };
    let decode = |step| Batch {
        tokens: vec![0],
        carried: vec![Carried { row: 0, output: 0 }],
        spans: vec![span(1, ids.len() + step)],
        outputs: vec![drawn(0, step + 1)],
    };
    std::iter::once(prompt).chain((0..steps).map(decode)).map(Arc::new).collect()
}

/// A step is queued while the one before cannot end, because the other rank has not begun it: so
/// no rank's thread waits for drawn tokens, nor does anything else of the host stand between two
/// steps. With graphs or kernel by kernel, the results are those of steps that take known tokens.
#[test]
fn a_step_is_queued_before_the_last_ones_tokens_are_drawn() {
    if !there_are(2) {
        return;
    }
    for graphs in [true, false] {
        let options = Options { graphs, watchdog: Duration::from_secs(60), ..OPTIONS };
        let runtime = device::runtime();
        let meeting = Meeting::new(&runtime, 2).unwrap();
        let steps = carried_steps(&ids(9, 3, 1024), 6, 30);
        let (other, orders) = channel::<Arc<Batch>>();
        let results = std::thread::scope(|scope| {
            let (runtime, meeting) = (&runtime, &meeting);
            // Rank 1 does what it is told.
            scope.spawn(move || {
                let mut model = rank(runtime, Some(meeting), 1, options);
                for batch in orders {
                    queue(&mut model, &batch);
                    model.results(true).unwrap().unwrap();
                }
            });
            let mut model = rank(runtime, Some(meeting), 0, options);
            // The ranks learn each other's addresses, and graphs are recorded.
            for batch in carried_steps(&ids(5, 4, 1024), 1, 20) {
                other.send(batch.clone()).unwrap();
                queue(&mut model, &batch);
                model.results(true).unwrap().unwrap();
            }
            let mut results = Vec::new();
            queue(&mut model, &steps[0]);
            for step in 0..steps.len() {
                // Rank 1 has not begun `step`.
                if let Some(next) = steps.get(step + 1) {
                    queue(&mut model, next);
                }
                assert_eq!(model.results(false).unwrap(), None, "step {step}");
                other.send(steps[step].clone()).unwrap();
                results.extend(model.results(true).unwrap().unwrap());
            }
            drop(other);
            results
        });
        let mut known = on_gpus(TINY, 2, Options { graphs, ..OPTIONS });
        let mut drawn = Vec::new();
        for (step, found) in steps.iter().zip(&results) {
            let batch = step.resolved(&drawn).unwrap();
            let expected = known.run(batch).unwrap();
            assert_eq!(bits(&expected), bits(std::slice::from_ref(found)));
            drawn = vec![found.token];
        }
        let distinct: std::collections::BTreeSet<u32> = results.iter().map(|r| r.token).collect();
        assert!(distinct.len() > 3, "{distinct:?}");
    }
}

/// Batches that are handed over long before anybody takes results share the memory of two slots:
/// each waits for the one before the last.
#[test]
fn more_steps_than_slots_keep_their_results() {
    let steps = carried_steps(&ids(9, 3, 1024), 6, 30);
    let mut at_once = on_gpus(TINY, 1, OPTIONS);
    // The graph is recorded beforehand, as recording waits too.
    for batch in carried_steps(&ids(5, 4, 1024), 1, 20) {
        at_once.run(Batch::clone(&batch)).unwrap();
    }
    for batch in &steps {
        at_once.launch(Batch::clone(batch)).unwrap();
    }
    let mut one_by_one = on_gpus(TINY, 1, OPTIONS);
    for (step, batch) in steps.iter().enumerate() {
        let expected = one_by_one.run(Batch::clone(batch)).unwrap();
        assert_eq!(bits(&at_once.wait().unwrap()), bits(&expected), "step {step}");
    }
}

/// While a step is recorded the device cannot be asked how far it is: the one before has ended by
/// then, and its results can be taken.
#[test]
fn results_are_taken_while_a_graph_is_recorded() {
    let steps = carried_steps(&ids(9, 3, 1024), 1, 30);
    let mut model = rank(&device::runtime(), None, 0, OPTIONS);
    queue(&mut model, &steps[0]);
    model.compute(&steps[1]).unwrap();
    let mut results = model.results(true).unwrap().unwrap();
    model.draw(&steps[1]).unwrap();
    results.extend(model.results(true).unwrap().unwrap());
    let mut one_by_one = on_gpus(TINY, 1, OPTIONS);
    for (batch, found) in steps.iter().zip(&results) {
        let expected = one_by_one.run(Batch::clone(batch)).unwrap();
        assert_eq!(bits(&expected), bits(std::slice::from_ref(found)));
    }
}

/// Each graph is recorded and then replayed with other tokens, whose bits it must give.
#[test]
fn graphs_are_compared_when_a_server_starts() {
    for ranks in [1, 2].into_iter().filter(|&ranks| there_are(ranks)) {
        let mut group = on_gpus(TINY, ranks, OPTIONS);
        let mut told = Vec::new();
        warm_up(&mut group, &LIMITS, 4, true, true, |n, of| told.push((n, of))).unwrap();
        assert_eq!(told, [(1, 3), (2, 3), (3, 3)], "{ranks} ranks");
    }
}

fn bits(results: &[RowOutput]) -> Vec<(u32, Option<u32>)> {
    results.iter().map(|r| (r.token, r.logprob.map(f32::to_bits))).collect()
}

/// Alone or beside others, in one chunk or several, decoded in a graph, in a larger graph, or
/// kernel by kernel: the same bits. The first 33 and 4 tokens are prompts, the others generated.
fn composition_changes_no_bit(ranks: usize, activations: Activations, cache: CacheFormat) {
    let (long, short) = (ids(37, 1, 1024), ids(9, 2, 1024));
    let options = Options { activations, cache, ..OPTIONS };
    let mut gpus = on_gpus(TINY, ranks, options);
    let mut run = |batch| bits(&gpus.run(batch).unwrap());
    let prompt = run(batch(&[(&long, 0, 33, 0)]));
    let answer = run(generated(batch(&[(&long, 33, 37, 0)])));
    let other = run(batch(&[(&short, 0, 4, 8)]));
    let others = run(generated(batch(&[(&short, 4, 9, 8)])));

    let both = run(batch(&[(&short, 0, 4, 20), (&long, 0, 33, 10)]));
    assert_eq!((&both[..4], &both[4..]), (&other[..], &prompt[..]));
    let both = run(generated(batch(&[(&long, 33, 37, 10), (&short, 4, 9, 20)])));
    assert_eq!((&both[..4], &both[4..]), (&answer[..], &others[..]));
    let both = beside(generated(batch(&[(&short, 4, 9, 20)])), batch(&[(&long, 0, 33, 50)]));
    let both = run(both);
    assert_eq!((&both[..5], &both[5..]), (&others[..], &prompt[..]));

    // So many rows that attention takes generated tokens in two launches.
    let eight = |from, to| {
        let spans = (6..14).map(|i| (&long[..], from, to, 10 * i));
        batch(&spans.collect::<Vec<_>>())
    };
    assert!(run(eight(0, 1)).iter().all(|row| *row == prompt[0]));
    let all = run(generated(eight(1, 37)));
    assert_eq!(all.len(), 288);
    let alone = run(generated(batch(&[(&long, 1, 37, 60)])));
    assert!(all.chunks(36).all(|rows| rows == alone));

    let mut chunks = run(batch(&[(&long, 0, 20, 30), (&short, 0, 4, 40)]));
    chunks.truncate(20);
    chunks.extend(run(batch(&[(&long, 20, 33, 30)])));
    assert_eq!(chunks, prompt);
    // Decode: first two sequences in one graph, then one.
    for row in 33..37 {
        let both = [(&long[..], row, row + 1, 30), (&short[..], row - 29, row - 28, 40)];
        let results = run(generated(batch(&both)));
        assert_eq!((results[0], results[1]), (answer[row - 33], others[row - 33]), "row {row}");
    }
    let alone = run(generated(batch(&[(&long, 36, 37, 30)])));
    let again = run(generated(batch(&[(&long, 36, 37, 30)])));
    assert_eq!((&alone[..], &again[..]), (&answer[3..], &answer[3..]));

    let mut eager = on_gpus(TINY, ranks, Options { graphs: false, ..options });
    eager.run(batch(&[(&long, 0, 33, 0)])).unwrap();
    eager.run(generated(batch(&[(&long, 33, 36, 0)]))).unwrap();
    let last = generated(batch(&[(&long, 36, 37, 0)]));
    assert_eq!(bits(&eager.run(last).unwrap()), answer[3..]);
}

#[test]
fn composition_changes_no_bit_on_one_rank() {
    composition_changes_no_bit(1, Activations::Mxfp4, CacheFormat::Native);
    composition_changes_no_bit(1, Activations::Bf16, CacheFormat::Fp8);
}

#[test]
fn composition_changes_no_bit_on_two_ranks() {
    if !there_are(2) {
        return;
    }
    composition_changes_no_bit(2, Activations::Mxfp4, CacheFormat::Native);
}

/// More sequences in a graph than the forms for few rows take: recorded, replayed, and with fewer
/// sequences than it was recorded for, the bits are those of kernel by kernel.
#[test]
fn graphs_of_many_rows_change_no_bit() {
    const SEQUENCES: usize = 37;
    let all: Vec<Vec<u32>> = (0..SEQUENCES as u64).map(|seed| ids(4, seed, 1024)).collect();
    let run = |from, to, count: usize| {
        let block = |i: usize| 3 + i as u32;
        let runs = (0..count).map(|i| (&all[i][..], from, to, block(i)));
        batch(&runs.collect::<Vec<_>>())
    };
    let options =
        Options { activations: Activations::Mxfp4, max_num_seqs: SEQUENCES + 3, ..OPTIONS };
    let mut eager = on_gpus(TINY, 1, Options { graphs: false, ..options });
    eager.run(run(0, 2, SEQUENCES)).unwrap();
    let expected: Vec<_> =
        (2..4).map(|at| bits(&eager.run(generated(run(at, at + 1, SEQUENCES))).unwrap())).collect();
    let distinct: std::collections::BTreeSet<_> = expected[0].iter().collect();
    assert!(distinct.len() > SEQUENCES / 2, "all rows are alike");

    let mut gpus = on_gpus(TINY, 1, options);
    gpus.run(run(0, 2, SEQUENCES)).unwrap();
    // In the graph of 40 rows, recorded and then replayed; then 35 in the same.
    for (at, count) in [(2, SEQUENCES), (3, SEQUENCES), (3, 35)] {
        let found = bits(&gpus.run(generated(run(at, at + 1, count))).unwrap());
        assert!(found == expected[at - 2][..count], "{count} rows at {at}");
    }
    // In that of 32.
    assert!(bits(&gpus.run(generated(run(3, 4, 20))).unwrap()) == expected[1][..20]);
}

/// A batch of more outputs than there is room for logits: they are drawn in rounds, and so are the
/// tokens that the next batch takes.
#[test]
fn outputs_of_several_rounds_are_drawn_and_carried() {
    const ROUND: usize = Limits::LOGIT_ROWS;
    let all = ids(ROUND + 4, 5, 1024);
    let prompt = |from, to| {
        let outputs = (0..to - from).map(greedy).collect();
        Batch { outputs, ..batch(&[(&all, from, to, 3)]) }
    };
    let whole = prompt(0, all.len());
    let blocks = whole.spans[0].blocks.clone();
    let goes_on = Span { row: 0, rows: 1, position: all.len(), blocks, generated: true };
    let begins = Span { row: 1, rows: 1, position: 0, blocks: vec![40], generated: true };
    let next = Batch {
        tokens: vec![0, 0],
        carried: vec![Carried { row: 0, output: ROUND + 3 }, Carried { row: 1, output: 3 }],
        spans: vec![goes_on, begins],
        outputs: vec![greedy(0), greedy(1)],
    };
    let mut known = on_gpus(TINY, 1, OPTIONS);
    let mut expected = known.run(prompt(0, 130)).unwrap();
    expected.extend(known.run(prompt(130, all.len())).unwrap());
    let drawn: Vec<u32> = expected.iter().map(|result| result.token).collect();
    assert_ne!(drawn[3], drawn[ROUND + 3]);

    let mut gpus = on_gpus(TINY, 1, OPTIONS);
    gpus.launch(whole).unwrap();
    gpus.launch(next.clone()).unwrap();
    assert!(bits(&gpus.wait().unwrap()) == bits(&expected));
    let after = known.run(next.resolved(&drawn).unwrap()).unwrap();
    assert_eq!(bits(&gpus.wait().unwrap()), bits(&after));
}

/// What a prompt of 20 rows gives, and the row after it, twice: recorded, then replayed.
fn prompt_and_decode(gpus: &mut Ranks, ids: &[u32]) -> Vec<(u32, Option<u32>)> {
    let mut results = bits(&gpus.run(batch(&[(ids, 0, 20, 3)])).unwrap());
    for _ in 0..2 {
        let decode = generated(batch(&[(ids, 20, 21, 3)]));
        results.extend(bits(&gpus.run(decode).unwrap()));
    }
    results
}

/// Routers that are multiplied together with the shared experts, and routers that are not: a
/// prompt's rows, then one decoded in a graph.
#[test]
fn stacked_and_separate_routers_have_the_same_bits() {
    let (ids, apart) = (ids(21, 6, 1024), apart::with_routers_in_f32(&data(TINY)));
    for ranks in [1, 2, 4].into_iter().filter(|&ranks| there_are(ranks)) {
        let found = [apart.path(), &data(TINY)].map(|checkpoint| {
            let mut gpus = on_gpus(checkpoint.to_str().unwrap(), ranks, OPTIONS);
            prompt_and_decode(&mut gpus, &ids)
        });
        assert!(found[0] == found[1], "{ranks} ranks");
    }
}

/// The one-shot sum, and the sum of moved parts: a prompt's rows, then one decoded in a graph.
#[test]
fn one_shot_and_ordered_sums_have_the_same_bits() {
    let ids = ids(21, 5, 1024);
    for ranks in [2, 4].into_iter().filter(|&ranks| there_are(ranks)) {
        let found = [AllReduce::OneShot, AllReduce::Ordered].map(|all_reduce| {
            let mut gpus = on_gpus(TINY, ranks, Options { all_reduce, ..OPTIONS });
            prompt_and_decode(&mut gpus, &ids)
        });
        assert!(found[0] == found[1], "{ranks} ranks");
    }
}
