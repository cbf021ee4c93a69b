//! Connections: taking them, bounding them, and letting them end.

use std::future::Future;
use std::io::{ErrorKind, Result};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::Connection;
use crate::tls::Tls;
use crate::{App, router};

/// How long a client may take to send a request's headers, to be silent between two requests, and
/// to agree on TLS.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// What is left to answers that end when the time to drain does, to reach their clients.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Pause before the next try when this process has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests on `listener` until `shutdown` is ready, over TLS if there is one. Then it
/// finishes answers that run, refuses new ones with 503, and ends when none is left or
/// `drain_timeout` is over.
///
/// # Errors
/// None at present: failed connections are tried again.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let answering = Answering::new(&app);
    // Each goes on at its own pace; what is left of them at the end is dropped.
    let mut handshakes = JoinSet::new();
    let mut drained = pin!(drain(&app, shutdown));
    let deadline = loop {
        tokio::select! {
            accepted = listener.accept() => match (accepted, &tls) {
                (Ok((stream, _)), None) => answering.answer(connection(stream, &app)),
                (Ok((stream, _)), Some(tls)) => {
                    let (tls, stream) = (tls.clone(), connection(stream, &app));
                    handshakes.spawn(async move {
                        timeout(HEADER_TIMEOUT, tls.accept(stream)).await
                    });
                }
                (Err(error), _) => pause(&error).await,
            },
            Some(Ok(agreed)) = handshakes.join_next() => match agreed {
                Ok(Ok(stream)) => answering.answer(stream),
                Ok(Err(error)) => tracing::debug!(%error, "a client did not agree on TLS"),
                Err(_) => tracing::debug!("a client was too slow to agree on TLS"),
            },
            deadline = &mut drained => break deadline,
        }
    };
    drop((listener, handshakes));
    let deadline = deadline.max(Instant::now() + LAST_BYTES);
    if timeout_at(deadline, answering.connections.shutdown()).await.is_err() {
        tracing::warn!("stopping although some answers are not complete");
    }
    Ok(())
}

/// What connections are answered with, each in a task of its own.
struct Answering {
    http: http1::Builder,
    service: TowerToHyperService<Router>,
    connections: GracefulShutdown,
}

impl Answering {
    fn new(app: &Arc<App>) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_header_size(app.config.max_header_bytes);
        let service = TowerToHyperService::new(router(app.clone()));
        Self { http, service, connections: GracefulShutdown::new() }
    }

    fn answer(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answered = self.http.serve_connection(TokioIo::new(stream), self.service.clone());
        let answered = self.connections.watch(answered);
        tokio::spawn(async move {
            if let Err(error) = answered.await {
                tracing::debug!(%error, "a connection was broken off");
            }
        });
    }
}

/// Waits for `shutdown` and then for the work that runs; returns when that must be over.
async fn drain(app: &App, shutdown: impl Future<Output = ()>) -> Instant {
    shutdown.await;
    tracing::info!("stopping: finishing what runs, refusing new work");
    let deadline = Instant::now() + app.config.drain_timeout;
    // If it is not over by then, the caller says so.
    let _ = timeout_at(deadline, app.drained()).await;
    deadline
}

fn connection(stream: TcpStream, app: &App) -> Connection<TcpStream> {
    // Tokens are small packets, and must not wait for more of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    Connection::new(stream, app.config.write_timeout)
}

/// A client that gave up concerns nobody; a full table of files needs time to get emptier.
async fn pause(error: &std::io::Error) {
    let gave_up =
        [ErrorKind::ConnectionAborted, ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
    if !gave_up.contains(&error.kind()) {
        tracing::error!(%error, "a connection was not accepted");
        sleep(ACCEPT_PAUSE).await;
    }
}
