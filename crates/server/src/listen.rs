//! Connections: taking them, bounding them, and letting them end.

use std::future::Future;
use std::io::{ErrorKind, Result};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::Connection;
use crate::{App, router};

/// How long a client may take to send a request's headers, and be silent between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// What is left to answers that end when the time to drain does, to reach their clients.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Pause before the next try when this process has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests on `listener` until `shutdown` is ready. Then it finishes answers that run,
/// refuses new ones with 503, and ends when none is left or `drain_timeout` is over.
///
/// # Errors
/// None at present: failed connections are tried again.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let service = TowerToHyperService::new(router(app.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(app.config.max_header_bytes);
    let connections = GracefulShutdown::new();
    let mut drained = pin!(drain(&app, shutdown));
    let deadline = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let stream = TokioIo::new(connection(stream, &app));
                    let answered = http.serve_connection(stream, service.clone());
                    let answered = connections.watch(answered);
                    tokio::spawn(async move {
                        if let Err(error) = answered.await {
                            tracing::debug!(%error, "a connection was broken off");
                        }
                    });
                }
                Err(error) => pause(&error).await,
            },
            deadline = &mut drained => break deadline,
        }
    };
    drop(listener);
    let deadline = deadline.max(Instant::now() + LAST_BYTES);
    if timeout_at(deadline, connections.shutdown()).await.is_err() {
        tracing::warn!("stopping although some answers are not complete");
    }
    Ok(())
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
