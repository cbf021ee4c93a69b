//! The GPU backend: one rank on one GPU.
//!
//! AMD's HIP runtime and RCCL (or, for development, NVIDIA's driver and NCCL) are opened at run
//! time ([`Runtime`], [`Device`], [`Stream`], [`Communicator`]); the kernels of `kernels/` are
//! compiled by the build and embedded ([`Kernels`]), each with a launcher of the same name in
//! [`kernels`]. A [`Batch`](model::Batch) enters as one copy of small numbers to the device, and
//! drawn tokens leave as one copy back.

mod collective;
mod device;
mod error;
pub mod kernels;
mod modules;
mod sampler;
mod stream;
mod sys;

pub use collective::{Communicator, Meeting};
pub use device::{Device, Memory, Pinned, Runtime};
pub use error::Error;
pub use modules::{Kernel, Kernels};
pub use sampler::Sampler;
pub use stream::{Event, Graph, Stream};
pub use sys::Platform;
