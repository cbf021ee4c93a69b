use axum::response::sse::Event;
use engine::FinishReason;
use serde::Serialize;
use text::{Delta, Tokenizer};

use crate::answer::{self, Answer};
use crate::error::ApiError;
use crate::logprobs::{ChatLogprobs, PromptLogprobs, prompt_logprobs};
use crate::sse::{Chunks, data, done};
use crate::transcript::{End, Piece};

/// A choice of a whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip)]
    prompt: Option<PromptLogprobs>,
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

impl answer::Choice for Choice {
    fn new(index: usize, logprobs: bool) -> Self {
        let message = Message { role: "assistant", ..Message::default() };
        let logprobs = logprobs.then(ChatLogprobs::default);
        Self { index, message, logprobs, finish_reason: None, prompt: None }
    }

    fn take_prompt(&mut self) -> Option<PromptLogprobs> {
        self.prompt.take()
    }

    fn add(&mut self, piece: Piece, tokenizer: &Tokenizer) {
        if let Some(tokens) = piece.prompt {
            self.prompt = Some(prompt_logprobs(tokens, tokenizer));
        }
        for delta in piece.deltas {
            self.message.add(delta);
        }
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.add(piece.tokens, tokenizer);
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

/// `object` of chunks.
const CHUNK: &str = "chat.completion.chunk";

pub(super) struct AnswerChunks(pub(super) Answer);

impl AnswerChunks {
    fn chunk(
        &self,
        index: usize,
        delta: ChunkDelta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> Event {
        data(&self.0.chunk(CHUNK, ChunkChoice { index, delta, logprobs, finish_reason }))
    }
}

impl Chunks for AnswerChunks {
    fn open(&mut self) -> Vec<Event> {
        let role = || ChunkDelta {
            role: Some("assistant"),
            content: Some(String::new()),
            ..ChunkDelta::default()
        };
        (0..self.0.choices).map(|index| self.chunk(index, role(), None, None)).collect()
    }

    fn piece(&mut self, piece: Piece) -> Vec<Event> {
        self.0.usage.add(&piece);
        let Piece { choice, deltas, tokens, end, .. } = piece;
        let mut logprobs = (!tokens.is_empty()).then(|| {
            let mut logprobs = ChatLogprobs::default();
            logprobs.add(tokens, &self.0.app.tokenizer);
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

    fn close(&mut self) -> Vec<Event> {
        self.0.usage_chunk(CHUNK).iter().map(data).chain([done()]).collect()
    }

    fn fail(&mut self, error: &ApiError) -> Event {
        data(&error.envelope())
    }
}
