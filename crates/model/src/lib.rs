//! Kimi-K2 (DeepSeek-V3 architecture), written once.
//!
//! A [`Model`] is one rank's share of the weights on one [`Backend`]; [`Model::compute`] is the
//! whole forward pass. Data enters as a [`Batch`] (prompt chunks and decode tokens with their KV
//! blocks) and leaves as one [`RowOutput`] per row whose logits were wanted. [`Ranks`] runs the
//! ranks of a tensor-parallel group on threads of their own.

mod backend;
mod batch;
mod forward;
mod limits;
mod ranks;
pub mod rope;
mod sampling;
mod weights;

pub use backend::{Backend, CacheFormat, CacheShape, HeadShape, RouterShape};
pub use batch::{Batch, Carried, OutputRow, RowOutput, Span, Want};
pub use forward::Model;
pub use limits::{Limits, weight_bytes};
pub use ranks::Ranks;
pub use sampling::{Draw, LateMask, SamplingParams, TokenCounts, TokenMask, uniform};
pub use weights::LoadError;

/// A device or a collective failed. What ran on it is lost; the process must not go on with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);
