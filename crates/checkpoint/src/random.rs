//! Checkpoints of random weights, in the shape of a real model with fewer layers: for loads and
//! speeds, not for answers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fastrand::Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value, json};

use crate::quantize::{Placed, entries, io, others, place, pretty, room};
use crate::{CheckpointError, Class, Config, Shape, TensorSpec};

/// What to write, and where.
#[derive(Debug, Clone)]
pub struct RandomOptions {
    /// Directory with `config.json`, tokenizer and template of the model to be like.
    pub like: PathBuf,
    /// Directory to write to; made if it does not exist.
    pub output: PathBuf,
    /// How many layers to have instead of the model's.
    pub layers: usize,
    /// What the weights depend on.
    pub seed: u64,
}

/// Bytes that a thread makes at a time.
const PIECE: usize = 4 << 20;

/// A shard to be written.
struct Shard {
    file: String,
    header: Vec<u8>,
    tensors: Vec<(String, TensorInfo)>,
    bytes: usize,
}

/// Writes a checkpoint with random weights: routed experts in MXFP4, all else as the model has it.
/// A row of a matrix has about the length 1. `progress` hears of bytes as they are written, of as
/// many in all as is returned.
///
/// # Errors
/// A model that cannot be read, a directory that has files already, a file that cannot be written.
pub fn write_random(
    options: &RandomOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<usize, CheckpointError> {
    let RandomOptions { like, output, layers, .. } = options;
    let config = Config { num_hidden_layers: *layers, ..Config::read(like)? };
    if *layers < config.first_k_dense_replace.max(1) {
        let problem =
            format!("{layers} layers, but the first {} are dense", config.first_k_dense_replace);
        return Err(CheckpointError::File { path: like.join("config.json"), problem });
    }
    std::fs::create_dir_all(output).map_err(|reason| io(output, reason))?;
    if let Some(path) = entries(output)?.first() {
        let problem = "is in the output directory, which must be empty".into();
        return Err(CheckpointError::File { path: path.clone(), problem });
    }
    let shards = shards(output, &config)?;
    let (all, copies) = (shards.iter().map(|shard| shard.bytes).sum(), others(like)?);
    room(output, shards.iter().map(|shard| shard.bytes as u64), &copies)?;
    for (number, shard) in shards.iter().enumerate() {
        write(output, shard, options.seed ^ (number as u64) << 48, &|bytes| progress(bytes, all))?;
    }
    for source in copies {
        let Some(name) = source.file_name() else { continue };
        std::fs::copy(&source, output.join(name)).map_err(|reason| io(&source, reason))?;
    }
    put(&output.join("model.safetensors.index.json"), &index(&shards, all))?;
    put(&output.join("config.json"), &changed_config(like, *layers)?)?;
    Ok(all)
}

/// One shard a layer, and one for what is in none.
fn shards(output: &Path, config: &Config) -> Result<Vec<Shard>, CheckpointError> {
    let mut specs: BTreeMap<usize, Vec<TensorSpec>> = BTreeMap::new();
    for spec in config.tensors() {
        let layer = spec.name.split('.').find_map(|part| part.parse().ok());
        specs.entry(layer.map_or(0, |layer: usize| layer + 1)).or_default().push(spec);
    }
    let count = specs.len();
    let shard = |(number, specs): (usize, Vec<TensorSpec>)| {
        let file = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        let Placed { header, tensors } = place(&output.join(&file), specs.iter().flat_map(stored))?;
        let bytes = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
        Ok(Shard { file, header, tensors, bytes })
    };
    specs.into_iter().map(shard).collect()
}

/// A tensor as files have it: name, type and shape of each part.
fn stored(spec: &TensorSpec) -> Vec<(String, Dtype, Vec<usize>)> {
    let name = format!("language_model.{}", spec.name);
    match spec.shape {
        Shape::Vector { len } if spec.class == Class::Router => vec![(name, Dtype::F32, vec![len])],
        Shape::Vector { len } => vec![(name, Dtype::BF16, vec![len])],
        Shape::Matrix { rows, cols } if spec.class == Class::Experts => vec![
            (format!("{name}.weight"), Dtype::U8, vec![rows, cols / 2]),
            (format!("{name}.weight_scale"), Dtype::U8, vec![rows, cols / mx::BLOCK]),
        ],
        Shape::Matrix { rows, cols } => {
            vec![(format!("{name}.weight"), Dtype::BF16, vec![rows, cols])]
        }
    }
}

/// Writes a shard, with all cores.
fn write(
    output: &Path,
    shard: &Shard,
    seed: u64,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<(), CheckpointError> {
    let path = output.join(&shard.file);
    let mut file = File::create(&path).map_err(|reason| io(&path, reason))?;
    file.write_all(&shard.header).map_err(|reason| io(&path, reason))?;
    let pieces: Vec<(&String, &TensorInfo, usize)> = shard
        .tensors
        .iter()
        .flat_map(|(name, info)| {
            let (begin, end) = info.data_offsets;
            (begin..end).step_by(PIECE).map(move |at| (name, info, at))
        })
        .collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || {
        let mut bytes = Vec::new();
        while let Some((name, info, at)) = pieces.get(next.fetch_add(1, Relaxed)) {
            let size = PIECE.min(info.data_offsets.1 - at);
            bytes.resize(size, 0);
            fill(&mut bytes, name, info, &mut Rng::with_seed(seed ^ *at as u64));
            if let Err(reason) = file.write_all_at(&bytes, (shard.header.len() + at) as u64) {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(reason);
                return;
            }
            progress(size);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(reason) => Err(io(&path, reason)),
        None => Ok(()),
    }
}

/// Random bytes of a part of a tensor: uniform between limits that make a row's length 1, or near
/// 1 for norms.
fn fill(bytes: &mut [u8], name: &str, info: &TensorInfo, random: &mut Rng) {
    match (info.dtype, info.shape.last()) {
        (Dtype::F32, _) => {
            for out in bytes.chunks_exact_mut(4) {
                out.copy_from_slice(&(symmetric(random) * 0.01).to_le_bytes());
            }
        }
        (Dtype::U8, Some(&blocks)) if name.ends_with("_scale") => {
            // Uniform codes have a root mean square of 2.9.
            let length = ((blocks * mx::BLOCK) as f32).sqrt() * 2.9;
            bytes.fill((127.0 - length.log2().round()) as u8);
        }
        (Dtype::U8, _) => random.fill(bytes),
        (_, cols) => {
            let (middle, limit) = match cols {
                Some(&cols) if info.shape.len() == 2 => (0.0, (3.0 / cols as f32).sqrt()),
                _ => (1.0, 0.1),
            };
            for out in bytes.chunks_exact_mut(2) {
                let value = mx::bf16::from_f32(middle + limit * symmetric(random));
                out.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

/// Uniform in [-1, 1).
fn symmetric(random: &mut Rng) -> f32 {
    2.0 * random.f32() - 1.0
}

fn index(shards: &[Shard], bytes: usize) -> Value {
    let places = shards.iter().flat_map(|shard| {
        shard.tensors.iter().map(|(name, _)| (name.clone(), Value::from(shard.file.as_str())))
    });
    let map: Map<String, Value> = places.collect();
    json!({"metadata": {"total_size": bytes}, "weight_map": map})
}

/// The model's configuration with so many layers, and nothing said of quantization.
fn changed_config(like: &Path, layers: usize) -> Result<Value, CheckpointError> {
    let path = like.join("config.json");
    let text = std::fs::read(&path).map_err(|reason| io(&path, reason))?;
    let fault = |e: serde_json::Error| CheckpointError::File { path, problem: e.to_string() };
    let mut config: Value = serde_json::from_slice(&text).map_err(fault)?;
    for part in ["", "/text_config"] {
        let Some(Value::Object(fields)) = config.pointer_mut(part) else { continue };
        fields.shift_remove("quantization_config");
        if let Some(count) = fields.get_mut("num_hidden_layers") {
            *count = Value::from(layers);
        }
    }
    Ok(config)
}

fn put(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    std::fs::write(path, pretty(value)).map_err(|reason| io(path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, Format};

    #[test]
    fn what_is_written_opens_as_a_checkpoint_of_so_many_layers() {
        let like = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let dir = tempfile::tempdir().expect("a directory");
        let output = dir.path().join("made");
        let mut options = RandomOptions { like, output: output.clone(), layers: 2, seed: 1 };
        let heard = AtomicUsize::new(0);
        let count = |bytes, _| {
            heard.fetch_add(bytes, Relaxed);
        };
        let bytes = write_random(&options, &count).expect("it is written");
        assert_eq!(heard.load(Relaxed), bytes);
        let made = Checkpoint::open(&output).expect("it opens");
        assert_eq!(made.config().num_hidden_layers, 2);
        // The demo's own says MXFP4.
        assert_eq!(made.config().activations, crate::Activations::Bf16);
        let experts: Vec<_> =
            made.tensors().iter().filter(|(spec, _)| spec.class == Class::Experts).collect();
        assert_eq!(experts.len(), 24 * 3);
        assert!(experts.iter().all(|(_, format)| *format == Format::Mxfp4));
        assert!(output.join("tiktoken.model").exists());
        for module in ["model.layers.1.self_attn.q_a_proj", "model.layers.1.mlp.experts.3.up_proj"]
        {
            let rows = made.matrix(module, 0, 1).expect("a matrix");
            let mut row = vec![0.0; rows.cols];
            rows.row(5, &mut row);
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            // Scales are powers of two: off by up to the root of 2, and a row is a sample.
            assert!((0.6..1.6).contains(&length), "{module}: {length}");
        }

        let again = write_random(&options, &count).expect_err("it is there already").to_string();
        assert!(again.contains("must be empty"), "{again}");
        options.layers = 0;
        options.output = dir.path().join("none");
        assert!(write_random(&options, &count).is_err());
    }
}
