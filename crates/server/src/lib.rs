//! OpenAI's and Anthropic's HTTP surface: requests are checked, become token ids, and their answers
//! go out whole or as server-sent events.
//!
//! A body enters as [`fields::Fields`]; a route's `request` module turns it into a
//! [`generation::Generation`] or a 4xx that names the field at fault. The engine's events come back
//! through a [`transcript::Transcript`] as [`transcript::Piece`]s, and a route's `response` module
//! makes both kinds of answer from them: whole ones add up what streams send. Dropping a response
//! cancels its sequences.

mod answer;
mod app;
mod auth;
mod blocks;
mod body;
mod chat;
mod completions;
mod connection;
mod cors;
mod error;
mod fields;
mod generation;
mod guidance;
mod listen;
mod logprobs;
mod messages;
mod metrics;
mod models;
mod observe;
mod openapi;
mod params;
mod responses;
mod sse;
mod stop;
mod structure;
#[cfg(test)]
mod tests;
mod tls;
mod tokenize;
mod transcript;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

pub use app::{App, ServerConfig};
use error::ApiError;
pub use listen::serve;
pub use tls::{Tls, TlsError};

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::get))
        .route("/health", get(models::health))
        .route("/load", get(models::load))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(models::version))
        .route("/openapi.json", get(openapi::document))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/tokenizer_info", get(tokenize::info))
        .route("/detokenize", post(tokenize::detokenize))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(app.config.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), auth::check))
        .layer(from_fn_with_state(app.clone(), cors::allow))
        .layer(from_fn_with_state(app.clone(), observe::request))
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no route {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
