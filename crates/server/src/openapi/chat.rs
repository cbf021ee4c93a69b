//! What `/v1/chat/completions` takes.

use serde_json::{Value, json};

use super::requests::shared;
use super::{array, boolean, integer, joined, one_of_these, record, string, texts, tools};
use crate::App;

/// The fields of a function: its schema is in the field `schema`.
pub(super) fn function(schema: &str) -> Value {
    let name = json!({"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"});
    let mut fields = json!({"name": name, "description": string(), "strict": boolean()});
    fields[schema] = json!({"type": "object"});
    fields
}

pub(super) fn effort() -> Value {
    one_of_these(json!(["none", "minimal", "low", "medium", "high", "xhigh"]))
}

fn message() -> Value {
    let kind = || one_of_these(json!(["function"]));
    let content = || {
        let mut content = texts(&["text"], &json!({}));
        content["anyOf"][1]["minItems"] = 1.into();
        content
    };
    let call = json!({
        "id": string(),
        "type": kind(),
        "index": integer(0, i64::MAX),
        "function": record(&["name", "arguments"], json!({
            "name": {"type": "string", "minLength": 1}, "arguments": string()})),
    });
    let of = |roles: Value, required: &[&str], fields: Value| {
        let shared = json!({"role": one_of_these(roles), "name": string(), "content": content()});
        record(required, joined(shared, fields))
    };
    let assistant = json!({"reasoning": string(), "reasoning_content": string(),
        "annotations": {"type": "array", "maxItems": 0},
        "tool_calls": array(record(&["id", "function"], call))});
    json!({"anyOf": [
        of(json!(["system", "developer", "user"]), &["role", "content"], json!({})),
        of(json!(["tool"]), &["role", "content", "tool_call_id"],
            json!({"tool_call_id": string()})),
        of(json!(["assistant"]), &["role"], assistant),
    ]})
}

/// Messages, tools and switches.
pub(super) fn conversation() -> Value {
    let kind = || one_of_these(json!(["function"]));
    let tool = json!({"type": kind(), "function": record(&["name"], function("parameters"))});
    let named = json!({"type": kind(), "function": record(&["name"], json!({"name": string()}))});
    let choice = json!({"anyOf": [one_of_these(json!(["auto", "none", "required"])),
        record(&["type", "function"], named)]});
    json!({
        "messages": {"type": "array", "minItems": 1, "items": message()},
        "tools": tools(record(&["type", "function"], tool)),
        "tool_choice": choice,
        "parallel_tool_calls": boolean(),
        "chat_template_kwargs": record(&[], json!({"thinking": boolean(),
            "preserve_thinking": boolean()})),
        "thinking": record(&["type"], json!({
            "type": one_of_these(json!(["enabled", "disabled"]))})),
        "reasoning_effort": effort(),
    })
}

pub(super) fn request(app: &App) -> Value {
    let fields = json!({
        "logprobs": boolean(),
        "top_logprobs": integer(0, 20),
        "skip_special_tokens": one_of_these(json!([true])),
        "max_tokens": integer(1, i64::from(u32::MAX)),
        "max_completion_tokens": integer(1, i64::from(u32::MAX)),
        "modalities": one_of_these(json!([["text"]])),
        "echo": one_of_these(json!([false])),
        "add_generation_prompt": one_of_these(json!([true])),
    });
    record(&["messages"], joined(joined(shared(app), conversation()), fields))
}
