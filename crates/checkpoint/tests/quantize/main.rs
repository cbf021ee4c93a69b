//! The quantizer: bytes, directories, refusals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod demo;
mod directory;
mod formats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::{DEFAULT_EXCLUDES, Quantization, QuantizeOptions};
use mx::ScaleRule;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;

/// Type, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A path in this repository.
fn repository(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(relative)
}

fn read_file(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let tensor = |(name, view): (&str, TensorView)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    SafeTensors::deserialize(&bytes).unwrap().iter().map(tensor).collect()
}

/// The tensors of all shards of a directory.
fn read_all(dir: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            all.extend(read_file(&path));
        }
    }
    all
}

fn write_file(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A directory with an empty config.json and one `model.safetensors`.
fn directory(tensors: &Tensors) -> TempDir {
    let dir = TempDir::new().unwrap();
    write_file(&dir.path().join("model.safetensors"), tensors);
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    dir
}

fn options(model: &Path, output: &Path) -> QuantizeOptions {
    QuantizeOptions {
        model: model.to_owned(),
        output: output.to_owned(),
        exclude: DEFAULT_EXCLUDES.map(str::to_owned).to_vec(),
        rule: ScaleRule::Even,
        max_memory: 64 << 20,
        strict: false,
        force: false,
    }
}

/// Plans and writes.
fn quantize(options: QuantizeOptions) -> Result<Quantization, checkpoint::CheckpointError> {
    let plan = Quantization::plan(options)?;
    plan.write(&|_| ())?;
    Ok(plan)
}

/// A BF16 matrix with every value different.
fn bf16_matrix(rows: usize, cols: usize) -> (Dtype, Vec<usize>, Vec<u8>) {
    let value = |i: usize| mx::bf16::from_f32((i as f32 - 700.0) / 512.0);
    let bytes = (0..rows * cols).flat_map(|i| value(i).to_le_bytes()).collect();
    (Dtype::BF16, vec![rows, cols], bytes)
}
