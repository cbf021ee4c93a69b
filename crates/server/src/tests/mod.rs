//! The router over a real engine whose device plays scripted answers.

mod bad_input;
mod chat;
mod completions;
mod failures;
mod messages;
mod operations;
mod responses;
mod routes;
mod structure;
mod tls;
mod usage;

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use engine::{Engine, EngineConfig, Execute};
use model::{Batch, LateMask, RowOutput, Want};
use serde_json::Value;
use text::{ChatTemplate, Tokenizer};
use tower::ServiceExt;

use crate::{App, ServerConfig, router};

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_dir(&model_dir()).unwrap()));
static TEMPLATE: LazyLock<Arc<ChatTemplate>> =
    LazyLock::new(|| Arc::new(ChatTemplate::from_dir(&model_dir()).unwrap()));

fn model_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-k2/mxfp4")
}

fn eos() -> u32 {
    TOKENIZER.special_id("<|im_end|>").unwrap()
}

/// Ids of text in which the names of control tokens stand for them.
fn ids(text: &str) -> Vec<u32> {
    TOKENIZER.encode_with_specials(text)
}

fn engine_config() -> EngineConfig {
    EngineConfig {
        max_model_len: 512,
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        block_size: 16,
        num_blocks: 512,
        vocab_size: TOKENIZER.vocab_size() as usize,
        max_waiting: 64,
        prefix_caching: true,
    }
}

fn server_config() -> ServerConfig {
    ServerConfig {
        served_model_name: "org/tiny".into(),
        max_model_len: 512,
        api_keys: Vec::new(),
        allowed_origins: Vec::new(),
        seed: 0,
        eos_ids: vec![eos()],
        thinking: true,
        max_body_bytes: 100_000,
        max_header_bytes: 16 << 10,
        write_timeout: Duration::from_secs(60),
        request_timeout: None,
        drain_timeout: Duration::from_secs(60),
    }
}

/// Plays answer `seed % answers.len()` to a sequence with that seed, then the end token.
fn player(answers: Vec<Vec<u32>>) -> Execute {
    Box::new(move |batch: Batch| {
        let outputs = batch.outputs.iter().map(|output| {
            let token = match &output.want {
                Want::Score(id) => *id,
                Want::Sample(draw) => {
                    // As a device does; what it allows is not heeded.
                    let _ = draw.mask.as_ref().and_then(LateMask::wait);
                    let answer = &answers[draw.params.seed as usize % answers.len()];
                    answer.get(draw.index as usize).copied().unwrap_or(eos())
                }
            };
            let top = (0..output.logprobs.unwrap_or(0) as u32)
                .map(|place| (token.saturating_sub(place), logprob(token) - place as f32))
                .collect();
            RowOutput { token, logprob: output.logprobs.map(|_| logprob(token)), top }
        });
        Ok(outputs.collect())
    })
}

fn logprob(token: u32) -> f32 {
    -(token as f32) / 7.0
}

fn app_with(config: ServerConfig, engine: Engine) -> Arc<App> {
    let app = App::new(config, TOKENIZER.clone(), TEMPLATE.clone());
    app.start(engine);
    Arc::new(app)
}

/// A server that gives these answers (see [`ids`] and [`player`]).
fn app(answers: &[&str]) -> Arc<App> {
    let answers = answers.iter().map(|answer| ids(answer)).collect();
    app_with(server_config(), Engine::start(engine_config(), player(answers)))
}

async fn send(app: &Arc<App>, request: Request<Body>) -> Response {
    router(app.clone()).oneshot(request).await.unwrap()
}

fn post_request(uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(uri).body(body.into()).unwrap()
}

async fn read_json(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn post(app: &Arc<App>, uri: &str, body: &Value) -> (StatusCode, Value) {
    read_json(send(app, post_request(uri, body.to_string())).await).await
}

/// The answer to a request that must succeed.
async fn answer(app: &Arc<App>, uri: &str, body: &Value) -> Value {
    let (status, answer) = post(app, uri, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The data of all server-sent events, as text.
async fn raw_events(response: Response) -> Vec<String> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap().to_owned()).collect()
}

/// The chunks of a streamed answer, which must end properly.
async fn chunks(app: &Arc<App>, uri: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let response = send(app, post_request(uri, body.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut events = raw_events(response).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}
