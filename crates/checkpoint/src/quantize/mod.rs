//! The quantizer: a checkpoint's shards to MXFP4 shards in Quark's layout, file to file.
//!
//! [`Quantization::plan`] reads headers only and decides for every tensor; the caller shows the
//! plan. [`Quantization::write`] then cuts the tensors into pieces of bounded size, which all cores
//! read, convert (round to nearest) and write to their places: the output's layout is known
//! beforehand, so no order is kept and no tensor is ever held. A shard gets its name when it is
//! complete (`output`); `config.json` comes last. [`Quantization::verify`] reads both sides again.

mod config;
mod fnmatch;
mod layout;
mod output;
mod pieces;
mod plan;
mod planner;
mod source;
mod table;
mod verify;
mod write;

use std::path::PathBuf;

use mx::ScaleRule;

pub(crate) use layout::{Placed, place};
pub(crate) use output::{entries, io, others, pretty, room};
pub use plan::{Quantization, Row};
pub use verify::ClassError;

/// The model card's list: what stays as it is.
pub const DEFAULT_EXCLUDES: [&str; 6] =
    ["lm_head", "*self_attn*", "*.gate", "*shared_experts*", "*embed*", "*norm*"];

/// What to quantize, and how.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// Directory of the checkpoint: BF16, F32, FP8 in blocks of 128 x 128, or INT4 W4A16.
    pub model: PathBuf,
    /// Directory to write to; made if it does not exist.
    pub output: PathBuf,
    /// Modules that are not quantized: Python's fnmatch on their full names, or on their names
    /// within the language model.
    pub exclude: Vec<String>,
    /// [`ScaleRule::Even`], [`ScaleRule::Floor`] or [`ScaleRule::Ceil`].
    pub rule: ScaleRule,
    /// Most bytes of memory to use.
    pub max_memory: usize,
    /// Refuse what would otherwise be left as it is: inputs that are no multiple of 32.
    pub strict: bool,
    /// Replace a checkpoint that is in `output`.
    pub force: bool,
}
