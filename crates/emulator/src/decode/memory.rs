//! Memory instructions: scalar, LDS, global, flat, buffer, scratch.

use super::Parts;
use super::text::operand;
use crate::check::Scope;
use crate::exec::{self, ds, smem, vmem};
use crate::inst::{
    AtomicOp, Class, ConstType, Exec, Extra, Flow, Inst, Mem, MemKind, Operand, Space,
};

/// Scalar memory instructions.
pub(super) fn is_scalar(name: &str) -> bool {
    let kinds = ["load_", "store_", "atomic_"];
    let rest = name.strip_prefix("s_buffer_").or_else(|| name.strip_prefix("s_"));
    rest.is_some_and(|r| kinds.iter().any(|k| r.starts_with(k)))
}

/// An access without what only some have.
pub(crate) fn shape(space: Space, kind: MemKind, bytes: u8) -> Mem {
    Mem {
        space,
        kind,
        bytes,
        offset: 0,
        offset1: 0,
        two: false,
        tr: 0,
        offen: false,
        idxen: false,
        sc0: false,
        sc1: false,
        ret: false,
    }
}

fn op(p: &Parts<'_>, k: usize) -> Result<Operand, String> {
    Ok(operand(p.ops.get(k).ok_or("missing operand")?, ConstType::B32)?.0)
}

/// Decodes one memory instruction.
pub(super) fn decode(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    i.flow = Flow::Nothing;
    if is_scalar(p.name) {
        return scalar(p, i);
    }
    match p.name {
        "buffer_wbl2" => fence(p, i, vmem::RELEASE),
        "buffer_inv" => fence(p, i, vmem::ACQUIRE),
        _ => {
            let (prefix, rest) = p.name.split_once('_').ok_or("unknown opcode")?;
            match prefix {
                "ds" => lds(p, i, rest)?,
                "global" => vector(p, i, Space::Global, rest)?,
                "flat" => vector(p, i, Space::Flat, rest)?,
                "scratch" => vector(p, i, Space::Scratch, rest)?,
                "buffer" => vector(p, i, Space::Buffer, rest)?,
                _ => return Err("unknown opcode".into()),
            }
        }
    }
    Ok(())
}

fn fence(p: &Parts<'_>, i: &mut Inst, code: Exec) {
    i.exec = p.choose(code);
    let system = p.flag("sc0") && p.flag("sc1");
    i.extra = Extra::Fence(if system { Scope::System } else { Scope::Device });
}

fn scalar(p: &Parts<'_>, i: &mut Inst) -> Result<(), String> {
    let store = p.name.contains("store");
    let space = if p.name.contains("buffer") { Space::Buffer } else { Space::Global };
    let width = p.name.rsplit('_').next().unwrap_or("");
    let mut m = match p.name.split_once("atomic_") {
        Some((_, a)) => {
            let (op, bytes) = atomic(a).ok_or("unknown opcode")?;
            let mut m = shape(space, MemKind::Atomic(op), bytes);
            m.ret = p.flag("glc");
            m
        }
        None => {
            let words = dwords(width).ok_or("unknown width")?;
            let load = MemKind::Load { signed: false };
            shape(space, if store { MemKind::Store { hi: false } } else { load }, 4 * words)
        }
    };
    i.class = Class::Smem;
    i.exec = p.choose(smem::CODE);
    i.dst = op(p, 0)?;
    i.src[0] = op(p, 1)?;
    i.src[1] = op(p, 2)?;
    i.nsrc = 2;
    m.offset = p.number("offset").unwrap_or(0) as i32;
    if let Operand::Imm(x) = i.src[1] {
        // A signed 21-bit immediate rather than a register.
        m.offset = x as i32;
        i.src[1] = Operand::Imm(0);
    }
    i.extra = crate::inst::Extra::Mem(m);
    Ok(())
}

fn dwords(s: &str) -> Option<u8> {
    Some(match s {
        "dword" => 1,
        "dwordx2" => 2,
        "dwordx3" => 3,
        "dwordx4" => 4,
        "dwordx8" => 8,
        "dwordx16" => 16,
        _ => return None,
    })
}

