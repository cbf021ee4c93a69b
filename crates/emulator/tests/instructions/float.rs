//! Floating-point vector instructions, against Rust's own arithmetic.

use super::{Case, Compare, Quad, check, float, lane, one, two, wide};

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

fn d(x: Quad) -> f64 {
    f64::from_bits(wide(x))
}

fn r(x: f32) -> Quad {
    one(x.to_bits())
}

/// Half to single, by the definition of the format.
pub(crate) fn half(x: u32) -> f32 {
    let (s, e, m) = (x >> 15 & 1, x >> 10 & 31, x & 1023);
    let v = match e {
        0 => m as f32 * 2f32.powi(-24),
        31 if m == 0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024 + m) as f32 * 2f32.powi(e as i32 - 25),
    };
    if s == 1 { -v } else { v }
}

/// Single to half by search for the nearest, ties to the even code.
pub(crate) fn to_half(x: f64) -> u32 {
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    if x.is_nan() {
        return sign | 0x7e00;
    }
    let a = x.abs();
    if a >= 65520.0 {
        return sign | 0x7c00;
    }
    let (mut low, mut high) = (0u32, 0x7bff);
    while low < high {
        let mid = (low + high).div_ceil(2);
        if f64::from(half(mid)) <= a { low = mid } else { high = mid - 1 }
    }
    let up = if low == 0x7bff { 65536.0 } else { f64::from(half(low + 1)) };
    let (below, above) = (a - f64::from(half(low)), up - a);
    let code = if below < above || below == above && low % 2 == 0 { low } else { low + 1 };
    sign | code
}

