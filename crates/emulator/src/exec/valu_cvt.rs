//! Conversions between number formats.

use super::map::{self, Tmp, Ty, op, plain, put32, put64, src, src64, vdst};
use crate::env::Env;
use crate::formats::{self, BF8, BF16, F16, FP4, FP8, Format, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::inst::{Exec, ExecFn, Inst};
use crate::wave::Wave;

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// MODE bit 23: overflow of small formats clamps instead of giving NaN or infinity.
fn saturates(w: &Wave) -> bool {
    w.mode >> 23 & 1 == 1
}

/// The 64 lanes of source `k`.
pub(super) fn lanes(w: &Wave, i: &Inst, k: usize, ty: Ty) -> [u32; 64] {
    let mut t = Tmp::uninit();
    // SAFETY: the instruction comes from the decoder; the pointer is to 64 lanes.
    unsafe { *src(w, i, k, ty, &mut t).cast() }
}

fn cvt_f64(w: &mut Wave, i: &Inst, g: fn(u32) -> f64) {
    let ty = if i.mods.abs | i.mods.neg != 0 { Ty::F32 } else { Ty::Int };
    let out = lanes(w, i, 0, ty).map(|x| g(x).to_bits());
    put64(w, i.dst, &out);
}

fn from_f64(w: &mut Wave, i: &Inst, g: fn(f64) -> u32) {
    let out = src64(w, i, 0, true).map(|x| g(f64::from_bits(x)));
    put32(w, vdst(i.dst), &out);
}

/// Writes two 8-bit codes to the half that `op_sel` bit 3 picks; the other half stays.
fn pk_8bit(w: &mut Wave, i: &Inst, fmt: Format) {
    let (a, b, sat) = (lanes(w, i, 0, Ty::F32), lanes(w, i, 1, Ty::F32), saturates(w));
    let shift = if i.mods.op_sel & 8 != 0 { 16 } else { 0 };
    let old = w.v[vdst(i.dst)].0;
    let out = std::array::from_fn(|l| {
        let e = |x: u32| fmt.encode(f(x).into(), sat);
        (old[l] & !(0xffff << shift)) | (e(a[l]) | e(b[l]) << 8) << shift
    });
    put32(w, vdst(i.dst), &out);
}

/// Stochastic rounding of one value into the byte picked by `op_sel` bits 2 and 3.
fn sr_8bit(w: &mut Wave, i: &Inst, fmt: Format) {
    let (a, r, sat) = (lanes(w, i, 0, Ty::F32), lanes(w, i, 1, Ty::Int), saturates(w));
    let shift = 8 * u32::from(i.mods.op_sel >> 2 & 3);
    let old = w.v[vdst(i.dst)].0;
    let out = std::array::from_fn(|l| {
        let code = fmt.encode_stochastic(f(a[l]).into(), noise(r[l]), sat);
        (old[l] & !(0xff << shift)) | code << shift
    });
    put32(w, vdst(i.dst), &out);
}

/// A random word as a number in [0, 1).
pub(super) fn noise(x: u32) -> f64 {
    f64::from(x) * formats::pow2(-32)
}

/// Decodes the byte that SDWA (byte or word select) picks, one or two of them.
fn from_8bit(w: &mut Wave, i: &Inst, fmt: Format, pair: bool) {
    // `fetch` applied the SDWA selection, or `op_sel` picks for the 64-bit encoding.
    let mut a = lanes(w, i, 0, Ty::Int);
    if i.sdwa.is_none() {
        let raw = Inst { modified: false, ..*i };
        a = lanes(w, &raw, 0, Ty::Int);
        let shift = match pair {
            true => 16 * u32::from(i.mods.op_sel & 1),
            false => 8 * u32::from((i.mods.op_sel & 1) * 2 + (i.mods.op_sel >> 1 & 1)),
        };
        a = a.map(|x| x >> shift);
    }
    if pair {
        let out = a.map(|x| {
            let bits = |c| u64::from(fmt.decode(c).to_bits());
            bits(x & 0xff) | bits(x >> 8 & 0xff) << 32
        });
        put64(w, i.dst, &out);
    } else {
        put32(w, vdst(i.dst), &a.map(|x| fmt.decode(x & 0xff).to_bits()));
    }
}

fn pk_u8(w: &mut Wave, i: &Inst) {
    let (a, at) = (lanes(w, i, 0, Ty::F32), lanes(w, i, 1, Ty::Int));
    let old = lanes(w, i, 2, Ty::Int);
    let out = std::array::from_fn(|l| {
        let shift = 8 * (at[l] & 3);
        let x = f(a[l]).round_ties_even() as u8;
        (old[l] & !(0xff << shift)) | u32::from(x) << shift
    });
    put32(w, vdst(i.dst), &out);
}

#[inline(always)]
fn rtz16(a: u32, b: u32) -> u32 {
    let h = |x: u32| u32::from(formats::f32_to_f16_rtz(f(x)));
    h(a) | h(b) << 16
}

#[inline(always)]
fn norm16(a: u32, b: u32, scale: f32) -> u32 {
    let h = |x: u32| (f(x).clamp(-1.0, 1.0) * scale).round_ties_even() as i16 as u16;
    u32::from(h(a)) | u32::from(h(b)) << 16
}

fn unorm16(a: u32, b: u32) -> u32 {
    let h = |x: u32| (f(x).clamp(0.0, 1.0) * 65535.0).round_ties_even() as u16;
    u32::from(h(a)) | u32::from(h(b)) << 16
}

fn ashr_pk(w: &mut Wave, i: &Inst, lo: i32, hi: i32) {
    let (a, b, s) = (lanes(w, i, 0, Ty::Int), lanes(w, i, 1, Ty::Int), lanes(w, i, 2, Ty::Int));
    let out = std::array::from_fn(|l| {
        let e = |x: u32| (x as i32 >> (s[l] & 31)).clamp(lo, hi) as u32 & 0xff;
        e(a[l]) | e(b[l]) << 8
    });
    put32(w, vdst(i.dst), &out);
}

/// The table: mnemonic without encoding suffix, and code.
pub(super) static OPS: &[(&str, Exec)] = &[
    ("v_cvt_f32_i32", op!(map::int_to_flt, |a| (a as i32 as f32).to_bits())),
    ("v_cvt_f32_u32", op!(map::int_to_flt, |a| (a as f32).to_bits())),
    ("v_cvt_i32_f32", op!(map::flt_to_int, |a| f(a) as i32 as u32)),
    ("v_cvt_u32_f32", op!(map::flt_to_int, |a| f(a) as u32)),
    ("v_cvt_rpi_i32_f32", op!(map::flt_to_int, |a| (f(a) + 0.5).floor() as i32 as u32)),
    ("v_cvt_flr_i32_f32", op!(map::flt_to_int, |a| f(a).floor() as i32 as u32)),
    ("v_cvt_f32_ubyte0", op!(map::int_to_flt, |a| ((a & 0xff) as f32).to_bits())),
    ("v_cvt_f32_ubyte1", op!(map::int_to_flt, |a| ((a >> 8 & 0xff) as f32).to_bits())),
    ("v_cvt_f32_ubyte2", op!(map::int_to_flt, |a| ((a >> 16 & 0xff) as f32).to_bits())),
    ("v_cvt_f32_ubyte3", op!(map::int_to_flt, |a| ((a >> 24) as f32).to_bits())),
    ("v_cvt_f16_f32", op!(map::flt_to_half, |a| f32_to_f16(f(a)).into())),
    ("v_cvt_f32_f16", op!(map::half_to_flt, |a| f16_to_f32(a as u16).to_bits())),
    ("v_cvt_f32_bf16", op!(map::half_to_flt, |a| a << 16)),
    ("v_cvt_f16_u16", op!(map::int_to_half, |a| f32_to_f16(f32::from(a as u16)).into())),
    ("v_cvt_f16_i16", op!(map::int_to_half, |a| f32_to_f16(f32::from(a as i16)).into())),
    ("v_cvt_u16_f16", op!(map::half_to_int, |a| u32::from(f16_to_f32(a as u16) as u16))),
    ("v_cvt_i16_f16", op!(map::half_to_int, |a| { u32::from(f16_to_f32(a as u16) as i16 as u16) })),
    ("v_cvt_pk_bf16_f32", op!(map::flt2_to_int, |a, b| f32_to_bf16(a) | f32_to_bf16(b) << 16)),
    (
        "v_cvt_pk_f16_f32",
        op!(map::flt2_to_int, |a, b| {
            u32::from(f32_to_f16(f(a))) | u32::from(f32_to_f16(f(b))) << 16
        }),
    ),
    ("v_cvt_pkrtz_f16_f32", op!(map::flt2_to_int, rtz16)),
    ("v_cvt_pknorm_i16_f32", op!(map::flt2_to_int, |a, b| norm16(a, b, 32767.0))),
    ("v_cvt_pknorm_u16_f32", op!(map::flt2_to_int, unorm16)),
    ("v_cvt_pk_u16_u32", op!(map::int2, |a, b| a.min(0xffff) | b.min(0xffff) << 16)),
    (
        "v_cvt_pk_i16_i32",
        op!(map::int2, |a, b| {
            let h = |x: u32| u32::from((x as i32).clamp(-32768, 32767) as u16);
            h(a) | h(b) << 16
        }),
    ),
    ("v_cvt_pk_u8_f32", plain!(pk_u8)),
    ("v_cvt_pk_fp8_f32", plain!(|w, i| pk_8bit(w, i, FP8))),
    ("v_cvt_pk_bf8_f32", plain!(|w, i| pk_8bit(w, i, BF8))),
    ("v_cvt_sr_fp8_f32", plain!(|w, i| sr_8bit(w, i, FP8))),
    ("v_cvt_sr_bf8_f32", plain!(|w, i| sr_8bit(w, i, BF8))),
    ("v_cvt_f32_fp8", plain!(|w, i| from_8bit(w, i, FP8, false))),
    ("v_cvt_f32_bf8", plain!(|w, i| from_8bit(w, i, BF8, false))),
    ("v_cvt_pk_f32_fp8", plain!(|w, i| from_8bit(w, i, FP8, true))),
    ("v_cvt_pk_f32_bf8", plain!(|w, i| from_8bit(w, i, BF8, true))),
    ("v_cvt_f64_f32", plain!(|w, i| cvt_f64(w, i, |x| f(x).into()))),
    ("v_cvt_f64_i32", plain!(|w, i| cvt_f64(w, i, |x| (x as i32).into()))),
    ("v_cvt_f64_u32", plain!(|w, i| cvt_f64(w, i, f64::from))),
    ("v_cvt_f32_f64", plain!(|w, i| from_f64(w, i, |x| (x as f32).to_bits()))),
    ("v_cvt_i32_f64", plain!(|w, i| from_f64(w, i, |x| x as i32 as u32))),
    ("v_cvt_u32_f64", plain!(|w, i| from_f64(w, i, |x| x as u32))),
    ("v_ashr_pk_i8_i32", plain!(|w, i| ashr_pk(w, i, -128, 127))),
    ("v_ashr_pk_u8_i32", plain!(|w, i| ashr_pk(w, i, 0, 255))),
];

/// The formats of `v_cvt_scalef32_*` names.
pub(super) fn named(s: &str) -> Option<Format> {
    Some(match s {
        "fp8" => FP8,
        "bf8" => BF8,
        "fp6" => formats::FP6,
        "bf6" => formats::BF6,
        "fp4" => FP4,
        "f16" => F16,
        "bf16" => BF16,
        "f32" => Format { exp: 8, man: 23, top: formats::Top::Ieee },
        _ => return None,
    })
}