/// Kind and size of a vector load or store from the name's tail.
fn load_store(rest: &str) -> Option<(MemKind, u8)> {
    let load = |signed, bytes| Some((MemKind::Load { signed }, bytes));
    let half = |signed, hi, bytes| Some((MemKind::LoadD16 { signed, hi }, bytes));
    let store = |hi, bytes| Some((MemKind::Store { hi }, bytes));
    if let Some(w) = rest.strip_prefix("load_lds_") {
        let bytes = match w {
            "ubyte" => 1,
            "ushort" => 2,
            w => 4 * dwords(w)?,
        };
        return Some((MemKind::LoadLds, bytes));
    }
    match rest {
        "load_ubyte" => load(false, 1),
        "load_sbyte" => load(true, 1),
        "load_ushort" => load(false, 2),
        "load_sshort" => load(true, 2),
        "load_ubyte_d16" => half(false, false, 1),
        "load_ubyte_d16_hi" => half(false, true, 1),
        "load_sbyte_d16" => half(true, false, 1),
        "load_sbyte_d16_hi" => half(true, true, 1),
        "load_short_d16" => half(false, false, 2),
        "load_short_d16_hi" => half(false, true, 2),
        "store_byte" => store(false, 1),
        "store_byte_d16_hi" => store(true, 1),
        "store_short" => store(false, 2),
        "store_short_d16_hi" => store(true, 2),
        _ => match rest.split_once('_')? {
            ("load", w) => load(false, 4 * dwords(w)?),
            ("store", w) => store(false, 4 * dwords(w)?),
            _ => None,
        },
    }
}

fn atomic(s: &str) -> Option<(AtomicOp, u8)> {
    let (name, wide) = s.strip_suffix("_x2").map_or((s, false), |n| (n, true));
    let op = match name {
        "swap" => AtomicOp::Swap,
        "cmpswap" => AtomicOp::CmpSwap,
        "add" => AtomicOp::Add,
        "sub" => AtomicOp::Sub,
        "smin" => AtomicOp::Smin,
        "umin" => AtomicOp::Umin,
        "smax" => AtomicOp::Smax,
        "umax" => AtomicOp::Umax,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "inc" => AtomicOp::Inc,
        "dec" => AtomicOp::Dec,
        "add_f32" | "add_f64" => AtomicOp::Fadd,
        "min_f64" => AtomicOp::Fmin,
        "max_f64" => AtomicOp::Fmax,
        "pk_add_f16" => AtomicOp::PkAddF16,
        "pk_add_bf16" => AtomicOp::PkAddBf16,
        _ => return None,
    };
    Some((op, if wide || name.ends_with("f64") { 8 } else { 4 }))
}

fn vector(p: &Parts<'_>, i: &mut Inst, space: Space, rest: &str) -> Result<(), String> {
    let (mut kind, bytes) = match rest.strip_prefix("atomic_") {
        Some(a) => atomic(a).map(|(op, n)| (MemKind::Atomic(op), n)),
        None => load_store(rest),
    }
    .ok_or("unknown opcode")?;
    if p.flag("lds") {
        kind = MemKind::LoadLds;
    }
    let mut m = shape(space, kind, bytes);
    m.offset = p.number("offset").unwrap_or(0) as i32;
    (m.offen, m.idxen) = (p.flag("offen"), p.flag("idxen"));
    (m.sc0, m.sc1) = (p.flag("sc0"), p.flag("sc1"));
    m.ret = matches!(kind, MemKind::Atomic(_)) && m.sc0;
    i.class = Class::Vmem;
    i.exec = p.choose(vmem::CODE);
    let load = matches!(kind, MemKind::Load { .. } | MemKind::LoadD16 { .. });
    let buffer = space == Space::Buffer;
    // Position of the address operand; data comes before it in loads, buffer accesses and
    // returning atomics, after it in the other stores and atomics.
    let lead = usize::from(load || (buffer && kind != MemKind::LoadLds) || (m.ret && !buffer));
    if load || m.ret {
        i.dst = op(p, 0)?;
    }
    let missing_address = buffer && p.ops.get(lead).is_some_and(|s| s.starts_with('s'));
    if missing_address {
        i.src[1] = op(p, lead)?;
        i.src[3] = op(p, lead + 1)?;
    } else {
        i.src[0] = op(p, lead)?;
        let data = !load && !buffer && kind != MemKind::LoadLds;
        if data {
            i.src[2] = op(p, lead + 1)?;
        }
        let base = lead + 1 + usize::from(data);
        if space != Space::Flat {
            i.src[1] = op(p, base)?;
        }
        if buffer {
            i.src[3] = op(p, base + 1)?;
        }
    }
    if buffer && !load && kind != MemKind::LoadLds {
        i.src[2] = op(p, 0)?;
        if m.ret {
            i.dst = narrowed(i.src[2], bytes);
        }
    }
    i.nsrc = 4;
    check(i, &m)?;
    i.extra = crate::inst::Extra::Mem(m);
    Ok(())
}

