//! Vector ALU and matrix instructions.

use super::Parts;
use super::text::{bits, const_type, operand};
use crate::code::Code;
use crate::exec::{self, mfma, smfmac, valu_cmp, valu_scale};
use crate::inst::{Class, Cond, EXEC, Extra, Flow, Halves, Inst, Operand, Sdwa, Sel, Unused};

/// Instructions with a second, scalar destination.
const CARRY: [&str; 9] = [
    "v_add_co_u32",
    "v_sub_co_u32",
    "v_subrev_co_u32",
    "v_addc_co_u32",
    "v_subb_co_u32",
    "v_subbrev_co_u32",
    "v_mad_u64_u32",
    "v_mad_i64_i32",
    "v_div_scale_f32",
];

fn has_carry(name: &str) -> bool {
    CARRY.contains(&name) || name == "v_div_scale_f64"
}

/// Parses a condition name.
pub(super) fn cond(s: &str) -> Option<Cond> {
    Some(match s {
        "f" => Cond::F,
        "lt" => Cond::Lt,
        "eq" => Cond::Eq,
        "le" => Cond::Le,
        "gt" => Cond::Gt,
        "lg" | "ne" => Cond::Lg,
        "ge" => Cond::Ge,
        "o" => Cond::O,
        "u" => Cond::U,
        "nge" => Cond::Nge,
        "nlg" => Cond::Nlg,
        "ngt" => Cond::Ngt,
        "nle" => Cond::Nle,
        "neq" => Cond::Neq,
        "nlt" => Cond::Nlt,
        "t" | "tru" => Cond::T,
        _ => return None,
    })
}

/// Decodes one vector instruction.
pub(super) fn decode(p: &Parts<'_>, i: &mut Inst, code: &mut Code) -> Result<(), String> {
    i.class = Class::Valu;
    i.flow = Flow::Lane;
    if let Some(shape) = mfma::parse(p.name) {
        return matrix(p, i, shape, code);
    }
    if let Some(shape) = smfmac::parse(p.name) {
        return sparse(p, i, shape, code);
    }
    if let Some(rest) = p.name.strip_prefix("v_cmp") {
        compare(p, i, rest)?;
    } else if valu_scale::parse(p.name).is_some() {
        i.exec = p.choose(valu_scale::CODE);
    } else {
        i.exec = p.choose(exec::lookup(p.name).ok_or("unknown opcode")?);
    }
    if exec::is_lane_op(p.name) || p.name == "v_swap_b32" {
        i.flow = Flow::Own;
    }
    if p.name == "v_nop" {
        i.flow = Flow::Nothing;
        return Ok(());
    }
    operands(p, i)?;
    modifiers(p, i)?;
    let partial = ["v_fmac", "v_dot2c", "v_dot4c"].iter().any(|s| p.name.starts_with(s));
    if partial {
        i.src[usize::from(i.nsrc)] = i.dst;
        i.nsrc += 1;
        i.reads_dst = true;
    }
    i.reads_vcc = p.name.starts_with("v_div_fmas");
    let float = p.name.split('_').find(|t| matches!(*t, "f16" | "f32" | "f64"));
    i.wide_float = matches!(float, Some("f16" | "f64"));
    i.halves = match p.name {
        "v_mad_u64_u32" | "v_mad_i64_i32" | "v_lshl_add_u64" | "v_lshlrev_b64" => Halves::LowAlone,
        "v_mov_b64" => Halves::Separate,
        "v_pk_fma_f32" | "v_pk_mul_f32" | "v_pk_add_f32" => Halves::Packed,
        "v_pk_mov_b32" => Halves::Move,
        _ => Halves::Joint,
    };
    Ok(())
}

fn compare(p: &Parts<'_>, i: &mut Inst, rest: &str) -> Result<(), String> {
    let to_exec = rest.starts_with('x');
    let rest = rest.trim_start_matches('x').trim_start_matches('_');
    let (c, ty) = match rest.strip_prefix("class_") {
        Some(t) => (Cond::T, format!("class_{t}")),
        None => {
            let (c, t) = rest.split_once('_').ok_or("compare without type")?;
            (cond(c).ok_or("unknown condition")?, t.to_owned())
        }
    };
    let _ = p;
    i.exec = p.choose(valu_cmp::code(&ty).ok_or("unknown compare type")?);
    i.flow = Flow::Compare;
    i.extra = Extra::Cmp(c);
    if to_exec {
        i.dst2 = Operand::S { r: EXEC, n: 2 };
    }
    Ok(())
}

