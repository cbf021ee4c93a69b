use std::sync::Arc;

use axum::body::to_bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{answer, app, ids, post, post_request, send};
use crate::App;

const URI: &str = "/v1/messages";

fn with(extra: &Value) -> Value {
    let mut body = json!({"model": "org/tiny", "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn tools() -> Value {
    json!([{"name": "get-weather", "description": "Tells it.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}])
}

const CALL: &str = "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get-weather:0\
    <|tool_call_argument_begin|>{\"city\": \"Köln\"}<|tool_call_end|><|tool_calls_section_end|>";

/// Each event's data, which must repeat its name.
pub(super) async fn events(app: &Arc<App>, uri: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let response = send(app, post_request(uri, body.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

/// What a client makes of events: the message.
fn assembled(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut json_text = String::new();
    for event in events {
        let index = event["index"].as_u64().unwrap_or(0) as usize;
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(content.len(), index);
                content.push(event["content_block"].clone());
                json_text.clear();
            }
            "content_block_delta" => {
                let block = &mut message["content"][index];
                let delta = &event["delta"];
                if let Some(fragment) = delta["partial_json"].as_str() {
                    json_text += fragment;
                } else {
                    let name = if delta["type"] == "text_delta" { "text" } else { "thinking" };
                    let text = block[name].as_str().unwrap().to_owned();
                    block[name] = (text + delta[name].as_str().unwrap()).into();
                }
            }
            "content_block_stop" => {
                let block = &mut message["content"][index];
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json_text)
                        .unwrap_or_else(|_| json!({"INVALID_JSON": json_text}));
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

#[tokio::test]
async fn streamed_messages_add_up_to_whole_ones() {
    let thinking = json!({"type": "adaptive"});
    let cases = [
        ("Hello 你好", json!({}), json!([{"type": "text", "text": "Hello 你好"}]), "end_turn"),
        (
            "hm</think>so",
            json!({"thinking": thinking}),
            json!([{"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "so"}]),
            "end_turn",
        ),
        (
            CALL,
            json!({"tools": tools()}),
            json!([{"type": "text", "text": "I look."}, {"type": "tool_use",
                "id": "functions.get-weather:0", "name": "get-weather",
                "input": {"city": "Köln"}}]),
            "tool_use",
        ),
        (
            "one STOP two",
            json!({"stop_sequences": ["x", "STOP"]}),
            json!([{"type": "text", "text": "one "}]),
            "stop_sequence",
        ),
        ("", json!({}), json!([]), "end_turn"),
    ];
    for (text, extra, content, reason) in cases {
        let whole = answer(&app(&[text]), URI, &with(&extra)).await;
        assert_eq!(whole["content"], content);
        assert_eq!(whole["stop_reason"], reason);
        let sequence = if reason == "stop_sequence" { json!("STOP") } else { Value::Null };
        assert_eq!(whole["stop_sequence"], sequence);
        assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
        let mut streamed = assembled(&events(&app(&[text]), URI, &with(&extra)).await);
        streamed["id"] = whole["id"].clone();
        assert_eq!(streamed, whole);
    }
}

#[tokio::test]
async fn a_call_that_is_cut_short_keeps_what_there_is() {
    let length = ids(CALL).len() - 4;
    let body = with(&json!({"tools": tools(), "max_tokens": length}));
    let whole = answer(&app(&[CALL]), URI, &body).await;
    assert_eq!(whole["stop_reason"], "max_tokens");
    let kept = whole["content"][1]["input"]["INVALID_JSON"].as_str().unwrap();
    assert!(kept.starts_with("{\"city"), "{kept}");
    assert_eq!(whole["usage"]["output_tokens"], length);
}

/// The conversation is the one that a chat would have rendered.
#[tokio::test]
async fn conversations_become_the_same_prompts_as_chats() {
    let body = json!({"system": [{"type": "text", "text": "Be kind.",
            "cache_control": {"type": "ephemeral"}}],
        "tools": tools(), "tool_choice": {"type": "auto"},
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get-weather",
                    "input": {"city": "Köln"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                {"type": "text", "text": "And now?"}]}]});
    let chat = json!({"thinking": {"type": "disabled"},
        "tools": [{"type": "function", "function": {"name": "get-weather",
            "description": "Tells it.", "parameters": tools()[0]["input_schema"]}}],
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "reasoning_content": "hm", "content": "I look.",
                "tool_calls": [{"id": "toolu_1", "type": "function", "function": {
                    "name": "get-weather", "arguments": "{\"city\":\"Köln\"}"}}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
            {"role": "user", "content": "And now?"}]});
    let app = app(&["ok"]);
    let count = answer(&app, "/v1/messages/count_tokens", &body).await["input_tokens"].clone();
    let tokens = answer(&app, "/tokenize", &chat).await;
    assert_eq!(count, tokens["count"]);
    let mut body = body;
    body["max_tokens"] = 5.into();
    let first = answer(&app, URI, &body).await;
    assert_eq!(first["usage"]["input_tokens"], count);
    // The same ids: all of the prompt but its last block is found.
    let cached = (count.as_u64().unwrap() - 1) / 16 * 16;
    let second = answer(&app, "/v1/chat/completions", &chat).await;
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
    let third = answer(&app, URI, &body).await;
    assert_eq!(third["usage"]["cache_read_input_tokens"], cached);
    assert_eq!(third["usage"]["input_tokens"], count.as_u64().unwrap() - cached);
}

#[tokio::test]
async fn what_claude_code_says_of_its_bill_is_no_prompt() {
    let app = app(&["hi"]);
    let count = async |system: Value| {
        let body = json!({"system": system, "messages": [{"role": "user", "content": "hi"}]});
        answer(&app, &format!("{URI}/count_tokens"), &body).await["input_tokens"].clone()
    };
    let part = |text: &str| json!({"type": "text", "text": text});
    let bill = part("x-anthropic-billing-header: cc_version=2.1.37.3a3; cch=1a2b3;");
    let kind = part("Be kind.");
    assert_eq!(count(json!([bill, kind])).await, count(json!([kind])).await);
    assert_eq!(count(json!([bill])).await, count(Value::Null).await);
}

#[tokio::test]
async fn bad_fields_are_named() {
    let app = app(&["hi"]);
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let cases = [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop_sequences": [""]}), "stop_sequences"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "system", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "assistant", "content": "x"}]}), "messages"),
        (user(json!([])), "messages[0].content"),
        (user(json!([{"type": "image", "source": {}}])), "messages[0].content[0].type"),
        (
            user(json!([{"type": "tool_result", "tool_use_id": "no", "content": "x"}])),
            "messages[0].content[0].tool_use_id",
        ),
        (json!({"system": 5}), "system"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 2000}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "adaptive", "budget_tokens": 2}}), "thinking.budget_tokens"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (json!({"tool_choice": {"type": "some"}}), "tool_choice.type"),
        (json!({"tools": [{"name": "a b", "input_schema": {}}]}), "tools[0].name"),
        (json!({"tools": [{"name": "a", "input_schema": 1}]}), "tools[0].input_schema"),
        (json!({"tools": [{"type": "bash_1", "name": "bash"}]}), "tools[0].type"),
        (json!({"n": 2}), "n"),
    ];
    for (extra, param) in cases {
        let (status, answer) = post(&app, URI, &with(&extra)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{extra}");
        assert_eq!(answer["type"], "error");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
        assert_eq!(answer["error"]["param"], param, "{answer}");
    }
}
