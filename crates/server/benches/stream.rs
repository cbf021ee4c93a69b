//! Streamed chunks per second through the whole server: a device that does nothing, the engine, the
//! detokenizer, the events' JSON, HTTP, sockets, and a client that counts. `cargo bench -p server`;
//! for two cores, client and all: `taskset -c 0,1 cargo bench -p server`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, EngineConfig};
use model::{Batch, DeviceError, OutputRow, RowOutput, Want};
use server::{App, ServerConfig};
use text::{ChatTemplate, Tokenizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ANSWER: usize = 2000;
const MODEL_LEN: usize = ANSWER + 200;
/// Runs of each kind; the fastest and the slowest are told.
const RUNS: usize = 5;

fn main() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores for server and client");
    for (streams, route) in
        [(64, "/v1/chat/completions"), (256, "/v1/chat/completions"), (256, "/v1/completions")]
    {
        let rates: Vec<f64> = (0..RUNS).map(|_| rate(streams, route)).collect();
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        println!(
            "{route}, {streams} streams of {ANSWER} tokens: {:.0} chunks/s, median of {RUNS} \
             ({:.0} to {:.0})",
            sorted[RUNS / 2],
            sorted[0],
            sorted[RUNS - 1]
        );
    }
}

/// Chunks per second of `streams` answers at the same time, each on a connection of its own.
fn rate(streams: usize, route: &'static str) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = app(streams);
    let server = runtime.spawn(server::serve(listener, None, app, async {
        let _ = stopped.await;
    }));
    // The client has a thread of its own, as a process would.
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let client = client.expect("a runtime");
    let (chunks, time) = client.block_on(ask(address, streams, route));
    assert!(chunks >= streams * ANSWER, "{chunks} chunks of {streams} answers");
    stop.send(()).expect("a running server");
    runtime.block_on(server).expect("a task").expect("a clean end");
    chunks as f64 / time.as_secs_f64()
}

async fn ask(address: SocketAddr, streams: usize, route: &'static str) -> (usize, Duration) {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..streams {
        clients.spawn(count(address, route));
    }
    let chunks = clients.join_all().await.into_iter().sum();
    (chunks, begin.elapsed())
}

/// Asks once and counts the events of the answer.
async fn count(address: SocketAddr, route: &str) -> usize {
    let prompt = match route {
        "/v1/completions" => r#""prompt": "Hello""#,
        _ => r#""messages": [{"role": "user", "content": "Hello"}]"#,
    };
    let body =
        format!(r#"{{"stream": true, "ignore_eos": true, "max_tokens": {ANSWER}, {prompt}}}"#);
    let length = body.len();
    let head = format!("POST {route} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all((head + &body).as_bytes()).await.expect("a request sent");
    let (mut buffer, mut events) = (vec![0; 64 << 10], 0);
    let (mut last, mut previous) = ([0; 6], 0);
    // The end of the chunked body.
    while last != *b"\n0\r\n\r\n" {
        let read = stream.read(&mut buffer).await.expect("an answer");
        assert!(read > 0, "the answer was broken off");
        // An event's end is the only empty line.
        for &byte in &buffer[..read] {
            events += usize::from(byte == b'\n' && previous == b'\n');
            previous = byte;
        }
        let kept = read.min(6);
        last.rotate_left(kept);
        last[6 - kept..].copy_from_slice(&buffer[read - kept..read]);
    }
    events
}

/// The demo model's text and a device that answers at once with letters.
fn app(streams: usize) -> Arc<App> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    let tokenizer = Tokenizer::from_dir(&model).expect("a tokenizer");
    let template = ChatTemplate::from_dir(&model).expect("a chat template");
    let letters: Vec<u32> = tokenizer.encode("a b c d e f g h i j k l m n o p q r s t u v w x y z");
    let execute = move |batch: Batch| -> Result<Vec<RowOutput>, DeviceError> {
        let row = |output: &OutputRow| {
            let token = match &output.want {
                Want::Score(id) => *id,
                Want::Sample(draw) => letters[draw.index as usize % letters.len()],
            };
            RowOutput { token, logprob: None, top: Vec::new() }
        };
        Ok(batch.outputs.iter().map(row).collect())
    };
    let engine_config = EngineConfig {
        max_model_len: MODEL_LEN,
        max_num_seqs: streams,
        max_num_batched_tokens: 8192,
        block_size: 64,
        num_blocks: streams * MODEL_LEN.div_ceil(64) + streams,
        vocab_size: tokenizer.vocab_size() as usize,
        max_waiting: streams,
        prefix_caching: true,
    };
    let config = ServerConfig {
        served_model_name: "null".into(),
        max_model_len: MODEL_LEN,
        api_keys: Vec::new(),
        allowed_origins: Vec::new(),
        seed: 0,
        eos_ids: vec![tokenizer.special_id("<|im_end|>").expect("an end id")],
        thinking: false,
        max_body_bytes: 1 << 20,
        max_header_bytes: 64 << 10,
        write_timeout: Duration::from_secs(60),
        request_timeout: None,
        drain_timeout: Duration::from_secs(60),
    };
    let app = App::new(config, Arc::new(tokenizer), Arc::new(template));
    app.start(Engine::start(engine_config, Box::new(execute)));
    Arc::new(app)
}
