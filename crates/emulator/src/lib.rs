//! A gfx950 (MI355X) in software, behind the C symbols of `libamdhip64.so` and `librccl.so`.
//! Of `librocm-core.so` it has the release.
//!
//! A code object is loaded as it is, decoded once through LLVM's disassembler, and executed wave by
//! wave with checks that hardware does not make. See the crate's README for what is modelled.
//!
//! * [`elf`], [`decode`], [`code`], [`inst`]: from a file to instructions.
//! * [`wave`], [`env`], [`exec`], [`simd`]: what an instruction does.
//! * [`memory`], [`check`], [`strict`]: memory, its shadows, and the checks.
//! * [`sched`]: workgroups and waves, in a seeded order.
//! * [`counters`]: what a launch did.

mod api;
pub mod check;
pub mod code;
pub mod config;
pub mod counters;
mod decode;
pub mod elf;
pub mod env;
mod exec;
pub mod formats;
mod fpmode;
pub mod inst;
pub mod loader;
pub mod memory;
mod msgpack;
mod runtime;
pub mod sched;
pub mod simd;
mod strict;
pub mod wave;

/// Devices of one process.
pub const MAX_DEVICES: usize = 8;

/// Every mnemonic of the execution tables; compares, memory, matrix and scaled conversions are
/// decoded by pattern instead.
pub fn opcodes() -> Vec<&'static str> {
    exec::tables().into_iter().flatten().map(|(n, _)| *n).collect()
}
