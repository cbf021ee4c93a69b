//! Source and result modifiers: SDWA, DPP, absolute value, negation, output multiplier, clamp.

use super::map::{Tmp, Ty, vdst};
use crate::inst::{Dpp, Inst, Operand, Sdwa, Sel, Unused};
use crate::wave::{Row, Wave};

/// The lane that `lane` reads under a DPP control, or `None` past the edge.
pub(crate) fn dpp_source(ctrl: u16, lane: usize) -> Option<usize> {
    let (row, q) = (lane & !15, lane & 15);
    let n = usize::from(ctrl & 15);
    match ctrl {
        0..=0xff => Some((lane & !3) | usize::from(ctrl >> (2 * (lane & 3)) & 3)),
        0x101..=0x10f => (q + n < 16).then_some(lane + n),
        0x111..=0x11f => (q >= n).then(|| lane - n),
        0x121..=0x12f => Some(row | ((q + 16 - n) & 15)),
        0x130 => (lane < 63).then_some(lane + 1),
        0x134 => Some((lane + 1) & 63),
        0x138 => lane.checked_sub(1),
        0x13c => Some((lane + 63) & 63),
        0x140 => Some(row | (15 - q)),
        0x141 => Some((lane & !7) | (7 - (lane & 7))),
        0x142 => (row >= 16).then(|| row - 1),
        0x143 => (lane >= 32).then_some(31),
        0x150..=0x15f => Some(row | n),
        _ => None,
    }
}

/// Lanes that a DPP instruction writes, given EXEC.
pub(crate) fn dpp_writes(d: Dpp, exec: u64) -> u64 {
    let mut m = 0;
    for l in 0..64 {
        let on = d.row_mask >> (l / 16) & 1 == 1 && d.bank_mask >> (l / 4 % 4) & 1 == 1;
        let has = dpp_source(d.ctrl, l).is_some_and(|s| exec >> s & 1 == 1);
        if on && (has || d.bound_ctrl) {
            m |= 1 << l;
        }
    }
    m & exec
}

fn select(x: u32, sel: Sel, sext: bool) -> u32 {
    match (sel, sext) {
        (Sel::Byte(b), false) => x >> (8 * b) & 0xff,
        (Sel::Byte(b), true) => (x >> (8 * b)) as u8 as i8 as u32,
        (Sel::Word(h), false) => x >> (16 * h) & 0xffff,
        (Sel::Word(h), true) => (x >> (16 * h)) as u16 as i16 as u32,
        (Sel::Dword, _) => x,
    }
}

/// Applies the modifiers of source `k` to one value.
pub(crate) fn apply_scalar(i: &Inst, k: usize, ty: Ty, x: u32) -> u32 {
    let x = match &i.sdwa {
        Some(s) if k < 2 => select(x, s.src[k], s.sext[k]),
        _ => x,
    };
    let (abs, neg) = (i.mods.abs >> k & 1 == 1, i.mods.neg >> k & 1 == 1);
    match ty {
        Ty::Int => {
            // `op_sel` of 16-bit integer instructions picks the high half.
            if i.mods.op_sel >> k & 1 == 1 { x >> 16 } else { x }
        }
        Ty::F32 => {
            let x = if abs { x & 0x7fff_ffff } else { x };
            if neg { x ^ 0x8000_0000 } else { x }
        }
        Ty::F16 => {
            let x = if i.mods.op_sel >> k & 1 == 1 { x >> 16 } else { x & 0xffff };
            let x = if abs { x & 0x7fff } else { x };
            if neg { x ^ 0x8000 } else { x }
        }
    }
}

/// Builds the lanes of a vector source that has modifiers.
pub(crate) fn fetch(w: &Wave, i: &Inst, k: usize, ty: Ty, tmp: &mut Tmp) -> *const u32 {
    let Operand::V { r, .. } = i.src[k] else {
        return tmp.write(Row([0; 64])).0.as_ptr();
    };
    let from = &w.v[usize::from(r)].0;
    let out = tmp.write(Row(*from));
    if let (Some(d), 0) = (i.dpp, k) {
        let exec = w.exec();
        for l in 0..64 {
            let s = dpp_source(d.ctrl, l).filter(|s| exec >> s & 1 == 1);
            out.0[l] = s.map_or(0, |s| from[s]);
        }
    }
    for x in &mut out.0 {
        *x = apply_scalar(i, k, ty, *x);
    }
    out.0.as_ptr()
}

fn finish_f32(x: u32, omod: u8, clamp: bool) -> u32 {
    let mut f = f32::from_bits(x);
    f = match omod {
        1 => f * 2.0,
        2 => f * 4.0,
        3 => f * 0.5,
        _ => f,
    };
    if clamp {
        // DX10_CLAMP, set in compute kernels, turns NaN into zero.
        f = if f.is_nan() { 0.0 } else { f.clamp(0.0, 1.0) };
    }
    f.to_bits()
}

fn finish_f16(x: u32, omod: u8, clamp: bool) -> u32 {
    let f = finish_f32(crate::formats::f16_to_f32(x as u16).to_bits(), omod, clamp);
    crate::formats::f32_to_f16(f32::from_bits(f)).into()
}

fn merge(s: &Sdwa, old: u32, x: u32) -> u32 {
    let (bits, shift) = match s.dst {
        Sel::Byte(b) => (8, 8 * u32::from(b)),
        Sel::Word(h) => (16, 16 * u32::from(h)),
        Sel::Dword => return x,
    };
    let mask = ((1u32 << bits) - 1) << shift;
    let part = (x << shift) & mask;
    match s.unused {
        Unused::Pad => part,
        Unused::Preserve => (old & !mask) | part,
        Unused::Sext => {
            let top = (x << (32 - bits)) as i32;
            ((top >> (32 - bits - shift)) as u32) & (!0 << shift)
        }
    }
}

/// Writes result lanes under EXEC and DPP masks, with output modifiers and SDWA.
pub(crate) fn commit(w: &mut Wave, i: &Inst, ty: Ty, x: &Row) {
    let mut mask = w.exec();
    if let Some(d) = i.dpp {
        mask = dpp_writes(d, mask);
    }
    let (omod, clamp) = (i.mods.omod, i.mods.clamp && ty != Ty::Int);
    let high = ty != Ty::F32 && i.mods.op_sel & 8 != 0;
    let dst = &mut w.v[vdst(i.dst)].0;
    let simple = omod == 0 && !clamp && i.sdwa.is_none() && !high;
    for l in 0..64 {
        let keep = 0u32.wrapping_sub((mask >> l & 1) as u32);
        let y = if simple {
            x.0[l]
        } else {
            let y = match ty {
                Ty::F32 => finish_f32(x.0[l], omod, clamp),
                Ty::F16 if omod != 0 || clamp => finish_f16(x.0[l], omod, clamp),
                _ => x.0[l],
            };
            match &i.sdwa {
                Some(s) => merge(s, dst[l], y),
                None if high => (dst[l] & 0xffff) | y << 16,
                None => y,
            }
        };
        dst[l] = (dst[l] & !keep) | (y & keep);
    }
}
