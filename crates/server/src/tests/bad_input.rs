use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{TOKENIZER, server_config};
use super::{app, app_with, engine_config, player, post, post_request, read_json, send};

/// Sends `base` with the fields of `patch` over it; expects 400 that names `param`.
async fn check(uri: &str, base: &Value, patch: Value, param: &str) {
    let app = app(&["hi"]);
    let mut body = base.clone();
    for (name, value) in patch.as_object().unwrap() {
        body[name] = value.clone();
    }
    let (status, answer) = post(&app, uri, &body).await;
    let error = &answer["error"];
    assert_eq!(status, StatusCode::BAD_REQUEST, "{patch}: {answer}");
    assert_eq!(error["param"], param, "{patch}: {answer}");
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap();
    assert!(message.len() > param.len() && message.contains(param), "{message}");
}

fn base_chat() -> Value {
    json!({"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}]})
}

fn base_text() -> Value {
    json!({"model": "org/tiny", "prompt": "hi"})
}

#[tokio::test]
async fn fields_of_both_kinds_of_completion() {
    let cases = [
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.1}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"top_k": 1.5}), "top_k"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"frequency_penalty": -3}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": "many"}), "max_tokens"),
        (json!({"max_tokens": 1e30}), "max_tokens"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_completion_tokens"),
        (json!({"max_tokens": 100_000}), "max_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", 1]}), "stop"),
        (json!({"stop": vec!["a"; 17]}), "stop"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids"),
        (json!({"stop_token_ids": [10_000_000]}), "stop_token_ids"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        (json!({"logit_bias": {"10000000": 1}}), "logit_bias.10000000"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
        (json!({"logit_bias": [1]}), "logit_bias"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "stream_options": {"x": 1}}), "stream_options.x"),
        (json!({"store": true}), "store"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"user": 5}), "user"),
        (json!({"ignore_eos": 1}), "ignore_eos"),
        (json!({"priority": 1e10}), "priority"),
        (json!({"min_tokens": -1}), "min_tokens"),
        (json!({"min_tokens": 3, "max_tokens": 2}), "min_tokens"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.schema"),
        (json!({"response_format": {"type": "text", "x": 1}}), "response_format.x"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "response_format.json_schema.schema",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema":
                {"name": "a", "schema": {"type": "objekt"}}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"guided_json": {"not": {}}}), "guided_json"),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_json": {"multipleOf": 1_234_567}}), "guided_json"),
        (json!({"guided_regex": "(["}), "guided_regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": ["a", 1]}), "guided_choice"),
        (json!({"guided_grammar": "start: start"}), "guided_grammar"),
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice"),
        (json!({"structured_outputs": {"regex": "(["}}), "structured_outputs.regex"),
        (json!({"structured_outputs": {"x": 1}}), "structured_outputs.x"),
        (json!({"guided_regex": "a", "ignore_eos": true}), "ignore_eos"),
        (json!({"surprise": 1}), "surprise"),
        (json!({"model": 5}), "model"),
    ];
    for (patch, param) in cases {
        check("/v1/completions", &base_text(), patch.clone(), param).await;
        check("/v1/chat/completions", &base_chat(), patch, param).await;
    }
}

#[tokio::test]
async fn fields_of_text_completions() {
    let vocab_size = TOKENIZER.vocab_size();
    let cases = [
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": {"a": 1}}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": [1.5]}), "prompt"),
        (json!({"prompt": [-1]}), "prompt"),
        (json!({"prompt": [vocab_size]}), "prompt"),
        (json!({"prompt": [[1], [vocab_size]]}), "prompt"),
        (json!({"prompt": vec!["a"; 1025]}), "prompt"),
        (json!({"prompt": vec![1; 513]}), "prompt"),
        (json!({"prompt": vec![1; 512]}), "prompt"),
        (json!({"suffix": "end"}), "suffix"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"echo": "yes"}), "echo"),
        (json!({"messages": []}), "messages"),
    ];
    for (patch, param) in cases {
        check("/v1/completions", &base_text(), patch, param).await;
    }
}

