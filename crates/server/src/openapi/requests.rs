//! What the routes other than chat take.

use serde_json::{Value, json};

use super::{array, boolean, integer, joined, number, one_of_these, record, string, texts, tools};
use crate::App;

const U32_MAX: i64 = u32::MAX as i64;

fn any_object() -> Value {
    json!({"type": "object"})
}

pub(super) fn token(app: &App) -> Value {
    integer(0, i64::from(app.tokenizer.vocab_size()) - 1)
}

pub(super) fn sampling() -> Value {
    json!({
        "temperature": number(0.0, 2.0),
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "top_k": integer(-1, U32_MAX),
        "min_p": number(0.0, 1.0),
        "presence_penalty": number(-2.0, 2.0),
        "frequency_penalty": number(-2.0, 2.0),
        "repetition_penalty": number(0.01, 10.0),
        "logit_bias": {"type": "object", "propertyNames": {"pattern": "^\\+?[0-9]+$"},
            "additionalProperties": {"anyOf": [number(-100.0, 100.0), {"type": "null"}]}},
    })
}

fn stop_strings() -> Value {
    let stop = json!({"type": "string", "minLength": 1, "maxLength": 1024});
    let list = json!({"type": "array", "maxItems": 16, "items": stop});
    json!({"anyOf": [stop, list]})
}

fn structures() -> Value {
    let schema = json!({"type": ["object", "boolean"]});
    let nested = record(
        &["schema"],
        json!({"name": string(), "description": string(),
        "strict": boolean(), "schema": schema}),
    );
    let kinds = |prefix: &str| {
        let mut kinds = json!({});
        kinds[format!("{prefix}json")] = json!({"type": ["object", "boolean", "string"]});
        kinds[format!("{prefix}regex")] = string();
        kinds[format!("{prefix}choice")] =
            json!({"type": "array", "minItems": 1, "maxItems": 10_000, "items": string()});
        kinds[format!("{prefix}grammar")] = string();
        kinds
    };
    let format = |kind: &str| record(&["type"], json!({"type": one_of_these(json!([kind]))}));
    let format_schema = json!({"type": one_of_these(json!(["json_schema"])),
        "json_schema": nested, "name": string(), "description": string(), "strict": boolean(),
        "schema": schema});
    let response_format = json!({"anyOf": [format("text"), format("json_object"),
        record(&["type"], format_schema)]});
    let options = joined(kinds(""), json!({"json_object": boolean()}));
    let named = json!({"response_format": response_format,
        "structured_outputs": record(&[], options)});
    joined(named, kinds("guided_"))
}

/// Fields that chat and text completions share.
pub(super) fn shared(app: &App) -> Value {
    let off = || one_of_these(json!([false]));
    let usage = json!({"include_usage": boolean(), "include_obfuscation": off(),
        "continuous_usage_stats": off()});
    let fields = json!({
        "model": one_of_these(json!([app.config.served_model_name])),
        "user": string(),
        "safety_identifier": string(),
        "prompt_cache_key": string(),
        "metadata": any_object(),
        "store": one_of_these(json!([false])),
        "service_tier": one_of_these(json!(["auto", "default"])),
        "use_beam_search": one_of_these(json!([false])),
        "n": integer(1, 128),
        "best_of": integer(1, 128),
        "stream": boolean(),
        "stream_options": record(&[], usage),
        "seed": {"type": "integer"},
        "max_tokens": integer(0, U32_MAX),
        "max_completion_tokens": integer(0, U32_MAX),
        "min_tokens": integer(0, U32_MAX),
        "stop": stop_strings(),
        "stop_token_ids": array(token(app)),
        "ignore_eos": boolean(),
        "include_stop_str_in_output": boolean(),
        "skip_special_tokens": boolean(),
        "priority": integer(i64::from(i32::MIN), i64::from(i32::MAX)),
        "cache_salt": string(),
        "prompt_logprobs": integer(0, 20),
    });
    joined(joined(fields, sampling()), structures())
}

pub(super) fn completion(app: &App) -> Value {
    let ids = json!({"type": "array", "minItems": 1, "items": token(app)});
    let several = |items: &Value| {
        json!({"type": "array", "minItems": 1, "maxItems": 1024,
        "items": items})
    };
    let text = json!({"type": "string", "minLength": 1});
    let mixed = json!({"anyOf": [text, ids]});
    let prompt = json!({"anyOf": [text, ids, several(&mixed)]});
    let fields = json!({"prompt": prompt, "echo": boolean(), "logprobs": integer(0, 20),
        "suffix": one_of_these(json!([""]))});
    record(&["prompt"], joined(shared(app), fields))
}

