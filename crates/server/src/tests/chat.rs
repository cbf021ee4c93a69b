use serde_json::{Value, json};

use super::{TOKENIZER, answer, app, chunks, eos, ids};

const URI: &str = "/v1/chat/completions";
const CALL: &str = "<|tool_calls_section_begin|><|tool_call_begin|>functions.get-weather:0\
    <|tool_call_argument_begin|>{\"city\": \"北京\"}<|tool_call_end|><|tool_calls_section_end|>";

fn request(extra: Value) -> Value {
    let mut body = json!({
        "model": "org/tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "get-weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}],
        "seed": 0,
    });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Adds up chunks to choices as they are in a whole answer.
fn add_up(chunks: &[Value], n: usize) -> Vec<Value> {
    let mut choices: Vec<Value> = (0..n)
        .map(|index| {
            json!({"index": index, "message": {"content": "", "refusal": null},
            "logprobs": null, "finish_reason": null})
        })
        .collect();
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        for part in chunk["choices"].as_array().unwrap() {
            let choice = &mut choices[part["index"].as_u64().unwrap() as usize];
            assert_eq!(choice["finish_reason"], Value::Null, "nothing follows the end");
            choice["finish_reason"] = part["finish_reason"].clone();
            add_logprobs(choice, &part["logprobs"]);
            for (name, value) in part["delta"].as_object().unwrap() {
                add_delta(&mut choice["message"], name, value);
            }
        }
    }
    choices
}

fn add_logprobs(choice: &mut Value, part: &Value) {
    if let Some(tokens) = part["content"].as_array() {
        if choice["logprobs"].is_null() {
            choice["logprobs"] = json!({"content": []});
        }
        choice["logprobs"]["content"].as_array_mut().unwrap().extend(tokens.iter().cloned());
    }
}

fn add_delta(message: &mut Value, name: &str, value: &Value) {
    match name {
        "role" => message["role"] = value.clone(),
        "tool_calls" => {
            let [delta] = value.as_array().unwrap().as_slice() else { panic!("{value}") };
            let index = delta["index"].as_u64().unwrap() as usize;
            if message.get("tool_calls").is_none() {
                message["tool_calls"] = json!([]);
            }
            let calls = message["tool_calls"].as_array_mut().unwrap();
            if let Some(id) = delta.get("id") {
                assert_eq!((index, &delta["function"]["arguments"]), (calls.len(), &json!("")));
                calls.push(json!({"id": id, "type": delta["type"], "function": delta["function"]}));
            } else {
                let arguments = &mut calls[index]["function"]["arguments"];
                *arguments = joined(arguments, &delta["function"]["arguments"]);
            }
        }
        _ => {
            let before = message.get(name).cloned().unwrap_or(json!(""));
            message[name] = joined(&before, value);
        }
    }
}

fn joined(a: &Value, b: &Value) -> Value {
    (a.as_str().unwrap().to_owned() + b.as_str().unwrap()).into()
}

#[tokio::test]
async fn a_whole_answer_with_reasoning_content_and_a_tool_call() {
    let text = format!("I think</think>Let me see.{CALL}");
    let answer = answer(&app(&[&text]), URI, &request(json!({}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["reasoning_content"], "I think");
    assert_eq!(message["reasoning"], "I think");
    assert_eq!(message["content"], "Let me see.");
    assert_eq!(
        message["tool_calls"],
        json!([{"id": "functions.get-weather:0", "type": "function",
            "function": {"name": "get-weather", "arguments": "{\"city\": \"北京\"}"}}])
    );
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "org/tiny");
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let usage = &answer["usage"];
    let completion = ids(&text).len() + 1;
    assert_eq!(usage["completion_tokens"], completion);
    let prompt = "<|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>";
    let prompt = usage["prompt_tokens"].as_u64().unwrap() as usize - ids(prompt).len();
    assert!(prompt > 10, "the tools are in the prompt as well");
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().unwrap() + completion as u64)
    );
    let reasoning = ids("I think</think>").len();
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], reasoning);
}

