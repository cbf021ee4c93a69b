//! `--device hip` through the real binary, on the emulator.

use std::path::Path;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::server::{Server, emulator, path, run};

const SMALL: [&str; 8] = [
    "--max-model-len",
    "128",
    "--max-num-seqs",
    "32",
    // Fewer rows than sequences: prompts go in chunks, and graphs are no larger.
    "--max-num-batched-tokens",
    "24",
    "--watchdog-timeout",
    "600",
];

async fn complete(server: &Server, prompt: &str) -> Value {
    let body = json!({
        "model": "tiny", "prompt": prompt, "max_tokens": 3, "temperature": 0, "logprobs": 1
    });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0].clone()
}

/// Two ranks, decode graphs, 32 requests at once: each answer is the one that it gets alone, to the
/// last bit of its log-probabilities.
#[tokio::test]
async fn many_requests_on_two_gpus_answer_as_they_do_alone() {
    let args = [&SMALL[..], &["--tensor-parallel-size", "2", "--served-model-name", "tiny"]];
    let mut server = Server::start_on_emulator("tests/data/tiny-k2/mxfp4", &args.concat());
    let prompts: Vec<String> = (0..32).map(|i| format!("request number {i}")).collect();
    let together = join_all(prompts.iter().map(|prompt| complete(&server, prompt))).await;
    for (prompt, answer) in prompts.iter().zip(&together).step_by(11) {
        assert_eq!(complete(&server, prompt).await, *answer);
    }
    let distinct: std::collections::BTreeSet<String> =
        together.iter().map(|answer| answer["logprobs"].to_string()).collect();
    assert!(distinct.len() > 16, "all answers are alike");
    server.terminate();
    assert_eq!(server.exit_code().await, Some(0));
}

/// At level debug a line for each step says how long the device waited for it: what is between the
/// steps of one request, and with them not longer than the request.
#[tokio::test]
async fn how_long_the_gpu_waits_for_a_step_is_told() {
    let args = [&SMALL[..], &["--served-model-name", "tiny"]].concat();
    let model = "tests/data/tiny-k2/mxfp4";
    let mut server = Server::start_on_emulator_with(("RUST_LOG", "hip=debug"), model, &args);
    let before = server.said().len();
    let started = Instant::now();
    let body = json!({
        "model": "tiny", "prompt": "a", "max_tokens": 40, "ignore_eos": true, "temperature": 0
    });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    let whole = started.elapsed();
    server.terminate();
    assert_eq!(server.exit_code().await, Some(0));
    let gap = |line: &String| {
        let (_, figure) = line.split_once("the device waited for a step microseconds=")?;
        Some(figure.trim().parse::<f64>().unwrap())
    };
    // The first two are of steps before the request, and up to it; the last is never told, as a
    // later step tells it.
    let gaps: Vec<f64> = server.said()[before..].iter().filter_map(gap).skip(2).collect();
    assert!((35..40).contains(&gaps.len()), "{gaps:?}");
    assert!(gaps.iter().all(|&gap| gap >= 0.0), "{gaps:?}");
    assert!(gaps.iter().sum::<f64>() < whole.as_secs_f64() * 1e6, "{gaps:?} in {whole:?}");
}

/// Log-probabilities of a prompt's tokens.
async fn scores(server: &Server, prompt: &str) -> Vec<f64> {
    let body = json!({
        "model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 0,
        "echo": true
    });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    let all = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    all[1..].iter().map(|value| value.as_f64().unwrap()).collect()
}

/// What GPUs compute with an FP8 cache is nearer to what the CPU does with one than to what it does
/// without, and the other way round: E4M3 is 16 times as coarse as BF16, in which all else is
/// rounded that tells the two apart.
#[tokio::test]
async fn an_fp8_cache_is_that_of_the_cpu() {
    let prompt: Vec<String> =
        (0..4).map(|i| format!("request number {i}, unlike others")).collect();
    let prompt = prompt.join(" ");
    let servers = ["bfloat16", "fp8"].map(|format| {
        let args = ["--kv-cache-dtype", format, "--expert-activations", "bf16"];
        let args = [&args[..], &SMALL, &["--served-model-name", "tiny"]].concat();
        let model = "tests/data/tiny-k2/mxfp4";
        (Server::start(model, &args), Server::start_on_emulator(model, &args))
    });
    let [(cpu, gpu), (cpu_fp8, gpu_fp8)] = &servers;
    let all = [cpu, gpu, cpu_fp8, gpu_fp8].map(|server| scores(server, &prompt));
    let [cpu, gpu, cpu_fp8, gpu_fp8] = join_all(all).await.try_into().unwrap();
    assert!(cpu.len() > 60, "{} tokens", cpu.len());
    let distance = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
    };
    let (same, other) = (distance(&gpu_fp8, &cpu_fp8), distance(&gpu_fp8, &cpu));
    assert!(same < other, "fp8: {same} from fp8 on the CPU, {other} from bfloat16");
    let (same, other) = (distance(&gpu, &cpu), distance(&gpu, &cpu_fp8));
    assert!(same < other, "bfloat16: {same} from bfloat16 on the CPU, {other} from fp8");
}

