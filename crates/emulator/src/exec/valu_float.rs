//! Single, double and half precision arithmetic.
//!
//! The transcendental units are modelled by correctly rounded (or nearly so) library functions;
//! hardware differs by up to 1 ulp (`v_rcp`, `v_rsq`, `v_sqrt`, `v_exp`, `v_log`), more for
//! `v_sin`/`v_cos`.

use super::map::{self, flt1, flt2, flt3, half1, half2, half3, op, plain, put_mask, put32, put64};
use super::map::{src64, vdst};
use crate::env::Env;
use crate::formats::{f16_to_f32, f32_to_f16, pow2};
use crate::inst::{Exec, ExecFn, Inst};
use crate::wave::Wave;

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// IEEE-754 `minNum`, with −0 below +0.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    let m = if a < b { a } else { b };
    let m = if a == b { f(a.to_bits() | b.to_bits()) } else { m };
    let m = if b.is_nan() { a } else { m };
    if a.is_nan() { b } else { m }
}

/// IEEE-754 `maxNum`, with −0 below +0.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    let m = if a > b { a } else { b };
    let m = if a == b { f(a.to_bits() & b.to_bits()) } else { m };
    let m = if b.is_nan() { a } else { m };
    if a.is_nan() { b } else { m }
}

/// `minimum` and `maximum` of IEEE-754 2019: NaN if either is.
fn nan_or(a: f32, b: f32, g: fn(f32, f32) -> f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { g(a, b) }
}

fn med3(a: f32, b: f32, c: f32) -> f32 {
    if a.is_nan() || b.is_nan() || c.is_nan() {
        return min(min(a, b), c);
    }
    max(min(a, b), min(max(a, b), c))
}

/// Flushes a denormal to zero of the same sign, as the transcendental units do.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { f(x.to_bits() & 0x8000_0000) } else { x }
}

fn ldexp32(x: f32, n: i32) -> f32 {
    // Exact in double precision, so one rounding; beyond ±400 every result is 0 or infinite.
    (f64::from(x) * pow2(n.clamp(-400, 400))) as f32
}

fn ldexp64(x: f64, n: i32) -> f64 {
    let n = n.clamp(-2200, 2200);
    if n < -1000 {
        // One rounding: first up to the edge of the normal range exactly, then down.
        let (m, e) = frexp64(x);
        let total = e.saturating_add(n);
        return if total < -1022 { m * pow2(-1000) * down(total + 1000) } else { m * scale(total) };
    }
    if n > 1000 { x * pow2(1000) * scale(n - 1000) } else { x * scale(n) }
}

fn down(n: i32) -> f64 {
    if n < -1022 { 0.0 } else { pow2(n) }
}

fn scale(n: i32) -> f64 {
    if n > 1023 { pow2(1023) * pow2(n - 1023) } else { pow2(n) }
}

/// Mantissa in ±[0.5, 1) and exponent; zero, infinity and NaN have exponent 0.
fn frexp64(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    let y = if x.is_subnormal() { x * pow2(64) } else { x };
    let e = (y.to_bits() >> 52 & 0x7ff) as i32 - 1022;
    let m = f64::from_bits((y.to_bits() & !(0x7ff << 52)) | 1022 << 52);
    (m, if x.is_subnormal() { e - 64 } else { e })
}

fn frexp_mant(x: f32) -> f32 {
    frexp64(x.into()).0 as f32
}

fn frexp_exp(x: f32) -> u32 {
    frexp64(x.into()).1 as u32
}

fn class(x: u32, exp: u32, man: u32, mask: u32) -> bool {
    let neg = x >> (exp + man) & 1 == 1;
    let m = x & ((1 << man) - 1);
    let e = x >> man & ((1 << exp) - 1);
    let top = e == (1 << exp) - 1;
    let bit = match (top, e, m) {
        (true, _, 0) => {
            if neg {
                2
            } else {
                9
            }
        }
        (true, ..) => u32::from(m >> (man - 1) & 1 == 1),
        (_, 0, 0) => {
            if neg {
                5
            } else {
                6
            }
        }
        (_, 0, _) => {
            if neg {
                4
            } else {
                7
            }
        }
        _ => {
            if neg {
                3
            } else {
                8
            }
        }
    };
    mask >> bit & 1 == 1
}

