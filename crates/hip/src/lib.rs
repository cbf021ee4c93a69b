//! The GPU backend: one rank on one GPU.
//!
//! AMD's HIP runtime and RCCL (or, for development, NVIDIA's driver and NCCL) are opened at run
//! time ([`Runtime`], [`Device`], [`Stream`], [`Communicator`]); the kernels of `kernels/` are
//! compiled by the build and embedded ([`Kernels`]), each with a launcher of the same name in
//! [`kernels`]. [`Gpu`] is the backend: a [`Batch`](model::Batch) enters as one copy of small
//! numbers to the device, and drawn tokens leave as one copy back. Decode batches run as graphs,
//! recorded once for each size.

mod backend;
mod blas;
mod collective;
mod device;
mod error;
mod gpu;
mod input;
pub mod kernels;
mod modules;
mod moe;
mod peers;
mod prompts;
mod recording;
mod sampler;
mod staging;
mod steps;
mod stream;
mod sys;
mod tensor_map;
mod timing;
mod warm_up;
mod weights;

pub use blas::Blas;
pub use collective::{Communicator, Meeting};
pub use device::{Device, Memory, Pinned, Runtime};
pub use error::Error;
pub use gpu::{
    AllReduce, Buffer, Gpu, Options, Weights, cache_bytes, decode_buckets, scratch_bytes,
};
pub use modules::{Kernel, Kernels, code_objects};
pub use moe::{Experts, Quantized, Routing};
pub use peers::Peers;
pub use sampler::{Round, Sampler};
pub use staging::Staging;
pub use stream::{Event, Graph, Stream};
pub use sys::Platform;
pub use warm_up::warm_up;
pub use weights::{Dense, LatentProjection, weight_bytes};
