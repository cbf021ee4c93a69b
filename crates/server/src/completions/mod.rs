//! `/v1/completions`: text or token ids to text.

mod request;
mod response;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::answer::Answer;
use crate::body::{Body, convert};
use crate::error::ApiError;
use crate::{App, sse};
use response::{AnswerChunks, Choice, OBJECT};

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let request = convert(&app, body, request::convert).await?;
    let pieces = request.submit(&app)?;
    let answer = Answer::new(&app, &request, "cmpl");
    if request.params.stream {
        return Ok(sse::respond(pieces, AnswerChunks(answer)));
    }
    answer.whole::<Choice>(OBJECT, pieces).await
}