#[tokio::test]
async fn fields_of_chats() {
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let cases = [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"top_logprobs": 1}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"skip_special_tokens": false}), "skip_special_tokens"),
        (json!({"parallel_tool_calls": 1}), "parallel_tool_calls"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": "perhaps"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function"}}), "tool_choice.function"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "other"}}}),
            "tool_choice",
        ),
        (json!({"chat_template_kwargs": {"thinking": 1}}), "chat_template_kwargs.thinking"),
        (json!({"chat_template_kwargs": {"x": 1}}), "chat_template_kwargs.x"),
        (json!({"thinking": {"type": "perhaps"}}), "thinking.type"),
        (json!({"reasoning_effort": "very"}), "reasoning_effort"),
        (json!({"reasoning_effort": "none", "thinking": {"type": "enabled"}}), "reasoning_effort"),
        (
            json!({"thinking": {"type": "disabled"}, "chat_template_kwargs": {"thinking": true}}),
            "thinking",
        ),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (tool(json!({})), "tools[0].function.name"),
        (tool(json!({"name": "a b"})), "tools[0].function.name"),
        (tool(json!({"name": "a", "parameters": []})), "tools[0].function.parameters"),
        (tool(json!({"name": "a", "strict": 1})), "tools[0].function.strict"),
        (
            tool(json!({"name": "a", "parameters": {"type": "string"}})),
            "tools[0].function.parameters.type",
        ),
        (
            tool(json!({"name": "a", "parameters": {"properties": {"b": {"not": {}}}}})),
            "tools[0].function.parameters",
        ),
        (tool(json!({"name": "a", "x": 1})), "tools[0].function.x"),
        (json!({"prompt": "hi"}), "prompt"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
    ];
    for (patch, param) in cases {
        check("/v1/chat/completions", &base_chat(), patch, param).await;
    }
    let many = (0..129).map(|i| json!({"type": "function", "function": {"name": format!("f{i}")}}));
    let many = json!({"tools": many.collect::<Vec<_>>()});
    check("/v1/chat/completions", &base_chat(), many, "tools").await;
}

#[tokio::test]
async fn messages() {
    let user = json!({"role": "user", "content": "hi"});
    let call = json!({"id": "functions.f:0", "type": "function",
        "function": {"name": "f", "arguments": "{}"}});
    let with_call = |call: Value| json!([{"role": "assistant", "tool_calls": [call]}]);
    let cases = [
        (json!([]), "messages"),
        (json!("hi"), "messages"),
        (json!(["hi"]), "messages[0]"),
        (json!([{"content": "hi"}]), "messages[0].role"),
        (json!([{"role": "robot", "content": "hi"}]), "messages[0].role"),
        (json!([user, {"role": "user"}]), "messages[1].content"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (json!([{"role": "user", "content": ["hi"]}]), "messages[0].content[0]"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0].type",
        ),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([{"role": "user", "content": "hi", "x": 1}]), "messages[0].x"),
        (json!([{"role": "user", "content": "hi", "tool_calls": []}]), "messages[0].tool_calls"),
        (json!([{"role": "assistant"}]), "messages[0].content"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (
            json!([{"role": "tool", "content": "x", "tool_call_id": "nobody"}]),
            "messages[0].tool_call_id",
        ),
        (with_call(json!({})), "messages[0].tool_calls[0].id"),
        (with_call(json!({"id": "a"})), "messages[0].tool_calls[0].function"),
        (
            with_call(json!({"id": "a", "function": {"name": "f", "arguments": {}}})),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "functions.f:0"}]),
            "messages[1].content",
        ),
    ];
    for (messages, param) in cases {
        check("/v1/chat/completions", &base_chat(), json!({"messages": messages}), param).await;
    }
}

