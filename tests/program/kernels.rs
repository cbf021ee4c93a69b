//! `moonrock bench kernels` on the emulator.

use std::process::Command;

use serde_json::Value;

use crate::server::{binary, emulator};

#[test]
fn kernels_are_checked_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let [json, counters] = ["results", "counters"].map(|name| directory.path().join(name));
    let output = Command::new(binary())
        .args(["bench", "kernels", "--device", "hip", "--model", "demo", "--tokens", "2,33"])
        .args(["--contexts", "70", "--only", "embed,attention decode,experts_down mxfp4"])
        .args(["--seed", "5", "--json"])
        .arg(&json)
        .env("LD_LIBRARY_PATH", emulator())
        .env("EMU_COUNTERS", &counters)
        .output()
        .unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.contains("seed 5") && stdout.contains("| moved / needed |"), "{stdout}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = report["kernels"].as_array().unwrap();
    // Each at two numbers of tokens, decode with two forms of the cache.
    assert_eq!(rows.len(), 8, "{stdout}");
    for row in rows {
        assert_eq!(row["wrong"], Value::Null);
        let moved = row["counters"]["moved_bytes"].as_u64().unwrap();
        let needed = row["bytes"].as_u64().unwrap();
        // What must move is no more than what does, and these kernels move little else; but for
        // the emulator's whole words.
        assert!(4 * moved >= 3 * needed && moved <= 2 * needed, "{row}");
        assert!(stdout.contains(&format!("| {}", row["kernel"].as_str().unwrap())));
    }
}

#[test]
fn kernels_that_do_not_exist_are_not_benched() {
    let output = Command::new(binary())
        .args(["bench", "kernels", "--model", "demo", "--only", "no such kernel"])
        .env("LD_LIBRARY_PATH", emulator())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--only"));
}
