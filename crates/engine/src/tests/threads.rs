//! The engine with its thread: callers, cancels, failures, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use model::{Batch, DeviceError, RowOutput};

use super::fake_device::{FakeDevice, expected_events, fake_constraint};
use crate::{
    Constraint, Device, Engine, EngineConfig, Event, Execute, Load, Request, Stream, SubmitError,
};

const CONFIG: EngineConfig = EngineConfig {
    max_model_len: 64,
    max_num_seqs: 4,
    max_num_batched_tokens: 16,
    block_size: 4,
    num_blocks: 40,
    vocab_size: 50,
    max_waiting: 1000,
    prefix_caching: true,
};

fn device() -> FakeDevice {
    let EngineConfig { num_blocks, block_size, vocab_size, max_num_batched_tokens, .. } = CONFIG;
    FakeDevice::new(num_blocks, block_size, vocab_size, max_num_batched_tokens)
}

/// An executor that waits for a permit before each batch.
fn gated() -> (Execute, Sender<()>) {
    let (permits, permit) = channel();
    let mut device = device();
    let execute: Execute = Box::new(move |batch| {
        permit.recv().map_err(|_| DeviceError("the test is over".into()))?;
        device.execute(batch)
    });
    (execute, permits)
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        stop_ids: vec![49],
        sampling: Default::default(),
        constraint: None,
        logprobs: None,
        prompt_logprobs: None,
        priority: 0,
        cache_salt: None,
    }
}

fn events(mut stream: Stream) -> Vec<Event> {
    std::iter::from_fn(|| stream.next_blocking()).collect()
}

/// Sequences running and waiting, blocks held.
type Gauges = (usize, usize, usize);

const IDLE: Gauges = (0, 0, 0);

fn gauges(engine: &Engine) -> Gauges {
    let Load { running, waiting, free_blocks, total_blocks, .. } = engine.load();
    (running, waiting, total_blocks - free_blocks)
}

/// Waits for the engine's thread to publish these figures.
fn await_gauges(engine: &Engine, expected: Gauges) {
    let start = Instant::now();
    while gauges(engine) != expected {
        let found = gauges(engine);
        assert!(start.elapsed() < Duration::from_secs(10), "{found:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn many_callers_get_the_answers_they_would_get_alone() {
    let mut device = device();
    serve_many_callers(Engine::start(CONFIG, Box::new(move |batch| device.execute(batch))));
}

#[test]
fn the_overlapped_loop_gives_the_same_answers() {
    serve_many_callers(Engine::start_overlapped(CONFIG, Box::new(device())));
    // A pool for one of the longest sequences: most are preempted, often with rows under way.
    let config = EngineConfig { num_blocks: 16, ..CONFIG };
    let engine = Engine::start_overlapped(config, Box::new(device()));
    serve_many_callers(engine.clone());
    assert!(engine.load().preemptions > 0, "{:?}", engine.load());
}

fn serve_many_callers(engine: Engine) {
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let engine = engine.clone();
            scope.spawn(move || {
                for turn in 0..40 {
                    let prompt: Vec<u32> = (0..1 + (caller * 7 + turn) % 30).collect();
                    let mut request = request(&prompt, (turn as usize * 5) % 34);
                    request.prompt_logprobs = (turn % 3 == 0).then_some(2);
                    request.logprobs = (turn % 2 == 0).then_some(1);
                    request.constraint =
                        (turn % 2 == 1).then(|| fake_constraint(CONFIG.vocab_size));
                    let expected = expected_events(&request, CONFIG.vocab_size);
                    let stream = engine.submit(request).expect("a request within the limits");
                    if turn % 5 != 4 {
                        assert_eq!(events(stream), expected);
                    }
                }
            });
        }
    });
    await_gauges(&engine, IDLE);
    assert_eq!(engine.health(), Ok(()));
}

