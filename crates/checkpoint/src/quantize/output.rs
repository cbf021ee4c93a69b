//! The output directory: whose it is, whether there is room, and what is complete in it.
//!
//! A file is written under its name and `.partial`, flushed, and renamed. A record of the run lies
//! beside the shards until all is done: only a run with the same record may go on with what is
//! there. `config.json`, without which nothing is a checkpoint, comes last.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::{quantized, rule_name};
use super::plan::{Quantization, ShardPlan};
use crate::CheckpointError;

const RECORD: &str = ".moonrock-quantize.json";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";

/// An output directory that this process has for itself.
pub(super) struct Output {
    dir: PathBuf,
    /// Tokenizer, template and so on: copied as they are.
    others: Vec<PathBuf>,
    /// Held as long as the file is open.
    _lock: File,
}

impl Output {
    /// Refuses an output that is the input.
    pub(super) fn differs(output: &Path, model: &Path) -> Result<(), CheckpointError> {
        match (output.canonicalize(), model.canonicalize()) {
            (Ok(output), Ok(model)) if output == model => Err(CheckpointError::File {
                path: output,
                problem: "the output directory is the input directory".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Takes the directory, makes it if need be, and removes what `force` may replace.
    ///
    /// # Errors
    /// Another run that is writing there; files in the way; too little room.
    pub(super) fn prepare(plan: &Quantization) -> Result<Output, CheckpointError> {
        let (dir, force) = (plan.options.output.clone(), plan.options.force);
        let others = others(&plan.options.model)?;
        let record = record(plan)?;
        let found = std::fs::read_to_string(dir.join(RECORD)).ok();
        let resumes = found.as_ref() == Some(&record);
        let shards = plan.shards.iter().map(|shard| dir.join(&shard.file));
        let rest = others.iter().filter_map(|path| path.file_name()).map(|name| dir.join(name));
        let last = [dir.join(INDEX), dir.join(CONFIG)];
        let own: Vec<PathBuf> = shards.chain(rest).chain(last).collect();
        if !resumes
            && !force
            && let Some(path) = own.iter().find(|path| path.exists())
        {
            let problem = match found {
                Some(_) => "left by a run with other options or input; --force starts anew",
                None => "exists already; --force replaces it",
            };
            return Err(CheckpointError::File { path: path.clone(), problem: problem.into() });
        }
        let done = |shard: &&ShardPlan| resumes && is_complete(&dir, shard);
        room(&dir, plan.shards.iter().filter(|s| !done(s)).map(|s| s.bytes as u64), &others)?;
        std::fs::create_dir_all(&dir).map_err(|reason| io(&dir, reason))?;
        let lock = lock(&dir)?;
        if !resumes {
            // The configuration first: what is left behind it is no checkpoint any more.
            remove(&dir.join(CONFIG))?;
            for path in own.iter().chain(&shards_in(&dir)?) {
                remove(path)?;
            }
        }
        for path in &own {
            remove(&partial(path))?;
        }
        let output = Output { dir, others, _lock: lock };
        output.put(RECORD, record.as_bytes())?;
        Ok(output)
    }

    /// Whether a shard is there already.
    pub(super) fn has(&self, shard: &ShardPlan) -> bool {
        is_complete(&self.dir, shard)
    }

    /// Begins a shard: its header, and room for its tensors.
    pub(super) fn begin(&self, shard: &ShardPlan) -> Result<(PathBuf, File), CheckpointError> {
        let path = self.dir.join(&shard.file);
        let temporary = partial(&path);
        let begin = || {
            let mut file = File::create(&temporary)?;
            file.set_len(shard.bytes as u64)?;
            file.write_all(&shard.header)?;
            Ok(file)
        };
        begin().map(|file| (path, file)).map_err(|reason| io(&temporary, reason))
    }

    /// Writes everything but the shards, the configuration last.
    pub(super) fn finish(&self, plan: &Quantization) -> Result<(), CheckpointError> {
        for source in &self.others {
            let Some(name) = source.file_name() else { continue };
            let path = self.dir.join(name);
            let copy = std::fs::copy(source, partial(&path));
            copy.and_then(|_| std::fs::rename(partial(&path), &path))
                .map_err(|reason| io(&path, reason))?;
        }
        self.put(INDEX, pretty(&index(plan)).as_bytes())?;
        let config = quantized(plan.config.clone(), plan.options.rule, &plan.kept);
        self.put(CONFIG, pretty(&config).as_bytes())?;
        remove(&self.dir.join(RECORD))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.dir.join(name);
        let write = || {
            let mut file = File::create(partial(&path))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(partial(&path), &path)
        };
        write().map_err(|reason| io(&path, reason))
    }
}

/// The name a file has until it is complete.
pub(super) fn partial(path: &Path) -> PathBuf {
    path.with_added_extension("partial")
}

pub(crate) fn io(path: &Path, reason: std::io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), reason }
}

/// A shard has its name only when it is complete; its size is looked at for good measure.
fn is_complete(dir: &Path, shard: &ShardPlan) -> bool {
    dir.join(&shard.file).metadata().is_ok_and(|found| found.len() == shard.bytes as u64)
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    match std::fs::remove_file(path) {
        Err(reason) if reason.kind() != ErrorKind::NotFound => Err(io(path, reason)),
        _ => Ok(()),
    }
}

fn lock(dir: &Path) -> Result<File, CheckpointError> {
    let file = File::open(dir).map_err(|reason| io(dir, reason))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CheckpointError::File {
            path: dir.to_owned(),
            problem: "another run is writing here".into(),
        }),
        Err(TryLockError::Error(reason)) => Err(io(dir, reason)),
    }
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let list = std::fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = list.map_err(|reason| io(dir, reason))?;
    paths.sort();
    Ok(paths)
}