#[tokio::test]
async fn streamed_answers_add_up_to_whole_ones() {
    let answers = [
        format!("I think</think>Let me see.{CALL}"),
        "no end of thinking 你好".to_owned(),
        "</think>Größe: 你好, 世界! STOP here".to_owned(),
        format!("{CALL} after"),
        "a</think>".to_owned(),
    ];
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let variations = [
        json!({}),
        json!({"max_tokens": 7}),
        json!({"stop": ["STOP", "世界"]}),
        json!({"stop": "see", "include_stop_str_in_output": true}),
        json!({"logprobs": true, "top_logprobs": 2}),
        json!({"tools": []}),
        json!({"tool_choice": "none"}),
        json!({"thinking": {"type": "disabled"}}),
    ];
    for extra in variations {
        let mut body = request(extra);
        body["n"] = answers.len().into();
        let whole = answer(&app(&answers), URI, &body).await;
        body["stream_options"] = json!({"include_usage": true});
        let mut parts = chunks(&app(&answers), URI, &body).await;
        let last = parts.pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
        assert!(parts.iter().all(|part| part["usage"].is_null() && part.get("usage").is_some()));
        let mut expected = whole["choices"].clone();
        for choice in expected.as_array_mut().unwrap() {
            if choice["message"]["content"].is_null() {
                choice["message"]["content"] = "".into();
            }
        }
        assert_eq!(Value::from(add_up(&parts, answers.len())), expected, "{body}");
    }
}

#[tokio::test]
async fn a_streamed_tool_call_begins_with_id_and_name() {
    let parts = chunks(&app(&[&format!("</think>{CALL}")]), URI, &request(json!({}))).await;
    let first = parts.iter().find(|part| part["choices"][0]["delta"].get("tool_calls").is_some());
    assert_eq!(
        first.unwrap()["choices"][0]["delta"],
        json!({"tool_calls": [{"index": 0, "id": "functions.get-weather:0", "type": "function",
            "function": {"name": "get-weather", "arguments": ""}}]})
    );
    assert_eq!(parts[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = &parts[parts.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("tool_calls")));
    assert!(parts.iter().all(|part| part.get("usage").is_none()), "nobody asked for it");
}

#[tokio::test]
async fn stop_strings_end_the_content_but_not_the_reasoning() {
    let app = app(&["STOP thinking</think>one STOP two"]);
    let whole = answer(&app, URI, &request(json!({"stop": "STOP"}))).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "STOP thinking");
    assert_eq!(choice["message"]["content"], "one ");
    assert_eq!(choice["finish_reason"], "stop");
    let read = ids("STOP thinking</think>one STOP").len();
    assert_eq!(whole["usage"]["completion_tokens"], read);
}

#[tokio::test]
async fn an_answer_cut_short_says_so() {
    let app = app(&["</think>one two three"]);
    let whole = answer(&app, URI, &request(json!({"max_completion_tokens": 2}))).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 2);
    // Without a limit, what fits the context.
    let whole = answer(&app, URI, &request(json!({"ignore_eos": true}))).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["total_tokens"], 512);
}

#[tokio::test]
async fn logprobs_report_every_token_that_was_generated() {
    let body = request(json!({"logprobs": true, "top_logprobs": 3}));
    let whole = answer(&app(&["</think>你好"]), URI, &body).await;
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let mut expected = ids("</think>你好");
    expected.push(eos());
    assert_eq!(tokens.len(), expected.len());
    for (token, id) in tokens.iter().zip(expected) {
        let bytes = TOKENIZER.token_bytes(id).unwrap();
        assert_eq!(token["bytes"], json!(bytes));
        assert_eq!(token["token"], json!(String::from_utf8_lossy(bytes)));
        assert_eq!(token["logprob"], json!(super::logprob(id)));
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["bytes"], token["bytes"]);
    }
}

#[tokio::test]
async fn tool_call_ids_go_on_counting_from_history() {
    let body = request(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "get-weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
    ]}));
    let call = format!("</think>{}", CALL.replace("get-weather:0", "get-weather:1"));
    let whole = answer(&app(&[&call]), URI, &body).await;
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["id"], "functions.get-weather:1");
    assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn without_thinking_the_answer_is_content() {
    let app = app(&["plain"]);
    for off in [
        json!({"thinking": {"type": "disabled"}}),
        json!({"chat_template_kwargs": {"thinking": false, "preserve_thinking": true}}),
        json!({"reasoning_effort": "none"}),
    ] {
        let whole = answer(&app, URI, &request(off)).await;
        assert_eq!(whole["choices"][0]["message"]["content"], "plain");
        assert_eq!(whole["choices"][0]["message"].get("reasoning_content"), None);
    }
}

#[tokio::test]
async fn fields_that_ask_for_nothing_special_are_accepted() {
    let body = request(json!({
        "user": "me", "metadata": {"a": "b"}, "store": false, "service_tier": "auto", "n": 1,
        "parallel_tool_calls": true, "tool_choice": "auto", "response_format": {"type": "text"},
        "top_k": -1, "min_p": 0, "repetition_penalty": 1.1, "logit_bias": {"5": -100},
        "logprobs": false, "top_logprobs": 0, "max_tokens": null, "stop": null, "best_of": 1,
        "stream": false, "priority": -1, "cache_salt": "a", "modalities": ["text"], "seed": -1,
    }));
    assert_eq!(answer(&app(&["hi"]), URI, &body).await["object"], "chat.completion");
}
