//! Two hundred clients that ask for long, short, streamed and whole answers and often leave before
//! the end: afterwards the server holds what it held before.
//!
//! `MOONROCK_FULL`: ten minutes.

use std::process::Command;
use std::time::{Duration, Instant};

use model::uniform;
use serde_json::{Value, json};

use crate::identity::Random;
use crate::server::{Server, binary};

const CLIENTS: usize = 200;

/// How long, and how much of the model each request may use.
#[derive(Debug, Clone, Copy)]
struct Form {
    rounds: usize,
    round: Duration,
    /// Sequences that run at once; the other clients' requests wait.
    running: usize,
    max_model_len: usize,
    max_tokens: usize,
}

/// Each client sends one or two requests a round.
const SHORT: Form = Form {
    rounds: 3,
    round: Duration::from_secs(2),
    running: 64,
    max_model_len: 48,
    max_tokens: 16,
};
const LONG: Form = Form {
    rounds: 10,
    round: Duration::from_secs(60),
    running: CLIENTS,
    max_model_len: 128,
    max_tokens: 60,
};
/// Rounds in which memory still grows: the pages of the KV pool come with their first use.
const FIRST_ROUNDS: usize = 2;
/// What memory may grow by in the rounds after them. With one arena the allocator's own part grew
/// by 3.4 MB in ten minutes; with one for each thread by 4 to 9 MB, while what was in use had grown
/// by nothing. The long form's thousands of requests leave it under 3 KiB for each, less than one's
/// body, events and channel take.
const GROWTH: usize = 8 << 20;

/// What the server holds while nobody asks for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    free_blocks: u64,
    descriptors: usize,
    resident: usize,
}

/// How a client's requests ended.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    answered: usize,
    left: usize,
    tokens: u64,
}

impl std::iter::Sum for Ends {
    fn sum<I: Iterator<Item = Ends>>(all: I) -> Ends {
        all.fold(Ends::default(), |sum, one| Ends {
            answered: sum.answered + one.answered,
            left: sum.left + one.left,
            tokens: sum.tokens + one.tokens,
        })
    }
}

/// Route, body, and the most tokens that may come back.
fn random_request(random: &mut Random, form: Form) -> (&'static str, Value, usize) {
    let max_tokens = 1 + random.below(form.max_tokens);
    let mut body = json!({"model": "demo", "max_tokens": max_tokens, "temperature": 1.0,
        "seed": random.below(1000), "stream": random.below(2) == 0,
        "ignore_eos": random.below(2) == 0});
    if body["stream"] == true {
        body["stream_options"] = json!({"include_usage": true});
    }
    let route = if random.below(2) == 0 {
        let (a, b) = (random.below(90), random.below(90));
        body["messages"] = json!([{"role": "user", "content": format!("What is {a} plus {b}?")}]);
        "/v1/chat/completions"
    } else {
        let length = 1 + random.below(form.max_model_len - form.max_tokens);
        body["prompt"] = (0..length).map(|_| random.below(256)).collect();
        "/v1/completions"
    };
    (route, body, max_tokens)
}

/// Asks, and reads all of the answer; returns its number of tokens.
async fn ask(client: &reqwest::Client, url: &str, body: &Value, max_tokens: usize) -> u64 {
    let answer = client.post(url).json(body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{body}: {text}");
    let usage = if body["stream"] == true {
        let events: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        assert_eq!(events.last(), Some(&"[DONE]"), "{text}");
        events[events.len() - 2]
    } else {
        text.as_str()
    };
    let usage: Value = serde_json::from_str(usage).unwrap();
    let tokens = usage["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(tokens <= max_tokens as u64, "{body}: {usage}");
    assert!(tokens == max_tokens as u64 || body["ignore_eos"] == false, "{body}: {usage}");
    tokens
}

/// One client's requests until the end of the round. It leaves before the end of every third one,
/// at once or later: while it waits for its turn, or in the middle of its answer.
async fn client(url: String, form: Form, seed: u64, end: Instant) -> Ends {
    let mut random = Random { seed, index: 0 };
    let client = reqwest::Client::new();
    let mut ends = Ends::default();
    while Instant::now() < end {
        let (route, body, max_tokens) = random_request(&mut random, form);
        let url = format!("{url}{route}");
        let answer = ask(&client, &url, &body, max_tokens);
        if random.below(3) > 0 {
            ends.tokens += answer.await;
            ends.answered += 1;
            continue;
        }
        let patience = Duration::from_millis([5, 100, 1000, 5000][random.below(4)]);
        match tokio::time::timeout(patience.mul_f32(uniform(seed, random.index)), answer).await {
            Ok(tokens) => {
                ends = Ends { answered: ends.answered + 1, tokens: ends.tokens + tokens, ..ends }
            }
            Err(_) => ends.left += 1,
        }
    }
    ends
}

/// What the server holds once it is idle and has noticed that its clients are gone.
async fn held(server: &Server, descriptors: Option<usize>) -> Held {
    // Keeps no connection, which would be a descriptor of the server.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let begin = Instant::now();
    loop {
        let load = client.get(format!("{}/load", server.url)).send().await.unwrap();
        let load: Value = load.json().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let open = server.descriptors();
        let idle = load["running"] == 0 && load["waiting"] == 0;
        if idle && descriptors.is_none_or(|expected| open == expected) {
            assert_eq!(load["free_blocks"], load["total_blocks"]);
            let free_blocks = load["free_blocks"].as_u64().unwrap();
            return Held { free_blocks, descriptors: open, resident: server.resident() };
        }
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{load}, {open} of {descriptors:?} open"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_leave_nothing_behind() {
    let form = if std::env::var_os("MOONROCK_FULL").is_some() { LONG } else { SHORT };
    let (seqs, len) = (form.running.to_string(), form.max_model_len.to_string());
    let args = ["--served-model-name", "demo", "--max-num-seqs", &seqs, "--max-model-len", &len];
    let mut command = Command::new(binary());
    command.env("MALLOC_ARENA_MAX", "1");
    let server = Server::start_command(command, "models/demo", &args);
    let before = held(&server, None).await;
    eprintln!("{form:?}: {before:?}");
    let mut grown = None;
    for round in 0..form.rounds {
        let end = Instant::now() + form.round;
        let clients = (0..CLIENTS).map(|i| {
            tokio::spawn(client(server.url.clone(), form, (round * CLIENTS + i) as u64, end))
        });
        let ends = futures_util::future::join_all(clients).await;
        let ends: Ends = ends.into_iter().map(Result::unwrap).sum();
        let now = held(&server, Some(before.descriptors)).await;
        eprintln!("{ends:?}, {now:?}");
        assert!(ends.answered > 0 && ends.left > 0, "{ends:?}");
        assert_eq!((now.free_blocks, now.descriptors), (before.free_blocks, before.descriptors));
        if round + 1 >= FIRST_ROUNDS {
            let first = *grown.get_or_insert(now.resident);
            let more = now.resident.saturating_sub(first);
            assert!(more < GROWTH, "grew by {} KiB", more >> 10);
        }
    }
}
