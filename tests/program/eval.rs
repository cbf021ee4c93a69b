//! `moonrock eval` on the demo model.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, path, run};

const MCQ: &str = "tools/demo-model/heldout/mcq.jsonl";
const SHOTS: &str = "tools/demo-model/heldout/mcq_shots.jsonl";

fn eval(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(&[&["eval"], args].concat());
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

fn text(relative: &str) -> String {
    path(relative).to_str().unwrap().to_owned()
}

fn items(path: &Path) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    report["items"].as_array().unwrap().clone()
}

fn rows(relative: &str) -> Vec<Value> {
    let file = std::fs::read_to_string(path(relative)).unwrap();
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The prompt as the harness writes it, made here a second time.
fn prompt(row: &Value, shots: &[Value]) -> String {
    let asked = |row: &Value| {
        let choice = |i: usize| row["choices"][i].as_str().unwrap();
        let question = row["question"].as_str().unwrap();
        let [a, b, c, d] = [choice(0), choice(1), choice(2), choice(3)];
        format!("{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:")
    };
    let subject = row["subject"].as_str().unwrap();
    let mut prompt =
        format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    for shot in shots.iter().filter(|shot| shot["subject"] == row["subject"]).take(5) {
        let letter = ["A", "B", "C", "D"][shot["answer"].as_u64().unwrap() as usize];
        prompt += &format!("{} {letter}\n\n", asked(shot));
    }
    prompt + &asked(row)
}

/// The letters' log-probabilities are those that lm-eval's own requests get, to the last digit, and
/// a server and this process give the same.
#[tokio::test]
async fn choices_are_scored_as_the_harness_does() {
    let (dir, server) = (TempDir::new().unwrap(), Server::start("models/demo", &[]));
    let (a, b) = (dir.path().join("a.json"), dir.path().join("b.json"));
    let (data, shots) = (text(MCQ), text(SHOTS));
    let task = ["choice", "--data", &data, "--shots", &shots, "--num-fewshot", "5", "--limit", "5"];
    let url = ["--url", &server.url, "--output", a.to_str().unwrap()];
    let first = eval(&[&task[..], &url].concat());
    let model = text("models/demo");
    let own = ["--model", &model, "--output", b.to_str().unwrap(), "--", "--max-model-len", "2048"];
    assert_eq!(eval(&[&task[..], &own].concat()), first);
    assert_eq!(items(&a), items(&b));

    let (questions, shots) = (rows(MCQ), rows(SHOTS));
    let mut right = 0;
    for (row, item) in questions.iter().zip(items(&a)) {
        let mut scores = Vec::new();
        for letter in ["A", "B", "C", "D"] {
            let prompt = format!("{} {letter}", prompt(row, &shots));
            let body = json!({"model": "demo", "prompt": prompt, "max_tokens": 1, "temperature": 0,
                "logprobs": 1, "echo": true});
            let (status, answer) = server.post("/v1/completions", &body).await;
            assert_eq!(status, 200, "{answer}");
            let found = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
            scores.push(found[found.len() - 2].as_f64().unwrap());
        }
        assert_eq!(item["detail"], json!(scores));
        let answer = row["answer"].as_u64().unwrap() as usize;
        let is_right = scores.iter().all(|&score| score <= scores[answer]);
        assert_eq!(item["value"], is_right as u8 as f64);
        right += is_right as usize;
    }
    // The model answers 97 % of all.
    assert!(right >= 4, "{right} of 5");
    assert!(first.contains(&format!("5 rows, {right} right: accuracy")), "{first}");

    let compared = eval(&["compare", a.to_str().unwrap(), b.to_str().unwrap()]);
    let line = compared.lines().last().unwrap();
    assert!(line.starts_with("second - first: +0.00 points ± 0.00"), "{compared}");
    assert!(line.ends_with("p = 1.000"), "{compared}");
}

#[tokio::test]
async fn texts_and_chats_are_measured() {
    let (dir, server) = (TempDir::new().unwrap(), Server::start("models/demo", &[]));
    let (data, output) = (dir.path().join("texts.jsonl"), dir.path().join("out.json"));
    let texts = ["The capital of France is Paris. ".repeat(4), "What is 2 + 2?".to_owned()];
    let lines = texts.each_ref().map(|text| json!({"text": text}).to_string());
    std::fs::write(&data, lines.join("\n")).unwrap();
    let args = ["--data", data.to_str().unwrap(), "--url", &server.url];
    let output_args = ["--output", output.to_str().unwrap()];
    eval(&[&["perplexity"], &args[..], &output_args].concat());
    for (text, item) in texts.iter().zip(items(&output)) {
        let body = json!({"model": "demo", "prompt": text, "max_tokens": 1, "logprobs": 0,
            "temperature": 0, "echo": true});
        let (_, answer) = server.post("/v1/completions", &body).await;
        let found = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        let scored = &found[1..found.len() - 1];
        let mean = -scored.iter().map(|l| l.as_f64().unwrap()).sum::<f64>() / scored.len() as f64;
        assert!((item["value"].as_f64().unwrap() - mean).abs() < 1e-12);
        assert_eq!(item["weight"], scored.len() as f64);
    }
    // In parts of 5 tokens, the same tokens are scored, though with less before them.
    eval(&[&["perplexity", "--max-length", "5"], &args[..], &output_args].concat());
    let parts: Vec<f64> = items(&output).iter().map(|i| i["value"].as_f64().unwrap()).collect();
    assert!(parts.iter().all(|value| *value > 0.0), "{parts:?}");

    let sums = text("tools/demo-model/heldout/sums.jsonl");
    let args = ["--data", &sums, "--limit", "3", "--url", &server.url, "--max-tokens", "100"];
    // The model gets all of them.
    let summary = eval(&[&["generate"], &args[..]].concat());
    assert!(summary.contains("3 rows, 3 right: accuracy 100.00 % ± 0.00"), "{summary}");
}

#[test]
fn what_cannot_be_measured_is_said_in_one_line() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("rows.jsonl");
    let model = text("tests/data/tiny-k2/mxfp4");
    let check = |rows: &str, args: &[&str], parts: &[&str]| {
        std::fs::write(&data, rows).unwrap();
        let (code, _, stderr) = run(&[&["eval"], args].concat());
        assert_eq!(code, Some(1), "{stderr}");
        let errors: Vec<_> = stderr.lines().filter(|l| l.starts_with("moonrock: ")).collect();
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(parts.iter().all(|part| errors[0].contains(part)), "{stderr}");
    };
    let file = data.to_str().unwrap();
    let row = r#"{"subject":"art","question":"?","choices":["a","b","c","d"],"answer":0}"#;
    let nobody = ["choice", "--data", file, "--url", "http://127.0.0.1:1"];
    check(row, &nobody, &["http://127.0.0.1:1/v1/models"]);
    let choice = ["choice", "--data", file, "--model", &model];
    check("\n{\"subject\": 1}", &choice, &["rows.jsonl:2", "invalid type"]);
    check(&row.replace(":0}", ":4}"), &choice, &["rows.jsonl:1", "answer 4"]);
    check("", &choice, &["no row"]);
    let shots = text(SHOTS);
    let few = [&choice[..], &["--shots", &shots, "--num-fewshot", "6"]].concat();
    check(row, &few, &["rows.jsonl:1", "5 shots", "art", "6"]);
    check(row, &[&choice[..], &["--", "--no-such-flag"]].concat(), &["--no-such-flag"]);
    let words = format!("{{\"text\": {:?}}}", "word ".repeat(3000));
    let long = ["perplexity", "--data", file, "--model", &model, "--max-length", "9999"];
    check(&words, &[&long[..], &["--", "--max-model-len", "64"]].concat(), &["rows.jsonl:1", "64"]);
    let check_kind = r#"{"messages":[],"check":{"calls":[]}}"#;
    check(check_kind, &["generate", "--data", file, "--model", &model], &["rows.jsonl:1", "calls"]);
}
