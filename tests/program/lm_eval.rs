//! lm-eval-harness against the demo model, with the tasks in tests/lm_eval. Part of
//! `MOONROCK_FULL`: the harness is large. `scripts/test --full` makes its environment and names it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::sdk;
use crate::server::{Server, path, run};

const SUBJECTS: [&str; 4] = ["art", "astronomy", "history", "literature"];
const MCQ: &str = "tools/demo-model/heldout/mcq.jsonl";
const SHOTS: &str = "tools/demo-model/heldout/mcq_shots.jsonl";
/// Questions of each subject.
const LIMIT: usize = 10;

/// The first questions of a subject.
fn questions(subject: &str) -> Vec<Value> {
    let file = std::fs::read_to_string(path(MCQ)).unwrap();
    let rows = file.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["subject"] == subject).take(LIMIT).collect()
}

/// What the harness recorded of each question of a task, in their order.
fn samples(output: &Path, task: &str) -> Vec<Value> {
    let folder = std::fs::read_dir(output).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = format!("samples_{task}_2");
    let is_task = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with(&name);
    let text = std::fs::read_to_string(files.find(|path| is_task(path)).unwrap()).unwrap();
    let mut samples: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    samples.sort_by_key(|sample| sample["doc_id"].as_u64());
    assert_eq!(samples.len(), LIMIT);
    samples
}

fn number(text: &Value) -> f64 {
    text.as_str().unwrap().parse().unwrap()
}

/// Each choice's log-probability in a sample of a multiple-choice task: as the server's float32,
/// which the last bits of a JSON reader's float64 do not change.
fn choices(sample: &Value) -> Vec<f32> {
    let choices = sample["resps"].as_array().unwrap();
    choices.iter().map(|choice| number(&choice[0][0]) as f32).collect()
}

/// The same questions by `moonrock eval choice`: right or not, and the choices' log-probabilities.
fn own(server: &Server, directory: &Path) -> HashMap<&'static str, Vec<(f64, Vec<f32>)>> {
    let (data, output) = (directory.join("data.jsonl"), directory.join("own.json"));
    let rows: String = SUBJECTS
        .iter()
        .flat_map(|subject| questions(subject))
        .map(|row| format!("{row}\n"))
        .collect();
    std::fs::write(&data, rows).unwrap();
    let (data, output) = (data.to_str().unwrap(), output.to_str().unwrap());
    let shots = path(SHOTS);
    let args = ["eval", "choice", "--data", data, "--shots", shots.to_str().unwrap()];
    let rest = ["--num-fewshot", "5", "--url", &server.url, "--output", output];
    let (code, _, stderr) = run(&[&args[..], &rest].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    let items = report["items"].as_array().unwrap();
    let scores = |item: &Value| {
        let scores = item["detail"].as_array().unwrap();
        scores.iter().map(|score| score.as_f64().unwrap() as f32).collect()
    };
    let item = |item: &Value| (item["value"].as_f64().unwrap(), scores(item));
    let parts = items.chunks(LIMIT).map(|part| part.iter().map(item).collect());
    SUBJECTS.into_iter().zip(parts).collect()
}

#[tokio::test]
async fn the_harness_runs_unchanged_and_agrees() {
    if std::env::var_os("MOONROCK_FULL").is_none() {
        return;
    }
    let python = std::env::var_os("MOONROCK_TEST_LM_EVAL")
        .expect("run scripts/test --full: it installs lm-eval and sets MOONROCK_TEST_LM_EVAL");
    let server = Server::start("models/demo", &["--served-model-name", "demo"]);
    let directory = TempDir::new().unwrap();
    let output = directory.path().join("harness");
    let model = format!(
        "model=demo,base_url={}/v1/completions,num_concurrent=8,timeout=600,max_length=2048",
        server.url
    );
    // Prompts are token ids: the harness finds /tokenizer_info by itself.
    sdk::run(
        Command::new(python)
            .current_dir(path(""))
            .env("HF_HOME", directory.path().join("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .args(["-m", "lm_eval", "run", "--model", "local-completions", "--model_args", &model])
            .args(["--tasks", "facts,facts_letters,facts_texts", "--include_path", "tests/lm_eval"])
            .args(["--limit", &LIMIT.to_string(), "--log_samples", "--output_path"])
            .arg(&output),
    );

    for (subject, own) in own(&server, directory.path()) {
        for (sample, (right, scores)) in
            samples(&output, &format!("facts_{subject}")).iter().zip(own)
        {
            assert_eq!((choices(sample), &sample["acc"]), (scores, &json!(right)), "{sample}");
        }
    }
    // Letters that the greedy answer begins with are the most likely ones.
    let scored = samples(&output, "facts_art");
    for (sample, scored) in samples(&output, "facts_letters").iter().zip(scored) {
        let scores = choices(&scored);
        let best = (0..4).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        assert_eq!(sample["filtered_resps"][0], ["A", "B", "C", "D"][best], "{sample}");
    }
    texts_are_scored_from_their_first_token(&server, &samples(&output, "facts_texts")).await;
}

/// loglikelihood_rolling: the whole text, behind one token for its beginning.
async fn texts_are_scored_from_their_first_token(server: &Server, samples: &[Value]) {
    let url = format!("{}/tokenizer_info", server.url);
    let info: Value = server.client.get(url).send().await.unwrap().json().await.unwrap();
    let begin = if info["bos_token"].is_null() { &info["eos_token"] } else { &info["bos_token"] };
    let tokens = async |text: &Value| {
        let (status, answer) = server.post("/tokenize", &json!({"prompt": text})).await;
        assert_eq!(status, 200, "{answer}");
        answer["tokens"].as_array().unwrap().clone()
    };
    for (sample, row) in samples.iter().zip(questions("art")) {
        let prompt = [tokens(begin).await, tokens(&row["question"]).await].concat();
        let body = json!({"model": "demo", "prompt": prompt, "max_tokens": 1, "temperature": 0,
            "logprobs": 1, "echo": true});
        let (_, answer) = server.post("/v1/completions", &body).await;
        let found = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!(found.len(), prompt.len() + 1);
        let sum: f64 = found[1..prompt.len()].iter().map(|value| value.as_f64().unwrap()).sum();
        // Both add the same numbers, in another order: rounded to 1e-15 of some hundreds.
        assert!((number(&sample["resps"][0][0]) - sum).abs() < 1e-9, "{sample}: {sum}");
    }
}
