//! `/v1/responses`: OpenAI's newer way to ask for the assistant's next turn.

mod conversation;
mod request;
mod response;
mod store;
mod stream;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::body::{Body, convert};
use crate::error::ApiError;
use crate::{App, sse};
use response::Answer;

pub(crate) use store::Store;

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let request = convert(&app, body, request::convert).await?;
    let pieces = request.generation.submit(&app)?;
    let stream = request.generation.params.stream;
    let answer = Answer::new(app, request);
    if stream {
        return Ok(sse::respond(pieces, stream::Events::new(answer)));
    }
    Ok(Json(answer.whole(pieces).await?).into_response())
}