pub(super) fn response(app: &App) -> Value {
    let kinds = |kinds: &[&str]| {
        let extra = json!({"annotations": {"type": "array", "maxItems": 0},
            "logprobs": {"type": "array", "maxItems": 0}});
        texts(kinds, &extra)
    };
    let item = |kind: &str, required: &[&str], fields: Value| {
        let shared = json!({"id": string(), "status": string(),
            "type": one_of_these(json!([kind]))});
        record(required, joined(shared, fields))
    };
    let items = json!({"anyOf": [
        item("message", &["role", "content"], json!({
            "role": one_of_these(json!(["user", "system", "developer", "assistant"])),
            "content": kinds(&["input_text", "output_text"])})),
        item("reasoning", &["type"], json!({"summary": {"type": "array", "maxItems": 0},
            "content": kinds(&["reasoning_text"])})),
        item("function_call", &["type", "call_id", "name", "arguments"],
            json!({"call_id": string(), "name": string(), "arguments": string()})),
        item("function_call_output", &["type", "call_id", "output"],
            json!({"call_id": string(), "output": kinds(&["input_text"])})),
    ]});
    let input = json!({"anyOf": [string(), {"type": "array", "minItems": 1, "items": items}]});
    let format = json!({"type": one_of_these(json!(["text", "json_object", "json_schema"])),
        "name": string(), "description": string(), "strict": boolean(),
        "schema": {"type": ["object", "boolean"]}});
    let text = json!({"format": record(&["type"], format),
        "verbosity": one_of_these(json!(["medium"]))});
    let tool = joined(
        json!({"type": one_of_these(json!(["function"]))}),
        super::chat::function("parameters"),
    );
    let named = json!({"type": one_of_these(json!(["function"])), "name": string()});
    let choice = json!({"anyOf": [one_of_these(json!(["auto", "none", "required"])),
        record(&["type", "name"], named)]});
    let reasoning = record(&[], json!({"effort": super::chat::effort()}));
    let stream = record(&[], json!({"include_obfuscation": one_of_these(json!([false]))}));
    let fields = json!({
        "model": one_of_these(json!([app.config.served_model_name])),
        "input": input,
        "instructions": string(),
        "previous_response_id": string(),
        "max_output_tokens": integer(1, U32_MAX),
        "metadata": any_object(),
        "store": boolean(),
        "stream": boolean(),
        "stream_options": stream,
        "text": record(&[], text),
        "tools": tools(record(&["type", "name"], tool)),
        "tool_choice": choice,
        "parallel_tool_calls": boolean(),
        "reasoning": reasoning,
        "user": string(),
        "safety_identifier": string(),
        "prompt_cache_key": string(),
        "include": {"type": "array", "maxItems": 0},
        "background": one_of_these(json!([false])),
        "service_tier": one_of_these(json!(["auto", "default"])),
        "top_logprobs": one_of_these(json!([0])),
        "truncation": one_of_these(json!(["disabled"])),
    });
    record(&["input"], joined(fields, sampling()))
}

fn conversation(app: &App) -> Value {
    let cache = json!({"cache_control": any_object()});
    let block = |kind: &str, required: &[&str], fields: Value| {
        let shared = joined(json!({"type": one_of_these(json!([kind]))}), cache.clone());
        record(required, joined(shared, fields))
    };
    let content = |blocks: Value| {
        let blocks = json!({"type": "array", "minItems": 1, "items": {"anyOf": blocks}});
        json!({"anyOf": [string(), blocks]})
    };
    let text =
        |more: Value| block("text", &["type", "text"], joined(json!({"text": string()}), more));
    let system = json!({"anyOf": [string(), array(block("text", &["text"],
        json!({"text": string()})))]});
    let result = block(
        "tool_result",
        &["type", "tool_use_id"],
        json!({"tool_use_id": string(), "content": system, "is_error": boolean()}),
    );
    let citations = || json!({"citations": {"type": "array", "maxItems": 0}});
    let thinking = block(
        "thinking",
        &["type", "thinking"],
        joined(json!({"thinking": string(), "signature": string()}), citations()),
    );
    let call = block(
        "tool_use",
        &["type", "id", "name", "input"],
        joined(json!({"id": string(), "name": string(), "input": any_object()}), citations()),
    );
    let message = |role: &str, content: Value| {
        record(
            &["role", "content"],
            json!({"role": one_of_these(json!([role])), "content": content}),
        )
    };
    let messages = json!({"anyOf": [
        message("user", content(json!([text(json!({})), result]))),
        message("assistant", content(json!([text(citations()), thinking, call]))),
    ]});
    let tool = joined(
        json!({"type": one_of_these(json!(["custom"])),
        "cache_control": any_object()}),
        super::chat::function("input_schema"),
    );
    let choice = json!({"type": one_of_these(json!(["auto", "any", "tool", "none"])),
        "name": string(), "disable_parallel_tool_use": boolean()});
    json!({
        "model": one_of_these(json!([app.config.served_model_name])),
        "system": system,
        "messages": {"type": "array", "minItems": 1, "items": messages},
        "tools": tools(record(&["name"], tool)),
        "tool_choice": record(&["type"], choice),
        "thinking": record(&["type"], json!({
            "type": one_of_these(json!(["enabled", "adaptive", "disabled"])),
            "budget_tokens": integer(1, U32_MAX)})),
    })
}

pub(super) fn message(app: &App) -> Value {
    let fields = json!({
        "max_tokens": integer(1, U32_MAX),
        "metadata": record(&[], json!({"user_id": string()})),
        "service_tier": one_of_these(json!(["auto", "standard_only"])),
        "stop_sequences": stop_strings(),
        "stream": boolean(),
    });
    record(&["messages", "max_tokens"], joined(joined(conversation(app), fields), sampling()))
}

pub(super) fn count_tokens(app: &App) -> Value {
    record(&["messages"], conversation(app))
}

pub(super) fn tokenize(app: &App) -> Value {
    let shared = json!({"model": one_of_these(json!([app.config.served_model_name])),
        "add_special_tokens": boolean(), "return_token_strs": boolean()});
    let text = joined(shared.clone(), json!({"prompt": string()}));
    let chat = json!({"add_generation_prompt": boolean(),
        "continue_final_message": one_of_these(json!([false]))});
    let chat = joined(joined(shared, chat), super::chat::conversation());
    json!({"anyOf": [record(&["prompt"], text), record(&["messages"], chat)]})
}

pub(super) fn detokenize(app: &App) -> Value {
    let model = one_of_these(json!([app.config.served_model_name]));
    record(&["tokens"], json!({"model": model, "tokens": array(token(app))}))
}
