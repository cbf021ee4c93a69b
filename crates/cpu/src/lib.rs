//! The host's cores as a [`model::Backend`]: the embedded default, and the reference for every GPU
//! kernel.
//!
//! Activations are f32, weights stay in the checkpoint's format (4-bit ones too) and are unpacked a
//! few rows at a time. Every sum has one order, fixed by the length alone ([`dot`]): 16 lanes, each
//! fused-multiply-adding its elements in ascending order, then a fixed tree. AVX-512, AVX2 and
//! portable code are compiled from the same source and give the same bits.

mod attention;
mod backend;
mod dot;
mod experts;
mod group;
mod matmul;
mod norm;
mod route;
mod sample;
mod simd;
mod unpack;

pub use backend::{Buffer, Cpu, weight_bytes};
pub use group::Group;
