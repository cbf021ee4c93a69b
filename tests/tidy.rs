//! The habits of this repository, checked.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_LINES: usize = 600;

/// Which of the workspace's crates each may name. Arrows go one way.
const ARROWS: [(&str, &[&str]); 10] = [
    ("mx", &[]),
    ("checkpoint", &["mx"]),
    ("text", &[]),
    ("model", &["checkpoint", "mx"]),
    ("cpu", &["checkpoint", "model", "mx"]),
    ("hip", &["checkpoint", "model", "mx"]),
    ("engine", &["model"]),
    ("server", &["engine", "model", "text"]),
    ("emulator", &[]),
    ("moonrock", &["checkpoint", "cpu", "engine", "hip", "model", "mx", "server", "text"]),
];

/// Crates that may hold `unsafe`, and single files elsewhere.
const UNSAFE: [&str; 4] = [
    "crates/emulator/",
    "crates/hip/",
    "crates/cpu/src/simd.rs",
    "crates/checkpoint/src/shards.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of this repository, tracked or about to be, data aside.
fn files() -> Vec<PathBuf> {
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    let names = String::from_utf8(list.stdout).unwrap();
    let files: Vec<_> = names
        .lines()
        .filter(|name| !name.contains("tests/data/") && !name.starts_with("models/"))
        .map(PathBuf::from)
        .filter(|name| root().join(name).is_file())
        .collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    files
}

fn with_extension(extensions: &[&str]) -> impl Iterator<Item = (PathBuf, String)> {
    let wanted = |path: &PathBuf| {
        path.extension().is_some_and(|e| extensions.contains(&e.to_str().unwrap()))
    };
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    files().into_iter().filter(wanted).map(read).collect::<Vec<_>>().into_iter()
}

#[test]
fn arrows_go_one_way() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in ARROWS"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let target = dependency["name"].as_str().unwrap();
            let shipped = dependency["kind"].is_null();
            if shipped && ours.contains(target) {
                assert!(allowed.contains(&target), "{name} must not depend on {target}");
            }
        }
    }
}

#[test]
fn files_and_lines_are_short() {
    for (path, text) in with_extension(&["rs", "hip", "h", "py"]) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines: is there a seam?", path.display());
    }
    for (path, text) in with_extension(&["rs", "hip", "h"]) {
        for (i, line) in text.lines().enumerate() {
            let width = line.chars().count();
            // A string that cannot be broken, a test's golden text, may be longer.
            let unbroken = line.contains('"') && path.to_str().unwrap().contains("test");
            assert!(width <= 100 || unbroken, "{}:{}: {width} columns", path.display(), i + 1);
        }
    }
}

#[test]
fn nothing_is_left_lying() {
    // Assembled, so that this file does not contain them.
    let banned = ["FIX|ME", "TO|DO", "XX|X", "HA|CK", "db|g!(", "#[ign|ore", "#[allow(dead_co|de"];
    let banned = banned.map(|word| word.replace('|', ""));
    for (path, text) in with_extension(&["rs", "hip", "h", "py", "md", "toml", "sh"]) {
        for (i, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| c.is_whitespace() || ":,;".contains(c));
            let found = words.find(|w| banned.iter().any(|b| w.starts_with(b.as_str())));
            assert_eq!(found, None, "{}:{}", path.display(), i + 1);
        }
    }
}

#[test]
fn names_say_what_is_inside() {
    for path in files() {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let banned = ["utils", "util", "common", "misc", "helpers"];
        assert!(!banned.contains(&stem.as_str()), "{}", path.display());
    }
}

#[test]
fn unsafe_stays_in_its_rooms_and_says_why() {
    let block = ["unsafe", " {"].concat();
    for (path, text) in with_extension(&["rs"]) {
        let name = path.to_str().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, _) in lines.iter().enumerate().filter(|(_, line)| line.contains(&block)) {
            let allowed = UNSAFE.iter().any(|room| name.starts_with(room));
            assert!(allowed, "{name}:{}: unsafe outside of its rooms", i + 1);
            let above = &lines[i.saturating_sub(12)..=i];
            let said = above.iter().any(|line| line.contains("SAFETY"));
            assert!(said, "{name}:{}: no SAFETY line", i + 1);
        }
    }
}
