//! Prints the counters of `EMU_COUNTERS` as a table or JSON, and lays out the emulator's libraries.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

const USAGE: &str = "usage: moonrock-emu-report COUNTERS_FILE [--json]
       moonrock-emu-report --install DIRECTORY
The first form sums the launches of a file written through EMU_COUNTERS, by kernel.
The second copies libemulator.so from beside this program to DIRECTORY under the names that HIP and
RCCL programs open.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--install", dir] => install(Path::new(dir)),
        [file] => report(file, false),
        [file, "--json"] | ["--json", file] => report(file, true),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// One file under all names: the loader then sees one library, so HIP and RCCL share their state.
fn install(dir: &Path) -> Result<(), String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let library = exe.with_file_name("libemulator.so");
    let fail = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
    std::fs::create_dir_all(dir).map_err(|e| fail(dir, e))?;
    let real = dir.join("libamdhip64.so");
    std::fs::copy(&library, &real).map_err(|e| fail(&library, e))?;
    for name in [
        "libamdhip64.so.6",
        "libamdhip64.so.7",
        "librccl.so",
        "librccl.so.1",
        "librocm-core.so",
        "librocm-core.so.1",
    ] {
        let link = dir.join(name);
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link).map_err(|e| fail(&link, e))?;
        }
        std::os::unix::fs::symlink("libamdhip64.so", &link).map_err(|e| fail(&link, e))?;
    }
    println!("LD_LIBRARY_PATH={}", dir.display());
    Ok(())
}

fn report(file: &str, as_json: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let mut kernels: BTreeMap<String, Value> = BTreeMap::new();
    for (n, line) in text.lines().enumerate() {
        let v: Value = serde_json::from_str(line).map_err(|e| format!("{file}:{}: {e}", n + 1))?;
        let name = v["kernel"].as_str().unwrap_or("?").to_owned();
        let sum = kernels.entry(name).or_insert_with(|| json!({"launches": 0}));
        sum["launches"] = json!(sum["launches"].as_u64().unwrap_or(0) + 1);
        add(sum, &v);
    }
    if as_json {
        println!("{}", json!(kernels));
    } else {
        table(&kernels);
    }
    Ok(())
}

/// Adds one launch: counts are summed, properties of the kernel kept.
fn add(sum: &mut Value, v: &Value) {
    const KEPT: [&str; 11] = [
        "kernel",
        "device",
        "grid",
        "block",
        "vgprs",
        "agprs",
        "sgprs",
        "lds",
        "scratch",
        "waves_per_simd",
        "workgroups_per_cu",
    ];
    for (k, x) in v.as_object().into_iter().flatten() {
        if KEPT.contains(&k.as_str()) {
            sum[k] = x.clone();
            continue;
        }
        match x {
            Value::Object(parts) => {
                for (p, y) in parts {
                    let old = sum[k][p].as_u64().unwrap_or(0);
                    sum[k][p] = json!(old + y.as_u64().unwrap_or(0));
                }
            }
            x if x.is_u64() => {
                sum[k] = json!(sum[k].as_u64().unwrap_or(0) + x.as_u64().unwrap_or(0));
            }
            x => sum[k] = json!(sum[k].as_f64().unwrap_or(0.0) + x.as_f64().unwrap_or(0.0)),
        }
    }
}

fn total(v: &Value) -> u64 {
    v.as_object().map_or(0, |m| m.values().filter_map(Value::as_u64).sum())
}

fn table(kernels: &BTreeMap<String, Value>) {
    println!(
        "{:<32} {:>8} {:>12} {:>12} {:>12} {:>9} {:>11} {:>9} {:>5} {:>7} {:>6} {:>5}",
        "kernel",
        "launches",
        "instructions",
        "bytes moved",
        "distinct",
        "moved/d.",
        "MFMA cycles",
        "LDS confl",
        "VGPR",
        "LDS",
        "waves",
        "WG/CU"
    );
    for (name, v) in kernels {
        let n = |k: &str| v[k].as_u64().unwrap_or(0);
        let moved = total(&v["bytes_read"]) + total(&v["bytes_written"]);
        let distinct = n("distinct_bytes");
        println!(
            "{:<32} {:>8} {:>12} {:>12} {:>12} {:>9.2} {:>11} {:>8.1}% {:>5} {:>7} {:>6} {:>5}",
            name,
            n("launches"),
            total(&v["instructions"]),
            moved,
            distinct,
            moved as f64 / distinct.max(1) as f64,
            n("mfma_cycles"),
            100.0 * n("lds_conflict_cycles") as f64 / n("lds_cycles").max(1) as f64,
            n("vgprs") + n("agprs"),
            n("lds"),
            n("waves_per_simd"),
            n("workgroups_per_cu"),
        );
    }
}
