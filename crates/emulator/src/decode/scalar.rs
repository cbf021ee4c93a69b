//! Scalar ALU and program control.

use super::Parts;
use super::text::{const_type, operand};
use super::vector::cond;
use crate::exec::{self, salu};
use crate::inst::{Class, EXEC, Extra, Flow, Inst, Operand};

/// Instructions that leave SCC alone.
const KEEPS_SCC: [&str; 12] = [
    "s_mov",
    "s_cmov",
    "s_cselect",
    "s_mul",
    "s_bfm",
    "s_ff",
    "s_flbit",
    "s_brev",
    "s_sext",
    "s_pack",
    "s_getreg",
    "s_bitset",
];

fn writes_scc(name: &str) -> bool {
    !KEEPS_SCC.iter().any(|k| name.starts_with(k))
        && !matches!(name, "s_getpc_b64" | "s_swappc_b64")
}

/// Decodes one scalar instruction.
pub(super) fn decode(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    let simm = p.word(0) as u16;
    i.extra = Extra::Simm(simm);
    if let Some(rest) = p.name.strip_prefix("s_cmp") {
        return compare(p, i, rest);
    }
    i.exec = p.choose(exec::lookup(p.name).ok_or("unknown opcode")?);
    match p.name {
        "s_branch" => i.class = Class::Branch,
        n if n.starts_with("s_cbranch_") => i.class = Class::Branch,
        "s_waitcnt" => i.class = Class::Wait,
        "s_barrier" => i.class = Class::Barrier,
        "s_getreg_b32" => {
            i.dst = operand(p.ops.first().ok_or("no destination")?, const_type("", 0))?.0;
            i.flow = Flow::Scalar;
        }
        "s_setreg_b32" | "s_setreg_imm32_b32" => source(p, i, 1)?,
        n if n.starts_with("s_set_gpr_idx_") && n != "s_set_gpr_idx_off" => {
            if n != "s_set_gpr_idx_mode" {
                source(p, i, 0)?;
            }
            // The enables are the second source field.
            if n == "s_set_gpr_idx_on" {
                i.extra = Extra::Simm(simm >> 8);
            }
        }
        "s_setpc_b64" => source(p, i, 0)?,
        n if n.starts_with("s_bitcmp") => {
            source(p, i, 0)?;
            source(p, i, 1)?;
            i.flow = Flow::Scalar;
            i.mods.cbsz = 1;
        }
        _ if has_destination(p) => alu(p, i)?,
        _ => {}
    }
    Ok(())
}

fn has_destination(p: &Parts<'_>) -> bool {
    let plain = [
        "s_nop",
        "s_sleep",
        "s_setprio",
        "s_sethalt",
        "s_endpgm",
        "s_trap",
        "s_sendmsg",
        "s_icache_inv",
        "s_ttracedata",
        "s_incperflevel",
        "s_decperflevel",
        "s_code_end",
        "s_set_gpr_idx_off",
    ];
    !plain.contains(&p.name)
}

fn source(p: &Parts<'_>, i: &mut Inst, k: usize) -> Result<(), String> {
    let s = p.ops.get(k).ok_or("missing operand")?;
    i.src[usize::from(i.nsrc)] = operand(s, const_type(p.name, k))?.0;
    i.nsrc += 1;
    Ok(())
}

fn alu(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    i.dst = operand(p.ops.first().ok_or("no destination")?, const_type(p.name, 0))?.0;
    let immediate = ["s_movk", "s_cmovk", "s_addk", "s_mulk"].iter().any(|n| p.name.starts_with(n));
    if immediate {
        if matches!(p.name, "s_addk_i32" | "s_mulk_i32") {
            i.src[0] = i.dst;
            i.nsrc = 1;
        }
    } else {
        for k in 1..p.ops.len() {
            source(p, i, k)?;
        }
    }
    if p.name.starts_with("s_bitset") {
        i.src[1] = i.dst;
        i.nsrc = 2;
    }
    let mask_op = p.name.trim_start_matches("s_").split('_').next().unwrap_or("");
    let bitwise = matches!(
        mask_op,
        "mov" | "and" | "or" | "xor" | "andn2" | "orn2" | "not" | "nand" | "nor" | "xnor"
    );
    i.flow = if bitwise { Flow::Bitwise } else { Flow::Scalar };
    i.mods.bitop3 = match mask_op {
        "and" | "nand" => 1,
        "or" | "nor" => 2,
        "andn2" => 3,
        _ => 0,
    };
    let exec = p.name.ends_with("saveexec_b64") || p.name.ends_with("wrexec_b64");
    if exec {
        // EXEC is the second source.
        i.src[1] = Operand::S { r: EXEC, n: 2 };
        i.nsrc = 2;
    }
    i.mods.cbsz = u8::from(writes_scc(p.name)) | u8::from(exec) << 1;
    i.reads_vcc = ["s_cselect", "s_cmov", "s_addc", "s_subb"].iter().any(|n| p.name.starts_with(n));
    Ok(())
}

fn compare(p: &Parts<'_>, i: &mut Inst, rest: &str) -> Result<(), String> {
    let short = rest.starts_with('k');
    let rest = rest.trim_start_matches('k').trim_start_matches('_');
    let (c, ty) = rest.split_once('_').ok_or("compare without type")?;
    i.exec = p.choose(salu::compare(ty).ok_or("unknown compare type")?);
    source(p, i, 0)?;
    if short {
        let simm = p.word(0) as u16;
        let value = if ty == "i32" { simm as i16 as i32 as u32 } else { simm.into() };
        i.src[1] = Operand::Imm(value.into());
        i.nsrc = 2;
    } else {
        source(p, i, 1)?;
    }
    i.extra = Extra::Cmp(cond(c).ok_or("unknown condition")?);
    i.flow = Flow::Scalar;
    i.mods.cbsz = 1;
    Ok(())
}
