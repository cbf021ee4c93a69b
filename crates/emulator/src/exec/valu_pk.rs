//! Packed instructions: two halves, or two singles in a register pair; and dot products.

use super::map::{Ty, int_to_flt, op, plain, put32, scalar64, vdst};
use super::valu_cvt::lanes;
use super::valu_float::{fma_f16, max, min};
use crate::env::Env;
use crate::formats::{bf16_to_f32, f16_to_f32, f32_to_f16};
use crate::inst::{Exec, ExecFn, Inst, Operand};
use crate::wave::Wave;

/// The two halves of source `k` after `op_sel`, `op_sel_hi` and negation (of floats).
fn halves(w: &Wave, i: &Inst, k: usize, float: bool) -> [[u32; 2]; 64] {
    let raw = Inst { modified: false, ..*i };
    let x = lanes(w, &raw, k, Ty::Int);
    let m = &i.mods;
    let pick = |x: u32, hi: bool| if hi { x >> 16 } else { x & 0xffff };
    let (lo, hi) = (m.op_sel >> k & 1 == 1, m.op_sel_hi >> k & 1 == 1);
    let flip = |on: u8| if float && on >> k & 1 == 1 { 0x8000 } else { 0 };
    x.map(|x| [pick(x, lo) ^ flip(m.neg), pick(x, hi) ^ flip(m.abs)])
}

fn pk16(w: &mut Wave, i: &Inst, float: bool, f: fn(u32, u32, u32) -> u32) {
    let get = |k: usize| match k < usize::from(i.nsrc) {
        true => halves(w, i, k, float),
        false => [[0; 2]; 64],
    };
    let (a, b, c) = (get(0), get(1), get(2));
    let clamp = |x: u32| match i.mods.clamp && float {
        true => f32_to_f16(f16_to_f32(x as u16).clamp(0.0, 1.0)).into(),
        false => x & 0xffff,
    };
    let out = std::array::from_fn(|l| {
        let r = |h: usize| clamp(f(a[l][h], b[l][h], c[l][h]));
        r(0) | r(1) << 16
    });
    put32(w, vdst(i.dst), &out);
}

/// Where one half of source `k` of a packed single-precision instruction is, what to add from one
/// block of 16 lanes to the next, and the sign to flip.
#[inline(always)]
fn single(
    w: &Wave,
    i: &Inst,
    k: usize,
    high: bool,
    tmp: &mut [u32; 16],
) -> (*const u32, usize, u32) {
    let m = &i.mods;
    let (sel, neg) = if high { (m.op_sel_hi, m.abs) } else { (m.op_sel, m.neg) };
    let (sel, sign) = (sel >> k & 1, u32::from(neg >> k & 1) << 31);
    let value = match i.src[k] {
        Operand::V { r, n } => {
            let row = &w.v[usize::from(r) + usize::from(sel.min(n - 1))];
            return (row.0.as_ptr(), 16, sign);
        }
        _ if k >= usize::from(i.nsrc) => 0,
        Operand::S { r, n } => w.s[usize::from(r) + usize::from(sel.min(n - 1))],
        // A written constant stands for both halves.
        o => scalar64(w, o) as u32,
    };
    *tmp = [value; 16];
    (tmp.as_ptr(), 0, sign)
}

/// # Safety
/// `i` must come from the decoder, which bounds every register index.
#[inline(always)]
unsafe fn pk32<F: Fn(f32, f32, f32) -> f32>(w: &mut Wave, i: &Inst, f: F) {
    let mut out = [[0u32; 64]; 2];
    for (h, out) in out.iter_mut().enumerate() {
        let mut tmp = [[0u32; 16]; 3];
        let [ta, tb, tc] = &mut tmp;
        let a = single(w, i, 0, h == 1, ta);
        let b = single(w, i, 1, h == 1, tb);
        let c = single(w, i, 2, h == 1, tc);
        for (block, out) in out.chunks_exact_mut(16).enumerate() {
            // SAFETY: each pointer is to 64 lanes, or to 16 with no step.
            let read = |x: (*const u32, usize, u32)| unsafe {
                x.0.add(x.1 * block).cast::<[u32; 16]>().read()
            };
            let (va, vb, vc) = (read(a), read(b), read(c));
            // A plain loop: a closure handed to a library function would miss the wide
            // instructions.
            for l in 0..16 {
                let value = |x: u32, sign: u32| f32::from_bits(x ^ sign);
                out[l] = f(value(va[l], a.2), value(vb[l], b.2), value(vc[l], c.2)).to_bits();
            }
        }
    }
    let [lo, hi] = out;
    put32(w, vdst(i.dst), &lo);
    put32(w, vdst(i.dst) + 1, &hi);
}

fn h(f: fn(f32, f32) -> f32, a: u32, b: u32) -> u32 {
    f32_to_f16(f(f16_to_f32(a as u16), f16_to_f32(b as u16))).into()
}

fn nan_max(a: u32, b: u32, f: fn(f32, f32) -> f32) -> u32 {
    let (x, y) = (f16_to_f32(a as u16), f16_to_f32(b as u16));
    if x.is_nan() || y.is_nan() { 0x7e00 } else { f32_to_f16(f(x, y)).into() }
}

/// Two-element dot product accumulated in single precision, low element first.
fn dot2(w: &mut Wave, i: &Inst, value: fn(u32) -> f32) {
    let (a, b) = (halves(w, i, 0, true), halves(w, i, 1, true));
    let c = lanes(w, &Inst { modified: false, ..*i }, 2, Ty::Int);
    let out = std::array::from_fn(|l| {
        let acc = value(a[l][0]).mul_add(value(b[l][0]), f32::from_bits(c[l]));
        value(a[l][1]).mul_add(value(b[l][1]), acc).to_bits()
    });
    put32(w, vdst(i.dst), &out);
}

