//! `/v1/messages`, Anthropic's way to ask for the assistant's next message, and its `count_tokens`.

mod conversation;
mod request;
mod response;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::body::{Body, convert};
use crate::error::ApiError;
use crate::{App, sse};
use response::Answer;

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let request = convert(&app, body, request::convert).await?;
    let pieces = request.submit(&app)?;
    let answer = Answer::new(&app, &request);
    if request.params.stream {
        return Ok(sse::respond(pieces, answer));
    }
    Ok(Json(answer.whole(pieces).await?).into_response())
}

pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let count = convert(&app, body, request::count).await?;
    Ok(Json(json!({"input_tokens": count})))
}