fn operands(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    let mut ops = p.ops.iter();
    let dst = ops.next().ok_or("no destination")?;
    i.dst = operand(dst, const_type(p.name, 0))?.0;
    if has_carry(p.name) {
        let second = ops.next().ok_or("no second destination")?;
        i.dst2 = operand(second, const_type(p.name, 0))?.0;
    }
    for (k, s) in ops.enumerate() {
        if k >= 5 {
            return Err("too many operands".into());
        }
        let (o, neg, abs, sext) = operand(s, const_type(p.name, k))?;
        i.src[k] = o;
        i.nsrc += 1;
        i.mods.neg |= u8::from(neg) << k;
        i.mods.abs |= u8::from(abs) << k;
        if sext {
            let mut sdwa = i.sdwa.unwrap_or_default();
            *sdwa.sext.get_mut(k).ok_or("sext on a third source")? = true;
            i.sdwa = Some(sdwa);
        }
    }
    Ok(())
}

fn sel(s: &str) -> Result<Sel, String> {
    Ok(match s {
        "BYTE_0" => Sel::Byte(0),
        "BYTE_1" => Sel::Byte(1),
        "BYTE_2" => Sel::Byte(2),
        "BYTE_3" => Sel::Byte(3),
        "WORD_0" => Sel::Word(0),
        "WORD_1" => Sel::Word(1),
        "DWORD" => Sel::Dword,
        _ => return Err(format!("selection {s}")),
    })
}

fn is_packed(name: &str) -> bool {
    name.starts_with("v_pk_") || name.starts_with("v_dot2") || name.starts_with("v_fma_mix")
}

fn modifiers(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    let m = &mut i.mods;
    let word = p.word(0);
    m.clamp = p.flag("clamp");
    m.omod = match (p.value("mul"), p.value("div")) {
        (Some("2"), _) => 1,
        (Some("4"), _) => 2,
        (_, Some("2")) => 3,
        _ => 0,
    };
    m.bitop3 = p.number("bitop3").unwrap_or(0) as u8;
    if is_packed(p.name) {
        m.op_sel = p.value("op_sel").map_or(0, bits);
        let default = if p.name.starts_with("v_fma_mix") { 0 } else { 7 };
        m.op_sel_hi = p.value("op_sel_hi").map_or(default, bits);
        m.neg |= p.value("neg_lo").map_or(0, bits);
        m.abs |= p.value("neg_hi").map_or(0, bits);
    } else if word >> 26 == 0x34 && word >> 23 != 0x1a7 && i.dst2 == Operand::None {
        m.op_sel = (word >> 11 & 15) as u8;
    }
    if p.full.ends_with("_sdwa") || i.sdwa.is_some() {
        let mut s: Sdwa = i.sdwa.unwrap_or_default();
        s.dst = p.value("dst_sel").map_or(Ok(Sel::Dword), sel)?;
        s.unused = match p.value("dst_unused") {
            Some("UNUSED_SEXT") => Unused::Sext,
            Some("UNUSED_PRESERVE") => Unused::Preserve,
            _ => Unused::Pad,
        };
        s.src[0] = p.value("src0_sel").map_or(Ok(Sel::Dword), sel)?;
        s.src[1] = p.value("src1_sel").map_or(Ok(Sel::Dword), sel)?;
        i.sdwa = Some(s);
    }
    if p.full.ends_with("_dpp") {
        let d = p.word(1);
        i.dpp = Some(crate::inst::Dpp {
            ctrl: (d >> 8 & 0x1ff) as u16,
            row_mask: (d >> 28) as u8,
            bank_mask: (d >> 24 & 15) as u8,
            bound_ctrl: d >> 19 & 1 == 1,
        });
    }
    let m = &i.mods;
    i.modified = i.sdwa.is_some()
        || i.dpp.is_some()
        || m.clamp
        || m.omod != 0
        || m.neg | m.abs | m.op_sel != 0;
    if let (true, Some(d)) = (i.dpp.is_some(), i.dpp)
        && exec::modifiers::dpp_source(d.ctrl, 20).is_none()
        && exec::modifiers::dpp_source(d.ctrl, 47).is_none()
        && exec::modifiers::dpp_source(d.ctrl, 0).is_none()
    {
        return Err(format!("DPP control {:#x}", d.ctrl));
    }
    let simple =
        matches!(p.name, "v_add_u32" | "v_sub_u32" | "v_subrev_u32" | "v_add_i32" | "v_sub_i32");
    let float = p.name.contains("_f32") || p.name.contains("_f16") || p.name.contains("_f64");
    if m.clamp && !simple && !float {
        return Err("clamp on this integer instruction".into());
    }
    Ok(())
}

