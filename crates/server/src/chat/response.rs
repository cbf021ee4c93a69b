use std::sync::Arc;

use engine::FinishReason;
use futures_util::stream::StreamExt;
use serde::Serialize;
use text::Delta;

use crate::App;
use crate::app::unix_seconds;
use crate::error::ApiError;
use crate::generation::{Generation, Pieces};
use crate::logprobs::ChatLogprobs;
use crate::sse::{Chunks, json};
use crate::transcript::{End, Piece};
use crate::usage::Usage;

/// A whole answer (choices have a `message`) or a chunk of a streamed one (choices have a `delta`).
#[derive(Debug, Serialize)]
struct Completion<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<C>,
    /// In a stream, left out if not asked for, and `null` before the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
}

#[derive(Debug, Serialize)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Message {
    role: &'static str,
    /// `null` if there are only tool calls.
    content: Option<String>,
    refusal: Option<String>,
    /// Both names are in use for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Debug, Serialize)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function,
}

#[derive(Debug, Default, Serialize)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: ChunkDelta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCallDelta; 1]>,
}

#[derive(Debug, Serialize)]
struct ToolCallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
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
            id: app.next_answer_id("chatcmpl"),
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
        let mut choices: Vec<_> = (0..self.choices).map(|index| self.choice(index)).collect();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(ApiError::internal)?;
            self.usage.add(&piece);
            if let Some(choice) = choices.get_mut(piece.choice) {
                choice.add(piece, &self.app);
            }
        }
        let answer = self.completion("chat.completion", choices, Some(Some(&self.usage)));
        serde_json::to_value(answer).map_err(|error| ApiError::internal(error.to_string()))
    }

    pub(super) fn into_chunks(self, include_usage: bool) -> impl Chunks {
        AnswerChunks { answer: self, include_usage }
    }

    fn choice(&self, index: usize) -> WholeChoice {
        let message = Message { role: "assistant", ..Message::default() };
        let logprobs = self.logprobs.then(ChatLogprobs::default);
        WholeChoice { index, message, logprobs, finish_reason: None }
    }

    fn completion<'a, C>(
        &'a self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Option<&'a Usage>>,
    ) -> Completion<'a, C> {
        let model = &self.app.config.served_model_name;
        Completion { id: &self.id, object, created: self.created, model, choices, usage }
    }
}

impl WholeChoice {
    fn add(&mut self, piece: Piece, app: &App) {
        for delta in piece.deltas {
            self.message.add(delta);
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.add(piece.tokens, &app.tokenizer);
        }
        if let Some(end) = piece.end {
            self.finish_reason = Some(finish_reason(end));
            if self.message.tool_calls.is_empty() {
                self.message.content.get_or_insert_default();
            }
        }
    }
}

impl Message {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => *self.content.get_or_insert_default() += &text,
            Delta::Reasoning(text) => {
                *self.reasoning_content.get_or_insert_default() += &text;
                *self.reasoning.get_or_insert_default() += &text;
            }
            Delta::ToolCallStart { id, name, .. } => {
                let function = Function { name: Some(name), arguments: String::new() };
                self.tool_calls.push(ToolCall { id, kind: "function", function });
            }
            Delta::ToolCallArguments { index, fragment } => {
                if let Some(call) = self.tool_calls.get_mut(index) {
                    call.function.arguments += &fragment;
                }
            }
        }
    }
}

impl From<Delta> for ChunkDelta {
    fn from(delta: Delta) -> Self {
        let call = |call: ToolCallDelta| Self { tool_calls: Some([call]), ..Self::default() };
        match delta {
            Delta::Content(text) => Self { content: Some(text), ..Self::default() },
            Delta::Reasoning(text) => Self {
                reasoning_content: Some(text.clone()),
                reasoning: Some(text),
                ..Self::default()
            },
            Delta::ToolCallStart { index, id, name } => {
                let function = Function { name: Some(name), arguments: String::new() };
                call(ToolCallDelta { index, id: Some(id), kind: Some("function"), function })
            }
            Delta::ToolCallArguments { index, fragment } => {
                let function = Function { name: None, arguments: fragment };
                call(ToolCallDelta { index, id: None, kind: None, function })
            }
        }
    }
}

fn finish_reason(end: End) -> &'static str {
    match end.reason {
        FinishReason::Length => "length",
        FinishReason::Stop if end.tool_calls > 0 => "tool_calls",
        FinishReason::Stop => "stop",
    }
}

struct AnswerChunks {
    answer: Answer,
    include_usage: bool,
}

impl AnswerChunks {
    fn chunk(
        &self,
        index: usize,
        delta: ChunkDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> String {
        let choice = ChunkChoice { index, delta, logprobs, finish_reason };
        let usage = self.include_usage.then_some(None);
        json(&self.answer.completion(CHUNK, vec![choice], usage))
    }
}

const CHUNK: &str = "chat.completion.chunk";

impl Chunks for AnswerChunks {
    fn open(&mut self) -> Vec<String> {
        let role = || ChunkDelta {
            role: Some("assistant"),
            content: Some(String::new()),
            ..ChunkDelta::default()
        };
        (0..self.answer.choices).map(|index| self.chunk(index, role(), None, None)).collect()
    }

    fn piece(&mut self, piece: Piece) -> Vec<String> {
        self.answer.usage.add(&piece);
        let Piece { choice, deltas, tokens, end, .. } = piece;
        let mut logprobs = (!tokens.is_empty()).then(|| {
            let mut logprobs = ChatLogprobs::default();
            logprobs.add(tokens, &self.answer.app.tokenizer);
            logprobs
        });
        let mut chunks = Vec::new();
        for delta in deltas {
            chunks.push(self.chunk(choice, delta.into(), logprobs.take(), None));
        }
        let reason = end.map(finish_reason);
        if logprobs.is_some() || reason.is_some() {
            chunks.push(self.chunk(choice, ChunkDelta::default(), logprobs, reason));
        }
        chunks
    }

    fn close(&mut self) -> Option<String> {
        let usage = self.include_usage.then_some(Some(&self.answer.usage));
        usage.map(|usage| {
            json(&self.answer.completion::<ChunkChoice>(CHUNK, Vec::new(), Some(usage)))
        })
    }
}
