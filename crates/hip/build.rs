//! Compiles `kernels/*.hip` for every GPU target and embeds the results.
//!
//! The compiler is `MOONROCK_CLANG`, else the first of `clang-22`, `clang-21`, `clang-20`, ROCm's
//! `amdclang++` and `clang` that is there and new enough. Without one the build succeeds with no
//! kernels in it and a reason instead, which the backend repeats when it is asked for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// clang that knows gfx950's scaled matrix instructions.
const OLDEST_CLANG: u32 = 20;

const COMPILERS: [&str; 6] =
    ["clang-22", "clang-21", "clang-20", "amdclang++", "/opt/rocm/llvm/bin/amdclang++", "clang"];

const COMMON: [&str; 6] = ["-std=c++17", "-O3", "-Wall", "-Werror", "-nogpuinc", "-nogpulib"];

struct Target {
    name: &'static str,
    extension: &'static str,
    flags: &'static [&'static str],
}

const TARGETS: [Target; 2] = [
    Target {
        name: "gfx950",
        extension: "co",
        flags: &[
            "-x",
            "hip",
            "--offload-arch=gfx950",
            "--offload-device-only",
            "--no-gpu-bundle-output",
            // The emulator's reports name lines. In PTX they would be most of the text.
            "-gline-tables-only",
        ],
    },
    Target {
        name: "sm_90",
        extension: "ptx",
        flags: &[
            "-x",
            "cuda",
            "--cuda-gpu-arch=sm_90a",
            "--cuda-device-only",
            "--cuda-feature=+ptx86",
            "-S",
            // Arrays of operands must become registers: as for AMD's targets, whose own thresholds
            // are so high.
            "-mllvm",
            "-inline-threshold=100000",
            "-mllvm",
            "-unroll-threshold=20000",
        ],
    },
];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = manifest.join("../../kernels");
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-env-changed=MOONROCK_CLANG");
    let mut code = String::new();
    match compiler() {
        Ok(clang) => {
            for target in &TARGETS {
                let objects = compile_all(&clang, &kernels, target, &out);
                code += &format!("/// Code objects for {}.\n", target.name);
                let name = target.name.to_uppercase();
                code += &format!("pub(crate) const {name}: &[(&str, &[u8])] = &[\n{objects}];\n");
            }
            code += "/// Why there are no kernels in this build.\n";
            code += "pub(crate) const MISSING: Option<&str> = None;\n";
        }
        Err(reason) => {
            println!("cargo::warning=no GPU kernels in this build: {reason}");
            for target in &TARGETS {
                let name = target.name.to_uppercase();
                code += &format!("pub(crate) const {name}: &[(&str, &[u8])] = &[];\n");
            }
            code += &format!("pub(crate) const MISSING: Option<&str> = Some({reason:?});\n");
        }
    }
    fs::write(out.join("objects.rs"), code).expect("OUT_DIR can be written");
}

/// The first usable compiler, or what was wrong with all of them.
fn compiler() -> Result<String, String> {
    let given = env::var("MOONROCK_CLANG").ok();
    let candidates: Vec<String> = match given {
        Some(clang) => vec![clang],
        None => COMPILERS.iter().map(|&name| name.to_owned()).collect(),
    };
    let mut found = Vec::new();
    for clang in &candidates {
        match version(clang) {
            Some(version) if version >= OLDEST_CLANG => return Ok(clang.clone()),
            Some(version) => found.push(format!("{clang} is version {version}")),
            None => {}
        }
    }
    let found = if found.is_empty() { "none was found".into() } else { found.join(", ") };
    Err(format!(
        "clang {OLDEST_CLANG} or newer is needed at build time ({}); {found}",
        candidates.join(", ")
    ))
}

fn version(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split("clang version ").nth(1)?;
    number.split('.').next()?.trim().parse().ok()
}

/// Compiles every kernel file for `target`; returns the entries of its table.
fn compile_all(clang: &str, kernels: &Path, target: &Target, out: &Path) -> String {
    let mut sources: Vec<PathBuf> = fs::read_dir(kernels)
        .unwrap_or_else(|e| panic!("{}: {e}", kernels.display()))
        .map(|entry| entry.expect("a directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hip"))
        .collect();
    sources.sort();
    let jobs: Vec<_> = sources
        .iter()
        .map(|source| {
            let stem = source.file_stem().expect("a file has a name").to_string_lossy();
            let object = out.join(format!("{stem}.{}", target.extension));
            (source, stem.into_owned(), object)
        })
        .collect();
    let at_once = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((source, _, object)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    compile(clang, kernels, target, source, object);
                }
            });
        }
    });
    let entry = |(_, stem, object): &(_, String, PathBuf)| {
        format!("    ({stem:?}, include_bytes!({:?})),\n", object.display())
    };
    jobs.iter().map(entry).collect()
}

fn compile(clang: &str, kernels: &Path, target: &Target, source: &Path, object: &Path) {
    let mut command = Command::new(clang);
    command.args(target.flags).args(COMMON).arg("-I").arg(kernels);
    let output = command.arg(source).arg("-o").arg(object).output();
    let output = output.unwrap_or_else(|e| panic!("{clang}: {e}"));
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{} does not compile for {}:\n{errors}", source.display(), target.name);
    }
}
