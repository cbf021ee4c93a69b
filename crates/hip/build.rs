//! Compiles `kernels/*.hip` for every GPU target and embeds the results. They are kept in the
//! target directory under a hash of all that they are made of: profiles share them, and what has
//! not changed is not compiled again.
//!
//! The compiler is `MOONROCK_CLANG`, else the first of `clang-22`, `clang-21`, `clang-20`, ROCm's
//! `amdclang++` and `clang` that is there and new enough. Without one the build succeeds with no
//! kernels in it and a reason instead, which the backend repeats when it is asked for; likewise
//! without those for a GPU that the compiler does not know (ROCm's knows AMD's alone).

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
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
    /// As `clang --print-targets` lists it.
    architecture: &'static str,
    extension: &'static str,
    flags: &'static [&'static str],
}

const TARGETS: [Target; 2] = [
    Target {
        name: "gfx950",
        architecture: "amdgcn",
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
        architecture: "nvptx64",
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
    // OUT_DIR is `<target directory>/<profile>/build/<crate>/out`.
    let kept = out.ancestors().nth(4).expect("OUT_DIR is deep").join("kernels");
    fs::create_dir_all(&kept).unwrap_or_else(|e| panic!("{}: {e}", kept.display()));
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-env-changed=MOONROCK_CLANG");
    let clang = compiler();
    let mut code = String::new();
    for target in &TARGETS {
        let clang = clang.clone().and_then(|clang| match knows(&clang, target) {
            true => Ok(clang),
            false => Err(format!("{clang} does not compile for {}", target.architecture)),
        });
        let objects = match clang {
            Ok(clang) => format!("Ok(&[\n{}])", compile_all(&clang, &kernels, target, &kept)),
            Err(reason) => {
                println!("cargo::warning=no kernels for {} in this build: {reason}", target.name);
                format!("Err({reason:?})")
            }
        };
        code += &format!("/// Code objects for {}, or why there are none.\n", target.name);
        let name = target.name.to_uppercase();
        code += &format!("pub(crate) const {name}: Objects = {objects};\n");
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

/// Whether the compiler was built with what makes code for the target.
fn knows(clang: &str, target: &Target) -> bool {
    let output = Command::new(clang).arg("--print-targets").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let listed = |line: &str| line.split_whitespace().next() == Some(target.architecture);
    text.is_ok_and(|text| text.lines().any(listed))
}

fn version_text(clang: &str) -> Option<String> {
    let output = Command::new(clang).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn version(clang: &str) -> Option<u32> {
    let text = version_text(clang)?;
    let number = text.split("clang version ").nth(1)?;
    number.split('.').next()?.trim().parse().ok()
}

/// Files with one of these endings in `directory` or below, sorted.
fn files(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Compiles every kernel file for `target`, unless `kept` has it; returns the entries of its table.
fn compile_all(clang: &str, kernels: &Path, target: &Target, kept: &Path) -> String {
    let mut shared = DefaultHasher::new();
    (version_text(clang), target.flags, COMMON).hash(&mut shared);
    let read =
        |path: &PathBuf| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for header in files(kernels, &["h"]) {
        (&header, read(&header)).hash(&mut shared);
    }
    let jobs: Vec<_> = files(kernels, &["hip"])
        .into_iter()
        .map(|source| {
            let stem =
                source.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let mut hasher = shared.clone();
            (&source, read(&source)).hash(&mut hasher);
            let name = format!("{stem}-{:016x}.{}", hasher.finish(), target.extension);
            (source, stem, kept.join(name))
        })
        .collect();
    let at_once = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((source, _, object)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    if !object.exists() {
                        compile(clang, kernels, target, source, object);
                    }
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
    // Another build may be at it: it appears whole.
    let unfinished = object.with_added_extension(std::process::id().to_string());
    let output = command.arg(source).arg("-o").arg(&unfinished).output();
    let output = output.unwrap_or_else(|e| panic!("{clang}: {e}"));
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{} does not compile for {}:\n{errors}", source.display(), target.name);
    }
    fs::rename(&unfinished, object).unwrap_or_else(|e| panic!("{}: {e}", object.display()));
}
