//! A Kimi-K2 checkpoint on disk: named, typed, checked, and sharded by rank.
//!
//! Data enters as a directory (`config.json`, safetensors shards, their index) and leaves as
//! [`Matrix`] and `Vec<f32>` values that hold only the bytes a rank needs. [`Checkpoint::open`]
//! maps the shards, resolves every tensor that the configuration calls for ([`Config::tensors`]),
//! decides each one's format from the file's header alone, and checks every shape before a byte is
//! used. [`Quantization`] makes one checkpoint from another: 4-bit weights by round to nearest;
//! [`write_random`] makes one of random weights.

mod config;
mod error;
mod generation;
mod inventory;
mod matrix;
mod open;
mod quantize;
mod random;
mod shards;

pub use config::{Activations, Config, LATENT_NORM_EPS, Yarn};
pub use error::CheckpointError;
pub use generation::end_ids;
pub use inventory::{Class, Shape, Split, TensorSpec};
pub use matrix::{Encoded, Matrix};
pub use open::{Checkpoint, Format};
pub use quantize::{ClassError, DEFAULT_EXCLUDES, Quantization, QuantizeOptions, Row};
pub use random::{RandomOptions, write_random};