fn min(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == 0.0 && b == 0.0 => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

fn max(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == 0.0 && b == 0.0 => {
            if a.is_sign_negative() {
                b
            } else {
                a
            }
        }
        _ => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

fn strict_min(v: [f32; 3]) -> f32 {
    if v.iter().any(|x| x.is_nan()) { f32::NAN } else { min(min(v[0], v[1]), v[2]) }
}

fn strict_max(v: [f32; 3]) -> f32 {
    if v.iter().any(|x| x.is_nan()) { f32::NAN } else { max(max(v[0], v[1]), v[2]) }
}

fn median(a: f32, b: f32, c: f32) -> f32 {
    if a.is_nan() || b.is_nan() || c.is_nan() {
        return min(min(a, b), c);
    }
    let mut v = [a, b, c];
    v.sort_by(f32::total_cmp);
    v[1]
}

/// Exponent e with x = m·2^e, m in [0.5, 1).
fn exponent(x: f64) -> i32 {
    if x == 0.0 || !x.is_finite() {
        return 0;
    }
    let mut e = x.abs().log2().floor() as i32 + 1;
    // log2 may round across a power of two.
    while x.abs() >= 2f64.powi(e) {
        e += 1;
    }
    while x.abs() < 2f64.powi(e - 1) {
        e -= 1;
    }
    e
}

fn scaled(x: f32, n: i32) -> f32 {
    (f64::from(x) * 2f64.powi(n.clamp(-400, 400))) as f32
}

pub(crate) fn cases() -> Vec<Case> {
    let mut v = single();
    v.extend(modified());
    v.extend(units());
    v.extend(double());
    v.extend(halves());
    v.extend(packed());
    v.extend(compares());
    v
}

fn single() -> Vec<Case> {
    vec![
        float("v_add_f32 v16, v4, v8", |a, b, _| r(f(a[0]) + f(b[0]))),
        float("v_sub_f32 v16, v4, v8", |a, b, _| r(f(a[0]) - f(b[0]))),
        float("v_subrev_f32 v16, v4, v8", |a, b, _| r(f(b[0]) - f(a[0]))),
        float("v_mul_f32 v16, v4, v8", |a, b, _| r(f(a[0]) * f(b[0]))),
        float("v_mul_legacy_f32 v16, v4, v8", |a, b, _| {
            r(if f(a[0]) == 0.0 || f(b[0]) == 0.0 { 0.0 } else { f(a[0]) * f(b[0]) })
        }),
        float("v_fma_f32 v16, v4, v8, v12", |a, b, c| r(f(a[0]).mul_add(f(b[0]), f(c[0])))),
        float("v_mov_b32 v16, v12\nv_fmac_f32 v16, v4, v8", |a, b, c| {
            r(f(a[0]).mul_add(f(b[0]), f(c[0])))
        }),
        float("v_fmamk_f32 v16, v4, 0x40490fdb, v8", |a, b, _| {
            r(f(a[0]).mul_add(std::f32::consts::PI, f(b[0])))
        }),
        float("v_fmaak_f32 v16, v4, v8, 0x40490fdb", |a, b, _| {
            r(f(a[0]).mul_add(f(b[0]), std::f32::consts::PI))
        }),
        float("v_min_f32 v16, v4, v8", |a, b, _| r(min(f(a[0]), f(b[0])))),
        float("v_max_f32 v16, v4, v8", |a, b, _| r(max(f(a[0]), f(b[0])))),
        float("v_min3_f32 v16, v4, v8, v12", |a, b, c| r(min(min(f(a[0]), f(b[0])), f(c[0])))),
        float("v_max3_f32 v16, v4, v8, v12", |a, b, c| r(max(max(f(a[0]), f(b[0])), f(c[0])))),
        float("v_med3_f32 v16, v4, v8, v12", |a, b, c| r(median(f(a[0]), f(b[0]), f(c[0])))),
        float("v_minimum3_f32 v16, v4, v8, v12", |a, b, c| {
            r(strict_min([f(a[0]), f(b[0]), f(c[0])]))
        }),
        float("v_maximum3_f32 v16, v4, v8, v12", |a, b, c| {
            r(strict_max([f(a[0]), f(b[0]), f(c[0])]))
        }),
        float("v_trunc_f32 v16, v4", |a, _, _| r(f(a[0]).trunc())),
        float("v_ceil_f32 v16, v4", |a, _, _| r(f(a[0]).ceil())),
        float("v_floor_f32 v16, v4", |a, _, _| r(f(a[0]).floor())),
        float("v_rndne_f32 v16, v4", |a, _, _| r(f(a[0]).round_ties_even())),
        float("v_fract_f32 v16, v4", |a, _, _| {
            let x = f(a[0]) - f(a[0]).floor();
            r(if x >= 1.0 { 1.0 - f32::EPSILON / 2.0 } else { x })
        }),
        float("v_frexp_mant_f32 v16, v4", |a, _, _| {
            let x = f64::from(f(a[0]));
            r(if x == 0.0 || !x.is_finite() { x } else { x * 2f64.powi(-exponent(x)) } as f32)
        }),
        lane("v_frexp_exp_i32_f32 v16, v4", |a, _, _| one(exponent(f(a[0]).into()) as u32)),
        float("v_ldexp_f32 v16, v4, v8", |a, b, _| r(scaled(f(a[0]), b[0] as i32))),
        float("v_bfe_i32 v8, v8, 0, 8\nv_ldexp_f32 v16, v4, v8", |a, b, _| {
            r(scaled(f(a[0]), i32::from(b[0] as i8)))
        }),
        lane("v_cmp_class_f32 vcc, v4, v8\nv_cndmask_b32 v16, 0, 1, vcc", |a, b, _| {
            let x = f(a[0]);
            let quiet = a[0] & 0x0040_0000 != 0;
            let k = match x.classify() {
                std::num::FpCategory::Nan => {
                    if quiet {
                        1
                    } else {
                        0
                    }
                }
                std::num::FpCategory::Infinite => {
                    if x < 0.0 {
                        2
                    } else {
                        9
                    }
                }
                std::num::FpCategory::Normal => {
                    if x < 0.0 {
                        3
                    } else {
                        8
                    }
                }
                std::num::FpCategory::Subnormal => {
                    if x < 0.0 {
                        4
                    } else {
                        7
                    }
                }
                std::num::FpCategory::Zero => {
                    if x.is_sign_negative() {
                        5
                    } else {
                        6
                    }
                }
            };
            one(b[0] >> k & 1)
        }),
    ]
}

fn modified() -> Vec<Case> {
    vec![
        float("v_add_f32_e64 v16, -v4, |v8|", |a, b, _| r(-f(a[0]) + f(b[0]).abs())),
        float("v_add_f32_e64 v16, -|v4|, v8 mul:2", |a, b, _| r((-f(a[0]).abs() + f(b[0])) * 2.0)),
        float("v_mul_f32_e64 v16, v4, v8 mul:4", |a, b, _| r(f(a[0]) * f(b[0]) * 4.0)),
        float("v_mul_f32_e64 v16, v4, v8 div:2", |a, b, _| r(f(a[0]) * f(b[0]) * 0.5)),
        float("v_fma_f32 v16, v4, -v8, v12 clamp", |a, b, c| {
            let x = f(a[0]).mul_add(-f(b[0]), f(c[0]));
            r(if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) })
        }),
        float("v_add_f32 v16, 0x3fc00000, v4", |a, _, _| r(1.5 + f(a[0]))),
        float("v_add_f32 v16, -4.0, v4", |a, _, _| r(-4.0 + f(a[0]))),
        float("v_mul_f32 v16, 0.15915494, v4", |a, _, _| {
            r((std::f64::consts::FRAC_1_PI / 2.0) as f32 * f(a[0]))
        }),
        // Rounding and denormal modes.
        float(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 2), 3\nv_add_f32 v16, v4, v8\n\
               s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 2), 0",
            |a, b, _| r(toward_zero(f(a[0]).into(), f(b[0]).into(), f(a[0]) + f(b[0]))),
        ),
        float(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 0\nv_mul_f32 v16, v4, v8\n\
               s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3",
            |a, b, _| {
                let z = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
                r(z(z(f(a[0])) * z(f(b[0]))))
            },
        ),
        // Doubles and halves have fields of their own: rounding up, denormals gone.
        lane(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 2, 2), 1\n\
               v_mov_b32 v20, 0\nv_mov_b32 v21, 0x3ff00000\nv_mov_b32 v22, 0\n\
               v_mov_b32 v23, 0x3c000000\nv_add_f64 v[16:17], v[20:21], v[22:23]\n\
               v_mov_b32 v20, 1.0\nv_mov_b32 v22, 0x30000000\nv_add_f32 v18, v20, v22\n\
               v_mov_b32 v20, 0x3c00\nv_mov_b32 v22, 1\nv_add_f16 v19, v20, v22\n\
               s_setreg_imm32_b32 hwreg(HW_REG_MODE, 2, 2), 0",
            |_, _, _| [1, 0x3ff0_0000, 0x3f80_0000, 0x3c01],
        ),
        lane(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 2\n\
               v_mov_b32 v20, 0\nv_mov_b32 v21, 0x3ff00000\nv_mov_b32 v22, 0\n\
               v_mov_b32 v23, 0xbc000000\nv_add_f64 v[16:17], v[20:21], v[22:23]\n\
               v_mov_b32 v20, 1.0\nv_mov_b32 v22, 0xb0000000\nv_add_f32 v18, v20, v22\n\
               s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 0",
            |_, _, _| [0, 0x3ff0_0000, 0x3f7f_ffff, 0],
        ),
        lane(
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 6, 2), 0\n\
               v_mov_b32 v20, 5\nv_mov_b32 v21, 0\nv_mov_b32 v22, 0\nv_mov_b32 v23, 0\n\
               v_add_f64 v[16:17], v[20:21], v[22:23]\nv_add_f32 v18, v20, v22\n\
               v_mov_b32 v22, 0x8000\nv_add_f16 v19, v20, v22\n\
               s_setreg_imm32_b32 hwreg(HW_REG_MODE, 6, 2), 3",
            |_, _, _| [0, 0, 5, 0],
        ),
    ]
}

