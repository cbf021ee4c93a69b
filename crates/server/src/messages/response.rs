use std::sync::Arc;

use axum::response::sse::Event;
use engine::FinishReason;
use futures_util::stream::StreamExt;
use serde_json::{Value, json};
use text::Delta;

use crate::App;
use crate::blocks::{Block, Blocks};
use crate::error::ApiError;
use crate::generation::{Generation, Pieces};
use crate::sse::{Chunks, named};
use crate::transcript::{End, Piece};
use crate::usage::Usage;

/// A message as it is being made.
pub(super) struct Answer {
    id: String,
    model: String,
    stop_strings: Vec<String>,
    blocks: Blocks,
    usage: Usage,
    end: Option<End>,
}

impl Answer {
    pub(super) fn new(app: &Arc<App>, request: &Generation) -> Self {
        Self {
            id: app.next_answer_id("msg"),
            model: app.config.served_model_name.clone(),
            stop_strings: request.params.stop.strings.clone(),
            blocks: Blocks::default(),
            usage: Usage::new(request.prompt_tokens()),
            end: None,
        }
    }

    /// Waits for all pieces and adds them up.
    pub(super) async fn whole(mut self, mut pieces: Pieces) -> Result<Value, ApiError> {
        while let Some(piece) = pieces.next().await {
            self.add(piece?);
        }
        Ok(self.message())
    }

    /// Takes a piece; returns what it did to the blocks as events.
    fn add(&mut self, piece: Piece) -> Vec<Event> {
        self.usage.add(&piece);
        let mut events = Vec::new();
        for delta in piece.deltas {
            events.extend(self.grow(delta));
        }
        if let Some(end) = piece.end {
            self.end = Some(end);
            events.extend(stop_block(self.blocks.0.len()));
        }
        events
    }

    fn grow(&mut self, delta: Delta) -> Vec<Event> {
        let before = self.blocks.0.len();
        let growth = self.blocks.add(delta);
        let Some((block, earlier)) = self.blocks.0.split_last() else { return Vec::new() };
        let index = earlier.len();
        let mut events = Vec::new();
        if growth.began {
            events.extend(stop_block(before));
            let start = json!({"type": "content_block_start", "index": index,
                "content_block": empty(block)});
            events.push(named("content_block_start", &start));
        }
        if !growth.fragment.is_empty() {
            let (kind, name) = match block {
                Block::Reasoning(_) => ("thinking_delta", "thinking"),
                Block::Text(_) => ("text_delta", "text"),
                Block::Call { .. } => ("input_json_delta", "partial_json"),
            };
            let delta = json!({"type": kind, name: growth.fragment});
            let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.push(named("content_block_delta", &delta));
        }
        events
    }

    fn message(&self) -> Value {
        let content: Vec<Value> = self.blocks.0.iter().map(complete).collect();
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": self.end.map(stop_reason),
            "stop_sequence": self.stop_sequence(),
            "usage": self.usage(),
        })
    }

    fn stop_sequence(&self) -> Option<&String> {
        self.stop_strings.get(self.end?.stop_string?)
    }

    /// Here cached tokens are not counted as input, and those that a request leaves in the cache
    /// are not told.
    fn usage(&self) -> Value {
        let cached = self.usage.cached_tokens();
        json!({
            "input_tokens": self.usage.prompt_tokens.saturating_sub(cached),
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": self.usage.completion_tokens,
        })
    }
}

/// The end of the last of `blocks` blocks, if there is one.
fn stop_block(blocks: usize) -> Option<Event> {
    let index = blocks.checked_sub(1)?;
    let stop = json!({"type": "content_block_stop", "index": index});
    Some(named("content_block_stop", &stop))
}

fn stop_reason(end: End) -> &'static str {
    match end.reason {
        FinishReason::Length => "max_tokens",
        FinishReason::Stop if end.stop_string.is_some() => "stop_sequence",
        FinishReason::Stop if end.tool_calls > 0 => "tool_use",
        FinishReason::Stop => "end_turn",
    }
}

/// A block before its first fragment.
fn empty(block: &Block) -> Value {
    match block {
        Block::Reasoning(_) => json!({"type": "thinking", "thinking": "", "signature": ""}),
        Block::Text(_) => json!({"type": "text", "text": ""}),
        Block::Call { id, name, .. } => {
            json!({"type": "tool_use", "id": id, "name": name, "input": {}})
        }
    }
}

fn complete(block: &Block) -> Value {
    match block {
        Block::Reasoning(text) => json!({"type": "thinking", "thinking": text, "signature": ""}),
        Block::Text(text) => json!({"type": "text", "text": text}),
        Block::Call { id, name, arguments } => {
            let input = serde_json::from_str(arguments).ok().filter(Value::is_object);
            // Anthropic's own way to keep arguments that were cut short.
            let input = input.unwrap_or_else(|| json!({"INVALID_JSON": arguments}));
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }
    }
}

impl Chunks for Answer {
    fn open(&mut self) -> Vec<Event> {
        let start = json!({"type": "message_start", "message": self.message()});
        vec![named("message_start", &start)]
    }

    fn piece(&mut self, piece: Piece) -> Vec<Event> {
        self.add(piece)
    }

    fn close(&mut self) -> Vec<Event> {
        let delta = json!({"stop_reason": self.end.map(stop_reason),
            "stop_sequence": self.stop_sequence()});
        let delta = json!({"type": "message_delta", "delta": delta, "usage": self.usage()});
        vec![
            named("message_delta", &delta),
            named("message_stop", &json!({"type": "message_stop"})),
        ]
    }

    fn fail(&mut self, error: &ApiError) -> Event {
        named("error", &error.envelope())
    }
}
