//! Decoding keeps what the disassembler printed: registers, constants, modifiers, waits and branch
//! targets of every instruction of every kernel here, written back from the decoded form, are those
//! of its text.

mod harness;

use std::collections::BTreeSet;

use emulator::inst::{Class, EXEC, Extra, FLAT_SCRATCH, Inst, M0, Operand, Space, VCC};

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

/// The operands of a line without their modifiers, and the modifiers.
fn parts(text: &str) -> (Vec<String>, BTreeSet<String>) {
    let rest = text.split_once(' ').map_or("", |t| t.1);
    let (mut ops, mut depth) = (vec![String::new()], 0);
    for c in rest.chars() {
        depth += i32::from(c == '[') - i32::from(c == ']');
        match c {
            ',' if depth == 0 => ops.push(String::new()),
            c => ops.last_mut().expect("never empty").push(c),
        }
    }
    let mut mods = BTreeSet::new();
    for o in &mut ops {
        let mut words = o.split_whitespace();
        let first = words.next().unwrap_or("").to_owned();
        mods.extend(words.map(str::to_owned));
        *o = first.replace("lit(", "").replace(')', "");
    }
    (ops, mods)
}

/// Ways to write a constant.
fn spellings(x: u64) -> Vec<String> {
    let half = emulator::formats::f16_to_f32(x as u16);
    let brain = f32::from_bits((x as u32) << 16);
    let short = |f: f64| if f.fract() == 0.0 { format!("{f:.1}") } else { f.to_string() };
    vec![
        (x as i64).to_string(),
        (x as u32 as i32).to_string(),
        format!("{x:#x}"),
        format!("{:#x}", x as u32),
        format!("{:#x}", x >> 32),
        short(f32::from_bits(x as u32).into()),
        short(f64::from_bits(x)),
        short(half.into()),
        short(brain.into()),
        if matches!(x, 0x3e22_f983 | 0x3fc4_5f30_6dc9_c882 | 0x3118) {
            "0.15915494".into()
        } else {
            "-".into()
        },
    ]
}

fn list(name: &str, bits: u8, n: usize) -> String {
    let b: Vec<String> = (0..n).map(|k| (bits >> k & 1).to_string()).collect();
    format!("{name}:[{}]", b.join(","))
}

/// The modifiers of the decoded form, those of `printed` only that this knows how to write.
fn modifiers(i: &Inst, name: &str, printed: &BTreeSet<String>) -> BTreeSet<String> {
    let m = &i.mods;
    let mut out = BTreeSet::new();
    let has = |key: &str| printed.iter().any(|p| p.split(':').next() == Some(key));
    let mut add = |on: bool, text: String| {
        if on {
            out.insert(text);
        }
    };
    add(m.clamp, "clamp".into());
    add(m.omod > 0, ["", "mul:2", "mul:4", "div:2"][usize::from(m.omod)].into());
    add(m.bitop3 != 0 && name.contains("bitop3"), format!("bitop3:{:#x}", m.bitop3));
    let packed = name.starts_with("v_pk_");
    let n = usize::from(i.nsrc);
    if packed {
        let full = (1 << n) - 1;
        add(m.op_sel & full != 0, list("op_sel", m.op_sel, n));
        add(m.op_sel_hi & full != full, list("op_sel_hi", m.op_sel_hi, n));
        add(m.neg != 0, list("neg_lo", m.neg, n));
        add(m.abs != 0, list("neg_hi", m.abs, n));
    }
    if i.class == Class::Mfma {
        for (key, x) in [("cbsz", m.cbsz), ("abid", m.abid), ("blgp", m.blgp)] {
            add(x != 0, format!("{key}:{x}"));
        }
        add(has("op_sel"), list("op_sel", m.op_sel, 3));
        add(has("op_sel_hi"), list("op_sel_hi", m.op_sel_hi, 3));
    }
    if let Some(a) = i.mem() {
        let lds = a.space == Space::Lds;
        let unit = i32::from(a.bytes) * if name.contains("st64") { 64 } else { 1 };
        if a.two && lds && !name.contains("permute") {
            add(a.offset != 0, format!("offset0:{}", a.offset / unit));
            add(a.offset1 != 0, format!("offset1:{}", a.offset1 / unit));
        } else if i.class != Class::Smem && !name.contains("swizzle") {
            add(a.offset != 0, format!("offset:{}", a.offset));
        }
        add(i.class == Class::Smem && has("offset"), format!("offset:{:#x}", a.offset));
        add(a.offen, "offen".into());
        add(a.idxen, "idxen".into());
        add(a.sc0, "sc0".into());
        add(a.sc1, "sc1".into());
    }
    if let Some(d) = i.dpp {
        add(true, format!("row_mask:{:#x}", d.row_mask));
        add(true, format!("bank_mask:{:#x}", d.bank_mask));
        add(d.bound_ctrl, "bound_ctrl:1".into());
        let (c, n) = (d.ctrl, d.ctrl & 15);
        let quad: Vec<String> = (0..4).map(|k| (c >> (2 * k) & 3).to_string()).collect();
        add(
            true,
            match c {
                0..=0xff => format!("quad_perm:[{}]", quad.join(",")),
                0x101..=0x10f => format!("row_shl:{n}"),
                0x111..=0x11f => format!("row_shr:{n}"),
                0x121..=0x12f => format!("row_ror:{n}"),
                0x140 => "row_mirror".into(),
                0x141 => "row_half_mirror".into(),
                0x142 => "row_bcast:15".into(),
                0x143 => "row_bcast:31".into(),
                _ => format!("row_newbcast:{n}"),
            },
        );
    }
    out
}