/// The sum rounded towards zero, from the double-precision sum with its error and the nearest
/// single.
fn toward_zero(x: f64, y: f64, nearest: f32) -> f32 {
    let sum = x + y;
    if nearest.is_nan() || sum.is_infinite() {
        return nearest;
    }
    if nearest.is_infinite() {
        return f32::MAX.copysign(nearest);
    }
    let back = sum - x;
    let error = (x - (sum - back)) + (y - back);
    let excess = f64::from(nearest) - sum;
    // The nearest single is farther from zero than the exact sum.
    let beyond = if excess != 0.0 {
        excess * sum > 0.0
    } else {
        error != 0.0 && (error < 0.0) == (sum > 0.0)
    };
    if beyond { f(nearest.to_bits() - 1) } else { nearest }
}

/// The transcendental units: correctly rounded here, so 1 ulp of the double-precision result.
fn units() -> Vec<Case> {
    let near = |asm: &str, model| Case { compare: Compare::Ulp(1), ..float(asm, model) };
    fn z(x: f32) -> f64 {
        (if x.is_subnormal() { 0f32.copysign(x) } else { x }).into()
    }
    vec![
        near("v_rcp_f32 v16, v4", |a, _, _| r((1.0 / f64::from(f(a[0]))) as f32)),
        near("v_rcp_iflag_f32 v16, v4", |a, _, _| r((1.0 / f64::from(f(a[0]))) as f32)),
        near("v_rsq_f32 v16, v4", |a, _, _| r(f64::from(f(a[0])).sqrt().recip() as f32)),
        near("v_sqrt_f32 v16, v4", |a, _, _| r(f64::from(f(a[0])).sqrt() as f32)),
        near("v_exp_f32 v16, v4", |a, _, _| {
            let x = 2f64.powf(z(f(a[0]))) as f32;
            r(z(x) as f32)
        }),
        near("v_log_f32 v16, v4", |a, _, _| {
            let x = z(f(a[0]));
            r((x.ln() / std::f64::consts::LN_2) as f32)
        }),
        near("v_sin_f32 v16, v4", |a, _, _| {
            let x = f64::from(f(a[0]));
            r((x.rem_euclid(1.0) * std::f64::consts::TAU).sin() as f32)
        }),
        near("v_cos_f32 v16, v4", |a, _, _| {
            let x = f64::from(f(a[0]));
            r((x.rem_euclid(1.0) * std::f64::consts::TAU).cos() as f32)
        }),
    ]
}

