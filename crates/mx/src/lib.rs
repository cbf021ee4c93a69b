//! The number formats of 4-bit checkpoints: E2M1 and E4M3 elements, E8M0 scales, MXFP4 and MXFP8
//! blocks of 32 (OCP Microscaling Formats 1.0), INT4 groups of 32, and BF16.
//!
//! Data enters and leaves as `f32` slices and packed bytes; nothing here allocates or fails.

pub mod bf16;
pub mod block;
pub mod e2m1;
pub mod e4m3;
pub mod e8m0;
pub mod int4;

pub use block::{BLOCK, dequantize_mxfp4, quantize_mxfp4, round_trip_mxfp4, round_trip_mxfp8};
pub use e2m1::Ties;
pub use e8m0::ScaleRule;
