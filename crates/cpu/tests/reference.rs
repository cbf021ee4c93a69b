//! The whole forward pass against an independent float32 implementation's recorded results.
//!
//! Bound: both sides compute in f32 and differ only in the order of additions and in absorbed
//! against expanded attention. Each of the 3 layers makes about 10 dot products in a row from
//! residual to residual, none longer than 768 terms; the reference's order is unknown, so take the
//! worst chain of n = 768 roundings of 2^-24 relative to the terms' magnitudes: 768 * 2^-24 =
//! 4.6e-5 per product, 30 products: 1.4e-3 of the logits' scale if every error had one sign. Errors
//! of random sign grow with the square root instead: sqrt(768) * 2^-24 * sqrt(30) = 9e-6, on logits
//! of magnitude 10: 1e-4. `BOUND` is the reference's own statement of agreement, between the two;
//! `TYPICAL` is the random-sign estimate with a factor of 4, and must hold in the mean.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apart;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::{Activations, Checkpoint};
use cpu::{Cpu, Group};
use model::{Batch, Draw, Limits, Model, OutputRow, Ranks, RowOutput, SamplingParams, Span, Want};
use serde_json::Value;

const BOUND: f64 = 1e-3;
const TYPICAL: f64 = 4e-4;
const BLOCK_SIZE: usize = 16;
const BLOCKS: usize = 160;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-k2")
}

fn ranks(format: &str, count: usize, activations: Activations) -> Ranks {
    ranks_of(&data().join(format), count, activations)
}

fn ranks_of(checkpoint: &Path, count: usize, activations: Activations) -> Ranks {
    let checkpoint = Arc::new(Checkpoint::open(checkpoint).unwrap());
    let limits = Limits {
        max_model_len: 1024,
        max_num_batched_tokens: 1024,
        block_size: BLOCK_SIZE,
        num_blocks: BLOCKS,
    };
    let groups = Group::new(count);
    Ranks::start(count, move |rank| {
        let backend = Cpu::new(groups[rank].clone(), activations);
        Model::load(backend, &checkpoint, rank, count, &limits, &|_| {})
    })
    .unwrap()
}

struct Prompt {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    top: Vec<(u32, f64)>,
    greedy: Vec<(u32, f64)>,
}