/// `v_cmp_class`: which kinds of number the lane holds, against a mask in source 1.
pub(super) fn cmp_class(w: &mut Wave, i: &Inst, bits: u32) {
    let (x, m) = (src64(w, i, 0, bits == 64), lanes(w, i, 1));
    let neg = i.mods.neg & 1 == 1;
    let abs = i.mods.abs & 1 == 1;
    let mut out = 0u64;
    for l in 0..64 {
        let hit = match bits {
            64 => {
                // Folding the low mantissa bits keeps zero, quiet and signalling apart.
                let hi = (x[l] >> 32) as u32 | u32::from(x[l] as u32 != 0);
                class(hi, 11, 20, m[l])
            }
            _ => {
                let mut y = x[l] as u32;
                let sign = 1 << (bits - 1);
                if abs {
                    y &= !sign;
                }
                if neg {
                    y ^= sign;
                }
                if bits == 32 { class(y, 8, 23, m[l]) } else { class(y, 5, 10, m[l]) }
            }
        };
        out |= u64::from(hit) << l;
    }
    put_mask(w, i.dst, out);
}

/// Source `k` as 64 integers.
fn lanes(w: &Wave, i: &Inst, k: usize) -> [u32; 64] {
    let mut t = map::Tmp::uninit();
    // SAFETY: the instruction comes from the decoder; the pointer is to 64 lanes.
    unsafe { *map::src(w, i, k, map::Ty::Int, &mut t).cast() }
}

fn floats(w: &Wave, i: &Inst, k: usize) -> [f32; 64] {
    let mut t = map::Tmp::uninit();
    // SAFETY: as in `lanes`.
    let x: &[u32; 64] = unsafe { &*map::src(w, i, k, map::Ty::F32, &mut t).cast() };
    x.map(f)
}

/// The operand to be scaled, the denominator and the numerator of a division give the scaled
/// operand and whether `v_div_fmas` must undo a scale.
fn div_scale_one(s0: f64, den: f64, num: f64, d: &DivType) -> (f64, bool) {
    let exp = |x: f64| frexp64(x).1;
    let denorm = |x: f64| x != 0.0 && x.abs() < pow2(d.min_exp);
    let (up, down) = (|x: f64| ldexp64(x, d.step), |x: f64| ldexp64(x, -d.step));
    if num == 0.0 || den == 0.0 {
        return (f64::NAN, false);
    }
    let diff = exp(num) - exp(den);
    let tiny = |x: f64| x.abs() < pow2(d.min_exp);
    let rcp_denorm = den.is_finite() && tiny(1.0 / den);
    let quo_denorm = den.is_finite() && num.is_finite() && tiny(num / den);
    let is_den = s0.to_bits() == den.to_bits();
    if diff >= d.big {
        (if is_den { up(s0) } else { s0 }, true)
    } else if denorm(den) {
        (up(s0), false)
    } else if rcp_denorm && quo_denorm {
        // The manual prints a scale up here, which would overflow the denominator.
        (if is_den { down(s0) } else { s0 }, true)
    } else if rcp_denorm {
        (down(s0), false)
    } else if quo_denorm {
        (if s0.to_bits() == num.to_bits() { up(s0) } else { s0 }, true)
    } else if exp(num) - 1 + d.bias <= d.small {
        (up(s0), false)
    } else {
        (s0, false)
    }
}

struct DivType {
    min_exp: i32,
    step: i32,
    big: i32,
    small: i32,
    bias: i32,
}

