//! What operators rely on: figures, ids, keys, origins, limits, and a clean end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use engine::{Engine, EngineConfig, Execute};
use model::DeviceError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::failures::await_sequences;
use super::{TEMPLATE, TOKENIZER, post_request, raw_events, read_json, send, server_config};
use super::{answer, app, app_with, engine_config, ids, player, post};
use crate::{App, ServerConfig, Tls};

const URI: &str = "/v1/completions";

fn get_request(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

async fn metrics(app: &Arc<App>) -> String {
    let response = send(app, get_request("/metrics")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let content_type = response.headers()["content-type"].to_str().unwrap();
    assert!(content_type.starts_with("application/openmetrics-text"));
    String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap()
}

/// The value of `vllm:NAME` with these labels besides the model's name.
fn value(text: &str, name: &str, labels: &str) -> f64 {
    let start = format!("vllm:{name}{{model_name=\"org/tiny\"{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn figures_count_what_was_answered() {
    let app = app(&["one two three four five six seven eight nine ten"]);
    let text = metrics(&app).await;
    assert_eq!(value(&text, "time_to_first_token_seconds_count", ""), 0.0);
    let prompt = "a prompt that is longer than one block of the cache, so that it is found again";
    let tokens = TOKENIZER.encode(prompt).len();
    for _ in 0..2 {
        answer(&app, URI, &json!({"prompt": prompt, "max_tokens": 3})).await;
    }
    let whole = answer(&app, URI, &json!({"prompt": "x", "max_tokens": 100})).await;
    let generated = 6 + whole["usage"]["completion_tokens"].as_u64().unwrap();
    let text = metrics(&app).await;
    for (name, labels, expected) in [
        ("request_success_total", ",finished_reason=\"length\"", 2),
        ("request_success_total", ",finished_reason=\"stop\"", 1),
        ("generation_tokens_total", "", generated as usize),
        ("prompt_tokens_total", "", 2 * tokens + 1),
        ("prefix_cache_queries_total", "", 2 * tokens + 1),
        // Whole blocks, and never the last token.
        ("prefix_cache_hits_total", "", (tokens - 1) / 16 * 16),
        ("num_preemptions_total", "", 0),
        ("num_requests_running", "", 0),
        ("num_requests_waiting", "", 0),
        ("kv_cache_usage_perc", "", 0),
        ("time_to_first_token_seconds_count", "", 3),
        ("e2e_request_latency_seconds_count", "", 3),
        ("inter_token_latency_seconds_count", "", generated as usize - 3),
    ] {
        assert_eq!(value(&text, name, labels), expected as f64, "{name}{labels}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let app = app(&["hi"]);
    let id = async |given: Option<&str>| {
        let mut request = Request::get("/nowhere");
        if let Some(given) = given {
            request = request.header("x-request-id", given);
        }
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("mine-7")).await, "mine-7");
    assert!(id(None).await.starts_with("req-"));
    assert_ne!(id(None).await, id(None).await);
    assert!(id(Some("with space")).await.starts_with("req-"));
    assert!(id(Some(&"x".repeat(129))).await.starts_with("req-"));
}

#[tokio::test]
async fn anthropics_header_brings_a_key_too() {
    let config = ServerConfig { api_keys: vec!["a".into(), "secret".into()], ..server_config() };
    let app = app_with(config, Engine::start(engine_config(), player(vec![vec![]])));
    for (key, expected) in [("secret", StatusCode::OK), ("secre", StatusCode::UNAUTHORIZED)] {
        let request = Request::get("/metrics").header("x-api-key", key).body(Body::empty());
        assert_eq!(send(&app, request.unwrap()).await.status(), expected);
    }
}

#[tokio::test]
async fn only_allowed_origins_are_told_so() {
    let config = ServerConfig {
        api_keys: vec!["secret".into()],
        allowed_origins: vec!["https://a.example".into()],
        ..server_config()
    };
    let engine = Engine::start(engine_config(), player(vec![vec![]]));
    let app = app_with(config, engine.clone());
    let preflight = |origin: &str| {
        Request::options(URI)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let response = send(&app, preflight("https://a.example")).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type");
    let response = send(&app, preflight("https://b.example")).await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    // Refusals can be read, too.
    let request = Request::get("/v1/models").header("origin", "https://a.example");
    let response = send(&app, request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://a.example");

    let all =
        app_with(ServerConfig { allowed_origins: vec!["*".into()], ..server_config() }, engine);
    let response = send(&all, preflight("https://b.example")).await;
    assert_eq!(response.headers()["access-control-allow-origin"], "https://b.example");
}

#[tokio::test]
async fn a_server_without_its_model_says_that_it_is_starting() {
    let app = Arc::new(App::new(server_config(), TOKENIZER.clone(), TEMPLATE.clone()));
    let health = async || read_json(send(&app, get_request("/health")).await).await;
    let starting = (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "starting"}));
    assert_eq!(health().await, starting);
    let (status, answer) = post(&app, URI, &json!({"prompt": "x"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer["error"]["message"].as_str().unwrap().contains("loaded"));
    metrics(&app).await;
    app.start(Engine::start(engine_config(), player(vec![vec![]])));
    assert_eq!(health().await, (StatusCode::OK, json!({"status": "ready"})));
    assert_eq!(post(&app, URI, &json!({"prompt": "x"})).await.0, StatusCode::OK);
}

/// A server on a real port.
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) ended: JoinHandle<std::io::Result<()>>,
}

async fn listen(app: Arc<App>) -> Listening {
    listen_with(app, None).await
}

pub(super) async fn listen_with(app: Arc<App>, tls: Option<Tls>) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(crate::serve(listener, tls, app, async {
        let _ = stopped.await;
    }));
    Listening { address, stop, ended }
}

pub(super) fn http(uri: &str, body: &str) -> String {
    format!("POST {uri} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Sends bytes on a new connection and reads the head of the answer.
async fn head(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; 256];
    let count = client.read(&mut head).await.unwrap();
    String::from_utf8_lossy(&head[..count]).into_owned()
}

/// A device that takes a step for every permit.
pub(super) fn gated() -> (Sender<()>, Execute) {
    let (permits, permit) = channel();
    let mut inner = player(vec![ids("hello hello")]);
    let execute = Box::new(move |batch| {
        permit.recv().map_err(|_| DeviceError("the test is over".into()))?;
        inner(batch)
    });
    (permits, execute)
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_finishes_what_runs_and_refuses_the_rest() {
    let (permits, execute) = gated();
    let engine = Engine::start(engine_config(), execute);
    let app = app_with(server_config(), engine.clone());
    let server = listen(app.clone()).await;
    let mut running = TcpStream::connect(server.address).await.unwrap();
    let body = json!({"prompt": "x", "stream": true, "max_tokens": 100}).to_string();
    running.write_all(http(URI, &body).as_bytes()).await.unwrap();
    await_sequences(&engine, 1).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();

    server.stop.send(()).unwrap();
    let health = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    while head(server.address, health).await.starts_with("HTTP/1.1 200") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (_, answer) = read_json(send(&app, get_request("/health")).await).await;
    assert_eq!(answer, json!({"status": "draining"}));
    let refused = head(server.address, &http(URI, r#"{"prompt": "y"}"#)).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(!server.ended.is_finished());

    for _ in 0..100 {
        permits.send(()).unwrap();
    }
    let mut whole = String::new();
    running.read_to_string(&mut whole).await.unwrap();
    assert!(whole.contains("[DONE]"), "{whole}");
    server.ended.await.unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0, "idle connections are closed");
}

#[tokio::test]
async fn answers_that_take_too_long_are_broken_off() {
    let (permits, execute) = gated();
    let engine = Engine::start(engine_config(), execute);
    let limit = Some(Duration::from_millis(100));
    let config = ServerConfig { request_timeout: limit, ..server_config() };
    let app = app_with(config, engine.clone());
    let mut body = json!({"prompt": "x"});
    let (status, answer) = post(&app, URI, &body).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("--request-timeout"), "{message}");
    body["stream"] = true.into();
    let events = raw_events(send(&app, post_request(URI, body.to_string())).await).await;
    assert!(events.last().unwrap().contains("--request-timeout"), "{events:?}");
    // Both are cancelled with the end of the step that is under way.
    permits.send(()).unwrap();
    await_sequences(&engine, 0).await;
}

#[tokio::test]
async fn draining_takes_no_longer_than_allowed() {
    let (_permits, execute) = gated();
    let engine = Engine::start(engine_config(), execute);
    let config = ServerConfig { drain_timeout: Duration::from_millis(100), ..server_config() };
    let server = listen(app_with(config, engine.clone())).await;
    let mut running = TcpStream::connect(server.address).await.unwrap();
    running.write_all(http(URI, r#"{"prompt": "x"}"#).as_bytes()).await.unwrap();
    await_sequences(&engine, 1).await;
    let begin = Instant::now();
    server.stop.send(()).unwrap();
    server.ended.await.unwrap().unwrap();
    // A second is left to the last bytes; the rest is for a loaded machine.
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = listen(app(&["hi"])).await;
    let request = |bytes: usize| {
        format!("GET /health HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(bytes))
    };
    let fits = head(server.address, &request(10_000)).await;
    assert!(fits.starts_with("HTTP/1.1 200"), "{fits}");
    let refused = head(server.address, &request(20_000)).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
}

/// With nothing else to do, the paused clock jumps to the moment when the server gives up.
#[tokio::test(start_paused = true)]
async fn a_body_must_come_in_time() {
    let server = listen(app(&["hi"])).await;
    let begin = tokio::time::Instant::now();
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let whole = http(URI, r#"{"prompt": "x"}"#);
    client.write_all(&whole.as_bytes()[..whole.len() - 1]).await.unwrap();
    let mut refused = String::new();
    client.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 408"), "{refused}");
    assert!(begin.elapsed() >= crate::body::BODY_TIMEOUT);
}

/// More than sockets buffer is sent to a client that reads nothing: it is dropped, not waited for.
#[tokio::test]
async fn a_reader_that_stops_is_dropped() {
    // 30,000 chunks of about 1.5 kB exceed the 4 MiB and 6 MiB that Linux lets a connection buffer.
    let length = 30_000;
    let engine_config =
        EngineConfig { max_model_len: length, num_blocks: length, ..engine_config() };
    let config = ServerConfig {
        max_model_len: length,
        write_timeout: Duration::from_millis(200),
        ..server_config()
    };
    let engine = Engine::start(engine_config, player(vec![ids("hello")]));
    let app = app_with(config, engine.clone());
    let server = listen(app.clone()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(server.address).await.unwrap();
    let body = json!({"prompt": "x", "stream": true, "ignore_eos": true, "logprobs": 20,
        "max_tokens": length - 100})
    .to_string();
    client.write_all(http(URI, &body).as_bytes()).await.unwrap();
    let begin = Instant::now();
    while !metrics(&app).await.contains("finished_reason=\"abort\"") {
        assert!(begin.elapsed() < Duration::from_secs(60), "the reader was not dropped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    await_sequences(&engine, 0).await;
    let mut text = Vec::new();
    // What was buffered may still come, or be lost with the connection; the answer's end does not.
    let _ = client.read_to_end(&mut text).await;
    assert!(!String::from_utf8_lossy(&text).contains("[DONE]"));
    let others = head(server.address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(others.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_dashboard_asks_only_for_figures_that_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/grafana-dashboard.json");
    let dashboard = std::fs::read_to_string(path).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let app = app(&["hi"]);
    answer(&app, URI, &json!({"prompt": "x"})).await;
    let text = metrics(&app).await;
    let asked = dashboard.split("vllm:").skip(1).map(|rest| rest.split(['{', ',']).next().unwrap());
    let mut count = 0;
    for name in asked {
        assert!(text.contains(&format!("\nvllm:{name}{{")), "{name}");
        count += 1;
    }
    assert!(count > 15, "{count}");
}
