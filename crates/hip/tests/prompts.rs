//! Prompts of many sequences in one batch have the bits that each has alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{Activations, Checkpoint};
use device::there_are;
use hip::{AllReduce, Device, Gpu, Meeting, Options};
use model::{Batch, CacheFormat, DeviceError, Limits, Model, OutputRow, Ranks, Span, Want};

const LIMITS: Limits =
    Limits { max_model_len: 1024, max_num_batched_tokens: 128, block_size: 16, num_blocks: 64 };
const OPTIONS: Options = Options {
    activations: Activations::Mxfp4,
    cache: CacheFormat::Native,
    max_num_seqs: 16,
    graphs: false,
    all_reduce: AllReduce::OneShot,
    watchdog: Duration::from_secs(600),
};
/// Blocks of each sequence.
const BLOCKS: usize = 2;
/// Lengths of the prompts.
const LENS: [usize; 8] = [1, 20, 2, 16, 17, 3, 9, 5];
const LONGEST: usize = 20;

/// A path in this repository, or where `MOONROCK_TEST_DATA` has what the tests need of it.
fn data(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("MOONROCK_TEST_DATA").map_or(here, PathBuf::from).join(name)
}

/// A group in which a launch of prompts has room for `max_model_len` keys.
fn on_gpus(ranks: usize, max_model_len: usize) -> Ranks {
    let checkpoint = Arc::new(Checkpoint::open(&data("tests/data/tiny-k2/mxfp4")).unwrap());
    let limits = Limits { max_model_len, ..LIMITS };
    let runtime = device::runtime();
    let meeting = (ranks > 1).then(|| Meeting::new(&runtime, ranks).unwrap());
    Ranks::start(ranks, move |rank| {
        let device = Device::open(&runtime, rank).map_err(DeviceError::from)?;
        let group = meeting.as_ref().map(|meeting| meeting.join(rank, &device).unwrap());
        let backend = Gpu::new(&device, group, checkpoint.config(), &limits, OPTIONS)?;
        Model::load(backend, &checkpoint, rank, ranks, &limits, &|_| {})
    })
    .unwrap()
}

/// Runs a batch of rows `(prompt, from, to)` of prompts, whose blocks are `set`'s, and returns the
/// bits of each one's rows: of every row the log-probability of the next token.
fn run(gpus: &mut Ranks, parts: &[(usize, usize, usize)], set: usize) -> Vec<Vec<u32>> {
    let token = |prompt: usize, i: usize| (model::uniform(prompt as u64, i as u64) * 1024.0) as u32;
    let mut batch = Batch::default();
    for &(prompt, position, to) in parts {
        let (row, rows) = (batch.tokens.len(), to - position);
        let first = ((set * LENS.len() + prompt) * BLOCKS) as u32;
        let blocks = (first..first + BLOCKS as u32).collect();
        batch.spans.push(Span { row, rows, position, blocks, generated: false });
        for i in position..to {
            let want = Want::Score(token(prompt, i + 1));
            batch.outputs.push(OutputRow { row: batch.tokens.len(), want, logprobs: Some(1) });
            batch.tokens.push(token(prompt, i));
        }
    }
    let mut results = gpus.run(batch).unwrap().into_iter();
    let mut rows = |&(_, from, to): &(usize, usize, usize)| -> Vec<u32> {
        let own = results.by_ref().take(to - from);
        own.map(|result| result.logprob.unwrap().to_bits()).collect()
    };
    parts.iter().map(&mut rows).collect()
}

/// All prompts, whole.
fn whole() -> Vec<(usize, usize, usize)> {
    LENS.into_iter().enumerate().map(|(prompt, len)| (prompt, 0, len)).collect()
}

/// Each prompt alone, and all together in several launches, the last one first: of each launch the
/// longest prompt would fill the room.
fn alone_and_together(gpus: &mut Ranks) -> Vec<Vec<u32>> {
    let mut all = whole();
    let alone: Vec<Vec<u32>> = all.iter().map(|&part| run(gpus, &[part], 0).remove(0)).collect();
    all.reverse();
    let mut found = run(gpus, &all, 1);
    found.reverse();
    assert!(found == alone, "in several launches");
    alone
}

#[test]
fn neighbours_change_no_bit() {
    let mut gpus = on_gpus(1, LONGEST);
    let alone = alone_and_together(&mut gpus);
    assert!(run(&mut on_gpus(1, 1024), &whole(), 0) == alone, "in one launch");

    let half =
        |&(prompt, from, to): &(usize, usize, usize)| (prompt, from, (from + to).div_ceil(2));
    let halves: Vec<_> = whole().iter().map(half).collect();
    let mut found = run(&mut gpus, &halves, 0);
    let rests = halves.iter().map(|&(prompt, _, half)| (prompt, half, LENS[prompt]));
    let rests: Vec<_> = rests.filter(|(_, from, to)| from < to).collect();
    for (&(prompt, ..), rows) in rests.iter().zip(run(&mut gpus, &rests, 0)) {
        found[prompt].extend(rows);
    }
    assert!(found == alone, "in two chunks");
}

#[test]
fn neighbours_change_no_bit_on_two_ranks() {
    if there_are(2) {
        alone_and_together(&mut on_gpus(2, LONGEST));
    }
}
