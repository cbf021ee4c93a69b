use axum::http::StatusCode;
use serde_json::{Value, json};

use super::messages::events;
use super::{answer, app, ids, post};

const URI: &str = "/v1/responses";

const CALL: &str = "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get-weather:0\
    <|tool_call_argument_begin|>{\"city\": \"Köln\"}<|tool_call_end|><|tool_calls_section_end|>";

fn tools() -> Value {
    json!([{"type": "function", "name": "get-weather", "description": "Tells it.",
        "parameters": {"type": "object"}, "strict": false}])
}

fn with(extra: &Value) -> Value {
    let mut body = json!({"model": "org/tiny", "input": "hi", "reasoning": {"effort": "none"}});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Ids and times differ between two answers.
fn anonymous(value: &Value) -> String {
    let id = value["id"].as_str().unwrap().to_owned();
    let mut value = value.clone();
    value["created_at"] = Value::Null;
    value.to_string().replace(&id, "ID")
}

/// Checks what each event says of its item against what came before; returns the last response.
fn assembled(events: &[Value]) -> Value {
    let mut output: Vec<Value> = Vec::new();
    let mut text = String::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let kind = event["type"].as_str().unwrap();
        match kind {
            "response.created" | "response.in_progress" => {
                assert_eq!(event["response"]["status"], "in_progress");
            }
            "response.output_item.added" => {
                assert_eq!(event["output_index"], output.len());
                output.push(event["item"].clone());
                text.clear();
            }
            "response.output_item.done" => {
                let item = output.last_mut().unwrap();
                assert_eq!(event["item"]["id"], item["id"]);
                let whole = match &event["item"]["arguments"] {
                    Value::Null => &event["item"]["content"][0]["text"],
                    arguments => arguments,
                };
                assert_eq!(whole, &text);
                *item = event["item"].clone();
            }
            _ if kind.ends_with(".delta") => {
                assert_eq!(event["item_id"], output.last().unwrap()["id"]);
                text += event["delta"].as_str().unwrap();
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], text);
            }
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], text),
            "response.content_part.added" => assert_eq!(event["part"]["text"], ""),
            "response.content_part.done" => assert_eq!(event["part"]["text"], text),
            "response.completed" | "response.incomplete" => {
                assert_eq!(number + 1, events.len());
                assert_eq!(event["response"]["output"], Value::from(output.clone()));
            }
            other => panic!("{other}"),
        }
    }
    events.last().unwrap()["response"].clone()
}

#[tokio::test]
async fn streamed_responses_add_up_to_whole_ones() {
    let length = ids(CALL).len() - 4;
    let cases = [
        ("Hello 你好", json!({}), vec!["message"], "completed"),
        (
            "hm</think>so",
            json!({"reasoning": {"effort": "high"}}),
            vec!["reasoning", "message"],
            "completed",
        ),
        (CALL, json!({"tools": tools()}), vec!["message", "function_call"], "completed"),
        (
            CALL,
            json!({"tools": tools(), "max_output_tokens": length}),
            vec!["message", "function_call"],
            "incomplete",
        ),
        ("", json!({}), vec![], "completed"),
    ];
    for (text, extra, kinds, status) in cases {
        let whole = answer(&app(&[text]), URI, &with(&extra)).await;
        let items = whole["output"].as_array().unwrap();
        let found: Vec<_> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
        assert_eq!((found, &whole["status"]), (kinds, &json!(status)));
        if status == "completed" && items.len() == 2 && text == CALL {
            let call = &items[1];
            assert_eq!(call["call_id"], "functions.get-weather:0");
            assert_eq!(call["arguments"], "{\"city\": \"Köln\"}");
        }
        let streamed = assembled(&events(&app(&[text]), URI, &with(&extra)).await);
        assert_eq!(anonymous(&streamed), anonymous(&whole));
    }
}

#[tokio::test]
async fn a_response_goes_on_with_an_earlier_one() {
    // One for each request.
    let app = app(&[CALL, "It rains.", "It rains.", "hi"]);
    let body = json!({"tools": tools(), "instructions": "Be kind.", "input": "Weather?"});
    let first = answer(&app, URI, &with(&body)).await;
    let result = json!([{"type": "function_call_output", "call_id": "functions.get-weather:0",
        "output": "rain"}, {"role": "user", "content": "And now?"}]);
    let next = json!({"tools": tools(), "previous_response_id": first["id"], "input": result});
    let second = answer(&app, URI, &with(&next)).await;
    assert_eq!(second["previous_response_id"], first["id"]);
    // The same as when the client sends all of it, but for the instructions.
    let mut items = vec![json!({"role": "user", "content": "Weather?"})];
    items.extend(first["output"].as_array().unwrap().iter().cloned());
    items.extend(result.as_array().unwrap().iter().cloned());
    let whole = answer(&app, URI, &with(&json!({"tools": tools(), "input": items}))).await;
    let tokens = second["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(whole["usage"]["input_tokens"], tokens);
    let cached = &whole["usage"]["input_tokens_details"]["cached_tokens"];
    assert_eq!(cached, (tokens - 1) / 16 * 16);
    let chat = json!({"thinking": {"type": "disabled"},
        "tools": [{"type": "function", "function": {"name": "get-weather",
            "description": "Tells it.", "parameters": {"type": "object"}}}],
        "messages": [{"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [{
                "id": "functions.get-weather:0", "type": "function", "function": {
                    "name": "get-weather", "arguments": "{\"city\": \"Köln\"}"}}]},
            {"role": "tool", "tool_call_id": "functions.get-weather:0", "content": "rain"},
            {"role": "user", "content": "And now?"}]});
    assert_eq!(answer(&app, "/tokenize", &chat).await["count"], tokens);

    let unkept = answer(&app, URI, &with(&json!({"store": false}))).await;
    let lost = with(&json!({"previous_response_id": unkept["id"]}));
    let (status, refused) = post(&app, URI, &lost).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn bad_fields_are_named() {
    let app = app(&["hi"]);
    let cases = [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}),
            "input[0].call_id",
        ),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"reasoning": {"effort": "very"}}), "reasoning.effort"),
        (json!({"reasoning": {"summary": "auto"}}), "reasoning.summary"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.schema"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"background": true}), "background"),
        (json!({"conversation": "x"}), "conversation"),
    ];
    for (extra, param) in cases {
        let (status, answer) = post(&app, URI, &with(&extra)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{extra}");
        assert_eq!(answer["error"]["param"], param, "{answer}");
    }
}
