//! OpenAI's HTTP surface: requests are checked, become token ids, and their answers go out whole or
//! as server-sent events.
//!
//! A body enters as [`fields::Fields`]; a route's `request` module turns it into a
//! [`generation::Generation`] or a 4xx that names the field at fault. The engine's events come back
//! through a [`transcript::Transcript`] as [`transcript::Piece`]s, and a route's `response` module
//! makes both kinds of answer from them: whole ones add up what streams send. Dropping a response
//! cancels its sequences.

mod answer;
mod app;
mod auth;
mod body;
mod chat;
mod completions;
mod error;
mod fields;
mod generation;
mod logprobs;
mod models;
mod params;
mod sse;
mod stop;
#[cfg(test)]
mod tests;
mod tokenize;
mod transcript;
mod usage;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

pub use app::{App, ServerConfig};
use error::ApiError;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/health", get(models::health))
        .route("/load", get(models::load))
        .route("/version", get(models::version))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(app.config.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), auth::check))
        .with_state(app)
}

/// Answers requests on `listener` until `shutdown` is ready, then finishes those that run.
///
/// # Errors
/// None at present: failed connections are tried again.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // Tokens are small packets, and must not wait for more of them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was not set");
        }
    });
    axum::serve(listener, router(app)).with_graceful_shutdown(shutdown).await
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no route {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