const DIV32: DivType = DivType { min_exp: -126, step: 64, big: 96, small: 23, bias: 127 };
const DIV64: DivType = DivType { min_exp: -1022, step: 128, big: 768, small: 53, bias: 1023 };

fn div_scale32(w: &mut Wave, i: &Inst) {
    let (a, b, c) = (floats(w, i, 0), floats(w, i, 1), floats(w, i, 2));
    let mut vcc = 0;
    let out = std::array::from_fn(|l| {
        let (x, s) = div_scale_one(a[l].into(), b[l].into(), c[l].into(), &DIV32);
        vcc |= u64::from(s) << l;
        (x as f32).to_bits()
    });
    put32(w, vdst(i.dst), &out);
    put_mask(w, i.dst2, vcc);
}

fn div_scale64(w: &mut Wave, i: &Inst) {
    let g = |k| src64(w, i, k, true).map(f64::from_bits);
    let (a, b, c) = (g(0), g(1), g(2));
    let mut vcc = 0;
    let out = std::array::from_fn(|l| {
        let (x, s) = div_scale_one(a[l], b[l], c[l], &DIV64);
        vcc |= u64::from(s) << l;
        x.to_bits()
    });
    put64(w, i.dst, &out);
    put_mask(w, i.dst2, vcc);
}

/// a·b + c as a rounded sum and what the rounding lost.
fn fma_parts(a: f64, b: f64, c: f64) -> (f64, f64) {
    let p = a * b;
    let low = a.mul_add(b, -p);
    let s = p + c;
    let back = s - p;
    (s, (p - (s - back)) + (c - back) + low)
}

/// a·b + c rounded to odd: a later rounding to single precision then is the only one that counts.
fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    let (s, rest) = fma_parts(a, b, c);
    if rest == 0.0 || !s.is_finite() || !rest.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    // One step towards the discarded part sets the last bit.
    let away = (rest > 0.0) == (s > 0.0);
    f64::from_bits(if away { s.to_bits() + 1 } else { s.to_bits() - 1 })
}

/// (a·b + c)·2^n for a denormal result, rounded once.
fn fma_tiny(a: f64, b: f64, c: f64, n: i32) -> f64 {
    let (s, rest) = fma_parts(a, b, c);
    let t = ldexp64(s, n);
    let lost = s - ldexp64(t, -n);
    // Only an apparent tie needs the discarded part to decide it.
    let tie = lost.abs() == pow2(-1000) * pow2(-75 - n);
    let least = f64::from_bits(1);
    match (tie, lost > 0.0, rest) {
        (true, true, r) if r > 0.0 => t + least,
        (true, false, r) if r < 0.0 => t - least,
        _ => t,
    }
}

fn div_fmas32(w: &mut Wave, i: &Inst) {
    let (a, b, c, vcc) = (floats(w, i, 0), floats(w, i, 1), floats(w, i, 2), w.vcc());
    let out = std::array::from_fn(|l| {
        // The scale's direction follows from the size of the unrefined quotient.
        if vcc >> l & 1 == 1 {
            let n = if frexp64(c[l].into()).1 > 0 { 64 } else { -64 };
            let sum = fma_odd(a[l].into(), b[l].into(), c[l].into());
            return ((sum * pow2(n)) as f32).to_bits();
        }
        a[l].mul_add(b[l], c[l]).to_bits()
    });
    put32(w, vdst(i.dst), &out);
}

fn div_fmas64(w: &mut Wave, i: &Inst) {
    let g = |k| src64(w, i, k, true).map(f64::from_bits);
    let (a, b, c, vcc) = (g(0), g(1), g(2), w.vcc());
    let out = std::array::from_fn(|l| {
        let r = a[l].mul_add(b[l], c[l]);
        if vcc >> l & 1 == 0 {
            return r.to_bits();
        }
        let n = if frexp64(c[l]).1 > 0 { 128 } else { -128 };
        let scaled = ldexp64(r, n);
        let tiny = scaled.abs() < f64::MIN_POSITIVE;
        if tiny { fma_tiny(a[l], b[l], c[l], n).to_bits() } else { scaled.to_bits() }
    });
    put64(w, i.dst, &out);
}

