//! `moonrock quantize`: what it prints, what a kill leaves, how much memory it takes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::{binary, path, run};

/// Writes shards of BF16 weights without a pattern: `shards` files of `tensors` weights.
fn checkpoint(dir: &Path, shards: usize, tensors: usize, [rows, cols]: [usize; 2]) {
    let mut map = BTreeMap::new();
    let mut state = 1u64;
    for shard in 0..shards {
        let file = format!("model-{shard}.safetensors");
        let (mut header, bytes) = (serde_json::Map::new(), rows * cols * 2);
        for i in 0..tensors {
            let name = format!("model.layers.{shard}.mlp.experts.{i}.up_proj.weight");
            let offsets = [i * bytes, (i + 1) * bytes];
            let info = serde_json::json!({"dtype": "BF16", "shape": [rows, cols],
                "data_offsets": offsets});
            header.insert(name.clone(), info);
            map.insert(name, file.clone());
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut out = std::io::BufWriter::new(std::fs::File::create(dir.join(&file)).unwrap());
        out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        out.write_all(header.as_bytes()).unwrap();
        let row: Vec<u8> = (0..1 << 20)
            .flat_map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Exponents 0x7a..=0x7d: finite, and not all alike.
                (((state >> 40) as u16 & 0x81ff) | 0x3d00).to_le_bytes()
            })
            .collect();
        let mut left = bytes * tensors;
        while left > 0 {
            let part = left.min(row.len());
            out.write_all(&row[..part]).unwrap();
            left -= part;
        }
        out.flush().unwrap();
    }
    let index = serde_json::json!({"weight_map": map}).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(dir.join("config.json"), "{}").unwrap();
}

fn start(model: &Path, output: &Path, args: &[&str]) -> Child {
    Command::new(binary())
        .arg("quantize")
        .args(["--model-path".as_ref(), model, "--output-dir".as_ref(), output])
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeMap::new() };
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn a_kill_at_any_moment_leaves_only_whole_files_and_a_rerun_ends_the_same() {
    let (input, whole) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    checkpoint(input.path(), 6, 3, [1024, 2048]);
    let begin = Instant::now();
    assert!(start(input.path(), whole.path(), &[]).wait().unwrap().success());
    let time = begin.elapsed();
    let expected = files(whole.path());
    assert_eq!(expected.len(), 6 + 2);

    let (mut kills, mut unfinished) = (0, 0);
    for round in 0..3u32 {
        let output = TempDir::new().unwrap();
        // Each attempt is given a part of the time that is left to it; parts differ by round.
        for part in 1..=6u32 {
            let mut child = start(input.path(), output.path(), &[]);
            std::thread::sleep(time.mul_f64((part * 3 + round) as f64 / 60.0));
            child.kill().unwrap();
            if !child.wait().unwrap().success() {
                kills += 1;
            }
            let found = files(output.path());
            for (name, bytes) in &found {
                if !name.ends_with(".partial") && !name.starts_with('.') {
                    assert!(*bytes == expected[name], "{name} after {part} of {round}");
                }
            }
            unfinished += found.keys().any(|name| name.ends_with(".partial")) as usize;
            if found.contains_key("config.json") {
                break;
            }
        }
        let done = start(input.path(), output.path(), &["--force"]).wait().unwrap();
        assert!(done.success());
        assert!(files(output.path()) == expected, "round {round}");
    }
    // The kills did fall into the work.
    assert!(kills >= 6 && unfinished >= 3, "{kills} kills, {unfinished} with a file unfinished");
}

/// Runs to the end; returns the largest resident memory seen, bytes.
fn peak(mut child: Child) -> usize {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The mark only rises, so that the last look is the largest.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        peak = peak.max(kib.unwrap_or(0) * 1024);
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success());
                return peak;
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn check_memory(shape: [usize; 2], bound: &str, bytes: usize) {
    let (input, output) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    checkpoint(input.path(), 1, 1, shape);
    let begin = Instant::now();
    let child = start(input.path(), output.path(), &["--max-memory", bound, "--verify"]);
    let peak = peak(child);
    println!("{shape:?}: peak {peak} bytes in {:?}", begin.elapsed());
    assert!(peak > 1 << 20 && peak <= bytes, "{peak} of {bytes} bytes");
}

#[test]
fn a_tensor_larger_than_the_bound_goes_through_in_pieces() {
    check_memory([16384, 4096], "64MiB", 64 << 20);
}

#[test]
fn a_shard_of_4_gib_stays_under_the_bound() {
    if std::env::var_os("MOONROCK_FULL").is_some() {
        check_memory([262144, 8192], "256MiB", 256 << 20);
    }
}

#[test]
fn a_dry_run_prints_the_table_and_writes_nothing() {
    let output = TempDir::new().unwrap();
    let (model, to) = (path("tests/data/tiny-k2/w4a16"), output.path().join("new"));
    let args = ["quantize", "--dry-run", "--model-path", model.to_str().unwrap(), "--output-dir"];
    let (code, stdout, stderr) = run(&[&args[..], &[to.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let line = stdout.lines().find(|line| line.starts_with("routed experts")).unwrap();
    let cells: Vec<&str> = line[16..].split_whitespace().collect();
    assert_eq!(cells[..4], ["INT4", "->", "MXFP4", "96"], "{stdout}");
    assert!(stdout.contains("--exclude-layers \"*.gate\": 2 modules"), "{stdout}");
    assert!(!to.exists());

    let same = [&args[..], &[model.to_str().unwrap()]].concat();
    let (code, _, stderr) = run(&same);
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("the output directory is the input"), "{stderr}");
    let (code, _, stderr) = run(&[&args[..], &["/x", "--max-memory", "4GB"]].concat());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("GiB"), "{stderr}");
}