fn shards_in(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut paths = entries(dir)?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    Ok(paths)
}

/// The input's files that are neither weights nor hidden nor written anew.
pub(crate) fn others(model: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut paths = entries(model)?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let anew = name == CONFIG || name == INDEX || name.ends_with(".safetensors");
        path.is_file() && !anew && !name.starts_with('.')
    });
    Ok(paths)
}

/// Refuses what the file system has no room for.
pub(crate) fn room(
    dir: &Path,
    shards: impl Iterator<Item = u64>,
    others: &[PathBuf],
) -> Result<(), CheckpointError> {
    let absolute = std::path::absolute(dir).map_err(|reason| io(dir, reason))?;
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(&absolute);
    let stat = rustix::fs::statvfs(there).map_err(|errno| io(there, errno.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let copies = others.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len());
    let needed = shards.chain(copies).fold(0, u64::saturating_add);
    if needed <= free {
        return Ok(());
    }
    let problem = format!("no space: {needed} bytes are needed, {free} are free");
    Err(CheckpointError::File { path: dir.to_owned(), problem })
}

/// What must be the same for a run to go on where another was stopped.
fn record(plan: &Quantization) -> Result<String, CheckpointError> {
    let inputs = plan.inputs.paths().map(|path| {
        let found = path.metadata().map_err(|reason| io(path, reason))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(json!([name, found.len(), found.mtime(), found.mtime_nsec()]))
    });
    let record = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "exclude": plan.options.exclude,
        "scale_rule": rule_name(plan.options.rule),
        "input": inputs.collect::<Result<Vec<Value>, CheckpointError>>()?,
    });
    Ok(pretty(&record))
}

/// Each tensor's shard, sorted by tensor.
fn index(plan: &Quantization) -> Value {
    let mut places: Vec<(String, &str)> = Vec::new();
    for shard in &plan.shards {
        for tensor in &shard.tensors {
            let names = tensor.written().into_iter().map(|(name, _, _)| name);
            places.extend(names.map(|name| (name, shard.file.as_str())));
        }
    }
    places.sort_unstable();
    let map: Map<String, Value> =
        places.into_iter().map(|(name, file)| (name, Value::from(file))).collect();
    json!({"metadata": {"total_size": plan.output_bytes()}, "weight_map": map})
}

pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