/// The destination of a returning buffer compare-and-swap is the first half of its data.
fn narrowed(o: Operand, bytes: u8) -> Operand {
    match o {
        Operand::V { r, .. } => Operand::V { r, n: bytes / 4 },
        o => o,
    }
}

/// Operands must be wide enough for the access.
fn check(i: &Inst, m: &Mem) -> Result<(), String> {
    let words = m.bytes.div_ceil(4);
    let width = |o: Operand| match o {
        Operand::V { n, .. } => n,
        _ => 0,
    };
    let load = matches!(m.kind, MemKind::Load { .. } | MemKind::LoadD16 { .. }) || m.ret;
    let store = matches!(m.kind, MemKind::Store { .. } | MemKind::Atomic(_));
    if load && width(i.dst) < words || store && width(i.src[2]) < words {
        return Err("register operand too narrow".into());
    }
    if m.space == Space::Buffer && !matches!(i.src[1], Operand::S { n: 4, .. }) {
        return Err("buffer descriptor expected".into());
    }
    if m.space == Space::Flat && width(i.src[0]) != 2 {
        return Err("64-bit address expected".into());
    }
    if m.bytes > 16 {
        return Err("access wider than 16 bytes".into());
    }
    Ok(())
}

fn ds_atomic(s: &str) -> Option<(AtomicOp, u8)> {
    let (name, ty) = s.rsplit_once('_')?;
    let op = match (name, ty) {
        ("pk_add", "f16") => AtomicOp::PkAddF16,
        ("pk_add", "bf16") => AtomicOp::PkAddBf16,
        ("add", "f32" | "f64") => AtomicOp::Fadd,
        ("min", "f32" | "f64") => AtomicOp::Fmin,
        ("max", "f32" | "f64") => AtomicOp::Fmax,
        ("add", _) => AtomicOp::Add,
        ("sub", _) => AtomicOp::Sub,
        ("rsub", _) => AtomicOp::Rsub,
        ("inc", _) => AtomicOp::Inc,
        ("dec", _) => AtomicOp::Dec,
        ("min", "i32" | "i64") => AtomicOp::Smin,
        ("max", "i32" | "i64") => AtomicOp::Smax,
        ("min", _) => AtomicOp::Umin,
        ("max", _) => AtomicOp::Umax,
        ("and", _) => AtomicOp::And,
        ("or", _) => AtomicOp::Or,
        ("xor", _) => AtomicOp::Xor,
        ("wrxchg", _) => AtomicOp::Swap,
        ("cmpst", _) => AtomicOp::CmpSwap,
        _ => return None,
    };
    Some((op, if ty.ends_with("64") { 8 } else { 4 }))
}

/// Kind, bytes and (for two-address forms) offset unit.
fn ds_shape(rest: &str) -> Option<(MemKind, u8, Option<i32>)> {
    let load = |signed, bytes| Some((MemKind::Load { signed }, bytes, None));
    let half = |signed, hi, bytes| Some((MemKind::LoadD16 { signed, hi }, bytes, None));
    let store = |hi, bytes| Some((MemKind::Store { hi }, bytes, None));
    let width = |s: &str| s.strip_prefix('b').and_then(|b| b.parse::<u8>().ok()).map(|b| b / 8);
    match rest {
        "read_u8" => return load(false, 1),
        "read_i8" => return load(true, 1),
        "read_u16" => return load(false, 2),
        "read_i16" => return load(true, 2),
        "read_u8_d16" => return half(false, false, 1),
        "read_u8_d16_hi" => return half(false, true, 1),
        "read_i8_d16" => return half(true, false, 1),
        "read_i8_d16_hi" => return half(true, true, 1),
        "read_u16_d16" => return half(false, false, 2),
        "read_u16_d16_hi" => return half(false, true, 2),
        "write_b8_d16_hi" => return store(true, 1),
        "write_b16_d16_hi" => return store(true, 2),
        _ => {}
    }
    let (verb, w) = rest.rsplit_once('_')?;
    let kinds = (MemKind::Load { signed: false }, MemKind::Store { hi: false });
    match verb {
        "read" => load(false, width(w)?),
        "write" => store(false, width(w)?),
        "read2" => Some((kinds.0, width(w)?, Some(i32::from(width(w)?)))),
        "write2" => Some((kinds.1, width(w)?, Some(i32::from(width(w)?)))),
        "read2st64" => Some((kinds.0, width(w)?, Some(64 * i32::from(width(w)?)))),
        "write2st64" => Some((kinds.1, width(w)?, Some(64 * i32::from(width(w)?)))),
        _ => None,
    }
}

