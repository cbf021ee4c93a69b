use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use engine::{Engine, EngineConfig, Execute};
use model::DeviceError;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server_config;
use super::{
    app_with, engine_config, ids, player, post, post_request, raw_events, read_json, send,
};

const URI: &str = "/v1/completions";

/// A device that fails at step `steps`.
fn failing(steps: usize) -> Execute {
    let mut inner = player(vec![ids("hello hello hello")]);
    let mut step = 0;
    Box::new(move |batch| {
        step += 1;
        if step > steps { Err(DeviceError("it burns".into())) } else { inner(batch) }
    })
}

#[tokio::test]
async fn a_lost_device_ends_answers_with_an_error_and_turns_health_red() {
    let app = app_with(server_config(), Engine::start(engine_config(), failing(2)));
    let body = json!({"prompt": "x", "stream": true});
    let events = raw_events(send(&app, post_request(URI, body.to_string())).await).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "server_error");
    assert!(last["error"]["message"].as_str().unwrap().contains("it burns"));
    assert!(events.len() > 1, "what came before the failure was sent");

    let (status, answer) = post(&app, URI, &json!({"prompt": "x"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let health = axum::http::Request::get("/health").body(axum::body::Body::empty()).unwrap();
    let (status, _) = read_json(send(&app, health).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

    let app = app_with(server_config(), Engine::start(engine_config(), failing(1)));
    let (status, answer) = post(&app, URI, &json!({"prompt": "x"})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer["error"]["type"], "server_error");
}

#[tokio::test]
async fn a_full_queue_says_when_to_try_again() {
    let config = EngineConfig { max_waiting: 2, ..engine_config() };
    let app = app_with(server_config(), Engine::start(config, player(vec![vec![]])));
    let body = json!({"prompt": ["a", "b", "c", "d"], "n": 20});
    let response = send(&app, post_request(URI, body.to_string())).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, answer) = read_json(response).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["error"]["type"], "rate_limit_error");
}

/// Waits until the engine runs or queues `sequences` sequences.
pub(super) async fn await_sequences(engine: &Engine, sequences: usize) {
    let start = Instant::now();
    loop {
        let load = engine.load();
        if load.running + load.waiting == sequences {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{load:?}, not {sequences}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Over a real connection: clients that go away give up their sequences, whole answers or streamed.
#[tokio::test]
async fn a_client_that_goes_away_frees_its_sequences() {
    let (permits, permit) = channel();
    let mut inner = player(vec![ids("hello")]);
    let execute: Execute = Box::new(move |batch| {
        permit.recv().map_err(|_| DeviceError("the test is over".into()))?;
        inner(batch)
    });
    let engine = Engine::start(engine_config(), execute);
    let app = app_with(server_config(), engine.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(crate::serve(listener, None, app, async {
        let _ = stopped.await;
    }));
    for stream in [false, true] {
        let body = json!({"prompt": "x", "n": 3, "ignore_eos": true, "max_tokens": 400,
            "stream": stream})
        .to_string();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST {URI} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        client.write_all((head + &body).as_bytes()).await.unwrap();
        await_sequences(&engine, 3).await;
        if stream {
            for _ in 0..3 {
                permits.send(()).unwrap();
            }
            let mut buffer = [0; 16];
            client.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"HTTP/1.1 200 OK\r");
        }
        drop(client);
        // The engine sees a cancel between two steps.
        let engine = engine.clone();
        let gone = tokio::spawn(async move { await_sequences(&engine, 0).await });
        while !gone.is_finished() {
            permits.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gone.await.unwrap();
    }
    assert_eq!(engine.load().free_blocks, engine.load().total_blocks);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