fn matrix(p: &Parts<'_>, i: &mut Inst, s: mfma::Shape, code: &mut Code) -> Result<(), String> {
    operands(p, i)?;
    i.class = Class::Mfma;
    i.flow = Flow::Own;
    i.exec = p.choose(mfma::CODE);
    let n = |k: &str| p.number(k).unwrap_or(0) as u8;
    (i.mods.cbsz, i.mods.blgp, i.mods.abid) = (n("cbsz"), n("blgp"), n("abid"));
    i.mods.op_sel = p.value("op_sel").map_or(0, bits);
    i.mods.op_sel_hi = p.value("op_sel_hi").map_or(7, bits);
    let formats = s.a == mfma::Elem::F8f6f4;
    if formats && (i.mods.cbsz > 4 || i.mods.blgp > 4) {
        return Err("element format above 4".into());
    }
    if s.a == mfma::Elem::F64 {
        i.mods.neg = p.value("neg").map_or(0, bits);
    }
    let known = ["cbsz", "blgp", "abid", "op_sel", "op_sel_hi", "neg"];
    if let Some((other, _)) = p.mods.iter().find(|m| !known.contains(&m.0)) {
        return Err(format!("modifier {other}"));
    }
    i.extra = Extra::Mfma(shape_index(s, code)?);
    // Enough registers for what the shape reads and writes.
    let width = |o: Operand| match o {
        Operand::V { n, .. } => usize::from(n),
        _ => usize::MAX,
    };
    let bits_of = |e: mfma::Elem, code: u8| match e {
        mfma::Elem::F8f6f4 => [8, 8, 6, 6, 4][usize::from(code.min(4))],
        mfma::Elem::Float(f) => f.bits() as usize,
        mfma::Elem::F32 => 32,
        mfma::Elem::I8 => 8,
        mfma::Elem::F64 => 64,
    };
    let need = |e, code| (s.lanes_k() * bits_of(e, code)).div_ceil(32);
    let c = s.m * s.m * s.blocks / 64 * if s.a == mfma::Elem::F64 { 2 } else { 1 };
    if width(i.src[0]) < need(s.a, i.mods.cbsz)
        || width(i.src[1]) < need(s.b, i.mods.blgp)
        || width(i.dst) < c
        || width(i.src[2]) < c
        || matches!(i.src[0], Operand::Imm(_))
        || !matches!(i.dst, Operand::V { .. })
    {
        return Err("operand too narrow for the shape".into());
    }
    Ok(())
}

/// The place of a shape in the code's list.
fn shape_index(s: mfma::Shape, code: &mut Code) -> Result<u8, String> {
    let index = code.mfma.iter().position(|x| *x == s).unwrap_or_else(|| {
        code.mfma.push(s);
        code.mfma.len() - 1
    });
    u8::try_from(index).map_err(|_| "too many matrix shapes".into())
}

/// A sparse matrix instruction: D (also C), A, B, index.
fn sparse(p: &Parts<'_>, i: &mut Inst, s: mfma::Shape, code: &mut Code) -> Result<(), String> {
    operands(p, i)?;
    i.class = Class::Mfma;
    i.flow = Flow::Own;
    i.exec = p.choose(smfmac::CODE);
    let n = |k: &str| p.number(k).unwrap_or(0) as u8;
    (i.mods.cbsz, i.mods.abid) = (n("cbsz"), n("abid"));
    let ok = matches!(
        (i.dst, i.src[0], i.src[1], i.src[2]),
        (
            Operand::V { n: d, .. },
            Operand::V { n: 4, .. },
            Operand::V { n: 8, .. },
            Operand::V { n: 1, .. }
        ) if usize::from(d) == s.m * s.m / 64
    );
    if !ok {
        return Err("operand too narrow for the shape".into());
    }
    (i.src[3], i.src[2]) = (i.src[2], i.dst);
    (i.nsrc, i.reads_dst) = (4, true);
    i.extra = Extra::Mfma(shape_index(s, code)?);
    Ok(())
}