/// The message that answers a held-out prompt of the demo model, as `evaluate.py` asks it, but for
/// the ids of its tool calls.
async fn answer(server: &Server, row: &Value) -> Value {
    let mut body = json!({
        "model": "demo", "messages": row["messages"], "temperature": 0, "max_tokens": 300,
        "chat_template_kwargs": {"thinking": row["thinking"]}
    });
    if let Some(tools) = row.get("tools") {
        body["tools"] = tools.clone();
    }
    let (status, answer) = server.post("/v1/chat/completions", &body).await;
    assert_eq!(status, 200, "{answer}");
    let mut message = answer["choices"][0]["message"].clone();
    for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
        call["id"].take();
    }
    message
}

/// Held-out prompts of the demo model: on GPUs the words are those of the CPU. One prompt, which is
/// answered shortly; with `MOONROCK_FULL` two of every kind.
#[tokio::test]
async fn the_demo_model_says_what_it_says_on_the_cpu() {
    let full = std::env::var_os("MOONROCK_FULL").is_some();
    let mut rows: Vec<Value> = Vec::new();
    for file in std::fs::read_dir(path("tools/demo-model/heldout")).unwrap() {
        let file = file.unwrap().path();
        let kind = file.file_stem().unwrap().to_str().unwrap();
        if kind.starts_with("mcq") || !full && kind != "facts" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        match full {
            true => rows.extend(all.take(2)),
            false => rows.extend(all.filter(|row| row["thinking"] == false).take(1)),
        }
    }
    assert_eq!(rows.len(), if full { 30 } else { 1 });
    let args =
        ["--max-model-len", "1024", "--max-num-seqs", "16", "--max-num-batched-tokens", "256"];
    let args = [&args[..], &["--watchdog-timeout", "600", "--served-model-name", "demo"]].concat();
    let check = if full { "off" } else { "on" };
    let gpu = Server::start_on_emulator_with(("EMU_CHECK", check), "models/demo", &args);
    let cpu = Server::start("models/demo", &args);
    let on_gpu = join_all(rows.iter().map(|row| answer(&gpu, row))).await;
    for (row, found) in rows.iter().zip(on_gpu) {
        assert_eq!(found, answer(&cpu, row).await, "{}", row["messages"]);
    }
}

/// A server of two ranks, of which the second's GPU hangs in the middle of a stream: the watchdog
/// ends the stream with an error event, /health says why, and the server ends by itself.
async fn a_gpu_hangs(all_reduce: &str) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stalled-by-{all_reduce}"));
    let _ = std::fs::remove_file(&file);
    let stall = format!("1:{}", file.display());
    let args = [
        ["--tensor-parallel-size", "2"],
        ["--served-model-name", "tiny"],
        ["--max-model-len", "2048"],
        ["--max-num-seqs", "2"],
        ["--max-num-batched-tokens", "16"],
        // Long enough for any step on a busy machine.
        ["--watchdog-timeout", "20"],
        ["--all-reduce", all_reduce],
    ];
    let model = "tests/data/tiny-k2/mxfp4";
    let mut server = Server::start_on_emulator_with(("EMU_STALL", &stall), model, &args.concat());
    let body = json!({
        "model": "tiny", "prompt": "on and on", "max_tokens": 2000, "ignore_eos": true,
        "stream": true, "temperature": 0
    });
    let request = server.client.post(format!("{}/v1/completions", server.url)).json(&body);
    let mut stream = request.send().await.unwrap().bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: {"), "{first:?}");
    std::fs::write(&file, "").unwrap();
    let mut rest = Vec::new();
    while let Some(Ok(bytes)) = stream.next().await {
        rest.extend(bytes);
    }
    let rest = String::from_utf8(rest).unwrap();
    let last = rest.lines().rfind(|line| line.contains("error")).unwrap_or_default();
    let reason = "a step has not ended within 20 s (--watchdog-timeout)";
    assert!(last.contains(reason), "{last}");
    let (status, health) = server.get("/health").await;
    assert_eq!((status, &health["status"]), (503, &json!("failed")));
    assert!(health["reason"].as_str().unwrap().contains(reason), "{health}");
    assert_eq!(server.exit_code().await, Some(1));
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_gpu_is_noticed_while_the_others_wait_for_it() {
    let each = ["one-shot", "ordered"].map(|mode| tokio::spawn(a_gpu_hangs(mode)));
    for result in join_all(each).await {
        result.unwrap();
    }
}

#[test]
fn what_the_gpu_lacks_is_said_in_one_line() {
    let refused = |args: &[&str], parts: &[&str]| {
        let (code, _, stderr) = run(&[&["serve", "--port", "0", "--device"], args].concat());
        assert_eq!(code, Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("moonrock: "), "{stderr}");
        for part in parts {
            assert!(last.contains(part), "{last}: no {part:?}");
        }
    };
    // Neither runtime is on a machine without GPUs; on one that has them this says nothing.
    if std::fs::exists("/dev/kfd").unwrap() || std::fs::exists("/dev/nvidiactl").unwrap() {
        return;
    }
    refused(&["hip"], &["--device hip", "libamdhip64.so.7", "No such file"]);
    refused(&["cuda"], &["--device cuda", "libcuda.so.1"]);
}

#[test]
fn more_ranks_than_gpus_are_refused() {
    let output = std::process::Command::new(crate::server::binary())
        .args(["serve", "--port", "0", "--device", "hip", "--tensor-parallel-size", "4"])
        .env("LD_LIBRARY_PATH", emulator())
        .env("EMU_DEVICES", "2")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("device 2 is needed, but there are only 2"), "{stderr}");
}
