//! The emulator's counters, as it writes them to the file that `EMU_COUNTERS` names: a JSON line
//! for each launch.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::case::{Cost, Rate};

/// MI355X: bytes of memory per second, and operations per second of its matrix units.
const BYTES_PER_S: f64 = 8e12;
fn operations_per_s(rate: Rate) -> f64 {
    match rate {
        Rate::Bf16 => 2.5e15,
        Rate::Fp8 => 5e15,
        Rate::Fp4 => 10e15,
    }
}

/// Seconds that MI355X takes at least.
pub(super) fn roofline(cost: Cost) -> f64 {
    let operations = cost.operations as f64 / operations_per_s(cost.rate);
    operations.max(cost.bytes as f64 / BYTES_PER_S)
}

/// Cycles in which a SIMD issues one instruction of a wave of 64 that is no matrix instruction.
const ISSUE_CYCLES: u64 = 4;

#[derive(Deserialize)]
struct Launch {
    kernel: String,
    instructions: BTreeMap<String, u64>,
    bytes_read: BTreeMap<String, u64>,
    bytes_written: BTreeMap<String, u64>,
    distinct_bytes: u64,
    lds_cycles: u64,
    lds_conflict_cycles: u64,
    mfma_cycles: u64,
    vgprs: u64,
    agprs: u64,
    emulated_seconds: f64,
}

/// What the launches of a case did together.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counters {
    /// The kernels, in order.
    pub(super) kernels: Vec<String>,
    /// Distinct bytes that each launch touched, and those changed in place a second time: what
    /// memory moves if caches hold them meanwhile.
    pub(super) moved_bytes: u64,
    /// Bytes of all accesses of lanes: what caches move.
    pub(super) accessed_bytes: u64,
    pub(super) lds_cycles: u64,
    pub(super) lds_conflict_cycles: u64,
    pub(super) mfma_cycles: u64,
    /// Cycles of matrix instructions, and ISSUE_CYCLES for each other one.
    pub(super) issue_cycles: u64,
    /// Most registers of a kernel.
    pub(super) vgprs: u64,
    pub(super) emulated_s: f64,
}

impl Counters {
    fn add(&mut self, launch: Launch) {
        let all: u64 = launch.instructions.values().sum();
        let matrix = launch.instructions.get("mfma").copied().unwrap_or(0);
        let accesses = launch.bytes_read.values().chain(launch.bytes_written.values());
        self.kernels.push(launch.kernel);
        self.moved_bytes += launch.distinct_bytes;
        self.accessed_bytes += accesses.sum::<u64>();
        self.lds_cycles += launch.lds_cycles;
        self.lds_conflict_cycles += launch.lds_conflict_cycles;
        self.mfma_cycles += launch.mfma_cycles;
        self.issue_cycles += launch.mfma_cycles + ISSUE_CYCLES * (all - matrix);
        self.vgprs = self.vgprs.max(launch.vgprs + launch.agprs);
        self.emulated_s += launch.emulated_seconds;
    }
}

/// The file, from where it was last read.
pub(super) struct CounterFile {
    path: PathBuf,
    read: u64,
}

impl CounterFile {
    /// The one that `EMU_COUNTERS` names, if it does.
    pub(super) fn from_env() -> Option<CounterFile> {
        std::env::var_os("EMU_COUNTERS").map(|path| CounterFile { path: path.into(), read: 0 })
    }

    /// Leaves out the launches so far.
    pub(super) fn skip(&mut self) {
        // Before the first launch there is no file.
        self.read = std::fs::metadata(&self.path).map_or(0, |file| file.len());
    }

    /// What was launched since the last call.
    pub(super) fn next(&mut self, cost: Cost) -> anyhow::Result<Counters> {
        let name = || format!("EMU_COUNTERS={}", self.path.display());
        let mut file = File::open(&self.path).with_context(name)?;
        file.seek(SeekFrom::Start(self.read)).with_context(name)?;
        let mut counters = Counters { moved_bytes: cost.in_place as u64, ..Counters::default() };
        for line in BufReader::new(file).lines() {
            let line = line.with_context(name)?;
            self.read += line.len() as u64 + 1;
            counters.add(serde_json::from_str(&line).with_context(name)?);
        }
        Ok(counters)
    }
}
