//! The output directory: resuming, replacing, and whose it is.

use std::path::Path;

use tempfile::TempDir;

use crate::{Tensors, bf16_matrix, options, quantize, read_all, write_file};
use checkpoint::Quantization;

const SHARDS: [&str; 3] = ["a.safetensors", "b.safetensors", "c.safetensors"];

/// Three shards of two weights each.
fn input() -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut map = serde_json::Map::new();
    for (i, file) in SHARDS.iter().enumerate() {
        let name = |j: usize| format!("layers.{i}.mlp.experts.{j}.up_proj.weight");
        let tensors = Tensors::from([(name(0), bf16_matrix(8, 64)), (name(1), bf16_matrix(4, 96))]);
        write_file(&dir.path().join(file), &tensors);
        map.extend(tensors.into_keys().map(|name| (name, (*file).into())));
    }
    let index = serde_json::json!({"weight_map": map}).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), "words").unwrap();
    std::fs::write(dir.path().join(".gitattributes"), "hidden").unwrap();
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn complete() -> Vec<String> {
    let rest = ["config.json", "model.safetensors.index.json", "tokenizer.model"];
    SHARDS.iter().chain(&rest).map(|name| (*name).to_owned()).collect()
}

/// Breaks the input's third shard, quantizes, and mends it: the output of a stopped run.
fn stopped(input: &Path, output: &Path) {
    let shard = input.join(SHARDS[2]);
    let (whole, modified) = (std::fs::read(&shard).unwrap(), modified(&shard));
    let mut broken = whole.clone();
    let end = broken.len();
    broken[end - 2..].copy_from_slice(&[0x80, 0x7f]);
    write_at(&shard, &broken, modified);
    let error = quantize(options(input, output)).err().unwrap().to_string();
    assert!(error.contains("NaN or infinity"), "{error}");
    write_at(&shard, &whole, modified);
}

fn modified(path: &Path) -> std::time::SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

fn write_at(path: &Path, bytes: &[u8], time: std::time::SystemTime) {
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_rerun_goes_on_where_the_last_run_stopped() {
    let (input, output, whole) = (input(), TempDir::new().unwrap(), TempDir::new().unwrap());
    quantize(options(input.path(), whole.path())).unwrap();
    assert_eq!(names(whole.path()), complete());

    stopped(input.path(), output.path());
    let left = names(output.path());
    assert!(
        !left.iter().any(|name| name == "config.json" || name.ends_with("partial")),
        "{left:?}"
    );
    let shard = output.path().join(SHARDS[0]);
    assert!(shard.exists(), "{left:?}");
    let before = modified(&shard);
    std::fs::write(output.path().join("b.safetensors.partial"), "half").unwrap();
    quantize(options(input.path(), output.path())).unwrap();
    assert_eq!(modified(&shard), before, "not written again");
    assert_eq!(names(output.path()), complete());
    for name in complete() {
        let read = |dir: &Path| std::fs::read(dir.join(&name)).unwrap();
        assert!(read(output.path()) == read(whole.path()), "{name}");
    }
}

#[test]
fn what_is_there_is_replaced_by_force_only() {
    let (input, output) = (input(), TempDir::new().unwrap());
    stopped(input.path(), output.path());
    let mut other = options(input.path(), output.path());
    other.exclude.push("*experts.1*".into());
    let error = quantize(other.clone()).err().unwrap().to_string();
    assert!(error.contains("a.safetensors") && error.contains("other options"), "{error}");

    quantize(options(input.path(), output.path())).unwrap();
    let before = read_all(output.path());
    std::fs::write(output.path().join("old.safetensors"), "").unwrap();
    let error = quantize(other.clone()).err().unwrap().to_string();
    assert!(error.contains("exists already") && error.contains("--force"), "{error}");
    std::fs::remove_file(output.path().join("old.safetensors")).unwrap();
    assert!(read_all(output.path()) == before);

    std::fs::write(output.path().join("old.safetensors"), "").unwrap();
    other.force = true;
    quantize(other).unwrap();
    assert_eq!(names(output.path()), complete());
    let after = read_all(output.path());
    assert!(after.len() < before.len(), "one of two is excluded now");
}

#[test]
fn two_runs_do_not_share_an_output() {
    let (input, output) = (input(), TempDir::new().unwrap());
    let held = std::fs::File::open(output.path()).unwrap();
    held.try_lock().unwrap();
    let error = quantize(options(input.path(), output.path())).err().unwrap().to_string();
    assert!(error.contains("another run"), "{error}");
    assert!(names(output.path()).is_empty());
}

#[test]
fn verification_finds_what_was_changed() {
    let (input, output) = (input(), TempDir::new().unwrap());
    let plan = quantize(options(input.path(), output.path())).unwrap();
    plan.verify(&|_| ()).unwrap();
    let path = output.path().join(SHARDS[1]);
    let whole = std::fs::read(&path).unwrap();
    let check = |plan: &Quantization, change: &dyn Fn(&mut Vec<u8>), parts: &[&str]| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let error = plan.verify(&|_| ()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    // The last tensor is the scales of the second weight.
    let end = whole.len();
    check(&plan, &|bytes| bytes[end - 1] += 2, &["experts.1", "element 352", "further"]);
    check(&plan, &|bytes| bytes[end - 1] = 0xff, &["experts.1", "element 352", "NaN"]);
    let header = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    };
    check(&plan, &header("[8,32]", "[4,64]"), &["experts.0", "[8, 32]"]);
}