fn lds(p: &Parts<'_>, i: &mut Inst, rest: &str) -> Result<(), String> {
    i.class = Class::Ds;
    i.exec = p.choose(ds::CODE);
    let field = p.word(0) & 0xffff;
    let mut m = shape(Space::Lds, MemKind::Load { signed: false }, 4);
    m.offset = field as i32;
    match rest {
        "nop" => {
            i.exec = p.choose(exec::lookup("s_nop").ok_or("s_nop")?);
            return Ok(());
        }
        "swizzle_b32" => return exchange(p, i, m, Space::Scratch, false),
        "bpermute_b32" => return exchange(p, i, m, Space::Lds, false),
        "permute_b32" => return exchange(p, i, m, Space::Lds, true),
        _ => {}
    }
    let transpose = [
        ("read_b64_tr_b4", 4, 8),
        ("read_b64_tr_b8", 8, 8),
        ("read_b64_tr_b16", 16, 8),
        ("read_b96_tr_b6", 6, 12),
    ];
    if let Some((_, bits, bytes)) = transpose.iter().find(|(n, ..)| *n == rest) {
        (m.tr, m.bytes) = (*bits, *bytes);
        i.dst = op(p, 0)?;
        i.src[0] = op(p, 1)?;
    } else if let Some((kind, bytes, unit)) = ds_shape(rest) {
        (m.kind, m.bytes) = (kind, bytes);
        if let Some(unit) = unit {
            m.two = true;
            m.offset = (field & 0xff) as i32 * unit;
            m.offset1 = (field >> 8) as i32 * unit;
        }
        let load = !matches!(kind, MemKind::Store { .. });
        if load {
            i.dst = op(p, 0)?;
            i.src[0] = op(p, 1)?;
        } else {
            i.src[0] = op(p, 0)?;
            i.src[2] = op(p, 1)?;
            if m.two {
                i.src[3] = op(p, 2)?;
            }
        }
    } else {
        let (name, ret) = match rest.split_once("rtn_") {
            Some((a, b)) => (format!("{a}{b}"), true),
            None => (rest.to_owned(), false),
        };
        let (a, bytes) = ds_atomic(&name).ok_or("unknown opcode")?;
        (m.kind, m.bytes, m.ret) = (MemKind::Atomic(a), bytes, ret);
        let lead = usize::from(ret);
        if ret {
            i.dst = op(p, 0)?;
        }
        i.src[0] = op(p, lead)?;
        i.src[2] = op(p, lead + 1)?;
        if a == AtomicOp::CmpSwap {
            i.src[3] = op(p, lead + 2)?;
        }
    }
    i.nsrc = 4;
    ds_check(i, &m)?;
    i.extra = crate::inst::Extra::Mem(m);
    Ok(())
}

fn ds_check(i: &Inst, m: &Mem) -> Result<(), String> {
    let words = m.bytes.div_ceil(4) * if m.two { 2 } else { 1 };
    let ok = match i.dst {
        Operand::V { n, .. } => n >= words,
        _ => true,
    };
    if ok { Ok(()) } else { Err("register operand too narrow".into()) }
}

fn exchange(p: &Parts<'_>, i: &mut Inst, m: Mem, space: Space, push: bool) -> Result<(), String> {
    i.exec = p.choose(ds::EXCHANGE);
    i.dst = op(p, 0)?;
    i.src[0] = op(p, 1)?;
    if space == Space::Lds {
        i.src[2] = op(p, 2)?;
    }
    i.nsrc = 4;
    i.extra = crate::inst::Extra::Mem(Mem { space, two: push, ..m });
    Ok(())
}
