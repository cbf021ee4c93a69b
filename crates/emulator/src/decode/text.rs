//! Splitting of disassembler text and parsing of operands.

use super::{Parts, stem};
use crate::formats::{f32_to_bf16, f32_to_f16};
use crate::inst::{ConstType, EXEC, FLAT_SCRATCH, M0, Operand, VCC};
use crate::simd::Simd;

/// Splits at `sep` outside brackets.
fn split_top(s: &str, sep: char) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (k, c) in s.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            c if c == sep && depth == 0 => {
                out.push(s[start..k].trim());
                start = k + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(s[start..].trim());
    out.retain(|s| !s.is_empty());
    out
}

/// Separates mnemonic, operands and modifiers.
pub(super) fn split<'a>(text: &'a str, words: &'a [u32], simd: Simd) -> Parts<'a> {
    let (full, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut ops = split_top(rest, ',');
    let mut mods = Vec::new();
    if let Some(last) = ops.pop() {
        let mut tail = split_top(last, ' ').into_iter();
        match tail.next() {
            // Without operands the first word may itself be a modifier.
            Some(w) if ops.is_empty() && is_modifier(w) => mods.push(modifier(w)),
            Some(w) => ops.push(w),
            None => {}
        }
        mods.extend(tail.map(modifier));
    }
    Parts { name: stem(full), full, ops, mods, words, simd }
}

fn is_modifier(w: &str) -> bool {
    matches!(w, "sc0" | "sc1" | "nt")
}

fn modifier(w: &str) -> (&str, &str) {
    w.split_once(':').unwrap_or((w, ""))
}

/// Decimal or hexadecimal, with sign.
pub(super) fn integer(s: &str) -> Option<i64> {
    let (neg, s) = s.strip_prefix('-').map_or((false, s), |r| (true, r));
    let v = match s.strip_prefix("0x") {
        Some(h) => u64::from_str_radix(h, 16).ok()? as i64,
        None => s.parse::<i64>().ok()?,
    };
    Some(if neg { v.wrapping_neg() } else { v })
}

/// The list of a bracketed modifier as a bit mask.
pub(super) fn bits(list: &str) -> u8 {
    let inner = list.trim_matches(['[', ']']);
    inner.split(',').enumerate().fold(0, |m, (k, b)| m | u8::from(b.trim() != "0") << k.min(7))
}

/// An operand with its source modifiers stripped: (operand, negated, absolute, sign-extended).
pub(super) fn operand(s: &str, ty: ConstType) -> Result<(Operand, bool, bool, bool), String> {
    let mut s = s;
    let (mut neg, mut abs, mut sext) = (false, false, false);
    if let Some(inner) = s.strip_prefix("sext(").and_then(|r| r.strip_suffix(')')) {
        sext = true;
        s = inner;
    }
    if let Some(inner) = s.strip_prefix("neg(").and_then(|r| r.strip_suffix(')')) {
        neg = true;
        s = inner;
    }
    if let Some(rest) = s.strip_prefix('-')
        && rest.starts_with(['v', 's', '|', 'a', 'e', 'm', 't'])
    {
        neg = true;
        s = rest;
    }
    if let Some(inner) = s.strip_prefix('|').and_then(|r| r.strip_suffix('|')) {
        abs = true;
        s = inner;
    }
    if let Some(inner) = s.strip_prefix("abs(").and_then(|r| r.strip_suffix(')')) {
        abs = true;
        s = inner;
    }
    let o = register(s).or_else(|| constant(s, ty));
    o.map(|o| (o, neg, abs, sext)).ok_or_else(|| format!("operand `{s}`"))
}

fn register(s: &str) -> Option<Operand> {
    let fixed = |r: u8, n: u8| Some(Operand::S { r, n });
    match s {
        "off" => return Some(Operand::None),
        "vcc" => return fixed(VCC, 2),
        "vcc_lo" => return fixed(VCC, 1),
        "vcc_hi" => return fixed(VCC + 1, 1),
        "exec" => return fixed(EXEC, 2),
        "exec_lo" => return fixed(EXEC, 1),
        "exec_hi" => return fixed(EXEC + 1, 1),
        "m0" => return fixed(M0, 1),
        "flat_scratch" => return fixed(FLAT_SCRATCH, 2),
        "flat_scratch_lo" => return fixed(FLAT_SCRATCH, 1),
        "flat_scratch_hi" => return fixed(FLAT_SCRATCH + 1, 1),
        "xnack_mask" => return fixed(104, 2),
        "scc" | "src_scc" => return Some(Operand::Scc),
        "src_vccz" => return Some(Operand::Vccz),
        "src_execz" => return Some(Operand::Execz),
        "src_shared_base" => return Some(Operand::Aperture(true)),
        "src_private_base" => return Some(Operand::Aperture(false)),
        _ => {}
    }
    let (kind, rest) = match s.strip_prefix("ttmp") {
        Some(r) => ('t', r),
        None => (s.chars().next()?, s.get(1..)?),
    };
    let (first, last) = match rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')) {
        Some(range) => {
            let (a, b) = range.split_once(':')?;
            (a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)
        }
        None => {
            let r = rest.parse::<u16>().ok()?;
            (r, r)
        }
    };
    let n = u8::try_from(last.checked_sub(first)? + 1).ok()?;
    match kind {
        'v' if last < 256 => Some(Operand::V { r: first, n }),
        'a' if last < 256 => Some(Operand::V { r: first + 256, n }),
        's' if last < 102 => Some(Operand::S { r: first as u8, n }),
        't' if last < 16 => Some(Operand::S { r: first as u8 + 108, n }),
        _ => None,
    }
}