fn prompts(format: &str) -> Vec<Prompt> {
    let file = std::fs::read(data().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&file).unwrap();
    let pairs = |v: &Value| -> Vec<(u32, f64)> {
        let pair = |p: &Value| (p[0].as_u64().unwrap() as u32, p[1].as_f64().unwrap());
        v.as_array().unwrap().iter().map(pair).collect()
    };
    let all = expected["prompts"].as_array().unwrap().iter();
    all.filter(|p| p["format"] == format)
        .map(|p| Prompt {
            ids: p["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect(),
            logprobs: p["token_logprobs"].as_array().unwrap()[1..]
                .iter()
                .map(|v| v.as_f64().unwrap())
                .collect(),
            top: pairs(&p["last_top5"]),
            greedy: pairs(&p["greedy"]),
        })
        .collect()
}

fn greedy_draw(index: u64) -> Want {
    let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    Want::Sample(Draw { params, index, counts: None, mask: None })
}

/// A batch of runs of prompts `(ids, from, to, first block)`: rows `from..to` of each. Every row's
/// logits are wanted: the next prompt token's score, or a draw after the last one.
fn batch(runs: &[(&[u32], usize, usize, u32)]) -> Batch {
    let mut batch = Batch::default();
    for &(ids, from, to, first) in runs {
        let row = batch.tokens.len();
        let blocks = (first..first + ids.len().div_ceil(BLOCK_SIZE) as u32).collect();
        let rows = to - from;
        batch.spans.push(Span { row, rows, position: from, blocks, generated: false });
        batch.tokens.extend(&ids[from..to]);
        for i in from..to {
            let want = ids.get(i + 1).map_or_else(|| greedy_draw(0), |&next| Want::Score(next));
            batch.outputs.push(OutputRow { row: row + i - from, want, logprobs: Some(5) });
        }
    }
    batch
}

fn check(prompt: &Prompt, results: &[RowOutput]) {
    let found: Vec<f64> = results.iter().map(|r| r.logprob.unwrap() as f64).collect();
    let errors = prompt.logprobs.iter().zip(&found).map(|(a, b)| (a - b).abs());
    let worst = errors.clone().fold(0.0, f64::max);
    let mean = errors.sum::<f64>() / prompt.logprobs.len().max(1) as f64;
    eprintln!("{} tokens: worst {worst:.2e}, mean {mean:.2e}", prompt.ids.len());
    assert!(worst <= BOUND && mean <= TYPICAL, "worst {worst}, mean {mean}");
    for ((id, logprob), found) in prompt.top.iter().zip(&results[results.len() - 1].top) {
        assert_eq!(*id, found.0);
        let found = found.1 as f64;
        assert!((logprob - found).abs() <= BOUND, "{id}: {found}, expected {logprob}");
    }
}

#[test]
fn log_probabilities_agree_with_the_reference_on_1_2_and_4_ranks() {
    for format in ["mxfp4", "w4a16"] {
        for count in [1, 2, 4] {
            let mut ranks = ranks(format, count, Activations::Bf16);
            for prompt in prompts(format) {
                let results = ranks.run(batch(&[(&prompt.ids, 0, prompt.ids.len(), 3)])).unwrap();
                check(&prompt, &results);
            }
        }
    }
}

/// Routers that are multiplied together with the shared experts, and routers that are not.
#[test]
fn stacked_and_separate_routers_have_the_same_bits() {
    let apart = apart::with_routers_in_f32(&data().join("mxfp4"));
    let ids = &prompts("mxfp4")[3].ids;
    for count in [1, 2, 4] {
        let run = |path: &Path| {
            let mut ranks = ranks_of(path, count, Activations::Mxfp4);
            ranks.run(batch(&[(ids, 0, ids.len(), 3)])).unwrap()
        };
        assert!(run(apart.path()) == run(&data().join("mxfp4")), "{count} ranks");
    }
}

#[test]
fn greedy_continuations_agree_where_the_margin_exceeds_the_bound() {
    for format in ["mxfp4", "w4a16"] {
        let mut ranks = ranks(format, 1, Activations::Bf16);
        for prompt in prompts(format).iter().filter(|p| !p.greedy.is_empty()) {
            let mut ids = prompt.ids.clone();
            for &(expected, margin) in &prompt.greedy {
                // The logits' error is at most that of their difference to the normalizer, twice.
                assert!(margin > 2.0 * BOUND, "the reference is too close to a tie to compare");
                let results = ranks.run(batch(&[(&ids, 0, ids.len(), 0)])).unwrap();
                assert_eq!(results.last().unwrap().token, expected);
                ids.push(expected);
            }
        }
    }
}

/// One chunk or many, alone or beside others, in any blocks: the same bits, for every precision of
/// activations.
#[test]
fn chunks_and_neighbours_do_not_change_a_bit() {
    let prompts = prompts("mxfp4");
    let (long, middle, short) = (&prompts[4].ids, &prompts[3].ids, &prompts[2].ids);
    for activations in [Activations::Bf16, Activations::Mxfp8, Activations::Mxfp4] {
        for count in [1, 2] {
            let mut ranks = ranks("mxfp4", count, activations);
            let whole = ranks.run(batch(&[(long, 0, 700, 0)])).unwrap();
            let mut chunked = Vec::new();
            let mut from = 0;
            for (i, rows) in [1, 15, 17, 64, 300, 1, 302].into_iter().enumerate() {
                let to = from + rows;
                let other: &[u32] = if i % 2 == 0 { middle } else { short };
                let neighbour = (other, 0, other.len(), 60);
                let own = (&long[..], from, to, 90);
                let results = if i % 2 == 0 {
                    let all = ranks.run(batch(&[own, neighbour])).unwrap();
                    all[..rows].to_vec()
                } else {
                    let all = ranks.run(batch(&[neighbour, own])).unwrap();
                    all[other.len()..].to_vec()
                };
                chunked.extend(results);
                from = to;
            }
            assert_eq!(whole.len(), chunked.len());
            assert!(whole == chunked, "{activations:?} on {count} ranks");
        }
    }
}

/// A backend may take all rows before the first prompt's for generated ones.
#[test]
fn spans_in_a_wrong_order_are_refused() {
    let ids = [1, 2, 3, 4];
    let mut wrong = batch(&[(&ids, 0, 4, 0), (&ids, 0, 4, 8)]);
    wrong.spans[1].generated = true;
    let error = ranks("mxfp4", 1, Activations::Bf16).run(wrong).unwrap_err();
    assert!(error.to_string().contains("row 4 was generated"), "{error}");
}
