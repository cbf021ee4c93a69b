//! Prints what each gfx950 kernel of this build takes: registers, LDS, spills, scratch, occupancy.
//! Ends with an error if one spills or uses scratch: such a kernel is not to be shipped.
//!
//! `cargo run -p hip --example kernel_report`; needs `llvm-readelf` of LLVM 20 or newer.

use std::process::{Command, ExitCode};

use hip::{Platform, code_objects};

/// A compute unit's LDS in bytes, and the granule it is given out in.
const LDS: usize = 163_840;
const LDS_GRANULE: usize = 1280;
/// Vector registers of a SIMD's lane (both kinds together), their granule, SIMDs of a compute unit,
/// and the most waves a SIMD holds.
const VECTOR_REGISTERS: usize = 512;
const REGISTER_GRANULE: usize = 8;
const SIMDS: usize = 4;
const MOST_WAVES: usize = 8;

/// What the metadata says of one kernel.
#[derive(Default)]
struct Report {
    name: String,
    vector: usize,
    accumulation: usize,
    scalar: usize,
    lds: usize,
    scratch: usize,
    spills: usize,
    threads: usize,
}

impl Report {
    /// Waves on a SIMD that registers and LDS allow.
    fn occupancy(&self) -> usize {
        // `vector` counts both kinds.
        let registers = self.vector.max(1).next_multiple_of(REGISTER_GRANULE);
        let by_registers = VECTOR_REGISTERS / registers;
        let waves = self.threads.div_ceil(64);
        let by_lds = match self.lds {
            0 => MOST_WAVES,
            lds => LDS / lds.next_multiple_of(LDS_GRANULE) * waves / SIMDS,
        };
        by_registers.min(by_lds).min(MOST_WAVES)
    }
}

/// Reads the kernels of a code object's notes, as `llvm-readelf --notes` prints them.
fn reports(notes: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    let mut report = Report::default();
    for line in notes.lines() {
        // A kernel's own keys are indented by four.
        let Some((key, value)) = line.strip_prefix("    .").and_then(|l| l.split_once(':')) else {
            // The dash of the next kernel stands before its first key.
            if let Some((key, value)) = line.strip_prefix("  - .").and_then(|l| l.split_once(':')) {
                report = Report::default();
                if key == "agpr_count" {
                    report.accumulation = value.trim().parse().unwrap_or(0);
                }
            }
            continue;
        };
        let number = value.trim().parse().unwrap_or(0);
        match key {
            "name" => value.trim().clone_into(&mut report.name),
            "group_segment_fixed_size" => report.lds = number,
            "private_segment_fixed_size" => report.scratch = number,
            "max_flat_workgroup_size" => report.threads = number,
            "sgpr_count" => report.scalar = number,
            "sgpr_spill_count" => report.spills += number,
            "vgpr_count" => report.vector = number,
            "vgpr_spill_count" => report.spills += number,
            // The last key of a kernel.
            "wavefront_size" => reports.push(std::mem::take(&mut report)),
            _ => {}
        }
    }
    reports
}

fn notes(image: &[u8], name: &str) -> Result<String, String> {
    let path = std::env::temp_dir().join(format!("moonrock-{}-{name}.co", std::process::id()));
    std::fs::write(&path, image).map_err(|e| format!("{}: {e}", path.display()))?;
    let tools = ["llvm-readelf-22", "llvm-readelf-21", "llvm-readelf-20", "llvm-readelf"];
    let run = |tool: &str| Command::new(tool).arg("--notes").arg(&path).output().ok();
    let output = tools.iter().find_map(|tool| run(tool));
    // The file is not needed any more, whether or not it could be read.
    let _ = std::fs::remove_file(&path);
    let output = output.ok_or("llvm-readelf is not installed (package llvm-22)")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn main() -> ExitCode {
    let mut bad = Vec::new();
    println!(
        "{:<28} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>10}",
        "kernel", "VGPR", "AGPR", "SGPR", "LDS", "spills", "scratch", "waves/SIMD"
    );
    let objects = match code_objects(Platform::Hip) {
        Ok(objects) => objects,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for (file, image) in objects {
        let found = match notes(image, file) {
            Ok(notes) => reports(&notes),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        if found.is_empty() {
            bad.push(format!("{file}: no kernel found in its notes"));
        }
        for report in found {
            println!(
                "{:<28} {:>5} {:>5} {:>5} {:>7} {:>7} {:>7} {:>10}",
                report.name,
                report.vector,
                report.accumulation,
                report.scalar,
                report.lds,
                report.spills,
                report.scratch,
                report.occupancy()
            );
            if report.spills + report.scratch > 0 {
                bad.push(format!("{} spills or uses scratch", report.name));
            }
        }
    }
    for problem in &bad {
        eprintln!("{problem}");
    }
    if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
