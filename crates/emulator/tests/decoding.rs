//! Decoding keeps what the disassembler printed: the registers of every instruction of every kernel
//! here, written back from the decoded form, are those of its text.

mod harness;

use emulator::inst::{EXEC, FLAT_SCRATCH, Inst, M0, Operand, VCC};

fn range(kind: &str, first: u16, n: u8) -> String {
    match n {
        1 => format!("{kind}{first}"),
        n => format!("{kind}[{first}:{}]", first + u16::from(n) - 1),
    }
}

/// An operand as the assembler writes it; constants give nothing.
fn written(o: Operand) -> Option<String> {
    let half = |r: u8, n: u8, base: u8, name: &str| match (r - base, n) {
        (0, 2) => name.to_owned(),
        (0, _) => format!("{name}_lo"),
        _ => format!("{name}_hi"),
    };
    Some(match o {
        Operand::V { r, n } if r < 256 => range("v", r, n),
        Operand::V { r, n } => range("a", r - 256, n),
        Operand::S { r: M0, .. } => "m0".into(),
        Operand::S { r, n } if r == VCC || r == VCC + 1 => half(r, n, VCC, "vcc"),
        Operand::S { r, n } if r >= EXEC => half(r, n, EXEC, "exec"),
        Operand::S { r, n } if r == FLAT_SCRATCH || r == FLAT_SCRATCH + 1 => {
            half(r, n, FLAT_SCRATCH, "flat_scratch")
        }
        Operand::S { r, n } => range("s", r.into(), n),
        _ => return None,
    })
}

/// The registers that the decoded form names, without those an encoding only implies.
fn decoded(i: &Inst, name: &str) -> Vec<String> {
    let mut sources = i.src.to_vec();
    let repeats = ["v_fmac", "v_dot2c", "v_dot4c"];
    if repeats.iter().any(|r| name.starts_with(r)) {
        sources[2] = Operand::None;
    }
    if ["s_addk", "s_mulk"].iter().any(|r| name.starts_with(r)) {
        sources[0] = Operand::None;
    }
    let masks = name.contains("saveexec") || name.contains("wrexec");
    if masks || name.starts_with("s_bitset") {
        sources[1] = Operand::None;
    }
    let second = if name.starts_with("v_cmpx") { Operand::None } else { i.dst2 };
    let mut out: Vec<String> =
        [i.dst, second].into_iter().chain(sources).filter_map(written).collect();
    out.sort();
    out
}

/// The registers in a line of disassembly.
fn printed(text: &str) -> Vec<String> {
    let operands = text.split_once(' ').map_or("", |t| t.1);
    let words = operands.split(|c: char| !c.is_ascii_alphanumeric() && !"_[]:".contains(c));
    let mut out: Vec<String> = words
        .filter(|w| {
            let named = ["vcc", "exec", "m0", "flat_scratch"];
            let kind = w.starts_with(['v', 's', 'a']);
            let number = w.get(1..).is_some_and(|r| {
                r.starts_with('[') || !r.is_empty() && r.bytes().all(|b| b.is_ascii_digit())
            });
            kind && number
                || named.iter().any(|n| w.strip_suffix("_lo").unwrap_or(w) == *n)
                || w.ends_with("_hi") && !w.contains(':')
        })
        .map(str::to_owned)
        .collect();
    out.sort();
    out
}

#[test]
fn registers_round_trip() {
    let mut seen = 0;
    for file in ["basic.hip", "gemm.hip", "broken.hip"] {
        for level in ["-O3", "-O1", "-O0"] {
            let m = harness::Machine::new(&harness::compile_at(file, level), harness::strict());
            let kernel = m.module.kernels.values().next().expect("a kernel");
            for (i, text) in kernel.code.iter() {
                let name = text.split_whitespace().next().unwrap_or("");
                assert_eq!(decoded(i, name), printed(text), "{file} {level}: {text}");
                seen += 1;
            }
        }
    }
    assert!(seen > 5_000, "only {seen} instructions");
}

/// Damaged files are errors or other files, never a panic.
#[test]
fn damaged_files() {
    let image = harness::compile("basic.hip");
    let mut r = harness::Random(99);
    for _ in 0..1_000 {
        let mut bad = image.clone();
        for _ in 0..1 + r.u32() % 4 {
            // Headers, notes and tables are where the structure is.
            let reach = if r.u32().is_multiple_of(2) { 512 } else { bad.len() };
            let at = r.u32() as usize % reach;
            bad[at] = if r.u32().is_multiple_of(3) { 0xff } else { r.u32() as u8 };
        }
        if r.u32().is_multiple_of(8) {
            bad.truncate(r.u32() as usize % image.len());
        }
        if let Ok(o) = emulator::elf::parse(&bad) {
            for s in &o.symbols {
                let _descriptor = emulator::elf::descriptor(&o.image, s.value);
            }
        }
    }
}
