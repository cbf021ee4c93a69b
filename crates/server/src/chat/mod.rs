//! `/v1/chat/completions`: a conversation to the assistant's next message.

mod conversation;
mod messages;
mod request;
mod response;
mod tools;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::answer::Answer;
use crate::body::{Body, convert};
use crate::error::ApiError;
use crate::{App, sse};
use response::{AnswerChunks, Choice};

pub(crate) use conversation::{Conversation, encode, thinks};
pub(crate) use tools::{MAX_TOOLS, Tool, ToolChoice, Tools, definition, take_choice};

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let request = convert(&app, body, request::convert).await?;
    let pieces = request.submit(&app)?;
    let answer = Answer::new(&app, &request, "chatcmpl");
    if request.params.stream {
        return Ok(sse::respond(pieces, AnswerChunks(answer)));
    }
    answer.whole::<Choice>("chat.completion", pieces).await
}
