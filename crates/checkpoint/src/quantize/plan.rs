//! What becomes of every tensor, decided from the shards' headers.

use safetensors::Dtype;
use serde_json::Value;

use super::QuantizeOptions;
use super::layout::layout;
use super::output::Output;
use super::pieces::Pieces;
use super::planner::Planner;
use super::source::{Inputs, Source};
use super::table::table;
use crate::CheckpointError;
use crate::shards::Shards;

/// What a tensor becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sink {
    /// The same bytes.
    Same,
    /// BF16: compressed, but not to be quantized.
    Bf16,
    /// MXFP4.
    Mxfp4,
}

/// One tensor of the input (a compressed one's parts together) and where it goes.
#[derive(Debug)]
pub(super) struct TensorPlan {
    /// Full name, in the input.
    pub(super) name: String,
    /// Full name of the weight, or of the tensor itself, in the output.
    pub(super) output: String,
    pub(super) class: &'static str,
    pub(super) source: Source,
    pub(super) sink: Sink,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Where its bytes begin in the output file: the weight's and, if MXFP4, the scales'.
    pub(super) at: [usize; 2],
}

/// One output shard.
#[derive(Debug)]
pub(super) struct ShardPlan {
    /// File name, the input's.
    pub(super) file: String,
    /// Everything before the tensors' bytes.
    pub(super) header: Vec<u8>,
    /// Bytes of the whole file.
    pub(super) bytes: usize,
    pub(super) tensors: Vec<TensorPlan>,
}

/// A line of the table: tensors of one class that change from one format to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What the tensors are for.
    pub class: &'static str,
    /// Their format.
    pub from: &'static str,
    /// What it becomes.
    pub to: &'static str,
    /// How many they are; a weight with its scales counts once.
    pub tensors: usize,
    /// Bytes in the input, scales included.
    pub before: usize,
    /// Bytes in the output.
    pub after: usize,
}

/// A checkpoint and what is to become of it.
pub struct Quantization {
    pub(super) options: QuantizeOptions,
    /// `config.json` of the input.
    pub(super) config: Value,
    pub(super) inputs: Inputs,
    pub(super) shards: Vec<ShardPlan>,
    pub(super) pieces: Pieces,
    /// Linear modules that are not quantized, sorted.
    pub(super) kept: Vec<String>,
    rows: Vec<Row>,
    patterns: Vec<(String, usize)>,
    skipped: Vec<String>,
}

impl Quantization {
    /// Reads the headers of `options.model` and decides; writes nothing.
    ///
    /// # Errors
    /// A missing or malformed file; a weight in another format than the four, or whose parts do not
    /// fit one another; with `strict`, one whose inputs are no multiple of 32; an output directory
    /// that is the input; less memory than one thread needs.
    pub fn plan(options: QuantizeOptions) -> Result<Quantization, CheckpointError> {
        Output::differs(&options.output, &options.model)?;
        let path = options.model.join("config.json");
        let bytes = std::fs::read(&path)
            .map_err(|reason| CheckpointError::Io { path: path.clone(), reason })?;
        let config = serde_json::from_slice(&bytes)
            .map_err(|e| CheckpointError::File { path, problem: format!("not JSON: {e}") })?;
        let shards = Shards::open(&options.model)?;
        let mut planner = Planner::new(&shards, &options);
        let mut names: Vec<&str> = shards.names().collect();
        names.sort_unstable();
        for name in &names {
            planner.tensor(name)?;
        }
        let scales = planner.scales;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pieces = Pieces::fit(options.max_memory, names.len(), scales, threads);
        let pieces = pieces.map_err(|least| CheckpointError::File {
            path: options.model.clone(),
            problem: format!(
                "--max-memory {}: at least {least} bytes are needed",
                options.max_memory
            ),
        })?;
        let Planner { kept, skipped, patterns, by_shard, .. } = planner;
        let rows = table(by_shard.iter().flatten());
        let files = shards.files().zip(by_shard).filter(|(_, tensors)| !tensors.is_empty());
        let plans =
            files.map(|((path, _), tensors)| layout(path, tensors)).collect::<Result<_, _>>();
        let inputs = Inputs::open(&shards)?;
        Ok(Quantization {
            options,
            config,
            inputs,
            shards: plans?,
            pieces,
            kept,
            rows,
            patterns,
            skipped,
        })
    }

    /// The table, in the order of a forward pass.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Each pattern with how many modules it excludes.
    pub fn patterns(&self) -> &[(String, usize)] {
        &self.patterns
    }

    /// Weights that stay as they are because their inputs are no multiple of 32.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Bytes that will be read.
    pub fn input_bytes(&self) -> usize {
        self.rows.iter().map(|row| row.before).sum()
    }

    /// Bytes of all tensors in the output.
    pub fn output_bytes(&self) -> usize {
        self.rows.iter().map(|row| row.after).sum()
    }

    pub(super) fn fault(&self, tensor: &TensorPlan, problem: String) -> CheckpointError {
        let path = self.inputs.path(tensor.source.main().shard).clone();
        CheckpointError::Tensor { path, tensor: tensor.name.clone(), problem }
    }
}

impl TensorPlan {
    pub(super) fn elements(&self) -> usize {
        self.rows * self.cols
    }

    /// Name, type and shape of each tensor that is written.
    pub(super) fn written(&self) -> Vec<(String, Dtype, Vec<usize>)> {
        let (rows, cols) = (self.rows, self.cols);
        match self.sink {
            Sink::Same => {
                let tensor = self.source.main();
                vec![(self.output.clone(), tensor.dtype, tensor.shape.clone())]
            }
            Sink::Bf16 => vec![(self.output.clone(), Dtype::BF16, vec![rows, cols])],
            Sink::Mxfp4 => vec![
                (self.output.clone(), Dtype::U8, vec![rows, cols / 2]),
                (format!("{}_scale", self.output), Dtype::U8, vec![rows, cols / mx::BLOCK]),
            ],
        }
    }

    /// The format's name in the input.
    pub(super) fn from(&self) -> &'static str {
        match &self.source {
            Source::Fp8 { .. } => "FP8",
            Source::Int4 { .. } => "INT4",
            Source::Plain(tensor) => match tensor.dtype {
                Dtype::BF16 => "BF16",
                Dtype::F32 => "F32",
                _ => "other",
            },
        }
    }

    /// The format's name in the output.
    pub(super) fn to(&self) -> &'static str {
        match self.sink {
            Sink::Same => self.from(),
            Sink::Bf16 => "BF16",
            Sink::Mxfp4 => "MXFP4",
        }
    }
}
