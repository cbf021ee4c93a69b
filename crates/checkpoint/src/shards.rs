//! The safetensors shards of a directory, memory-mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::CheckpointError;

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) shard: usize,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Range<usize>,
}

/// The mapped files and their tensors.
#[derive(Debug)]
pub(crate) struct Shards {
    files: Vec<(PathBuf, Mmap)>,
    tensors: HashMap<String, Located>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Maps every shard that the index names, or the directory's one `model.safetensors`.
    pub(crate) fn open(dir: &Path) -> Result<Shards, CheckpointError> {
        let index_path = dir.join("model.safetensors.index.json");
        let (names, index) = if index_path.exists() {
            let index = read_index(&index_path)?;
            (index.weight_map.values().cloned().collect::<BTreeSet<_>>(), Some(index))
        } else {
            (BTreeSet::from(["model.safetensors".to_owned()]), None)
        };
        let mut shards = Shards { files: Vec::new(), tensors: HashMap::new() };
        for name in names {
            shards.add(dir.join(name))?;
        }
        for (tensor, file) in index.iter().flat_map(|index| &index.weight_map) {
            let found = shards.tensors.get(tensor).map(|t| shards.path(t.shard));
            if found != Some(&dir.join(file)) {
                return Err(CheckpointError::Tensor {
                    path: dir.join(file),
                    tensor: tensor.clone(),
                    problem: "not in this shard, though the index says so".into(),
                });
            }
        }
        Ok(shards)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let map = map(&path)?;
        let parsed = SafeTensors::read_metadata(&map);
        let (header, metadata) = parsed.map_err(|error| CheckpointError::File {
            path: path.clone(),
            problem: format!("truncated or not a safetensors file ({error})"),
        })?;
        let data = header + size_of::<u64>();
        let shard = self.files.len();
        for (name, info) in metadata.tensors() {
            let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
            let located = Located { shard, dtype: info.dtype, shape: info.shape.clone(), bytes };
            if let Some(first) = self.tensors.insert(name.clone(), located) {
                let problem = format!("already in {}", self.path(first.shard).display());
                return Err(CheckpointError::Tensor { path, tensor: name, problem });
            }
        }
        self.files.push((path, map));
        Ok(())
    }

    /// The tensors' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Located> {
        self.tensors.get(name)
    }

    /// A tensor's bytes; nothing is read until they are touched.
    pub(crate) fn bytes(&self, tensor: &Located) -> &[u8] {
        &self.files[tensor.shard].1[tensor.bytes.clone()]
    }

    pub(crate) fn path(&self, shard: usize) -> &PathBuf {
        &self.files[shard].0
    }

    /// The mapped files and their sizes in bytes.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.files.iter().map(|(path, map)| (path.as_path(), map.len()))
    }
}

fn read_index(path: &Path) -> Result<Index, CheckpointError> {
    let bytes = std::fs::read(path)
        .map_err(|reason| CheckpointError::Io { path: path.to_owned(), reason })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| CheckpointError::File {
        path: path.to_owned(),
        problem: format!("not an index of shards: {error}"),
    })?;
    // A name with a separator could leave the directory.
    match index.weight_map.values().find(|name| name.contains(['/', '\\'])) {
        Some(name) => Err(CheckpointError::File {
            path: path.to_owned(),
            problem: format!("weight_map names {name:?}, expected a file of this directory"),
        }),
        None => Ok(index),
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe by nature; this is the only place")]
fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let io = |reason| CheckpointError::Io { path: path.to_owned(), reason };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is read-only and private to `Shards`. A checkpoint that is changed while
    // the server reads it is outside of what the format allows; weights are copied out at load.
    unsafe { Mmap::map(&file) }.map_err(io)
}
