//! Host time per step: what the engine's thread does between two batches (take results, tell the
//! streams, plan), with an executor that does nothing. `cargo bench -p engine`.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::{Engine, EngineConfig, Event, Request};
use model::{RowOutput, SamplingParams};

const STREAMS: usize = 256;
const PROMPT: usize = 2000;
const ANSWER: usize = 1000;

fn main() {
    let config = EngineConfig {
        max_model_len: PROMPT + ANSWER,
        max_num_seqs: STREAMS,
        max_num_batched_tokens: 8192,
        block_size: 64,
        num_blocks: STREAMS * (PROMPT + ANSWER).div_ceil(64) + STREAMS,
        vocab_size: 160_000,
        max_waiting: STREAMS,
        prefix_caching: true,
    };
    for penalties in [false, true] {
        let mut times = host_times(config.clone(), penalties);
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!(
            "{STREAMS} decoding sequences of {PROMPT} + 0..{ANSWER} tokens, penalties {penalties}: \
             host time per step p50 {:?}, p99 {:?}, max {:?} over {} steps",
            at(50),
            at(99),
            at(100),
            times.len()
        );
    }
}

/// Times between the end of a batch and the start of the next, where both hold all streams'
/// decodes.
fn host_times(config: EngineConfig, penalties: bool) -> Vec<Duration> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let (recorded, mut last_end) = (times.clone(), None);
    // The first batch waits until all are submitted, so that all decode at the same time.
    let (submitted, all_submitted) = channel::<()>();
    let execute = move |batch: model::Batch| {
        let _ = all_submitted.recv(); // fails at once, once the sender is gone
        let all_decode = batch.tokens.len() == STREAMS && batch.outputs.len() == STREAMS;
        if let (true, Some(end)) = (all_decode, last_end) {
            recorded.lock().expect("one user").push(Instant::now() - end);
        }
        let result = |row: usize| RowOutput { token: row as u32, logprob: None, top: Vec::new() };
        let results = batch.outputs.iter().map(|output| result(output.row)).collect();
        // Giving the batch back costs time too, but on a real device it passes in the background.
        drop(batch);
        last_end = all_decode.then(Instant::now);
        Ok(results)
    };
    let engine = Engine::start(config, Box::new(execute));
    let sampling = Arc::new(SamplingParams {
        presence_penalty: if penalties { 0.5 } else { 0.0 },
        ..SamplingParams::default()
    });
    let request = |number: usize| Request {
        prompt: (0..PROMPT).map(|position| ((number * 31 + position) % 160_000) as u32).collect(),
        max_tokens: ANSWER,
        stop_ids: Vec::new(),
        sampling: sampling.clone(),
        constraint: None,
        logprobs: None,
        prompt_logprobs: None,
        priority: 0,
        cache_salt: None,
    };
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| engine.submit(request(number)).expect("a request within the limits"))
        .collect();
    drop(submitted);
    for mut stream in streams {
        while !matches!(stream.next_blocking(), Some(Event::Finished(_))) {}
    }
    std::mem::take(&mut times.lock().expect("one user"))
}
