//! Starting wrongly, and `inspect`.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::{Server, path, run};

/// A copy of the MXFP4 reference model.
fn copy() -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(path("tests/data/tiny-k2/mxfp4")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// `serve` must fail at once, with one line that holds all `parts`.
fn check(model: &Path, args: &[&str], parts: &[&str]) {
    let begin = Instant::now();
    let port: &[&str] = if args.contains(&"--port") { &[] } else { &["--port", "0"] };
    let all = [&["serve", model.to_str().unwrap()], port, args].concat();
    let (code, _, stderr) = run(&all);
    // Generous: the promise is a second, a loaded machine may take several to start a process.
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(code, Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("moonrock: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert_eq!(stderr.lines().last(), Some(errors[0]));
    for part in parts {
        assert!(errors[0].contains(part), "{}: no {part:?}", errors[0]);
    }
}

#[test]
fn broken_checkpoints_are_refused_in_one_line() {
    let shard = "model-00002-of-00002.safetensors";
    let dir = copy();
    std::fs::remove_file(dir.path().join(shard)).unwrap();
    check(dir.path(), &[], &[shard, "No such file"]);

    let dir = copy();
    let bytes = std::fs::read(dir.path().join(shard)).unwrap();
    std::fs::write(dir.path().join(shard), &bytes[..bytes.len() / 2]).unwrap();
    check(dir.path(), &[], &[shard, "truncated"]);

    let config = |from: &str, to: &str| {
        let dir = copy();
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        assert!(text.contains(from));
        std::fs::write(dir.path().join("config.json"), text.replace(from, to)).unwrap();
        dir
    };
    let dir = config("\"hidden_size\": 256", "\"hidden_size\": 512");
    check(dir.path(), &[], &["embed_tokens.weight", "[1024, 256]", "[1024, 512]"]);
    let dir = config("\"quark\"", "\"awq\"");
    check(dir.path(), &[], &["config.json", "quant_method", "awq"]);

    // The last byte of the last scale becomes NaN.
    let dir = copy();
    let mut bytes = std::fs::read(dir.path().join(shard)).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let parsed: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let scale = "language_model.model.layers.2.mlp.experts.5.down_proj.weight_scale";
    let end = parsed[scale]["data_offsets"][1].as_u64().unwrap() as usize;
    bytes[8 + header + end - 1] = 0xff;
    std::fs::write(dir.path().join(shard), bytes).unwrap();
    check(dir.path(), &[], &[scale, "0xFF"]);

    let dir = copy();
    std::fs::remove_file(dir.path().join("tiktoken.model")).unwrap();
    check(dir.path(), &[], &["tiktoken.model"]);
    check(Path::new("/nowhere"), &[], &["/nowhere/config.json"]);
}

#[test]
fn flags_that_cannot_be_kept_are_refused_in_one_line() {
    let model = path("tests/data/tiny-k2/mxfp4");
    check(&model, &["--tensor-parallel-size", "3"], &["--tensor-parallel-size 3", "heads"]);
    let tiny = ["--gpu-memory-utilization", "0.000001"];
    check(&model, &tiny, &["too little memory", "--gpu-memory-utilization"]);
    check(&model, &["--max-model-len", "999999999"], &["--max-model-len", "131072"]);
    check(&model, &["--device", "hip"], &["--device hip"]);
    let server = Server::start("tests/data/tiny-k2/mxfp4", &["--max-model-len", "1024"]);
    let port = server.url.rsplit_once(':').unwrap().1;
    check(&model, &["--port", port], &[port, "in use"]);
    let (code, _, stderr) = run(&["serve", "--max-num-seqs", "0"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--max-num-seqs"));
}

#[test]
fn inspect_prints_classes_formats_and_bytes_by_rank() {
    let model = path("tests/data/tiny-k2/mxfp4");
    let args = ["inspect", model.to_str().unwrap(), "--tensor-parallel-size", "4"];
    let (code, stdout, stderr) = run(&args);
    assert_eq!(code, Some(0), "{stderr}");
    let line = |name: &str| -> Vec<String> {
        let line = stdout.lines().find(|line| line.starts_with(name)).unwrap();
        line[24..].split_whitespace().map(str::to_owned).collect()
    };
    // 2 layers x 16 experts x 3 matrices of 128 x 256; 4.25 bits an element; a quarter per rank.
    let elements = 2 * 16 * 3 * 128 * 256;
    let bytes = |b: usize| format!("{:.2}", b as f64 / 1048576.0);
    let expected = ["96", &elements.to_string(), &bytes(elements * 17 / 32), "MiB"];
    assert_eq!(line("routed experts")[..4], expected);
    let quarter = elements * 17 / 32 / 4;
    assert_eq!(
        line("routed experts")[4..],
        [format!("{:.2}", quarter as f64 / 1024.0).as_str(), "KiB"]
    );
    assert!(stdout.contains("16 experts top-8") && stdout.contains("MXFP4"), "{stdout}");
}