/// `v_fma_mix*`: each source is a single or, with `op_sel_hi`, a half picked by `op_sel`.
fn fma_mix(w: &mut Wave, i: &Inst, to: u8) {
    let raw = Inst { modified: false, ..*i };
    let m = &i.mods;
    let get = |k: usize| {
        lanes(w, &raw, k, Ty::Int).map(|x| {
            let v = match (m.op_sel_hi >> k & 1, m.op_sel >> k & 1) {
                (0, _) => f32::from_bits(x),
                (_, sel) => f16_to_f32((x >> (16 * u32::from(sel))) as u16),
            };
            let v = if m.abs >> k & 1 == 1 { v.abs() } else { v };
            if m.neg >> k & 1 == 1 { -v } else { v }
        })
    };
    let (a, b, c) = (get(0), get(1), get(2));
    let old = w.v[vdst(i.dst)].0;
    let out = std::array::from_fn(|l| {
        let r = a[l].mul_add(b[l], c[l]);
        match to {
            0 => r.to_bits(),
            1 => (old[l] & 0xffff_0000) | u32::from(f32_to_f16(r)),
            _ => (old[l] & 0xffff) | u32::from(f32_to_f16(r)) << 16,
        }
    });
    put32(w, vdst(i.dst), &out);
}

fn bf16(x: u32) -> f32 {
    bf16_to_f32(x & 0xffff)
}

fn f16(x: u32) -> f32 {
    f16_to_f32(x as u16)
}

/// The pseudo-random step of the stochastic conversions: a 32-bit linear feedback shift register.
#[inline(always)]
fn prng(x: u32) -> u32 {
    x << 1 ^ if x >> 31 == 1 { 197 } else { 0 }
}

/// The table: mnemonic without encoding suffix, and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("v_pk_add_f32", op!(pk32, |a, b, _| a + b)),
    ("v_pk_mul_f32", op!(pk32, |a, b, _| a * b)),
    ("v_pk_fma_f32", op!(pk32, |a: f32, b, c| a.mul_add(b, c))),
    ("v_pk_add_f16", plain!(|w, i| pk16(w, i, true, |a, b, _| h(|a, b| a + b, a, b)))),
    ("v_pk_mul_f16", plain!(|w, i| pk16(w, i, true, |a, b, _| h(|a, b| a * b, a, b)))),
    ("v_pk_min_f16", plain!(|w, i| pk16(w, i, true, |a, b, _| h(min, a, b)))),
    ("v_pk_max_f16", plain!(|w, i| pk16(w, i, true, |a, b, _| h(max, a, b)))),
    ("v_pk_fma_f16", plain!(|w, i| pk16(w, i, true, fma_f16))),
    (
        "v_pk_minimum3_f16",
        plain!(|w, i| pk16(w, i, true, |a, b, c| { nan_max(nan_max(a, b, min), c, min) })),
    ),
    (
        "v_pk_maximum3_f16",
        plain!(|w, i| pk16(w, i, true, |a, b, c| { nan_max(nan_max(a, b, max), c, max) })),
    ),
    ("v_pk_add_u16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.wrapping_add(b)))),
    ("v_pk_add_i16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.wrapping_add(b)))),
    ("v_pk_sub_u16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.wrapping_sub(b)))),
    ("v_pk_sub_i16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.wrapping_sub(b)))),
    ("v_pk_mul_lo_u16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.wrapping_mul(b)))),
    (
        "v_pk_mad_u16",
        plain!(|w, i| { pk16(w, i, false, |a, b, c| a.wrapping_mul(b).wrapping_add(c)) }),
    ),
    (
        "v_pk_mad_i16",
        plain!(|w, i| { pk16(w, i, false, |a, b, c| a.wrapping_mul(b).wrapping_add(c)) }),
    ),
    ("v_pk_min_u16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.min(b)))),
    ("v_pk_max_u16", plain!(|w, i| pk16(w, i, false, |a, b, _| a.max(b)))),
    (
        "v_pk_min_i16",
        plain!(|w, i| pk16(w, i, false, |a, b, _| { (a as i16).min(b as i16) as u16 as u32 })),
    ),
    (
        "v_pk_max_i16",
        plain!(|w, i| pk16(w, i, false, |a, b, _| { (a as i16).max(b as i16) as u16 as u32 })),
    ),
    ("v_pk_lshlrev_b16", plain!(|w, i| pk16(w, i, false, |a, b, _| b << (a & 15)))),
    ("v_pk_lshrrev_b16", plain!(|w, i| pk16(w, i, false, |a, b, _| b >> (a & 15)))),
    (
        "v_pk_ashrrev_i16",
        plain!(|w, i| pk16(w, i, false, |a, b, _| { (b as i16 >> (a & 15)) as u16 as u32 })),
    ),
    ("v_dot2_f32_f16", plain!(|w, i| dot2(w, i, f16))),
    ("v_dot2_f32_bf16", plain!(|w, i| dot2(w, i, bf16))),
    ("v_dot2c_f32_f16", plain!(|w, i| dot2(w, i, f16))),
    ("v_dot2c_f32_bf16", plain!(|w, i| dot2(w, i, bf16))),
    ("v_fma_mix_f32", plain!(|w, i| fma_mix(w, i, 0))),
    ("v_fma_mixlo_f16", plain!(|w, i| fma_mix(w, i, 1))),
    ("v_fma_mixhi_f16", plain!(|w, i| fma_mix(w, i, 2))),
    ("v_prng_b32", op!(int_to_flt, prng)),
];
