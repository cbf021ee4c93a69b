//! Answers of a demanded form: what the request says becomes a constraint, and the answer's shape.

use serde_json::{Value, json};

use super::{StatusCode, answer, app, chunks, ids, post};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false})
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "seed": 0});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Every spelling of a demand, with an answer that meets it and one that does not.
fn demands() -> Vec<(Value, &'static str, &'static str)> {
    let format = |schema: Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    vec![
        (json!({"response_format": format(schema())}), r#"{"a": 1}"#, r#"{"a": "1"}"#),
        (json!({"response_format": {"type": "json_object"}}), r#"{"b": []}"#, "[1]"),
        (json!({"guided_json": schema()}), r#"{"a": 1}"#, "{}"),
        (json!({"guided_json": schema().to_string()}), r#"{"a": 1}"#, "{}"),
        (json!({"guided_regex": "[ab]+"}), "abba", "abc"),
        (json!({"guided_choice": ["yes", "no"]}), "no", "maybe"),
        (json!({"guided_grammar": "start: \"a\" \"b\""}), "ab", "ba"),
        (json!({"structured_outputs": {"json": schema()}}), r#"{"a": 1}"#, "{}"),
        (json!({"structured_outputs": {"json_object": true}}), "{}", "x"),
        (json!({"structured_outputs": {"choice": ["yes"]}}), "yes", "no"),
        (json!({"min_tokens": 2}), "any", "any"),
    ]
}

#[tokio::test]
async fn answers_that_meet_the_demand_are_given() {
    for (demand, good, _) in demands() {
        let whole = answer(&app(&[&format!("I think</think>{good}")]), CHAT, &chat(&demand)).await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["message"]["content"], good, "{demand}");
        assert_eq!(choice["message"]["reasoning_content"], "I think");
        assert_eq!(choice["finish_reason"], "stop");
        let mut text = json!({"prompt": "hi", "seed": 0});
        text.as_object_mut().unwrap().extend(demand.as_object().unwrap().clone());
        let whole = answer(&app(&[good]), TEXT, &text).await;
        assert_eq!(whole["choices"][0]["text"], good, "{demand}");
        let parts = chunks(&app(&[good]), TEXT, &text).await;
        let streamed: String =
            parts.iter().map(|part| part["choices"][0]["text"].as_str().unwrap()).collect();
        assert_eq!(streamed, good, "{demand}");
    }
}

/// The scripted device ignores masks, as a broken one would: the answer does not get through.
#[tokio::test]
async fn answers_that_break_the_demand_are_not_given() {
    for (demand, good, bad) in demands() {
        if good == bad {
            continue;
        }
        let body = chat(&demand);
        let (status, answer) = post(&app(&[&format!("</think>{bad} ")]), CHAT, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{demand}: {answer}");
        let param = answer["error"]["param"].as_str().unwrap();
        let name = demand.as_object().unwrap().keys().next().unwrap();
        assert!(param.starts_with(name.as_str()), "{demand}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_cut_short_says_so() {
    let text = r#"</think>{"a": 123456}"#;
    let body = chat(&json!({"guided_json": schema(), "max_tokens": ids(text).len() - 1}));
    let whole = answer(&app(&[text]), CHAT, &body).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert!(text.contains(whole["choices"][0]["message"]["content"].as_str().unwrap()));
}

const SECTION: &str = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0\
    <|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_calls_section_end|>";

fn with_tools(extra: Value) -> Value {
    let tool = |name: &str| {
        json!({"type": "function", "function":
        {"name": name, "parameters": schema()}})
    };
    let mut body = chat(&json!({"tools": [tool("f"), tool("g")]}));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn forced_calls() {
    let named =
        |name: &str| json!({"tool_choice": {"type": "function", "function": {"name": name}}});
    for choice in [json!({"tool_choice": "required"}), named("f"), json!({})] {
        let app = app(&[&format!("</think>{SECTION}")]);
        let whole = answer(&app, CHAT, &with_tools(choice)).await;
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
        let call = &whole["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(call["function"], json!({"name": "f", "arguments": "{\"a\": 1}"}));
    }
    let two = SECTION.replace(
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{\"a\": 2}\
         <|tool_call_end|><|tool_calls_section_end|>",
    );
    let whole = answer(&app(&[&format!("</think>{two}")]), CHAT, &with_tools(json!({}))).await;
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][1]["id"], "functions.g:1");
    for (extra, script) in [
        (json!({"tool_choice": "required"}), "</think>text".to_owned()),
        (named("g"), format!("</think>{SECTION}")),
        (json!({"parallel_tool_calls": false}), format!("</think>{two}")),
        (json!({}), format!("</think>{}", SECTION.replace("f:0", "f:1"))),
        (json!({}), format!("</think>{}", SECTION.replace("functions.f", "functions.h"))),
        (json!({}), format!("</think>{}", SECTION.replace("\"a\": 1", "\"a\": []"))),
    ] {
        let (status, refusal) = post(&app(&[&script]), CHAT, &with_tools(extra)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{script}: {refusal}");
        assert_eq!(refusal["error"]["param"], "tools");
    }
    // Not strict: any object.
    let mut body = with_tools(json!({}));
    body["tools"][0]["function"]["strict"] = false.into();
    let loose = SECTION.replace("\"a\": 1", "\"b\": []");
    let whole = answer(&app(&[&format!("</think>{loose}")]), CHAT, &body).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn forced_calls_of_the_other_apis() {
    let script = format!("</think>{SECTION}");
    let message = |choice: Value| {
        json!({"max_tokens": 100, "tool_choice": choice,
        "thinking": {"type": "enabled", "budget_tokens": 50},
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "f", "input_schema": schema()}]})
    };
    for choice in [json!({"type": "any"}), json!({"type": "tool", "name": "f"})] {
        let whole = answer(&app(&[&script]), "/v1/messages", &message(choice)).await;
        assert_eq!(whole["content"][0]["input"], json!({"a": 1}), "{whole}");
    }
    let response = |extra: Value| {
        let mut body = json!({"input": "hi", "temperature": 0,
            "tools": [{"type": "function", "name": "f", "parameters": schema()}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let choice = json!({"tool_choice": {"type": "function", "name": "f"}});
    let whole = answer(&app(&[&script]), "/v1/responses", &response(choice.clone())).await;
    assert_eq!(whole["output"][0]["arguments"], "{\"a\": 1}");
    assert_eq!(whole["tool_choice"], choice["tool_choice"]);
    let format = json!({"type": "json_schema", "name": "n", "schema": schema()});
    let body = response(json!({"text": {"format": format}, "tools": []}));
    let whole = answer(&app(&["</think>{\"a\": 1}"]), "/v1/responses", &body).await;
    assert_eq!(whole["output"][0]["content"][0]["text"], "{\"a\": 1}", "{whole}");
    assert_eq!(whole["text"]["format"], format);
}

#[tokio::test]
async fn a_chat_tells_the_scores_of_its_prompt() {
    let whole = answer(&app(&["hi"]), CHAT, &chat(&json!({"prompt_logprobs": 1}))).await;
    let scores = whole["prompt_logprobs"].as_array().unwrap();
    assert_eq!(scores.len() as u64, whole["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(scores[0].is_null() && scores[1].is_object());
    let whole = answer(&app(&["hi"]), CHAT, &chat(&json!({}))).await;
    assert_eq!(whole.get("prompt_logprobs"), None);
}