#[tokio::test]
async fn a_stream_can_be_awaited() {
    let mut device = device();
    let engine = Engine::start(CONFIG, Box::new(move |batch| device.execute(batch)));
    let request = request(&[1, 2, 3], 5);
    let mut expected = expected_events(&request, CONFIG.vocab_size).into_iter();
    let mut stream = engine.submit(request).expect("a request within the limits");
    while let Some(event) = stream.next().await {
        assert_eq!(Some(event), expected.next());
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_takes_its_blocks() {
    let mut device = device();
    let engine = Engine::start(CONFIG, Box::new(move |batch| device.execute(batch)));
    let cached_tokens = |prompt: &[u32], salt: Option<&str>| {
        let mut request = request(prompt, 1);
        request.cache_salt = salt.map(Into::into);
        let expected = expected_events(&request, CONFIG.vocab_size);
        let mut stream = engine.submit(request).expect("a request within the limits");
        let events: Vec<Event> = std::iter::from_fn(|| stream.next_blocking()).collect();
        assert_eq!(events, expected);
        stream.cached_tokens()
    };
    let document: Vec<u32> = (0..20).collect();
    assert_eq!(cached_tokens(&document, None), 0);
    assert_eq!(cached_tokens(&document, None), 16, "the last token's row is always computed");
    assert_eq!(cached_tokens(&document[..11], None), 8);
    assert_eq!(cached_tokens(&[&document[..9], &[48; 20]].concat(), None), 8);
    assert_eq!(cached_tokens(&document[1..], None), 0, "other positions");
    assert_eq!(cached_tokens(&document, Some("tenant")), 0);
    assert_eq!(cached_tokens(&document, Some("tenant")), 16);
    let Load { prompt_tokens, cached_prompt_tokens, .. } = engine.load();
    assert_eq!((prompt_tokens, cached_prompt_tokens), (20 + 20 + 11 + 29 + 19 + 20 + 20, 48));
}

/// What was generated may have been computed otherwise than a prompt is, so a prompt does not take
/// it from the cache.
#[test]
fn a_conversations_next_turn_computes_the_last_answer_again() {
    let mut device = device();
    let engine = Engine::start(CONFIG, Box::new(move |batch| device.execute(batch)));
    let mut prompt: Vec<u32> = (0..10).collect();
    // Whole blocks of the prompt before, and never the last token.
    for cached in [0, 8, 20, 32] {
        let mut turn = request(&prompt, 12);
        turn.stop_ids.clear();
        let expected = expected_events(&turn, CONFIG.vocab_size);
        let mut stream = engine.submit(turn).expect("a request within the limits");
        let events: Vec<Event> = std::iter::from_fn(|| stream.next_blocking()).collect();
        assert_eq!(events, expected);
        assert_eq!(stream.cached_tokens(), cached, "of {}", prompt.len());
        prompt.extend(events.iter().filter_map(|event| match event {
            Event::Token(info) => Some(info.id),
            _ => None,
        }));
    }
}

#[test]
fn a_constraint_that_panics_ends_its_own_sequence() {
    let mut device = device();
    let engine = Engine::start(CONFIG, Box::new(move |batch| device.execute(batch)));
    let mut first = request(&[1, 2, 3], 20);
    first.constraint =
        Some(Constraint { first: None, next: Box::new(|token| panic!("no {token}")) });
    let first = events(engine.submit(first).expect("a request within the limits"));
    assert_eq!(first.len(), 2, "a token, and no mask for the next one");
    assert_eq!(first[1], Event::ConstraintFailed("the constraint panicked".into()));
    let other = request(&[1, 2, 3], 20);
    let expected = expected_events(&other, CONFIG.vocab_size);
    assert_eq!(events(engine.submit(other).expect("a request within the limits")), expected);
}

#[test]
fn preempted_streams_go_on_as_if_nothing_had_happened() {
    let mut device = device();
    // Four sequences need 4 * 12 blocks in the end.
    let config = EngineConfig { num_blocks: 14, ..CONFIG };
    let engine = Engine::start(config, Box::new(move |batch| device.execute(batch)));
    let submit = |first: u32| {
        let mut request = request(&[first, 1, 2], 45);
        request.stop_ids.clear();
        let expected = expected_events(&request, CONFIG.vocab_size);
        (engine.submit(request).expect("a request within the limits"), expected)
    };
    for (stream, expected) in [submit(1), submit(2), submit(3), submit(4)] {
        assert_eq!(events(stream), expected);
    }
    await_gauges(&engine, IDLE);
    assert!(engine.load().preemptions >= 2, "{:?}", engine.load());
}

#[test]
fn dropping_a_running_stream_frees_its_blocks_within_a_step() {
    let (execute, permits) = gated();
    let engine = Engine::start(CONFIG, execute);
    let stream = engine.submit(request(&[1; 10], 30)).expect("a request within the limits");
    await_gauges(&engine, (1, 0, 3));
    drop(stream);
    permits.send(()).expect("the engine runs"); // ends the step that was under way
    await_gauges(&engine, IDLE);
}

#[test]
fn dropping_a_waiting_stream_takes_it_out_of_the_queue() {
    let (execute, permits) = gated();
    let config = EngineConfig { max_num_seqs: 1, ..CONFIG };
    let engine = Engine::start(config, execute);
    let first = engine.submit(request(&[1; 10], 30)).expect("a request within the limits");
    await_gauges(&engine, (1, 0, 3));
    let second = engine.submit(request(&[2; 10], 30)).expect("a request within the limits");
    assert_eq!(gauges(&engine), (1, 1, 3));
    drop(second);
    permits.send(()).expect("the engine runs");
    await_gauges(&engine, (1, 0, 3));
    drop(first);
}

#[test]
fn a_full_queue_is_known_at_once() {
    let (execute, permits) = gated();
    let config = EngineConfig { max_num_seqs: 1, max_waiting: 2, ..CONFIG };
    let engine = Engine::start(config, execute);
    let mut streams = vec![engine.submit(request(&[1], 2)).expect("an empty queue")];
    await_gauges(&engine, (1, 0, 1));
    streams.extend((0..2).map(|_| engine.submit(request(&[1], 2)).expect("room in the queue")));
    let refused = engine.submit(request(&[1], 2)).map(|_| ());
    assert_eq!(refused, Err(SubmitError::QueueFull { waiting: 2 }));
    for _ in 0..6 {
        permits.send(()).expect("the engine runs");
    }
    for stream in streams {
        assert!(matches!(events(stream).last(), Some(Event::Finished(_))));
    }
    engine.submit(request(&[1], 2)).map(drop).expect("room in the queue again");
}

/// A device that waits for a permit before each batch, and fails without one.
struct Gated(FakeDevice, std::sync::mpsc::Receiver<()>);

impl Device for Gated {
    fn launch(&mut self, batch: Batch) -> Result<(), DeviceError> {
        self.0.launch(batch)
    }

    fn wait(&mut self) -> Result<Vec<RowOutput>, DeviceError> {
        self.1.recv().map_err(|_| DeviceError("rank 3: memory fault".into()))?;
        self.0.wait()
    }
}

#[test]
fn an_overlapped_batch_of_cancelled_sequences_ends_unnoticed() {
    let (permits, permit) = channel();
    let engine = Engine::start_overlapped(CONFIG, Box::new(Gated(device(), permit)));
    let stream = engine.submit(request(&[1; 10], 30)).expect("a request within the limits");
    await_gauges(&engine, (1, 0, 3));
    drop(stream);
    // Two batches are under way: one was waited for when the stream was dropped.
    permits.send(()).expect("the engine runs");
    await_gauges(&engine, IDLE);
    permits.send(()).expect("the engine runs");
    let next = request(&[2; 5], 3);
    let expected = expected_events(&next, CONFIG.vocab_size);
    let stream = engine.submit(next).expect("a request within the limits");
    for _ in 0..3 {
        permits.send(()).expect("the engine runs");
    }
    assert_eq!(events(stream), expected);
    assert_eq!(engine.health(), Ok(()));
}

#[test]
fn an_overlapped_device_that_fails_fails_every_stream() {
    let (permits, permit) = channel();
    let device = Box::new(Gated(device(), permit));
    drop(permits);
    check_engine_failure(Engine::start_overlapped(CONFIG, device), "rank 3: memory fault");
}

/// Whatever goes wrong in a step, every caller hears of it and the engine says so.
fn check_failure(execute: Execute, reason: &str) {
    check_engine_failure(Engine::start(CONFIG, execute), reason);
}

fn check_engine_failure(engine: Engine, reason: &str) {
    let streams: Vec<Stream> =
        (0..6).filter_map(|_| engine.submit(request(&[1; 20], 9)).ok()).collect();
    assert!(!streams.is_empty());
    for stream in streams {
        assert_eq!(events(stream), [Event::Failed(reason.into())]);
    }
    assert_eq!(engine.health(), Err(reason.into()));
    let refused = engine.submit(request(&[1], 1)).map(drop);
    assert_eq!(refused, Err(SubmitError::Stopped(reason.into())));
    await_gauges(&engine, IDLE);
}

#[test]
fn a_failed_device_fails_every_stream() {
    let execute = Box::new(|_| Err(DeviceError("rank 3: memory fault".into())));
    check_failure(execute, "rank 3: memory fault");
}

#[test]
fn a_panic_in_the_executor_fails_every_stream() {
    check_failure(Box::new(|_| panic!("lost a rank")), "a step panicked: lost a rank");
}

#[test]
fn results_that_do_not_match_the_batch_fail_every_stream() {
    let execute = Box::new(|_| Ok(vec![model::RowOutput { token: 0, logprob: None, top: vec![] }]));
    check_failure(execute, "a batch asked for 0 results and got 1");
    let mut device = device();
    let execute: Execute = Box::new(move |batch| {
        let mut results = device.execute(batch)?;
        results.iter_mut().for_each(|result| result.token = 50);
        Ok(results)
    });
    check_failure(execute, "the device drew token 50, but the vocabulary has 50 tokens");
}

#[test]
fn a_configuration_with_a_zero_fails_from_the_start() {
    let engine = Engine::start(EngineConfig { block_size: 0, ..CONFIG }, gated().0);
    let reason = "block_size is 0, but must be at least 1";
    assert_eq!(engine.health(), Err(reason.into()));
    let refused = engine.submit(request(&[1], 1)).map(drop);
    assert_eq!(refused, Err(SubmitError::Stopped(reason.into())));
}

#[test]
fn without_handles_the_thread_ends_and_open_streams_fail() {
    let (execute, permits) = gated();
    let engine = Engine::start(CONFIG, execute);
    let running = engine.submit(request(&[1; 10], 30)).expect("a request within the limits");
    let other_handle = engine.clone();
    drop(engine);
    let stream = other_handle.submit(request(&[2], 1)).expect("a handle is left");
    drop(other_handle);
    permits.send(()).expect("the engine runs");
    for stream in [running, stream] {
        let reason = "the engine was stopped".into();
        assert_eq!(events(stream).last(), Some(&Event::Failed(reason)));
    }
    // The executor, and with it the receiving end, goes with the thread.
    let start = Instant::now();
    while permits.send(()).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "the thread is still there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_beyond_the_limits_are_refused() {
    let engine = Engine::start(EngineConfig { num_blocks: 10, ..CONFIG }, gated().0);
    let check = |prompt: &[u32], max_tokens, message: &str| {
        let refused = engine.submit(request(prompt, max_tokens)).map(drop);
        assert_eq!(refused.map_err(|error| error.to_string()), Err(message.into()));
        assert_eq!(engine.load().waiting, 0);
    };
    check(&[], 1, "the prompt is empty");
    check(&[0, 50], 1, "token id 50 is out of range: the vocabulary has 50 tokens");
    check(&[0; 41], 0, "the KV pool holds 40 tokens, but this request needs 41");
    check(
        &[0; 60],
        5,
        "this model's context length is 64 tokens, but 60 in the prompt and 5 to generate were \
         asked for",
    );
    check(
        &[0],
        usize::MAX,
        "this model's context length is 64 tokens, but 1 in the prompt and 18446744073709551615 \
         to generate were asked for",
    );
}

/// Takes its time to be given back.
struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
        self.0.store(true, Relaxed);
    }
}

#[test]
fn stop_waits_until_the_device_is_given_back() {
    let given_back = Arc::new(AtomicBool::new(false));
    let held = Held(given_back.clone());
    let execute: Execute = Box::new(move |_| {
        let _held = &held;
        Err(DeviceError("no batch was expected".into()))
    });
    let engine = Engine::start(CONFIG, execute);
    engine.clone().stop();
    assert!(given_back.load(Relaxed));
    engine.stop();
    assert!(matches!(engine.submit(request(&[1], 1)), Err(SubmitError::Stopped(_))));
}
