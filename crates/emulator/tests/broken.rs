//! Deliberately broken kernels, each caught with the right diagnosis in some schedule; their
//! repaired twins pass in all.

mod harness;

use emulator::config::Config;
use emulator::env::{Fault, FaultKind};
use harness::{Machine, compile_source, schedules};

fn source(broken: bool) -> Vec<u8> {
    let text = include_str!("kernels/broken.hip");
    let define = if broken { "#define BROKEN\n" } else { "" };
    compile_source(&format!("{define}{text}"), "broken.hip")
}

/// Buffers of a case: what each pointer argument is.
enum Arg {
    /// This many dwords, written: value = index.
    Filled(usize),
    /// This many zero dwords.
    Zeros(usize),
    /// This many bytes, never written.
    Raw(u64),
    Value(u64),
}
use Arg::{Filled, Raw, Value, Zeros};

struct Case {
    kernel: &'static str,
    grid: u32,
    block: u32,
    args: Vec<Arg>,
    kind: FaultKind,
    /// Must occur in the message.
    says: &'static str,
}

fn case(
    kernel: &'static str,
    (grid, block): (u32, u32),
    args: Vec<Arg>,
    kind: FaultKind,
    says: &'static str,
) -> Case {
    Case { kernel, grid, block, args, kind, says }
}

fn cases() -> Vec<Case> {
    use FaultKind::{
        BarrierDivergence, GlobalRace, Hang, LdsRace, LdsRange, Misaligned, MissingWait, NanScale,
        OutOfBounds, Uninitialised,
    };
    vec![
        case(
            "past_the_end",
            (1, 128),
            vec![Filled(100), Raw(400), Value(100)],
            OutOfBounds,
            "outside the nearest allocation",
        ),
        case("misaligned", (1, 64), vec![Filled(64), Raw(256)], Misaligned, "4-byte aligned"),
        case("unwritten", (1, 64), vec![Raw(256), Raw(256)], Uninitialised, "reaches memory"),
        case("undefined_branch", (1, 64), vec![Raw(4), Raw(256)], Uninitialised, "control flow"),
        case("undefined_register", (1, 64), vec![Raw(256)], Uninitialised, "reaches memory"),
        case("lds_out_of_range", (1, 64), vec![Raw(256)], LdsRange, "256 bytes allocated"),
        case("lds_race", (1, 256), vec![Filled(256), Raw(1024)], LdsRace, "without a barrier"),
        case("lds_overwrite", (1, 256), vec![Filled(1024), Raw(1024)], LdsRace, "read by wave"),
        case("global_race", (4, 64), vec![Raw(1024), Raw(1024)], GlobalRace, "same launch"),
        case("no_fence", (4, 64), vec![Raw(16), Zeros(1), Raw(16)], GlobalRace, "no atomic"),
        case(
            "missing_wait",
            (1, 64),
            vec![Filled(64), Raw(256)],
            MissingWait,
            "before the s_waitcnt that covers `global_load_dword",
        ),
        case(
            "missing_lds_wait",
            (1, 64),
            vec![Filled(64), Raw(256)],
            MissingWait,
            "before the s_waitcnt that covers `ds_read_b32",
        ),
        case("lds_dma", (1, 256), vec![Filled(256), Raw(1024)], MissingWait, "direct-to-LDS"),
        case("m0_at_once", (1, 256), vec![Filled(256), Raw(1024)], MissingWait, "M0's old value"),
        case("divergent_barrier", (1, 256), vec![Raw(1024)], BarrierDivergence, "has ended"),
        case("store_late", (1, 256), vec![Filled(256), Raw(1024)], LdsRace, "without a barrier"),
        case(
            "nan_scale",
            (1, 64),
            vec![Filled(512), Raw(1024), Value(0x7f7f_7f7f)],
            NanScale,
            "NaN",
        ),
        case("atomic_misaligned", (1, 64), vec![Zeros(4)], Misaligned, "4-byte aligned"),
        case("wave_race", (1, 256), vec![Raw(1024), Raw(1024)], GlobalRace, "same workgroup"),
        case("wave_overwrite", (1, 256), vec![Filled(256), Raw(1024)], GlobalRace, "read by wave"),
        case("plain_and_atomic", (4, 64), vec![Zeros(2), Raw(16)], GlobalRace, "by an atomic"),
        case(
            "reset_early",
            (4, 64),
            vec![Filled(1), Zeros(1), Raw(16)],
            GlobalRace,
            "by workgroup",
        ),
        case("lds_flag", (1, 256), vec![Filled(64), Raw(768)], LdsRace, "without a barrier"),
        case("lds_signal", (1, 256), vec![Filled(64), Raw(768)], LdsRace, "without a barrier"),
        case("histogram", (1, 256), vec![Filled(256), Raw(1024)], LdsRace, "without a barrier"),
        case("high_half", (1, 64), vec![Raw(512)], Uninitialised, "reaches memory"),
        case("spin", (2, 64), vec![Zeros(1), Raw(512)], Hang, "EMU_HANG_SECONDS"),
    ]
}

