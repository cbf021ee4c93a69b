use axum::response::sse::Event;
use engine::FinishReason;
use serde::Serialize;
use text::{Delta, Tokenizer};

use crate::answer::{self, Answer};
use crate::error::ApiError;
use crate::logprobs::{PromptLogprobs, TextLogprobs, prompt_logprobs};
use crate::sse::{Chunks, data, done};
use crate::transcript::Piece;

/// `object` of whole answers and chunks alike.
pub(super) const OBJECT: &str = "text_completion";

/// A choice, whole or as much of it as a chunk brings.
#[derive(Debug, Serialize)]
pub(super) struct Choice {
    index: usize,
    text: String,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

impl answer::Choice for Choice {
    fn new(index: usize, logprobs: bool) -> Self {
        let logprobs = logprobs.then(TextLogprobs::default);
        Self { index, text: String::new(), logprobs, finish_reason: None, prompt_logprobs: None }
    }

    fn add(&mut self, piece: Piece, tokenizer: &Tokenizer) {
        if let Some(tokens) = piece.prompt {
            self.prompt_logprobs = Some(prompt_logprobs(tokens, tokenizer));
        }
        for delta in piece.deltas {
            // Plain text comes as content.
            if let Delta::Content(text) = delta {
                self.text += &text;
            }
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.add(piece.tokens, tokenizer);
        }
        self.finish_reason = piece.end.map(|end| match end.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
    }
}

pub(super) struct AnswerChunks(pub(super) Answer);

impl Chunks for AnswerChunks {
    fn open(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, piece: Piece) -> Vec<Event> {
        self.0.usage.add(&piece);
        if piece.deltas.is_empty() && piece.tokens.is_empty() && piece.end.is_none() {
            return Vec::new();
        }
        let mut choice: Choice = answer::Choice::new(piece.choice, self.0.logprobs);
        answer::Choice::add(&mut choice, piece, &self.0.app.tokenizer);
        vec![data(&self.0.chunk(OBJECT, choice))]
    }

    fn close(&mut self) -> Vec<Event> {
        self.0.usage_chunk(OBJECT).iter().map(data).chain([done()]).collect()
    }

    fn fail(&mut self, error: &ApiError) -> Event {
        data(&error.envelope())
    }
}
