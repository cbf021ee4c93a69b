//! What the routes give.

use serde_json::{Value, json};

use super::{array, joined, one_of_these, string};

/// An object that has at least these fields.
pub(super) fn object(required: &[&str]) -> Value {
    json!({"type": "object", "required": required})
}

fn with(required: &[&str], fields: Value) -> Value {
    joined(object(required), json!({"properties": fields}))
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

pub(super) fn error() -> Value {
    let fields = json!({"message": string(), "type": string(), "param": nullable("string"),
        "code": nullable("string")});
    let error = with(&["message", "type", "param", "code"], fields);
    with(&["type", "error"], json!({"type": one_of_these(json!(["error"])), "error": error}))
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn completion_of(kind: &str, choice: Value) -> Value {
    let usage = with(
        &["prompt_tokens", "completion_tokens", "total_tokens"],
        json!({"prompt_tokens": count(), "completion_tokens": count(), "total_tokens": count()}),
    );
    with(
        &["id", "object", "created", "model", "choices", "usage"],
        json!({"id": string(), "object": one_of_these(json!([kind])), "created": count(),
            "model": string(), "choices": array(choice), "usage": usage}),
    )
}

pub(super) fn chat() -> Value {
    let function = with(&["name", "arguments"], json!({"name": string(), "arguments": string()}));
    let call = with(
        &["id", "type", "function"],
        json!({"id": string(), "type": one_of_these(json!(["function"])), "function": function}),
    );
    let message = with(
        &["role", "content"],
        json!({"role": one_of_these(json!(["assistant"])), "content": nullable("string"),
            "reasoning_content": string(), "reasoning": string(), "tool_calls": array(call)}),
    );
    let reasons = one_of_these(json!(["stop", "length", "tool_calls"]));
    let choice = with(
        &["index", "message", "logprobs", "finish_reason"],
        json!({"index": count(), "message": message, "logprobs": nullable("object"),
            "finish_reason": reasons}),
    );
    completion_of("chat.completion", choice)
}

pub(super) fn completion() -> Value {
    let choice = with(
        &["index", "text", "logprobs", "finish_reason"],
        json!({"index": count(), "text": string(), "logprobs": nullable("object"),
            "finish_reason": one_of_these(json!(["stop", "length"]))}),
    );
    completion_of("text_completion", choice)
}

pub(super) fn response() -> Value {
    with(
        &["id", "object", "created_at", "status", "model", "output", "usage"],
        json!({"id": string(), "object": one_of_these(json!(["response"])), "model": string(),
            "status": one_of_these(json!(["completed", "incomplete"])),
            "output": array(object(&["id", "type"])), "usage": {"type": "object"}}),
    )
}

pub(super) fn message() -> Value {
    let reasons = one_of_these(json!(["end_turn", "max_tokens", "stop_sequence", "tool_use"]));
    with(
        &["id", "type", "role", "model", "content", "stop_reason", "usage"],
        json!({"id": string(), "type": one_of_these(json!(["message"])),
            "role": one_of_these(json!(["assistant"])), "model": string(),
            "content": array(object(&["type"])), "stop_reason": reasons,
            "usage": {"type": "object"}}),
    )
}