/// The special cases of division: `q` is the computed quotient of `num / den`.
fn div_fixup_one(q: f64, den: f64, num: f64, d: &DivType) -> f64 {
    let neg = den.is_sign_negative() != num.is_sign_negative();
    let sign = |x: f64| if neg { -x } else { x };
    let diff = frexp64(num).1 - frexp64(den).1;
    if num.is_nan() {
        num
    } else if den.is_nan() {
        den
    } else if (num == 0.0 && den == 0.0) || (num.is_infinite() && den.is_infinite()) {
        f64::NAN
    } else if den == 0.0 || num.is_infinite() {
        sign(f64::INFINITY)
    } else if den.is_infinite() || num == 0.0 || diff < d.min_exp - 24 - (d.step / 128) * 29 {
        sign(0.0)
    } else if q.is_nan() {
        // The scaled quotient overflowed.
        sign(f64::INFINITY)
    } else {
        sign(q.abs())
    }
}

fn div_fixup32(w: &mut Wave, i: &Inst) {
    let (a, b, c) = (floats(w, i, 0), floats(w, i, 1), floats(w, i, 2));
    let out = std::array::from_fn(|l| {
        (div_fixup_one(a[l].into(), b[l].into(), c[l].into(), &DIV32) as f32).to_bits()
    });
    put32(w, vdst(i.dst), &out);
}

fn div_fixup64(w: &mut Wave, i: &Inst) {
    let g = |k| src64(w, i, k, true).map(f64::from_bits);
    let (a, b, c) = (g(0), g(1), g(2));
    let out = std::array::from_fn(|l| div_fixup_one(a[l], b[l], c[l], &DIV64).to_bits());
    put64(w, i.dst, &out);
}

fn map_f64(w: &mut Wave, i: &Inst, g: fn(f64, f64, f64) -> f64) {
    let get = |k: usize| match k < usize::from(i.nsrc) {
        true => src64(w, i, k, true).map(f64::from_bits),
        false => [0.0; 64],
    };
    let (a, b, c) = (get(0), get(1), get(2));
    let out = std::array::from_fn(|l| {
        let x = g(a[l], b[l], c[l]);
        let x = [x, x * 2.0, x * 4.0, x * 0.5][usize::from(i.mods.omod & 3)];
        let x = if i.mods.clamp { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) } } else { x };
        x.to_bits()
    });
    put64(w, i.dst, &out);
}

fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b < a || (a == b && b.is_sign_negative()) { b } else { a }
}

fn max64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b > a || (a == b && b.is_sign_positive()) { b } else { a }
}

fn ldexp_f64(w: &mut Wave, i: &Inst) {
    let (x, n) = (src64(w, i, 0, true).map(f64::from_bits), lanes(w, i, 1));
    let out = std::array::from_fn(|l| ldexp64(x[l], n[l] as i32).to_bits());
    put64(w, i.dst, &out);
}

fn ldexp_f32(w: &mut Wave, i: &Inst) {
    let (x, n) = (floats(w, i, 0), lanes(w, i, 1));
    let out = crate::wave::Row(std::array::from_fn(|l| ldexp32(x[l], n[l] as i32).to_bits()));
    super::modifiers::commit(w, i, map::Ty::F32, &out);
}

fn fract(x: f32) -> f32 {
    let r = x - x.floor();
    // The largest float below one, as the ISA bounds it.
    if r >= 1.0 { f(0x3f7f_ffff) } else { r }
}

fn fract64(x: f64) -> f64 {
    let r = x - x.floor();
    if r >= 1.0 { 1.0 - pow2(-53) } else { r }
}

fn turns(x: f32, g: fn(f64) -> f64) -> f32 {
    let x = f64::from(x);
    if x.is_finite() { g((x - x.floor()) * std::f64::consts::TAU) as f32 } else { f32::NAN }
}

