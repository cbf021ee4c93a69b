//! Many clients at once, some of which leave.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::server::Server;

fn body(i: usize, max_tokens: usize) -> Value {
    json!({"model": "demo", "stream": true, "max_tokens": max_tokens, "temperature": 1.0, "seed": i,
        "stream_options": {"include_usage": true}, "ignore_eos": true,
        "messages": [{"role": "user", "content": format!("What is {} plus {}?", i + 10, 2 * i)}]})
}

/// One stream to its end: `(chunks, completion tokens, longest pause)`.
pub(crate) async fn stream(server: &Server, i: usize, max_tokens: usize) -> (usize, u64, Duration) {
    let url = format!("{}/v1/chat/completions", server.url);
    let answer = server.client.post(url).json(&body(i, max_tokens)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut bytes = answer.bytes_stream();
    // A part may end within a character.
    let (mut text, mut pause) = (Vec::new(), Duration::ZERO);
    let mut last = std::time::Instant::now();
    while let Some(part) = bytes.next().await {
        text.extend(part.unwrap());
        pause = pause.max(last.elapsed());
        last = std::time::Instant::now();
    }
    let text = String::from_utf8(text).unwrap();
    let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let usage: Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    let tokens = usage["usage"]["completion_tokens"].as_u64().unwrap();
    (events.len(), tokens, pause)
}

pub(crate) async fn load_figures(server: &Server) -> Value {
    let url = format!("{}/load", server.url);
    server.client.get(url).send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_streams_end_and_memory_stays() {
    // A KV pool of 64 * 128 tokens: two rounds of 64 streams of over 64 tokens touch all of it.
    let args = ["--served-model-name", "demo", "--max-model-len", "128", "--max-num-seqs", "64"];
    let server = Server::start("models/demo", &args);
    let round = async |offset: usize| {
        let streams = (0..64).map(|i| stream(&server, offset + i, 40));
        for (chunks, tokens, pause) in futures_util::future::join_all(streams).await {
            assert!(tokens == 40 && chunks > 2);
            // A step of 64 rows or one prompt chunk, even on a busy machine: nothing near this.
            assert!(pause < Duration::from_secs(60), "a stream stalled for {pause:?}");
        }
    };
    round(0).await;
    round(64).await;
    let before = server.resident();
    for i in 2..5 {
        round(64 * i).await;
    }
    let grown = server.resident().saturating_sub(before);
    // The answers of three rounds are 7,680 tokens; a leak of even 4 KiB for each would show.
    assert!(grown < 30 << 20, "grew by {} MiB", grown >> 20);
    let load = load_figures(&server).await;
    assert_eq!((&load["running"], &load["waiting"]), (&json!(0), &json!(0)), "{load}");
}

/// A client that leaves frees its blocks within a step: long before its answer could have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_blocks() {
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    let url = format!("{}/v1/chat/completions", server.url);
    let mut streams = Vec::new();
    for i in 0..4 {
        let answer = server.client.post(&url).json(&body(i, 3000)).send().await.unwrap();
        let mut bytes = answer.bytes_stream();
        bytes.next().await.unwrap().unwrap();
        streams.push(bytes);
    }
    // A few steps' time.
    let limit = Duration::from_secs(5);
    running(&server, 4, limit).await;
    drop(streams);
    running(&server, 0, limit).await;
}

/// Waits until `count` sequences run, for a while at most.
pub(crate) async fn running(server: &Server, count: usize, limit: Duration) {
    let begin = std::time::Instant::now();
    loop {
        let load = load_figures(server).await;
        if load["running"] == count {
            return;
        }
        assert!(begin.elapsed() < limit, "not {count}: {load}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
