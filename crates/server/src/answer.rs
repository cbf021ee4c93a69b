use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures_util::stream::StreamExt;
use serde::Serialize;
use text::Tokenizer;

use crate::App;
use crate::app::unix_seconds;
use crate::error::ApiError;
use crate::generation::{Generation, Pieces};
use crate::logprobs::PromptLogprobs;
use crate::transcript::Piece;
use crate::usage::Usage;

/// What a completion of either kind needs to know of itself while it is being made.
pub(crate) struct Answer {
    pub(crate) app: Arc<App>,
    id: String,
    created: u64,
    pub(crate) choices: usize,
    /// Whether log-probabilities are wanted.
    pub(crate) logprobs: bool,
    pub(crate) usage: Usage,
    /// Whether a stream reports `usage`.
    pub(crate) include_usage: bool,
}

/// A whole answer, or a chunk of a streamed one.
#[derive(Debug, Serialize)]
pub(crate) struct Completion<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    /// Scores of the prompt, where the choices have no place for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    /// In a stream, left out if not asked for, and `null` before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

/// A choice of a whole answer.
pub(crate) trait Choice: Serialize {
    /// An empty one.
    fn new(index: usize, logprobs: bool) -> Self;
    /// Appends a piece.
    fn add(&mut self, piece: Piece, tokenizer: &Tokenizer);
    /// Scores of the prompt that stand beside the choices.
    fn take_prompt(&mut self) -> Option<PromptLogprobs> {
        None
    }
}

impl Answer {
    /// `prefix` begins the answer's id.
    pub(crate) fn new(app: &Arc<App>, request: &Generation, prefix: &str) -> Self {
        Self {
            app: app.clone(),
            id: app.next_answer_id(prefix),
            created: unix_seconds(),
            choices: request.choices(),
            logprobs: request.logprobs.is_some(),
            usage: Usage::new(request.prompt_tokens()),
            include_usage: request.params.include_usage,
        }
    }

    /// Waits for all pieces and adds them up.
    pub(crate) async fn whole<C: Choice>(
        mut self,
        object: &'static str,
        mut pieces: Pieces,
    ) -> Result<Response, ApiError> {
        let mut choices: Vec<C> =
            (0..self.choices).map(|index| C::new(index, self.logprobs)).collect();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            self.usage.add(&piece);
            if let Some(choice) = choices.get_mut(piece.choice) {
                choice.add(piece, &self.app.tokenizer);
            }
        }
        let prompt_logprobs = choices.first_mut().and_then(C::take_prompt);
        let whole = self.completion(object, choices, Some(Some(&self.usage)));
        Ok(Json(Completion { prompt_logprobs, ..whole }).into_response())
    }

    /// A chunk with one choice.
    pub(crate) fn chunk<C>(&self, object: &'static str, choice: C) -> Completion<'_, C> {
        self.completion(object, vec![choice], self.include_usage.then_some(None))
    }

    /// The last chunk, if it is wanted: token counts and no choice.
    pub(crate) fn usage_chunk(&self, object: &'static str) -> Option<Completion<'_, ()>> {
        let usage = self.include_usage.then_some(Some(&self.usage));
        usage.map(|usage| self.completion(object, Vec::new(), Some(usage)))
    }

    fn completion<'a, C>(
        &'a self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Option<&'a Usage>>,
    ) -> Completion<'a, C> {
        let model = &self.app.config.served_model_name;
        let (id, created, prompt_logprobs) = (&self.id, self.created, None);
        Completion { id, object, created, model, choices, prompt_logprobs, usage }
    }
}
