use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{TOKENIZER, answer, app, eos, ids, read_json, send};

async fn get(uri: &str) -> Value {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let (status, answer) = read_json(send(&app(&["hi"]), request).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn models_health_and_version() {
    let list = get("/v1/models").await;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "org/tiny");
    assert_eq!(list["data"][0]["max_model_len"], 512);
    assert_eq!(get("/v1/models/org/tiny").await["object"], "model");
    assert_eq!(get("/health").await, json!({"status": "ready"}));
    assert_eq!(get("/version").await["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn text_to_tokens_and_back() {
    let app = app(&["hi"]);
    let text = "Größe 你好 <|im_end|>";
    let body = json!({"model": "org/tiny", "prompt": text, "add_special_tokens": false});
    let tokens = answer(&app, "/tokenize", &body).await;
    assert_eq!(tokens["tokens"], json!(TOKENIZER.encode(text)));
    assert_eq!(tokens["count"], TOKENIZER.encode(text).len());
    assert_eq!(tokens["max_model_len"], 512);
    let back = answer(&app, "/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(back, json!({"prompt": text}));
}

/// Clients send what they leave out as null, also fields that others have; the OpenAPI document
/// says that this is right.
#[tokio::test]
async fn a_null_counts_as_absent_whatever_its_name() {
    let body = json!({"tokens": [eos()], "model": null, "anything": null});
    let back = answer(&app(&["hi"]), "/detokenize", &body).await;
    assert_eq!(back, json!({"prompt": "<|im_end|>"}));
    let document = get("/openapi.json").await;
    let content = &document["paths"]["/detokenize"]["post"]["requestBody"]["content"];
    let schema = &content["application/json"]["schema"];
    assert_eq!(schema["additionalProperties"], json!({"type": "null"}), "{schema}");
}

#[tokio::test]
async fn a_chat_is_tokenized_as_it_is_answered() {
    let app = app(&["hi"]);
    let messages = json!([{"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
    let tokens = answer(&app, "/tokenize", &json!({"messages": messages})).await;
    let rendered = "<|im_system|>system<|im_middle|>be kind<|im_end|>\
        <|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|><think>";
    assert_eq!(tokens["tokens"], json!(ids(rendered)));
    let chat = answer(&app, "/v1/chat/completions", &json!({"messages": messages})).await;
    assert_eq!(chat["usage"]["prompt_tokens"], tokens["count"]);
    let body = json!({"messages": messages, "add_generation_prompt": false});
    let shorter = answer(&app, "/tokenize", &body).await;
    assert!(shorter["count"].as_u64() < tokens["count"].as_u64());
}

/// lm-evaluation-harness asks for the end token's name, and `/tokenize` for its id.
#[tokio::test]
async fn harnesses_find_the_control_tokens() {
    let info = get("/tokenizer_info").await;
    assert_eq!(info["eos_token"], "<|im_end|>");
    assert_eq!((&info["bos_token"], &info["pad_token"]), (&json!("[BOS]"), &json!("[PAD]")));
    assert_eq!(info["model_max_length"], 512);
    let app = app(&["hi"]);
    let body = json!({"prompt": info["eos_token"], "add_special_tokens": false});
    assert_eq!(answer(&app, "/tokenize", &body).await["tokens"], json!([eos()]));
    let back = answer(&app, "/detokenize", &json!({"tokens": [eos()]})).await;
    assert_eq!(back["prompt"], info["eos_token"]);
}
