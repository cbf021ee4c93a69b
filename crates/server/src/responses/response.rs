use std::sync::Arc;

use engine::FinishReason;
use futures_util::stream::StreamExt;
use serde_json::{Value, json};

use crate::App;
use crate::app::unix_seconds;
use crate::blocks::{Block, Blocks};
use crate::error::ApiError;
use crate::generation::Pieces;
use crate::transcript::End;
use crate::usage::Usage;

use super::conversation::{append, turn};
use super::request::Request;

/// A response as it is being made.
pub(super) struct Answer {
    app: Arc<App>,
    id: String,
    created: u64,
    history: Option<Vec<Value>>,
    echo: Value,
    pub(super) blocks: Blocks,
    pub(super) usage: Usage,
    pub(super) end: Option<End>,
}

impl Answer {
    pub(super) fn new(app: Arc<App>, request: Request) -> Self {
        Self {
            id: app.responses.id(app.next_answer_number()),
            created: unix_seconds(),
            history: request.history,
            echo: request.echo,
            blocks: Blocks::default(),
            usage: Usage::new(request.generation.prompt_tokens()),
            end: None,
            app,
        }
    }

    /// Waits for all pieces and adds them up.
    pub(super) async fn whole(mut self, mut pieces: Pieces) -> Result<Value, ApiError> {
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            self.usage.add(&piece);
            self.end = self.end.or(piece.end);
            for delta in piece.deltas {
                self.blocks.add(delta);
            }
        }
        self.keep();
        Ok(self.response(None))
    }

    /// Keeps the conversation with this answer, if it may be gone on with.
    pub(super) fn keep(&mut self) {
        let Some(mut messages) = self.history.take() else { return };
        // An answer without anything in it is a turn, too.
        messages.push(json!({"role": "assistant", "content": ""}));
        for block in &self.blocks.0 {
            let message = turn(&mut messages);
            match block {
                Block::Reasoning(text) => append(message, "reasoning_content", text),
                Block::Text(text) => append(message, "content", text),
                Block::Call { id, name, arguments } => {
                    let function = json!({"name": name, "arguments": arguments});
                    let call = json!({"id": id, "type": "function", "function": function});
                    match message["tool_calls"].as_array_mut() {
                        Some(calls) => calls.push(call),
                        None => message["tool_calls"] = json!([call]),
                    }
                }
            }
        }
        self.app.responses.put(self.id.clone(), messages);
    }

    fn incomplete(&self) -> bool {
        self.end.is_some_and(|end| end.reason == FinishReason::Length)
    }

    pub(super) fn status(&self) -> &'static str {
        match self.end {
            None => "in_progress",
            Some(_) if self.incomplete() => "incomplete",
            Some(_) => "completed",
        }
    }

    /// The response so far, or why it failed.
    pub(super) fn response(&self, failure: Option<&str>) -> Value {
        let output: Vec<Value> = self.finished_items();
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": if failure.is_some() { "failed" } else { self.status() },
            "error": failure.map(|message| json!({"code": "server_error", "message": message})),
            "incomplete_details":
                self.incomplete().then(|| json!({"reason": "max_output_tokens"})),
            "model": self.app.config.served_model_name,
            "output": output,
            "truncation": "disabled",
            "usage": self.end.map(|_| self.usage()),
        });
        if let (Some(response), Some(echo)) = (response.as_object_mut(), self.echo.as_object()) {
            response.extend(echo.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        response
    }

    fn usage(&self) -> Value {
        let (input, output) = (self.usage.prompt_tokens, self.usage.completion_tokens);
        json!({
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": self.usage.cached_tokens()},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": self.usage.reasoning_tokens()},
            "total_tokens": input + output,
        })
    }

    fn finished_items(&self) -> Vec<Value> {
        let last = self.blocks.0.len().saturating_sub(1);
        let item = |(index, block): (usize, &Block)| {
            // Only the last one can have been cut short.
            let cut = self.incomplete() && index == last;
            self.item(index, block, if cut { "incomplete" } else { "completed" })
        };
        self.blocks.0.iter().enumerate().map(item).collect()
    }

    /// The name of item number `index`.
    pub(super) fn item_id(&self, index: usize, block: &Block) -> String {
        let prefix = match block {
            Block::Reasoning(_) => "rs",
            Block::Text(_) => "msg",
            Block::Call { .. } => "fc",
        };
        format!("{prefix}_{}_{index}", self.id)
    }

    pub(super) fn item(&self, index: usize, block: &Block, status: &str) -> Value {
        let id = self.item_id(index, block);
        match block {
            Block::Reasoning(_) => json!({"id": id, "type": "reasoning", "summary": [],
                "content": parts(block), "status": status}),
            Block::Text(_) => json!({"id": id, "type": "message", "role": "assistant",
                "content": parts(block), "status": status}),
            Block::Call { id: call, name, arguments } => json!({"id": id,
                "type": "function_call", "call_id": call, "name": name, "arguments": arguments,
                "status": status}),
        }
    }
}

/// A list of the block's part of content; one of calls is empty, as is one with no text yet.
fn parts(block: &Block) -> Vec<Value> {
    match block {
        Block::Reasoning(text) | Block::Text(text) if !text.is_empty() => vec![part(block, text)],
        _ => Vec::new(),
    }
}

/// A part of content with this text, of the kind that the block has.
pub(super) fn part(block: &Block, text: &str) -> Value {
    match block {
        Block::Reasoning(_) => json!({"type": "reasoning_text", "text": text}),
        _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
    }
}
