//! Vector compares: three lane masks (less, equal, unordered) give every condition.

use super::map::{Tmp, Ty, mask_of, put_mask, src, src64};
use super::valu_float::cmp_class;
use crate::env::Env;
use crate::formats::f16_to_f32;
use crate::inst::{Cond, EXEC, Exec, ExecFn, Extra, Inst, Operand};
use crate::wave::Wave;

/// Combines the primitive masks.
pub(crate) fn condition(c: Cond, lt: u64, eq: u64, un: u64) -> u64 {
    match c {
        Cond::F => 0,
        Cond::Lt => lt,
        Cond::Eq => eq,
        Cond::Le => lt | eq,
        Cond::Gt => !(lt | eq | un),
        Cond::Lg => !(eq | un),
        Cond::Ge => !(lt | un),
        Cond::O => !un,
        Cond::U => un,
        Cond::Nge => lt | un,
        Cond::Nlg => eq | un,
        Cond::Ngt => lt | eq | un,
        Cond::Nle => !(lt | eq),
        Cond::Neq => !eq,
        Cond::Nlt => !lt,
        Cond::T => !0,
    }
}

fn finish(w: &mut Wave, i: &Inst, lt: u64, eq: u64, un: u64) {
    if let Extra::Cmp(c) = i.extra {
        let mask = condition(c, lt, eq, un) & w.exec();
        put_mask(w, i.dst, mask);
        // `v_cmpx` also replaces EXEC.
        if i.dst2 != Operand::None {
            w.set_s64(EXEC, mask);
        }
    }
}

/// # Safety
/// As for [`src`].
#[inline(always)]
unsafe fn compare32<F>(w: &mut Wave, i: &Inst, (ty, f): (Ty, F))
where
    F: Fn(u32, u32) -> (bool, bool, bool),
{
    let (mut t0, mut t1) = (Tmp::uninit(), Tmp::uninit());
    // SAFETY: passed on from the caller; both point to 64 lanes.
    let (a, b): (&[u32; 64], &[u32; 64]) =
        unsafe { (&*src(w, i, 0, ty, &mut t0).cast(), &*src(w, i, 1, ty, &mut t1).cast()) };
    let (mut lt, mut eq, mut un) = ([0u32; 64], [0u32; 64], [0u32; 64]);
    for l in 0..64 {
        let r = f(a[l], b[l]);
        lt[l] = 0u32.wrapping_sub(r.0.into());
        eq[l] = 0u32.wrapping_sub(r.1.into());
        un[l] = 0u32.wrapping_sub(r.2.into());
    }
    let (lt, eq, un) = (mask_of(&lt), mask_of(&eq), mask_of(&un));
    finish(w, i, lt, eq, un);
}

fn compare64(w: &mut Wave, i: &Inst, float: bool, f: fn(u64, u64) -> (bool, bool, bool)) {
    let (a, b) = (src64(w, i, 0, float), src64(w, i, 1, float));
    let (mut lt, mut eq, mut un) = (0, 0, 0);
    for l in 0..64 {
        let r = f(a[l], b[l]);
        lt |= u64::from(r.0) << l;
        eq |= u64::from(r.1) << l;
        un |= u64::from(r.2) << l;
    }
    finish(w, i, lt, eq, un);
}

fn ord<T: PartialOrd>(a: T, b: T) -> (bool, bool, bool) {
    (a < b, a == b, false)
}

#[inline(always)]
fn ord_f32(a: f32, b: f32) -> (bool, bool, bool) {
    (a < b, a == b, a.is_nan() || b.is_nan())
}

fn ord_f64(a: u64, b: u64) -> (bool, bool, bool) {
    let (a, b) = (f64::from_bits(a), f64::from_bits(b));
    (a < b, a == b, a.is_nan() || b.is_nan())
}

/// Code for a compare of type `ty` (`i32`, `f64`, ...; `class_f32`).
pub(crate) fn code(ty: &str) -> Option<Exec> {
    use super::map::{op, plain};
    Some(match ty {
        "i16" => op!(compare32, (Ty::Int, |a, b| ord(a as i16, b as i16))),
        "u16" => op!(compare32, (Ty::Int, |a, b| ord(a as u16, b as u16))),
        "i32" => op!(compare32, (Ty::Int, |a, b| ord(a as i32, b as i32))),
        "u32" => op!(compare32, (Ty::Int, |a, b| ord(a, b))),
        "f32" => op!(compare32, (Ty::F32, |a, b| ord_f32(f32::from_bits(a), f32::from_bits(b)))),
        "f16" => op!(
            compare32,
            (Ty::F16, |a, b| { ord_f32(f16_to_f32(a as u16), f16_to_f32(b as u16)) })
        ),
        "i64" => plain!(|w, i| compare64(w, i, false, |a, b| ord(a as i64, b as i64))),
        "u64" => plain!(|w, i| compare64(w, i, false, ord)),
        "f64" => plain!(|w, i| compare64(w, i, true, ord_f64)),
        "class_f16" => plain!(|w, i| cmp_class(w, i, 16)),
        "class_f32" => plain!(|w, i| cmp_class(w, i, 32)),
        "class_f64" => plain!(|w, i| cmp_class(w, i, 64)),
        _ => return None,
    })
}