fn double() -> Vec<Case> {
    let make = |asm: &str, model| Case { compare: Compare::F64, ..lane(asm, model) };
    vec![
        make("v_add_f64 v[16:17], v[4:5], v[8:9]", |a, b, _| two((d(a) + d(b)).to_bits())),
        make("v_add_f64 v[16:17], v[4:5], -v[8:9]", |a, b, _| two((d(a) - d(b)).to_bits())),
        make("v_mul_f64 v[16:17], v[4:5], v[8:9]", |a, b, _| two((d(a) * d(b)).to_bits())),
        make("v_mul_f64 v[16:17], 0.5, v[4:5]", |a, _, _| two((0.5 * d(a)).to_bits())),
        make("v_fma_f64 v[16:17], v[4:5], v[8:9], v[12:13]", |a, b, c| {
            two(d(a).mul_add(d(b), d(c)).to_bits())
        }),
        make("v_mov_b64 v[16:17], v[12:13]\nv_fmac_f64 v[16:17], v[4:5], v[8:9]", |a, b, c| {
            two(d(a).mul_add(d(b), d(c)).to_bits())
        }),
        make("v_min_f64 v[16:17], v[4:5], v[8:9]", |a, b, _| two(d(a).min(d(b)).to_bits())),
        make("v_max_f64 v[16:17], v[4:5], v[8:9]", |a, b, _| two(d(a).max(d(b)).to_bits())),
        make("v_rcp_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).recip().to_bits())),
        make("v_rsq_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).sqrt().recip().to_bits())),
        make("v_sqrt_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).sqrt().to_bits())),
        make("v_floor_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).floor().to_bits())),
        make("v_ceil_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).ceil().to_bits())),
        make("v_trunc_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).trunc().to_bits())),
        make("v_rndne_f64 v[16:17], v[4:5]", |a, _, _| two(d(a).round_ties_even().to_bits())),
        make("v_fract_f64 v[16:17], v[4:5]", |a, _, _| {
            let x = d(a) - d(a).floor();
            two(if x >= 1.0 { 1.0 - f64::EPSILON / 2.0 } else { x }.to_bits())
        }),
        make("v_frexp_mant_f64 v[16:17], v[4:5]", |a, _, _| {
            let x = d(a);
            let e = if x.is_subnormal() { exponent(x * 2f64.powi(64)) - 64 } else { exponent(x) };
            let half = x * 2f64.powi(-e / 2) * 2f64.powi(-(e - e / 2));
            two(if x == 0.0 || !x.is_finite() { x } else { half }.to_bits())
        }),
        make("v_bfe_i32 v8, v8, 0, 10\nv_ldexp_f64 v[16:17], v[4:5], v8", |a, b, _| {
            let n = (b[0] << 22) as i32 >> 22;
            two((d(a) * 2f64.powi(n)).to_bits())
        }),
    ]
}

fn halves() -> Vec<Case> {
    let make = |asm: &str, model| Case { compare: Compare::F16, ..lane(asm, model) };
    fn h(x: f64) -> Quad {
        one(to_half(x))
    }
    fn g(x: u32) -> f64 {
        half(x).into()
    }
    vec![
        make("v_add_f16 v16, v4, v8", |a, b, _| h(g(a[0]) + g(b[0]))),
        make("v_sub_f16 v16, v4, v8", |a, b, _| h(g(a[0]) - g(b[0]))),
        make("v_subrev_f16 v16, v4, v8", |a, b, _| h(g(b[0]) - g(a[0]))),
        make("v_mul_f16 v16, v4, v8", |a, b, _| h(g(a[0]) * g(b[0]))),
        make("v_min_f16 v16, v4, v8", |a, b, _| h(min(half(a[0]), half(b[0])).into())),
        make("v_max_f16 v16, v4, v8", |a, b, _| h(max(half(a[0]), half(b[0])).into())),
        make("v_fma_f16 v16, v4, v8, v12", |a, b, c| h(g(a[0]).mul_add(g(b[0]), g(c[0])))),
        make("v_rcp_f16 v16, v4", |a, _, _| h(1.0 / g(a[0]))),
        make("v_rsq_f16 v16, v4", |a, _, _| h(1.0 / g(a[0]).sqrt())),
        make("v_sqrt_f16 v16, v4", |a, _, _| h(g(a[0]).sqrt())),
        make("v_exp_f16 v16, v4", |a, _, _| h(g(a[0]).exp2())),
        make("v_log_f16 v16, v4", |a, _, _| h(g(a[0]).log2())),
        make("v_floor_f16 v16, v4", |a, _, _| h(g(a[0]).floor())),
        make("v_ceil_f16 v16, v4", |a, _, _| h(g(a[0]).ceil())),
        make("v_trunc_f16 v16, v4", |a, _, _| h(g(a[0]).trunc())),
        make("v_rndne_f16 v16, v4", |a, _, _| h(g(a[0]).round_ties_even())),
    ]
}

/// Packed halves compare half by half with NaNs alike, so NaNs are made canonical.
fn canonical(x: u32) -> u32 {
    let c = |h: u32| if h & 0x7fff > 0x7c00 { 0x7e00 } else { h };
    c(x & 0xffff) | c(x >> 16) << 16
}

fn both(a: u32, b: u32, g: fn(f64, f64) -> f64) -> Quad {
    let h = |x: u32, y: u32| to_half(g(half(x).into(), half(y).into()));
    one(canonical(h(a & 0xffff, b & 0xffff) | h(a >> 16, b >> 16) << 16))
}

type Lanewise = fn(Quad, Quad, Quad) -> Quad;

fn packed() -> Vec<Case> {
    // NaN results are compared after v_max, which the hardware would quiet: finite inputs instead.
    let tame = "v_and_b32 v4, 0x3bff3bff, v4\nv_and_b32 v8, 0xbbffbbff, v8\n\
                v_and_b32 v12, 0x3bffbbff, v12\n";
    let make = |asm: &str, model| lane(&format!("{tame}{asm}"), model);
    fn t(a: Quad, b: Quad) -> (u32, u32) {
        (a[0] & 0x3bff_3bff, b[0] & 0xbbff_bbff)
    }
    let mut v = vec![
        make("v_pk_add_f16 v16, v4, v8", |a, b, _| both(t(a, b).0, t(a, b).1, |x, y| x + y)),
        make("v_pk_mul_f16 v16, v4, v8", |a, b, _| both(t(a, b).0, t(a, b).1, |x, y| x * y)),
        make("v_pk_min_f16 v16, v4, v8", |a, b, _| {
            both(t(a, b).0, t(a, b).1, |x, y| min(x as f32, y as f32).into())
        }),
        make("v_pk_max_f16 v16, v4, v8", |a, b, _| {
            both(t(a, b).0, t(a, b).1, |x, y| max(x as f32, y as f32).into())
        }),
        make("v_pk_minimum3_f16 v16, v4, v8, v8", |a, b, _| {
            both(t(a, b).0, t(a, b).1, |x, y| min(x as f32, y as f32).into())
        }),
        make("v_pk_maximum3_f16 v16, v4, v8, v8", |a, b, _| {
            both(t(a, b).0, t(a, b).1, |x, y| max(x as f32, y as f32).into())
        }),
        make("v_pk_fma_f16 v16, v4, v8, v4", |a, b, _| {
            both(t(a, b).0, t(a, b).1, |x, y| x.mul_add(y, x))
        }),
        make("v_pk_add_f16 v16, v4, v8 neg_lo:[0,1] neg_hi:[1,0]", |a, b, _| {
            let (x, y) = t(a, b);
            both(x ^ 0x8000_0000, y ^ 0x8000, |x, y| x + y)
        }),
        make("v_dot2_f32_f16 v16, v4, v8, 1.0", |a, b, _| {
            let (x, y) = t(a, b);
            let p = half(x & 0xffff).mul_add(half(y & 0xffff), 1.0);
            r(half(x >> 16).mul_add(half(y >> 16), p))
        }),
        make("v_mov_b32 v16, 1.0\nv_dot2c_f32_f16 v16, v4, v8", |a, b, _| {
            let (x, y) = t(a, b);
            let p = half(x & 0xffff).mul_add(half(y & 0xffff), 1.0);
            r(half(x >> 16).mul_add(half(y >> 16), p))
        }),
        make("v_dot2_f32_bf16 v16, v4, v8, 1.0", |a, b, _| {
            let (x, y) = t(a, b);
            let p = f(x << 16).mul_add(f(y << 16), 1.0);
            r(f(x & 0xffff_0000).mul_add(f(y & 0xffff_0000), p))
        }),
        make("v_mov_b32 v16, 1.0\nv_dot2c_f32_bf16 v16, v4, v8", |a, b, _| {
            let (x, y) = t(a, b);
            let p = f(x << 16).mul_add(f(y << 16), 1.0);
            r(f(x & 0xffff_0000).mul_add(f(y & 0xffff_0000), p))
        }),
        make("v_fma_mix_f32 v16, v4, v8, 1.0 op_sel_hi:[1,1,0]", |a, b, _| {
            let (x, y) = t(a, b);
            r(half(x & 0xffff).mul_add(half(y & 0xffff), 1.0))
        }),
        make("v_fma_mixlo_f16 v16, v4, v8, 1.0 op_sel:[1,0,0] op_sel_hi:[1,1,0]", |a, b, _| {
            let (x, y) = t(a, b);
            let v = half(x >> 16).mul_add(half(y & 0xffff), 1.0);
            one(to_half(v.into()))
        }),
        make("v_fma_mixhi_f16 v16, v4, v8, 1.0 op_sel_hi:[1,1,0]", |a, b, _| {
            let (x, y) = t(a, b);
            let v = half(x & 0xffff).mul_add(half(y & 0xffff), 1.0);
            one(to_half(v.into()) << 16)
        }),
    ];
    let pairs: [(&str, Lanewise); 5] = [
        ("v_pk_add_f32 v[16:17], v[4:5], v[8:9]", |a, b, _| {
            [(f(a[0]) + f(b[0])).to_bits(), (f(a[1]) + f(b[1])).to_bits(), 0, 0]
        }),
        ("v_pk_mul_f32 v[16:17], v[4:5], v[8:9]", |a, b, _| {
            [(f(a[0]) * f(b[0])).to_bits(), (f(a[1]) * f(b[1])).to_bits(), 0, 0]
        }),
        ("v_pk_fma_f32 v[16:17], v[4:5], v[8:9], v[12:13]", |a, b, c| {
            let g = |k: usize| f(a[k]).mul_add(f(b[k]), f(c[k])).to_bits();
            [g(0), g(1), 0, 0]
        }),
        ("v_pk_mul_f32 v[16:17], v[4:5], v[8:9] op_sel:[1,0] op_sel_hi:[0,0]", |a, b, _| {
            [(f(a[1]) * f(b[0])).to_bits(), (f(a[0]) * f(b[0])).to_bits(), 0, 0]
        }),
        ("v_pk_add_f32 v[16:17], v[4:5], v[8:9] neg_lo:[0,1] neg_hi:[0,1]", |a, b, _| {
            [(f(a[0]) - f(b[0])).to_bits(), (f(a[1]) - f(b[1])).to_bits(), 0, 0]
        }),
    ];
    v.extend(pairs.map(|(asm, model)| float(asm, model)));
    v
}

fn compares() -> Vec<Case> {
    const NAMES: [&str; 16] = [
        "f", "lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq",
        "nlt", "tru",
    ];
    // All sixteen results of one type in one dword, bit k for condition k.
    let gather = |ty: &str, x: &str, y: &str| {
        let mut s = String::new();
        for (k, c) in NAMES.iter().enumerate() {
            s += &format!("v_cmp_{c}_{ty} vcc, {x}, {y}\nv_cndmask_b32 v20, 0, 1, vcc\n");
            s += &format!("v_lshl_or_b32 v16, v20, {k}, v16\n");
        }
        s
    };
    fn all(a: f64, b: f64) -> Quad {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let o = a.partial_cmp(&b);
        let (lt, eq, gt) = (o == Some(Less), o == Some(Equal), o == Some(Greater));
        let un = o.is_none();
        let yes = [false, lt, eq, lt || eq, gt, lt || gt, gt || eq, !un];
        // The second eight are the negations, in another order.
        let no = [un, lt || un, eq || un, lt || eq || un, gt || un, !eq, gt || eq || un, true];
        one(yes.iter().chain(&no).enumerate().fold(0, |m, (k, v)| m | u32::from(*v) << k))
    }
    vec![
        lane(&gather("f32", "v4", "v8"), |a, b, _| all(f(a[0]).into(), f(b[0]).into())),
        lane(&gather("f64", "v[4:5]", "v[8:9]"), |a, b, _| all(d(a), d(b))),
        lane(&gather("f16", "v4", "v8"), |a, b, _| all(half(a[0]).into(), half(b[0]).into())),
    ]
}

#[test]
fn floats() {
    check(&cases());
}
