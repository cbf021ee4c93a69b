//! Many connections that do nothing, readers that are slow, and readers that stop.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::load::{load_figures, running, stream};
use crate::server::Server;

/// Slow readers; each makes the server write some MB before its socket is full.
const SLOW: usize = 25;
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

/// As many connections as wanted, or as the system's hard limit of open files leaves room for; this
/// process's own limit is raised to it, as the server's is.
fn allowed(wanted: usize) -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // What a process opens besides.
    let room = maximum.map_or(usize::MAX, |hard| (hard as usize).saturating_sub(200));
    if room < wanted {
        eprintln!("{room} connections instead of {wanted}: ulimit -Hn is {maximum:?}");
    }
    assert!(room >= 1000, "ulimit -Hn is {maximum:?}");
    wanted.min(room)
}

fn address(server: &Server) -> SocketAddr {
    server.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// From one of four addresses, each with ports of its own.
async fn connect(server: SocketAddr, number: usize, receive_buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind(SocketAddr::from(([127, 0, 0, 2 + (number % 4) as u8], 0))).unwrap();
    socket.connect(server).await.unwrap()
}

/// A client that asks for much more than sockets buffer and takes it byte by byte.
async fn read_slowly(mut client: TcpStream) {
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request.repeat(400).as_bytes()).await.unwrap();
    while client.read_u8().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `MOONROCK_FULL`: 20,000 connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_slow_readers_stall_nobody() {
    let full = std::env::var_os("MOONROCK_FULL").is_some();
    let count = allowed(if full { 20_000 } else { 2_000 });
    let server = Server::start("tests/data/tiny-k2/mxfp4", &["--served-model-name", "demo"]);
    let address = address(&server);
    let mut idle = Vec::new();
    for number in 0..count {
        idle.push(connect(address, number, None).await);
    }
    let mut slow = tokio::task::JoinSet::new();
    for number in 0..SLOW {
        slow.spawn(read_slowly(connect(address, number, Some(4096)).await));
    }
    for (_, tokens, _) in join_all((0..8).map(|i| stream(&server, i, 40))).await {
        assert_eq!(tokens, 40);
    }
    // All are still there, and each is answered.
    assert_eq!(slow.len(), SLOW);
    assert!(slow.try_join_next().is_none(), "a slow reader was dropped");
    for client in &mut idle {
        client.write_all(HEALTH.as_bytes()).await.unwrap();
    }
    for client in &mut idle {
        let mut answer = [0; 15];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_is_dropped_with_its_sequences() {
    const TOKENS: usize = 8 * 12_000;
    let args = ["--served-model-name", "demo", "--write-timeout", "1", "--max-model-len", "16384"];
    let server = Server::start("tests/data/tiny-k2/mxfp4", &args);
    let mut stopped = connect(address(&server), 0, Some(4096)).await;
    // A chunk has over 1 kB: far more than the 10 MB that Linux lets a connection buffer.
    let body = json!({"model": "demo", "prompt": "x", "stream": true, "ignore_eos": true, "n": 8,
        "logprobs": 20, "max_tokens": TOKENS / 8})
    .to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stopped.write_all((head + &body).as_bytes()).await.unwrap();
    running(&server, 8, Duration::from_secs(20)).await;
    // Others are answered meanwhile.
    assert_eq!(stream(&server, 0, 20).await.1, 20);
    running(&server, 0, Duration::from_secs(300)).await;
    let load = load_figures(&server).await;
    assert_eq!(load["free_blocks"], load["total_blocks"], "{load}");
    let url = format!("{}/metrics", server.url);
    let metrics = server.client.get(url).send().await.unwrap().text().await.unwrap();
    let figure = |name: &str| -> usize {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(
        figure("vllm:request_success_total{model_name=\"demo\",finished_reason=\"abort\"}"),
        8
    );
    assert!(figure("vllm:generation_tokens_total") < TOKENS);
    let mut rest = Vec::new();
    // The connection has an end, also for the client: what was buffered, then no more.
    let _ = stopped.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}
