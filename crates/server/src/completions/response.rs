use std::sync::Arc;

use engine::FinishReason;
use futures_util::stream::StreamExt;
use serde::Serialize;
use text::Delta;

use crate::App;
use crate::app::unix_seconds;
use crate::error::ApiError;
use crate::generation::{Generation, Pieces};
use crate::logprobs::TextLogprobs;
use crate::sse::{Chunks, json};
use crate::transcript::Piece;
use crate::usage::Usage;

/// A whole answer or, with what one piece adds, a chunk of a streamed one.
#[derive(Debug, Serialize)]
pub(crate) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    /// In a stream, left out if not asked for, and `null` before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

#[derive(Debug, Default, Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

/// An answer being made.
pub(super) struct Answer {
    app: Arc<App>,
    id: String,
    created: u64,
    choices: usize,
    /// Whether log-probabilities are wanted.
    logprobs: bool,
    usage: Usage,
}

impl Answer {
    pub(super) fn new(app: &Arc<App>, request: &Generation) -> Self {
        Self {
            app: app.clone(),
            id: app.next_answer_id("cmpl"),
            created: unix_seconds(),
            choices: request.choices(),
            logprobs: request.logprobs.is_some(),
            usage: Usage::new(request.prompt_tokens()),
        }
    }

    /// Waits for all pieces.
    pub(super) async fn complete(
        mut self,
        mut pieces: Pieces,
    ) -> Result<serde_json::Value, ApiError> {
        let mut choices: Vec<Choice> = (0..self.choices).map(|index| self.choice(index)).collect();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(ApiError::internal)?;
            self.usage.add(&piece);
            if let Some(choice) = choices.get_mut(piece.choice) {
                choice.add(piece, &self.app);
            }
        }
        let answer = self.completion(choices, Some(Some(&self.usage)));
        serde_json::to_value(answer).map_err(|error| ApiError::internal(error.to_string()))
    }

    pub(super) fn into_chunks(self, include_usage: bool) -> impl Chunks {
        AnswerChunks { answer: self, include_usage }
    }

    fn choice(&self, index: usize) -> Choice {
        let logprobs = self.logprobs.then(TextLogprobs::default);
        Choice { index, logprobs, ..Choice::default() }
    }

    fn completion<'a>(
        &'a self,
        choices: Vec<Choice>,
        usage: Option<Option<&'a Usage>>,
    ) -> Completion<'a> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.app.config.served_model_name,
            choices,
            usage,
        }
    }
}

impl Choice {
    fn add(&mut self, piece: Piece, app: &App) {
        for delta in piece.deltas {
            // Plain text comes as content.
            if let Delta::Content(text) = delta {
                self.text += &text;
            }
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.add(piece.tokens, &app.tokenizer);
        }
        self.finish_reason = piece.end.map(|end| match end.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
    }
}

struct AnswerChunks {
    answer: Answer,
    include_usage: bool,
}

impl Chunks for AnswerChunks {
    fn open(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn piece(&mut self, piece: Piece) -> Vec<String> {
        self.answer.usage.add(&piece);
        if piece.deltas.is_empty() && piece.tokens.is_empty() && piece.end.is_none() {
            return Vec::new();
        }
        let mut choice = self.answer.choice(piece.choice);
        choice.add(piece, &self.answer.app);
        vec![json(&self.answer.completion(vec![choice], self.include_usage.then_some(None)))]
    }

    fn close(&mut self) -> Option<String> {
        let usage = self.include_usage.then_some(Some(&self.answer.usage));
        usage.map(|usage| json(&self.answer.completion(Vec::new(), Some(usage))))
    }
}
