//! Whole directories: good ones in every layout, and every way they can be broken.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, Class, Encoded, Format, Shape, end_ids};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;

fn data(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-k2").join(format)
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(format: &str) -> Tensors {
    let mut all = Tensors::new();
    for shard in 1..=2 {
        let path = data(format).join(format!("model-0000{shard}-of-00002.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            all.insert(name.to_owned(), tensor);
        }
    }
    all
}

/// A directory with one `model.safetensors`.
fn write(tensors: &Tensors, format: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    std::fs::copy(data(format).join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

/// What opening and reading everything says about `mxfp4` after a change.
fn error_after(change: impl FnOnce(&mut Tensors)) -> String {
    let mut tensors = tensors("mxfp4");
    change(&mut tensors);
    let dir = write(&tensors, "mxfp4");
    let read_all = || {
        let checkpoint = Checkpoint::open(dir.path())?;
        for (spec, _) in checkpoint.tensors() {
            match spec.shape {
                Shape::Matrix { .. } => drop(checkpoint.matrix(&spec.name, 0, 1)?),
                Shape::Vector { .. } => drop(checkpoint.vector(&spec.name)?),
            }
        }
        Ok::<_, checkpoint::CheckpointError>(())
    };
    let error = read_all().unwrap_err().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn formats_are_told_from_the_headers() {
    for (name, expected) in [("mxfp4", Format::Mxfp4), ("w4a16", Format::Int4)] {
        let checkpoint = Checkpoint::open(&data(name)).unwrap();
        for (spec, format) in checkpoint.tensors() {
            match spec.class {
                Class::Experts => assert_eq!(*format, expected, "{}", spec.name),
                _ if spec.name.ends_with("e_score_correction_bias") => {
                    assert_eq!(*format, Format::F32);
                }
                _ => assert_eq!(*format, Format::Bf16, "{}", spec.name),
            }
        }
        assert_eq!(end_ids(&data(name)).unwrap(), [770]);
    }
}

#[test]
fn without_prefix_with_vision_and_with_quantized_router_and_head() {
    let mut tensors: Tensors = tensors("mxfp4")
        .into_iter()
        .map(|(name, tensor)| (name.replace("language_model.", ""), tensor))
        .collect();
    let quantize = |tensors: &mut Tensors, module: &str| {
        let (_, shape, _) = tensors.remove(&format!("{module}.weight")).unwrap();
        let (rows, cols) = (shape[0], shape[1]);
        let weight = (Dtype::U8, vec![rows, cols / 2], vec![0x21; rows * cols / 2]);
        let scale = (Dtype::U8, vec![rows, cols / 32], vec![127; rows * cols / 32]);
        tensors.insert(format!("{module}.weight"), weight);
        tensors.insert(format!("{module}.weight_scale"), scale);
    };
    for module in ["lm_head", "model.layers.1.mlp.gate", "model.layers.0.mlp.down_proj"] {
        quantize(&mut tensors, module);
    }
    let image = (Dtype::BF16, vec![2], vec![0; 4]);
    tensors.insert("vision_tower.patch_embed.proj.bias".into(), image);
    let dir = write(&tensors, "mxfp4");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.vision_tensors(), 1);
    let head = checkpoint.matrix("lm_head", 1, 2).unwrap();
    assert_eq!((head.rows, head.cols), (512, 256));
    assert!(matches!(head.data, Encoded::Mxfp4 { .. }));
    let mut row = vec![0.0; 256];
    head.row(511, &mut row);
    assert_eq!(row[..2], [0.5, 1.0]);
}

/// The ranks' parts, put together again, are the whole, value by value.
#[test]
fn ranks_share_every_matrix_without_gap_or_overlap() {
    for name in ["mxfp4", "w4a16"] {
        let checkpoint = Checkpoint::open(&data(name)).unwrap();
        for (spec, _) in checkpoint.tensors() {
            let Shape::Matrix { rows, cols } = spec.shape else { continue };
            let whole = checkpoint.matrix(&spec.name, 0, 1).unwrap();
            for ranks in [2, 4] {
                let parts: Vec<_> =
                    (0..ranks).map(|r| checkpoint.matrix(&spec.name, r, ranks).unwrap()).collect();
                let (mut expected, mut found) = (vec![0.0; cols], Vec::new());
                for row in 0..rows {
                    whole.row(row, &mut expected);
                    found.clear();
                    for (rank, part) in parts.iter().enumerate() {
                        let own = match part.rows == rows {
                            true => Some(row),
                            false => row.checked_sub(rank * part.rows).filter(|r| *r < part.rows),
                        };
                        if let Some(own) = own.filter(|_| part.cols < cols || found.is_empty()) {
                            found.resize(found.len() + part.cols, 0.0);
                            let start = found.len() - part.cols;
                            part.row(own, &mut found[start..]);
                        }
                    }
                    assert_eq!(found, expected, "{} row {row} of {ranks} ranks", spec.name);
                }
            }
        }
    }
}

#[test]
fn tensors_at_fault_are_named() {
    let expert = "language_model.model.layers.1.mlp.experts.3.up_proj";
    let check = |error: String, parts: &[&str]| {
        for part in parts {
            assert!(error.contains(part), "{error}: {part}");
        }
    };
    let weight = format!("{expert}.weight");
    let scale = format!("{expert}.weight_scale");
    check(error_after(|t| drop(t.remove(&weight))), &[&weight, "missing"]);
    check(error_after(|t| drop(t.remove(&scale))), &[&scale, "missing"]);
    let error = error_after(|t| t.get_mut(&scale).unwrap().2[77] = 0xff);
    check(error, &[&scale, "0xFF", "model.safetensors"]);
    let error = error_after(|t| t.get_mut(&weight).unwrap().1 = vec![64, 256]);
    check(error, &[&weight, "[64, 256]", "[128, 128]", "config.json"]);
    let error = error_after(|t| t.get_mut(&weight).unwrap().0 = Dtype::F8_E4M3);
    check(error, &[&weight, "[128, 128]"]);
    let norm = "language_model.model.norm.weight";
    let error = error_after(|t| t.get_mut(norm).unwrap().2[..2].copy_from_slice(&[0xc0, 0x7f]));
    check(error, &[norm, "element 0 is NaN"]);
    let error = error_after(|t| t.get_mut(norm).unwrap().0 = Dtype::F16);
    check(error, &[norm, "unknown quantization", "F16"]);
}

#[test]
fn files_at_fault_are_named() {
    let copy = || {
        let dir = TempDir::new().unwrap();
        for entry in std::fs::read_dir(data("mxfp4")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        dir
    };
    let shard = "model-00002-of-00002.safetensors";
    let check = |break_it: &dyn Fn(&Path), parts: &[&str]| {
        let dir = copy();
        break_it(dir.path());
        let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}: {part}");
        }
    };
    check(&|d| std::fs::remove_file(d.join(shard)).unwrap(), &[shard, "No such file"]);
    check(&|d| std::fs::remove_file(d.join("config.json")).unwrap(), &["config.json"]);
    let truncate = |d: &Path| {
        let bytes = std::fs::read(d.join(shard)).unwrap();
        std::fs::write(d.join(shard), &bytes[..bytes.len() - 1]).unwrap();
    };
    check(&truncate, &[shard, "truncated"]);
    check(&|d| std::fs::write(d.join(shard), b"").unwrap(), &[shard]);
    check(&|d| std::fs::write(d.join(shard), [0xff; 64]).unwrap(), &[shard, "truncated"]);
    let index = "model.safetensors.index.json";
    check(&|d| std::fs::write(d.join(index), b"[]").unwrap(), &[index, "not an index"]);
    let outside = br#"{"weight_map": {"a": "../b.safetensors"}}"#;
    check(&|d| std::fs::write(d.join(index), outside).unwrap(), &[index, "../b.safetensors"]);
    let swap = |d: &Path| {
        let text = std::fs::read_to_string(d.join(index)).unwrap();
        std::fs::write(d.join(index), text.replacen("00001-of", "00002-of", 1)).unwrap();
    };
    check(&swap, &[shard, "not in this shard"]);
}
