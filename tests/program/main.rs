//! The real binary, started as a user starts it.
//!
//! `MOONROCK_BIN` names another build of it (scripts/test: the release build).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod eval;
mod fuzz;
mod gpu;
mod identity;
mod kernels;
mod lm_eval;
mod load;
mod quantize;
mod reference;
mod sdk;
mod server;
mod soak;
mod start;
mod tls;
