//! Instructions that move values between lanes; they track validity themselves.

use super::map::{plain, scalar, vdst};
use crate::env::Env;
use crate::inst::{Exec, ExecFn, Inst, Operand};
use crate::wave::Wave;

fn vsrc(i: &Inst) -> Option<usize> {
    match i.src[0] {
        Operand::V { r, .. } => Some(r.into()),
        _ => None,
    }
}

fn set_scalar(w: &mut Wave, i: &Inst, x: u32, valid: bool) {
    if let Operand::S { r, .. } = i.dst {
        w.s[usize::from(r)] = x;
        w.svalid[usize::from(r)] = if valid { !0 } else { 0 };
    }
}

/// Reads one lane of source 0 into a scalar register.
fn read(w: &mut Wave, i: &Inst, lane: usize) {
    match vsrc(i) {
        Some(r) => {
            let (x, ok) = (w.v[r].0[lane], w.vvalid[r] >> lane & 1 == 1);
            set_scalar(w, i, x, ok);
        }
        None => {
            let x = scalar(w, i.src[0]);
            set_scalar(w, i, x, true);
        }
    }
}

fn readfirstlane(w: &mut Wave, i: &Inst) {
    let lane = w.exec().trailing_zeros() as usize;
    read(w, i, if lane > 63 { 0 } else { lane });
}

fn readlane(w: &mut Wave, i: &Inst) {
    let lane = scalar(w, i.src[1]) as usize & 63;
    read(w, i, lane);
}

fn writelane(w: &mut Wave, i: &Inst) {
    let (x, lane) = (scalar(w, i.src[0]), scalar(w, i.src[1]) as usize & 63);
    let ok = match i.src[0] {
        Operand::S { r, .. } => w.svalid[usize::from(r)] == !0,
        _ => true,
    };
    let d = vdst(i.dst);
    w.v[d].0[lane] = x;
    w.vvalid[d] = w.vvalid[d] & !(1 << lane) | u64::from(ok) << lane;
}

/// Swaps lanes `l` of the destination with lanes `l − by` of the source, for lanes with `l & by`.
fn permlane_swap(w: &mut Wave, i: &Inst, by: usize) {
    let Some(s) = vsrc(i) else { return };
    let (d, exec) = (vdst(i.dst), w.exec());
    for l in (0..64).filter(|l| l & by != 0) {
        let m = l - by;
        if exec >> l & 1 == 0 || exec >> m & 1 == 0 {
            continue;
        }
        let (a, b) = (w.v[d].0[l], w.v[s].0[m]);
        (w.v[d].0[l], w.v[s].0[m]) = (b, a);
        let (va, vb) = (w.vvalid[d] >> l & 1, w.vvalid[s] >> m & 1);
        w.vvalid[d] = w.vvalid[d] & !(1 << l) | vb << l;
        w.vvalid[s] = w.vvalid[s] & !(1 << m) | va << m;
    }
}

/// The table: mnemonic without encoding suffix, and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("v_readfirstlane_b32", plain!(readfirstlane)),
    ("v_readlane_b32", plain!(readlane)),
    ("v_writelane_b32", plain!(writelane)),
    ("v_permlane32_swap_b32", plain!(|w, i| permlane_swap(w, i, 32))),
    ("v_permlane16_swap_b32", plain!(|w, i| permlane_swap(w, i, 16))),
];
