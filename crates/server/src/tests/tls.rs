//! Connections over TLS, and what is not one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::failures::await_sequences;
use super::operations::{gated, http, listen_with};
use super::{app, app_with, engine_config, server_config};
use crate::Tls;

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The files of a certificate for `localhost`.
struct Files {
    directory: TempDir,
    made: CertifiedKey<KeyPair>,
}

impl Files {
    fn new() -> Files {
        let directory = TempDir::new().unwrap();
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(directory.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Files { directory, made }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tls(&self) -> Tls {
        Tls::from_files(&self.path("cert.pem"), &self.path("key.pem")).unwrap()
    }

    /// A client that trusts this certificate and no other.
    async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.made.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

async fn ask(client: &mut TlsStream<TcpStream>, request: &[u8]) -> String {
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn clients_that_do_not_finish_a_handshake_stall_nobody() {
    let files = Files::new();
    let server = listen_with(app(&["hi"]), Some(files.tls())).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // A record of which only the first bytes come.
    silent[0].write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(HEALTH).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "plain text was answered");

    let answer = ask(&mut files.connect(server.address).await, HEALTH).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // What never became a connection does not hold up the end.
    server.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), server.ended).await.unwrap().unwrap().unwrap();
}

/// With nothing else to do, the paused clock jumps to the moment when the server gives up.
#[tokio::test(start_paused = true)]
async fn a_handshake_takes_no_longer_than_a_header() {
    let files = Files::new();
    let server = listen_with(app(&["hi"]), Some(files.tls())).await;
    let begin = Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(begin.elapsed() >= crate::listen::HEADER_TIMEOUT, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn what_runs_is_finished_over_tls_too() {
    let files = Files::new();
    let (permits, execute) = gated();
    let engine = Engine::start(engine_config(), execute);
    let server = listen_with(app_with(server_config(), engine.clone()), Some(files.tls())).await;
    let body = json!({"prompt": "x", "stream": true, "max_tokens": 100}).to_string();
    let mut running = files.connect(server.address).await;
    running.write_all(http("/v1/completions", &body).as_bytes()).await.unwrap();
    await_sequences(&engine, 1).await;
    let mut idle = files.connect(server.address).await;
    server.stop.send(()).unwrap();
    let health = async || ask(&mut files.connect(server.address).await, HEALTH).await;
    while !health().await.contains("draining") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..100 {
        permits.send(()).unwrap();
    }
    // The end of the connection is told, not cut: reading it fails otherwise.
    assert!(ask(&mut running, b"").await.contains("[DONE]"));
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    server.ended.await.unwrap().unwrap();
}

#[test]
fn files_that_make_no_tls_are_named() {
    let files = Files::new();
    let other = Files::new();
    std::fs::write(files.path("words.pem"), "hello").unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    std::fs::write(files.path("broken.pem"), broken).unwrap();
    let check = |certificate: PathBuf, key: PathBuf, parts: &[&str]| {
        let error = Tls::from_files(&certificate, &key).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
    let cert_flag = "--ssl-certfile ";
    check(files.path("none.pem"), key.clone(), &[cert_flag, "none.pem", "No such file"]);
    check(files.path("words.pem"), key.clone(), &[cert_flag, "words.pem", "in PEM"]);
    check(files.path("broken.pem"), key.clone(), &[cert_flag, "broken.pem", "certificate"]);
    check(key.clone(), key, &[cert_flag, "key.pem", "certificates in PEM"]);
    let key_flag = "--ssl-keyfile ";
    check(certificate.clone(), files.path("none.pem"), &[key_flag, "none.pem", "No such file"]);
    check(certificate.clone(), files.path("words.pem"), &[key_flag, "words.pem", "key in PEM"]);
    let parts = [key_flag, "key.pem", "not the key of", "cert.pem"];
    check(certificate, other.path("key.pem"), &parts);
}