#[inline(always)]
fn h1(g: impl Fn(f32) -> f32) -> impl Fn(u32) -> u32 {
    move |a| f32_to_f16(g(f16_to_f32(a as u16))).into()
}

#[inline(always)]
fn h2(g: impl Fn(f32, f32) -> f32) -> impl Fn(u32, u32) -> u32 {
    move |a, b| f32_to_f16(g(f16_to_f32(a as u16), f16_to_f32(b as u16))).into()
}

/// Half-precision fused multiply-add with one rounding: the exact product and sum fit a double.
pub(super) fn fma_f16(a: u32, b: u32, c: u32) -> u32 {
    let g = |x: u32| f64::from(f16_to_f32(x as u16));
    crate::formats::F16.encode(g(a) * g(b) + g(c), false)
}

/// The table: mnemonic without encoding suffix, and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("v_add_f32", op!(flt2, |a, b| (f(a) + f(b)).to_bits())),
    ("v_sub_f32", op!(flt2, |a, b| (f(a) - f(b)).to_bits())),
    ("v_subrev_f32", op!(flt2, |a, b| (f(b) - f(a)).to_bits())),
    ("v_mul_f32", op!(flt2, |a, b| (f(a) * f(b)).to_bits())),
    (
        "v_mul_legacy_f32",
        op!(flt2, |a, b| { if f(a) == 0.0 || f(b) == 0.0 { 0 } else { (f(a) * f(b)).to_bits() } }),
    ),
    ("v_fma_f32", op!(flt3, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits())),
    ("v_fmac_f32", op!(flt3, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits())),
    ("v_fmamk_f32", op!(flt3, |a, k, c| f(a).mul_add(f(k), f(c)).to_bits())),
    ("v_fmaak_f32", op!(flt3, |a, b, k| f(a).mul_add(f(b), f(k)).to_bits())),
    ("v_min_f32", op!(flt2, |a, b| min(f(a), f(b)).to_bits())),
    ("v_max_f32", op!(flt2, |a, b| max(f(a), f(b)).to_bits())),
    ("v_min3_f32", op!(flt3, |a, b, c| min(min(f(a), f(b)), f(c)).to_bits())),
    ("v_max3_f32", op!(flt3, |a, b, c| max(max(f(a), f(b)), f(c)).to_bits())),
    ("v_med3_f32", op!(flt3, |a, b, c| med3(f(a), f(b), f(c)).to_bits())),
    (
        "v_minimum3_f32",
        op!(flt3, |a, b, c| { nan_or(nan_or(f(a), f(b), min), f(c), min).to_bits() }),
    ),
    (
        "v_maximum3_f32",
        op!(flt3, |a, b, c| { nan_or(nan_or(f(a), f(b), max), f(c), max).to_bits() }),
    ),
    ("v_rcp_f32", op!(flt1, |a| (1.0 / f(a)).to_bits())),
    ("v_rcp_iflag_f32", op!(flt1, |a| (1.0 / f(a)).to_bits())),
    ("v_rsq_f32", op!(flt1, |a| ((1.0 / f64::from(f(a)).sqrt()) as f32).to_bits())),
    ("v_sqrt_f32", op!(flt1, |a| f(a).sqrt().to_bits())),
    ("v_exp_f32", op!(flt1, |a| flush(f64::from(flush(f(a))).exp2() as f32).to_bits())),
    ("v_log_f32", op!(flt1, |a| (f64::from(flush(f(a))).log2() as f32).to_bits())),
    ("v_sin_f32", op!(flt1, |a| turns(f(a), f64::sin).to_bits())),
    ("v_cos_f32", op!(flt1, |a| turns(f(a), f64::cos).to_bits())),
    ("v_fract_f32", op!(flt1, |a| fract(f(a)).to_bits())),
    ("v_trunc_f32", op!(flt1, |a| f(a).trunc().to_bits())),
    ("v_ceil_f32", op!(flt1, |a| f(a).ceil().to_bits())),
    ("v_floor_f32", op!(flt1, |a| f(a).floor().to_bits())),
    ("v_rndne_f32", op!(flt1, |a| f(a).round_ties_even().to_bits())),
    ("v_frexp_mant_f32", op!(flt1, |a| frexp_mant(f(a)).to_bits())),
    ("v_frexp_exp_i32_f32", op!(map::flt_to_int, |a| frexp_exp(f(a)))),
    ("v_ldexp_f32", plain!(ldexp_f32)),
    ("v_div_scale_f32", plain!(div_scale32)),
    ("v_div_fmas_f32", plain!(div_fmas32)),
    ("v_div_fixup_f32", plain!(div_fixup32)),
    ("v_add_f16", op!(half2, h2(|a, b| a + b))),
    ("v_sub_f16", op!(half2, h2(|a, b| a - b))),
    ("v_subrev_f16", op!(half2, h2(|a, b| b - a))),
    ("v_mul_f16", op!(half2, h2(|a, b| a * b))),
    ("v_min_f16", op!(half2, h2(min))),
    ("v_max_f16", op!(half2, h2(max))),
    ("v_fma_f16", op!(half3, fma_f16)),
    ("v_rcp_f16", op!(half1, h1(|a| 1.0 / a))),
    ("v_rsq_f16", op!(half1, h1(|a| 1.0 / a.sqrt()))),
    ("v_sqrt_f16", op!(half1, h1(f32::sqrt))),
    ("v_exp_f16", op!(half1, h1(f32::exp2))),
    ("v_log_f16", op!(half1, h1(f32::log2))),
    ("v_floor_f16", op!(half1, h1(f32::floor))),
    ("v_ceil_f16", op!(half1, h1(f32::ceil))),
    ("v_trunc_f16", op!(half1, h1(f32::trunc))),
    ("v_rndne_f16", op!(half1, h1(f32::round_ties_even))),
    ("v_add_f64", plain!(|w, i| map_f64(w, i, |a, b, _| a + b))),
    ("v_mul_f64", plain!(|w, i| map_f64(w, i, |a, b, _| a * b))),
    ("v_fma_f64", plain!(|w, i| map_f64(w, i, f64::mul_add))),
    ("v_fmac_f64", plain!(|w, i| map_f64(w, i, f64::mul_add))),
    ("v_min_f64", plain!(|w, i| map_f64(w, i, |a, b, _| min64(a, b)))),
    ("v_max_f64", plain!(|w, i| map_f64(w, i, |a, b, _| max64(a, b)))),
    ("v_rcp_f64", plain!(|w, i| map_f64(w, i, |a, _, _| 1.0 / a))),
    ("v_rsq_f64", plain!(|w, i| map_f64(w, i, |a, _, _| 1.0 / a.sqrt()))),
    ("v_sqrt_f64", plain!(|w, i| map_f64(w, i, |a, _, _| a.sqrt()))),
    ("v_floor_f64", plain!(|w, i| map_f64(w, i, |a, _, _| a.floor()))),
    ("v_ceil_f64", plain!(|w, i| map_f64(w, i, |a, _, _| a.ceil()))),
    ("v_trunc_f64", plain!(|w, i| map_f64(w, i, |a, _, _| a.trunc()))),
    ("v_rndne_f64", plain!(|w, i| map_f64(w, i, |a, _, _| a.round_ties_even()))),
    ("v_fract_f64", plain!(|w, i| map_f64(w, i, |a, _, _| fract64(a)))),
    ("v_frexp_mant_f64", plain!(|w, i| map_f64(w, i, |a, _, _| frexp64(a).0))),
    ("v_ldexp_f64", plain!(ldexp_f64)),
    ("v_div_scale_f64", plain!(div_scale64)),
    ("v_div_fmas_f64", plain!(div_fmas64)),
    ("v_div_fixup_f64", plain!(div_fixup64)),
];