fn run(c: &Case, m: &Machine) -> Result<(), Box<Fault>> {
    let mut keep = Vec::new();
    let args: Vec<u64> = c
        .args
        .iter()
        .map(|a| {
            let buffer = match a {
                Filled(n) => m.buffer(&(0..*n as u32).collect::<Vec<_>>()),
                Zeros(n) => m.buffer(&vec![0u32; *n]),
                Raw(n) => m.raw(*n),
                Value(x) => return *x,
            };
            keep.push(buffer);
            keep[keep.len() - 1].base
        })
        .collect();
    m.launch(c.kernel, c.grid, c.block, &args).map(|_| ())
}

#[test]
fn broken_kernels_are_caught() {
    let image = source(true);
    let cases = cases();
    let mut found: Vec<Vec<Box<Fault>>> = cases.iter().map(|_| vec![]).collect();
    for config in schedules().into_iter().filter(|s| s.strict) {
        let m = Machine::new(&image, Config { nan_scale: true, hang_seconds: 1, ..config });
        for (c, found) in cases.iter().zip(&mut found) {
            // One schedule is enough to wait for a hang.
            if c.kind != FaultKind::Hang || found.is_empty() {
                found.extend(run(c, &m).err());
            }
        }
    }
    for (c, found) in cases.iter().zip(found) {
        assert!(!found.is_empty(), "{}: passed in every schedule", c.kernel);
        let right = found.iter().find(|f| f.kind == c.kind && f.what.contains(c.says));
        let all: Vec<String> = found.iter().map(|f| f.to_string()).collect();
        let right = right.unwrap_or_else(|| panic!("{}: {all:#?}", c.kernel));
        // Kernel, line, instruction, place.
        let text = right.to_string();
        assert!(text.contains(c.kernel) && text.contains("broken.hip:"), "{text}");
        assert!(text.contains("workgroup") && text.contains("wave"), "{text}");
    }
}

#[test]
fn repaired_kernels_pass_in_every_schedule() {
    let image = source(false);
    for config in schedules() {
        let what = format!("{config:?}");
        let m = Machine::new(&image, Config { nan_scale: true, ..config });
        for c in cases() {
            if let Err(f) = run(&c, &m) {
                panic!("{} in {what}: {f}", c.kernel);
            }
        }
    }
}

/// A use after free and an access to another device's memory.
#[test]
fn freed_and_foreign_memory() {
    let image = harness::compile("basic.hip");
    let m = Machine::new(&image, harness::strict());
    let (a, out) = (m.buffer(&[0f32; 64]), m.raw(256));
    m.memory.free(a.base).unwrap();
    let f = m.launch("vadd", 1, 64, &[a.base, a.base, out.base, 64]).unwrap_err();
    assert!(f.what.contains("freed allocation"), "{f}");
    let other = m.memory.alloc(1, 256, 0).unwrap();
    let f = m.launch("vadd", 1, 64, &[other.base, other.base, out.base, 64]).unwrap_err();
    assert!(f.what.contains("device 1, whose peer access is not enabled"), "{f}");
    m.memory.set_peer(0, 1, true);
    other.mark(other.base, 256, true);
    m.launch("vadd", 1, 64, &[other.base, other.base, out.base, 64]).unwrap();
}