#[tokio::test]
async fn sequences_beyond_the_context_have_their_own_code() {
    let app = app(&["hi"]);
    let long = json!({"messages": [{"role": "user", "content": "hello ".repeat(600)}]});
    let (status, answer) = post(&app, "/v1/chat/completions", &long).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    assert_eq!(answer["error"]["param"], "messages");

    let (_, answer) =
        post(&app, "/v1/completions", &json!({"prompt": [1, 2], "max_tokens": 511})).await;
    assert_eq!(answer["error"]["code"], "context_length_exceeded");
    assert_eq!(answer["error"]["param"], "max_tokens");
    let fits = json!({"prompt": [1, 2], "max_tokens": 510});
    assert_eq!(post(&app, "/v1/completions", &fits).await.0, StatusCode::OK);
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let app = app(&["hi"]);
    let deep = "[".repeat(50_000);
    let cases: [(&[u8], StatusCode); 8] = [
        (b"", StatusCode::BAD_REQUEST),
        (b"{", StatusCode::BAD_REQUEST),
        (b"[]", StatusCode::BAD_REQUEST),
        (b"\"hi\"", StatusCode::BAD_REQUEST),
        (b"{\"prompt\": \"\xff\"}", StatusCode::BAD_REQUEST),
        (b"{\"prompt\": \"\\ud800\"}", StatusCode::BAD_REQUEST),
        (deep.as_bytes(), StatusCode::BAD_REQUEST),
        (&[b' '; 100_001], StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (body, expected) in cases {
        for uri in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"] {
            let (status, answer) =
                read_json(send(&app, post_request(uri, body.to_vec())).await).await;
            assert_eq!(status, expected, "{answer}");
            assert!(answer["error"]["message"].is_string());
        }
    }
}

#[tokio::test]
async fn requests_to_the_wrong_place() {
    let app = app(&["hi"]);
    let request = |method, uri: &str| {
        Request::builder().method(method).uri(uri).body(Body::from("{}")).unwrap()
    };
    let cases = [
        (Method::GET, "/v1/completions", StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error"),
        (Method::POST, "/v1/models", StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error"),
        (Method::POST, "/v2/completions", StatusCode::NOT_FOUND, "invalid_request_error"),
        (Method::GET, "/v1/models/%ff", StatusCode::BAD_REQUEST, "invalid_request_error"),
        (Method::GET, "/v1/models/other", StatusCode::NOT_FOUND, "invalid_request_error"),
    ];
    for (method, uri, expected, kind) in cases {
        let response = send(&app, request(method, uri)).await;
        let tells_methods = response.headers().contains_key("allow");
        assert_eq!(tells_methods, expected == StatusCode::METHOD_NOT_ALLOWED, "{uri}");
        let (status, answer) = read_json(response).await;
        assert_eq!(status, expected, "{uri}");
        assert_eq!(answer["error"]["type"], kind, "{uri}");
    }
    let other = json!({"model": "gpt-4", "prompt": "hi"});
    let (status, answer) = post(&app, "/v1/completions", &other).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["error"]["code"], "model_not_found");
    assert_eq!(answer["error"]["param"], "model");
}

#[tokio::test]
async fn keys() {
    let mut config = server_config();
    config.api_keys = vec!["other".into(), "secret".into()];
    let engine = engine::Engine::start(engine_config(), player(vec![vec![]]));
    let app = app_with(config, engine);
    let cases = [
        ("/v1/models", None, StatusCode::UNAUTHORIZED),
        ("/v1/models", Some("Bearer secre"), StatusCode::UNAUTHORIZED),
        ("/v1/models", Some("Bearer secret!"), StatusCode::UNAUTHORIZED),
        ("/v1/models", Some("secret"), StatusCode::UNAUTHORIZED),
        ("/nowhere", None, StatusCode::UNAUTHORIZED),
        ("/v1/models", Some("Bearer secret"), StatusCode::OK),
        ("/health", None, StatusCode::OK),
    ];
    for (uri, key, expected) in cases {
        let mut request = Request::get(uri);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        let (status, _) = read_json(send(&app, request.body(Body::empty()).unwrap()).await).await;
        assert_eq!(status, expected, "{uri} {key:?}");
    }
}