/// Checks constants, source modifiers, instruction modifiers, waits and branch targets of one line.
fn compare(i: &Inst, pc_of: &dyn Fn(u32) -> u32, text: &str) {
    let name = text.split_whitespace().next().unwrap_or("");
    let (ops, printed) = parts(text);
    match (i.class, i.extra) {
        (Class::Branch, Extra::Target(t)) => {
            let words: i64 = ops[0].parse().expect("a number of words");
            let to = i64::from(i.pc) + 4 + 4 * i64::from(words as u16 as i16);
            assert_eq!(i64::from(pc_of(t)), to, "{text}");
            return;
        }
        (Class::Wait, Extra::Simm(x)) => {
            let all = text.split_once(' ').map_or("", |t| t.1);
            let field = |key: &str| {
                let s = all.split(&format!("{key}(")).nth(1)?;
                s.split(')').next()?.parse::<u16>().ok()
            };
            assert_eq!(field("vmcnt").unwrap_or(63), x & 15 | x >> 14 << 4, "{text}");
            assert_eq!(field("lgkmcnt").unwrap_or(15), x >> 8 & 15, "{text}");
            return;
        }
        _ => {}
    }
    // Constants of the decoded form and of the text, in order.
    let constant = |o: &String| {
        let o = o.trim_start_matches('-').trim_matches('|');
        o.starts_with(|c: char| c.is_ascii_digit())
    };
    let written: Vec<&String> = ops.iter().filter(|o| constant(o)).collect();
    let held: Vec<u64> = i
        .src
        .iter()
        .filter_map(|o| if let Operand::Imm(x) = o { Some(*x) } else { None })
        .collect();
    let alu = matches!(i.class, Class::Valu | Class::Salu | Class::Mfma) && !held.is_empty();
    if alu && written.len() == held.len() {
        for (w, x) in written.iter().zip(held) {
            assert!(spellings(x).contains(w), "{text}: {x:#x} for {w}");
        }
    } else if alu {
        panic!("{text}: constants {held:x?}");
    }
    if i.class == Class::Valu && !name.starts_with("v_pk_") && !name.starts_with("v_cmp") {
        let lead = 1 + usize::from(i.dst2 != Operand::None);
        for (k, o) in ops.iter().skip(lead).enumerate() {
            let register = o.trim_start_matches('-').starts_with(['v', 's', 'a', '|']);
            assert_eq!(i.mods.neg >> k & 1 == 1, o.starts_with('-') && register, "{text}");
            assert_eq!(i.mods.abs >> k & 1 == 1, o.contains('|'), "{text}");
        }
    }
    // Hints without an effect here, and what the operands hold already.
    let known: BTreeSet<String> = printed
        .iter()
        .filter(|p| {
            let key = p.split(':').next().unwrap_or("");
            !matches!(key, "nt" | "lds" | "glc")
                && (key == "op_sel" || !key.ends_with("_sel"))
                && key != "dst_unused"
        })
        .filter(|p| i.class != Class::Salu && !p.starts_with("offset:swizzle") && *p != "vcc")
        .filter(|p| {
            i.class == Class::Valu && name.starts_with("v_pk_")
                || !p.starts_with("op_sel")
                || i.class == Class::Mfma
        })
        .cloned()
        .collect();
    assert_eq!(modifiers(i, name, &printed), known, "{text}");
}

#[test]
fn instructions_round_trip() {
    let mut seen = 0;
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for file in ["basic.hip", "gemm.hip", "broken.hip", "speed.hip"] {
        for level in ["-O3", "-O1", "-O0"] {
            all.push((format!("{file} {level}"), harness::compile_at(file, level)));
        }
    }
    for (what, image) in all {
        let m = harness::Machine::new(&image, harness::strict());
        let kernel = m.module.kernels.values().next().expect("a kernel");
        for (i, text) in kernel.code.iter() {
            let name = text.split_whitespace().next().unwrap_or("");
            assert_eq!(decoded(i, name), printed(text), "{what}: {text}");
            compare(i, &|t| kernel.code.insts[t as usize].pc, text);
            seen += 1;
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
