//! `/v1/completions`: text or token ids to text.

mod request;
mod response;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::body::{Body, convert};
use crate::error::ApiError;
use crate::{App, sse};

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let request = convert(&app, body, request::convert).await?;
    let pieces = request.submit(&app)?;
    let answer = response::Answer::new(&app, &request);
    if request.params.stream {
        return Ok(sse::respond(pieces, answer.into_chunks(request.params.include_usage)));
    }
    Ok(Json(answer.complete(pieces).await?).into_response())
}
