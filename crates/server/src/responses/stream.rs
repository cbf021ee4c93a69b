use axum::response::sse::Event;
use serde_json::{Value, json};
use text::Delta;

use crate::blocks::Block;
use crate::error::ApiError;
use crate::sse::{Chunks, named};
use crate::transcript::Piece;

use super::response::{Answer, part};

/// A response's events, which are numbered.
pub(super) struct Events {
    answer: Answer,
    sent: usize,
}

impl Events {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, sent: 0 }
    }

    fn event(&mut self, name: &str, mut data: Value) -> Event {
        data["type"] = name.into();
        data["sequence_number"] = self.sent.into();
        self.sent += 1;
        named(name, &data)
    }

    fn grow(&mut self, delta: Delta) -> Vec<Event> {
        let before = self.answer.blocks.0.len();
        let starts = match (self.answer.blocks.0.last(), &delta) {
            (Some(Block::Reasoning(_)), Delta::Reasoning(_))
            | (Some(Block::Text(_)), Delta::Content(_))
            | (Some(Block::Call { .. }), Delta::ToolCallArguments { .. }) => false,
            _ => before > 0,
        };
        let mut events = if starts { self.finish_item("completed") } else { Vec::new() };
        let growth = self.answer.blocks.add(delta);
        let Some((block, earlier)) = self.answer.blocks.0.split_last() else { return events };
        let (index, item_id) = (earlier.len(), self.answer.item_id(earlier.len(), block));
        let place = json!({"item_id": item_id, "output_index": index, "content_index": 0});
        let (name, empty) = match block {
            Block::Reasoning(_) => {
                ("response.reasoning_text.delta", Block::Reasoning(String::new()))
            }
            Block::Text(_) => ("response.output_text.delta", Block::Text(String::new())),
            Block::Call { id, name, .. } => (
                "response.function_call_arguments.delta",
                Block::Call { id: id.clone(), name: name.clone(), arguments: String::new() },
            ),
        };
        if growth.began {
            let item = self.answer.item(index, &empty, "in_progress");
            let added = json!({"output_index": index, "item": item});
            events.push(self.event("response.output_item.added", added));
            if !matches!(empty, Block::Call { .. }) {
                let added = with(&place, "part", part(&empty, ""));
                events.push(self.event("response.content_part.added", added));
            }
        }
        if !growth.fragment.is_empty() {
            let mut delta = with(&place, "delta", growth.fragment.into());
            if matches!(empty, Block::Text(_)) {
                delta["logprobs"] = json!([]);
            }
            events.push(self.event(name, delta));
        }
        events
    }

    /// Ends the last item.
    fn finish_item(&mut self, status: &str) -> Vec<Event> {
        let Some((block, earlier)) = self.answer.blocks.0.split_last() else {
            return Vec::new();
        };
        let index = earlier.len();
        let item = self.answer.item(index, block, status);
        let item_id = self.answer.item_id(index, block);
        let place = json!({"item_id": item_id, "output_index": index, "content_index": 0});
        let ends = match block {
            Block::Reasoning(text) => vec![
                ("response.reasoning_text.done", with(&place, "text", text.as_str().into())),
                ("response.content_part.done", with(&place, "part", part(block, text))),
            ],
            Block::Text(text) => {
                let mut done = with(&place, "text", text.as_str().into());
                done["logprobs"] = json!([]);
                vec![
                    ("response.output_text.done", done),
                    ("response.content_part.done", with(&place, "part", part(block, text))),
                ]
            }
            Block::Call { name, arguments, .. } => {
                let mut done = with(&place, "arguments", arguments.as_str().into());
                done["name"] = name.as_str().into();
                vec![("response.function_call_arguments.done", done)]
            }
        };
        let done = json!({"output_index": index, "item": item});
        let ends = ends.into_iter().chain([("response.output_item.done", done)]);
        ends.map(|(name, data)| self.event(name, data)).collect()
    }
}

/// A copy of `place` with one more field.
fn with(place: &Value, name: &str, value: Value) -> Value {
    let mut data = place.clone();
    data[name] = value;
    data
}

impl Chunks for Events {
    fn open(&mut self) -> Vec<Event> {
        let response = json!({"response": self.answer.response(None)});
        vec![
            self.event("response.created", response.clone()),
            self.event("response.in_progress", response),
        ]
    }

    fn piece(&mut self, piece: Piece) -> Vec<Event> {
        self.answer.usage.add(&piece);
        let mut events = Vec::new();
        for delta in piece.deltas {
            events.extend(self.grow(delta));
        }
        if let Some(end) = piece.end {
            self.answer.end = Some(end);
            events.extend(self.finish_item(self.answer.status()));
        }
        events
    }

    fn close(&mut self) -> Vec<Event> {
        self.answer.keep();
        let name = format!("response.{}", self.answer.status());
        let response = json!({"response": self.answer.response(None)});
        vec![self.event(&name, response)]
    }

    fn fail(&mut self, error: &ApiError) -> Event {
        let response = self.answer.response(Some(error.message()));
        self.event("response.failed", json!({"response": response}))
    }
}