fn constant(s: &str, ty: ConstType) -> Option<Operand> {
    // A literal whose value would also have been an inline constant.
    let s = s.strip_prefix("lit(").and_then(|r| r.strip_suffix(')')).unwrap_or(s);
    if let Some(v) = integer(s) {
        let literal = s.contains("0x");
        return Some(Operand::Imm(match ty {
            // A 32-bit literal is the high half of a double, zero-extended for 64-bit integers.
            ConstType::F64 if literal => (v as u64) << 32,
            ConstType::B64 | ConstType::F64 if !literal => v as u64,
            _ => u64::from(v as u32),
        }));
    }
    let f: f64 = s.parse().ok()?;
    // 1/(2π) prints rounded; the hardware constant is exact in each format.
    let inv_two_pi = (f - 0.159_154_94).abs() < 1e-6;
    Some(Operand::Imm(match ty {
        ConstType::F64 | ConstType::B64 if inv_two_pi => 0x3fc4_5f30_6dc9_c882,
        ConstType::F64 => f.to_bits(),
        ConstType::B64 => u64::from((f as f32).to_bits()),
        _ if inv_two_pi && ty == ConstType::B32 => 0x3e22_f983,
        ConstType::F16 => f32_to_f16(f as f32).into(),
        ConstType::Bf16 => f32_to_bf16((f as f32).to_bits()).into(),
        ConstType::B32 => (f as f32).to_bits().into(),
    }))
}

/// The type of written constants of source `k`.
pub(super) fn const_type(name: &str, k: usize) -> ConstType {
    if name.starts_with("v_mad_u64_u32") || name.starts_with("v_mad_i64_i32") {
        return if k == 2 { ConstType::B64 } else { ConstType::B32 };
    }
    if name.starts_with("v_mfma") {
        return if name.ends_with("f64") { ConstType::F64 } else { ConstType::B32 };
    }
    if (name.contains("ldexp") || name.contains("cmp_class")) && k == 1 {
        return ConstType::B32;
    }
    if name.starts_with("v_dot2") && k == 2 {
        return ConstType::B32;
    }
    match name.rsplit('_').next().unwrap_or("") {
        "f64" => ConstType::F64,
        "b64" | "u64" | "i64" => ConstType::B64,
        "f16" if name.starts_with("v_fma_mix") => ConstType::B32,
        "f16" => ConstType::F16,
        "bf16" => ConstType::Bf16,
        _ => ConstType::B32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands() {
        let o = |s, t| operand(s, t).unwrap();
        assert_eq!(o("-|v3|", ConstType::B32), (Operand::V { r: 3, n: 1 }, true, true, false));
        assert_eq!(o("a[4:7]", ConstType::B32).0, Operand::V { r: 260, n: 4 });
        assert_eq!(o("-1", ConstType::B64).0, Operand::Imm(u64::MAX));
        assert_eq!(o("0x80000000", ConstType::B64).0, Operand::Imm(0x8000_0000));
        assert_eq!(o("0.5", ConstType::F64).0, Operand::Imm(0.5f64.to_bits()));
        assert_eq!(o("1.0", ConstType::F16).0, Operand::Imm(0x3c00));
        assert_eq!(o("vcc", ConstType::B32).0, Operand::S { r: 106, n: 2 });
        assert!(operand("s103", ConstType::B32).is_err());
        let p = split("v_pk_fma_f16 v0, v1, v2, v3 op_sel:[1,0,0] clamp", &[], Simd::Portable);
        assert_eq!((p.name, p.ops.len(), p.flag("clamp")), ("v_pk_fma_f16", 4, true));
        assert_eq!(p.value("op_sel").map(bits), Some(1));
    }
}
