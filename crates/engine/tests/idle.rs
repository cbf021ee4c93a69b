//! An engine without requests sleeps. Alone in this file, so that the process has one engine.
#![cfg(target_os = "linux")]

use std::fs;
use std::time::Duration;

use engine::{Engine, EngineConfig, Event, Request};
use model::RowOutput;

/// How often the engine's thread went to sleep or was interrupted.
fn context_switches() -> String {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs");
    for task in tasks {
        let status = fs::read_to_string(task.expect("a task").path().join("status"));
        let status = status.unwrap_or_default();
        if status.starts_with("Name:\tengine\n") {
            return status.lines().filter(|line| line.contains("ctxt_switches")).collect();
        }
    }
    panic!("no thread is called engine");
}

#[test]
fn an_idle_engine_does_not_wake_up() {
    let config = EngineConfig {
        max_model_len: 64,
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        block_size: 4,
        num_blocks: 40,
        vocab_size: 50,
        max_waiting: 10,
        prefix_caching: true,
    };
    let result = RowOutput { token: 7, logprob: None, top: vec![] };
    let engine = Engine::start(config, Box::new(move |_| Ok(vec![result.clone()])));
    let request = Request {
        prompt: vec![1],
        max_tokens: 3,
        stop_ids: vec![],
        sampling: Default::default(),
        constraint: None,
        logprobs: None,
        prompt_logprobs: None,
        priority: 0,
        cache_salt: None,
    };
    let mut stream = engine.submit(request).expect("a request within the limits");
    while !matches!(stream.next_blocking(), Some(Event::Finished(_))) {}
    drop(stream);
    std::thread::sleep(Duration::from_millis(100));
    let before = context_switches();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(context_switches(), before);
}
