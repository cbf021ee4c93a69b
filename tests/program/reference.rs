//! Log-probabilities over HTTP against an independent implementation's.
//!
//! Bound: `crates/cpu/tests/reference.rs` derives 1e-3 for an f32 computation; JSON carries every
//! digit of an f32.

use serde_json::{Value, json};

use crate::server::{Server, path};

const BOUND: f64 = 1e-3;

fn expected(format: &str) -> Vec<Value> {
    let file = std::fs::read(path("tests/data/tiny-k2/expected.json")).unwrap();
    let all: Value = serde_json::from_slice(&file).unwrap();
    let prompts = all["prompts"].as_array().unwrap().iter();
    prompts.filter(|p| p["format"] == format).cloned().collect()
}

/// All prompts of one request, as lm-eval sends them: echo, one generated token, log-probabilities.
async fn check(format: &str, ranks: &str) {
    let model = format!("tests/data/tiny-k2/{format}");
    let args = [
        "--tensor-parallel-size",
        ranks,
        "--expert-activations",
        "bf16",
        "--max-model-len",
        "2048",
        "--served-model-name",
        "tiny",
    ];
    let server = Server::start(&model, &args);
    let expected = expected(format);
    let prompts: Vec<&Value> = expected.iter().map(|p| &p["ids"]).collect();
    let body = json!({"model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": 1,
        "logprobs": 5, "seed": 1234, "echo": true});
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    for (i, prompt) in expected.iter().enumerate() {
        let choice = &answer["choices"][i];
        assert_eq!(choice["index"], i);
        let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let known = prompt["token_logprobs"].as_array().unwrap();
        assert_eq!(found.len(), known.len() + 1);
        assert!(found[0].is_null());
        for (t, (found, known)) in found.iter().zip(known).enumerate().skip(1) {
            let (found, known) = (found.as_f64().unwrap(), known.as_f64().unwrap());
            assert!((found - known).abs() <= BOUND, "{format} {i} {t}: {found} {known}");
        }
        let top = choice["logprobs"]["top_logprobs"][known.len()].as_object().unwrap();
        let best = top.values().map(|v| v.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
        assert!((best - prompt["last_top5"][0][1].as_f64().unwrap()).abs() <= BOUND);
    }
    for prompt in expected.iter().filter(|p| !p["greedy"].as_array().unwrap().is_empty()) {
        check_greedy(&server, prompt).await;
    }
}

/// Each step of the reference's greedy continuation is the server's first choice too. The
/// reference's margins all exceed twice the bound.
async fn check_greedy(server: &Server, prompt: &Value) {
    let mut ids = prompt["ids"].as_array().unwrap().clone();
    let start = ids.len();
    for step in prompt["greedy"].as_array().unwrap() {
        assert!(step[1].as_f64().unwrap() > 2.0 * BOUND);
        ids.push(step[0].clone());
    }
    let body = json!({"model": "tiny", "prompt": ids, "temperature": 0, "max_tokens": 0,
        "logprobs": 1, "echo": true});
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    let logprobs = &answer["choices"][0]["logprobs"];
    for t in start..ids.len() {
        let own = logprobs["token_logprobs"][t].as_f64().unwrap();
        let top = logprobs["top_logprobs"][t].as_object().unwrap();
        assert!(top.values().all(|v| v.as_f64().unwrap() <= own), "step {}: {top:?}", t - start);
    }
}

#[tokio::test]
async fn mxfp4_on_1_2_and_4_ranks() {
    for ranks in ["1", "2", "4"] {
        check("mxfp4", ranks).await;
    }
}

#[tokio::test]
async fn int4_on_1_2_and_4_ranks() {
    for ranks in ["1", "2", "4"] {
        check("w4a16", ranks).await;
    }
}
