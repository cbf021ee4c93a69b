//! Conversions between number formats.

use super::float::{half, to_half};
use super::{Case, Compare, Quad, check, lane, one, two, wide};

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// A small format: exponent bits, mantissa bits, largest value, and what its top codes mean.
#[derive(Clone, Copy)]
struct Format {
    exp: u32,
    man: u32,
    max: f64,
    /// The highest exponent holds infinity and NaN.
    ieee: bool,
    /// All ones is NaN.
    nan: bool,
}

const FP8: Format = Format { exp: 4, man: 3, max: 448.0, ieee: false, nan: true };
const BF8: Format = Format { exp: 5, man: 2, max: 57344.0, ieee: true, nan: true };
const FP6: Format = Format { exp: 2, man: 3, max: 7.5, ieee: false, nan: false };
const BF6: Format = Format { exp: 3, man: 2, max: 28.0, ieee: false, nan: false };
const FP4: Format = Format { exp: 2, man: 1, max: 6.0, ieee: false, nan: false };

impl Format {
    fn width(self) -> u32 {
        1 + self.exp + self.man
    }

    fn value(self, code: u32) -> f64 {
        let bias = (1 << (self.exp - 1)) - 1;
        let m = code & ((1 << self.man) - 1);
        let e = (code >> self.man & ((1 << self.exp) - 1)) as i32;
        let top = e == (1 << self.exp) - 1;
        let v = match () {
            () if self.ieee && top => {
                if m == 0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            () if self.nan && top && m == (1 << self.man) - 1 => f64::NAN,
            () if e == 0 => f64::from(m) * 2f64.powi(1 - bias - self.man as i32),
            () => f64::from(m + (1 << self.man)) * 2f64.powi(e - bias - self.man as i32),
        };
        if code >> (self.width() - 1) & 1 == 1 { -v } else { v }
    }

    /// The nearest code, ties to even, by search over all codes.
    fn nearest(self, x: f64) -> u32 {
        let sign = u32::from(x.is_sign_negative()) << (self.width() - 1);
        let codes = 0..1u32 << (self.width() - 1);
        let a = x.abs();
        if x.is_nan() {
            return sign | if self.ieee { self.nan_code() } else { codes.end - 1 };
        }
        let top = codes.clone().filter(|c| self.value(*c).is_finite()).max().unwrap_or(0);
        // Halfway to the number that would follow the largest one.
        let step = self.max - self.value(top - 1);
        if a > self.max + step / 2.0 || a == self.max + step / 2.0 && top % 2 == 1 {
            return sign | if self.nan { top + 1 } else { top };
        }
        let best = (0..=top).min_by(|p, q| {
            let d = |c: u32| (self.value(c) - a).abs();
            d(*p).total_cmp(&d(*q)).then((p % 2).cmp(&(q % 2)))
        });
        sign | best.unwrap_or(0)
    }

    fn nan_code(self) -> u32 {
        ((1 << self.exp) - 1) << self.man | 1 << (self.man - 1)
    }
}

/// NaN with the bits that the emulator's decoders give.
fn single(x: f64) -> u32 {
    (x as f32).to_bits()
}

fn power(scale: u32) -> f64 {
    let e = scale >> 23 & 255;
    if e == 255 { f64::NAN } else { 2f64.powi(e as i32 - 127) }
}

fn bf16(x: f64) -> u32 {
    let b = (x as f32).to_bits();
    if f(b).is_nan() {
        return b >> 16 | 0x40;
    }
    let (down, rest) = (b >> 16, b & 0xffff);
    down + u32::from(rest > 0x8000 || rest == 0x8000 && down % 2 == 1)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut v = plain();
    v.extend(small());
    v.extend(scaled());
    v
}

fn plain() -> Vec<Case> {
    let half_case = |asm: &str, model| Case { compare: Compare::F16, ..lane(asm, model) };
    let float = |asm: &str, model| Case { compare: Compare::F32, ..lane(asm, model) };
    let double = |asm: &str, model| Case { compare: Compare::F64, ..lane(asm, model) };
    fn d(x: Quad) -> f64 {
        f64::from_bits(wide(x))
    }
    fn to_i32(x: f64) -> u32 {
        if x.is_nan() { 0 } else { x.trunc().clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32 }
    }
    fn to_u32(x: f64) -> u32 {
        if x.is_nan() { 0 } else { x.trunc().clamp(0.0, u32::MAX.into()) as u32 }
    }
    fn toward_zero(x: u32) -> u32 {
        let v = f64::from(f(x));
        let h = to_half(v);
        let over = h & 0x7fff == 0x7c00 && v.is_finite();
        if over || f64::from(half(h)).abs() > v.abs() { h - 1 } else { h }
    }
    vec![
        float("v_cvt_f32_i32 v16, v4", |a, _, _| one(single(f64::from(a[0] as i32)))),
        float("v_cvt_f32_u32 v16, v4", |a, _, _| one(single(f64::from(a[0])))),
        lane("v_cvt_i32_f32 v16, v4", |a, _, _| one(to_i32(f(a[0]).into()))),
        lane("v_cvt_u32_f32 v16, v4", |a, _, _| one(to_u32(f(a[0]).into()))),
        lane("v_cvt_flr_i32_f32 v16, v4", |a, _, _| one(to_i32(f64::from(f(a[0])).floor()))),
        lane("v_cvt_rpi_i32_f32 v16, v4", |a, _, _| one(to_i32(f64::from(f(a[0]) + 0.5).floor()))),
        float("v_cvt_f32_ubyte0 v16, v4", |a, _, _| one(single((a[0] & 255).into()))),
        float("v_cvt_f32_ubyte1 v16, v4", |a, _, _| one(single((a[0] >> 8 & 255).into()))),
        float("v_cvt_f32_ubyte2 v16, v4", |a, _, _| one(single((a[0] >> 16 & 255).into()))),
        float("v_cvt_f32_ubyte3 v16, v4", |a, _, _| one(single((a[0] >> 24).into()))),
        half_case("v_cvt_f16_f32 v16, v4", |a, _, _| one(to_half(f(a[0]).into()))),
        float("v_cvt_f32_f16 v16, v4", |a, _, _| one(half(a[0]).to_bits())),
        float("v_cvt_f32_bf16_e64 v16, v4", |a, _, _| one(a[0] << 16)),
        half_case("v_cvt_f16_u16 v16, v4", |a, _, _| one(to_half((a[0] & 0xffff).into()))),
        half_case("v_cvt_f16_i16 v16, v4", |a, _, _| one(to_half((a[0] as i16).into()))),
        lane("v_cvt_u16_f16 v16, v4", |a, _, _| one(to_u32(half(a[0]).into()).min(0xffff))),
        lane("v_cvt_i16_f16 v16, v4", |a, _, _| {
            let x = to_i32(half(a[0]).into()) as i32;
            one(u32::from(x.clamp(-32768, 32767) as i16 as u16))
        }),
        lane("v_cvt_pk_bf16_f32 v16, v4, v8", |a, b, _| {
            one(bf16(f(a[0]).into()) | bf16(f(b[0]).into()) << 16)
        }),
        lane(
            "v_max_f32 v4, v4, v4\nv_max_f32 v8, v8, v8\nv_med3_f32 v4, v4, 1.0, 0\n\
              v_med3_f32 v8, v8, 1.0, 0\nv_cvt_pk_f16_f32 v16, v4, v8",
            |a, b, _| {
                let g = |x: u32| {
                    let v = if f(x).is_nan() { 0.0 } else { f(x).clamp(0.0, 1.0) };
                    to_half(v.into()) & 0x7fff
                };
                one(g(a[0]) | g(b[0]) << 16)
            },
        ),
        lane("v_cvt_pkrtz_f16_f32 v16, v4, v8", |a, b, _| {
            one(toward_zero(a[0]) | toward_zero(b[0]) << 16)
        }),
        lane("v_cvt_pknorm_i16_f32 v16, v4, v8", |a, b, _| {
            let g = |x: u32| {
                let v = f64::from(f(x).clamp(-1.0, 1.0) * 32767.0).round_ties_even();
                u32::from(if v.is_nan() { 0 } else { v as i16 } as u16)
            };
            one(g(a[0]) | g(b[0]) << 16)
        }),
        lane("v_cvt_pknorm_u16_f32 v16, v4, v8", |a, b, _| {
            let g = |x: u32| {
                let v = f64::from(f(x).clamp(0.0, 1.0) * 65535.0).round_ties_even();
                u32::from(if v.is_nan() { 0 } else { v as u16 })
            };
            one(g(a[0]) | g(b[0]) << 16)
        }),
        lane(
            "v_cvt_pk_u16_u32 v16, v4, v8",
            |a, b, _| one(a[0].min(65535) | b[0].min(65535) << 16),
        ),
        lane("v_cvt_pk_i16_i32 v16, v4, v8", |a, b, _| {
            let g = |x: u32| u32::from((x as i32).clamp(-32768, 32767) as u16);
            one(g(a[0]) | g(b[0]) << 16)
        }),
        lane("v_cvt_pk_u8_f32 v16, v4, v8, v12", |a, b, c| {
            let v = f64::from(f(a[0])).round_ties_even();
            let mut bytes = c[0].to_le_bytes();
            bytes[(b[0] % 4) as usize] = if v.is_nan() { 0 } else { v.clamp(0.0, 255.0) as u8 };
            one(u32::from_le_bytes(bytes))
        }),
        double("v_cvt_f64_f32 v[16:17], v4", |a, _, _| two(f64::from(f(a[0])).to_bits())),
        double("v_cvt_f64_i32 v[16:17], v4", |a, _, _| two(f64::from(a[0] as i32).to_bits())),
        double("v_cvt_f64_u32 v[16:17], v4", |a, _, _| two(f64::from(a[0]).to_bits())),
        float("v_cvt_f32_f64 v16, v[4:5]", |a, _, _| one(single(d(a)))),
        lane("v_cvt_i32_f64 v16, v[4:5]", |a, _, _| one(to_i32(d(a)))),
        lane("v_cvt_u32_f64 v16, v[4:5]", |a, _, _| one(to_u32(d(a)))),
    ]
}

fn small() -> Vec<Case> {
    let float = |asm: &str, model| Case { compare: Compare::F32, ..lane(asm, model) };
    fn pair(fmt: Format, a: u32, b: u32) -> u32 {
        fmt.nearest(f(a).into()) | fmt.nearest(f(b).into()) << 8
    }
    vec![
        lane("v_cvt_pk_fp8_f32 v16, v4, v8", |a, b, _| one(pair(FP8, a[0], b[0]))),
        lane("v_cvt_pk_bf8_f32 v16, v4, v8", |a, b, _| one(pair(BF8, a[0], b[0]))),
        lane("v_mov_b32 v16, v12\nv_cvt_pk_fp8_f32 v16, v4, v8 op_sel:[0,0,1]", |a, b, c| {
            one(c[0] & 0xffff | pair(FP8, a[0], b[0]) << 16)
        }),
        float("v_cvt_f32_fp8 v16, v4", |a, _, _| one(single(FP8.value(a[0] & 255)))),
        float("v_cvt_f32_bf8 v16, v4", |a, _, _| one(single(BF8.value(a[0] & 255)))),
        float("v_cvt_f32_fp8_sdwa v16, v4 src0_sel:BYTE_2", |a, _, _| {
            one(single(FP8.value(a[0] >> 16 & 255)))
        }),
        float("v_cvt_pk_f32_fp8 v[16:17], v4", |a, _, _| {
            [single(FP8.value(a[0] & 255)), single(FP8.value(a[0] >> 8 & 255)), 0, 0]
        }),
        float("v_cvt_pk_f32_bf8_sdwa v[16:17], v4 src0_sel:WORD_1", |a, _, _| {
            [single(BF8.value(a[0] >> 16 & 255)), single(BF8.value(a[0] >> 24)), 0, 0]
        }),
        // Stochastic rounding with no noise cuts off.
        lane(
            "v_med3_f32 v4, v4, 4.0, 0.5\nv_mov_b32 v8, 0\nv_cvt_sr_fp8_f32 v16, v4, v8",
            |a, _, _| one(cut(FP8, a[0])),
        ),
        lane(
            "v_med3_f32 v4, v4, 4.0, 0.5\nv_mov_b32 v8, 0\nv_cvt_sr_bf8_f32 v16, v4, v8",
            |a, _, _| one(cut(BF8, a[0])),
        ),
    ]
}

fn clamped(a: u32) -> f32 {
    let x = f(a);
    // `v_med3` with a NaN takes the least of all three.
    if x.is_nan() { 0.5 } else { x.clamp(0.5, 4.0) }
}

/// The largest code not above the clamped value.
fn cut(fmt: Format, a: u32) -> u32 {
    let v = f64::from(clamped(a));
    (0..1u32 << (fmt.width() - 1)).rfind(|c| fmt.value(*c) <= v).unwrap_or(0)
}

/// Scales as exponents near the middle, so that results are numbers.
const SCALE: &str = "v_and_b32 v12, 7, v12\nv_add_u32 v12, 124, v12\nv_lshlrev_b32 v12, 23, v12\n";

fn scale(c: Quad) -> f64 {
    power((124 + (c[0] & 7)) << 23)
}

fn scaled() -> Vec<Case> {
    let make =
        |asm: &str, model| Case { compare: Compare::F32, ..lane(&format!("{SCALE}{asm}"), model) };
    fn quotient(fmt: Format, x: u32, c: Quad) -> u32 {
        fmt.nearest(f64::from(f(x)) / scale(c))
    }
    vec![
        make("v_cvt_scalef32_pk_f32_fp4 v[16:17], v4, v12 op_sel:[1,0,0]", |a, _, c| {
            let g = |n: u32| single(FP4.value(a[0] >> (8 + 4 * n) & 15) * scale(c));
            [g(0), g(1), 0, 0]
        }),
        make("v_cvt_scalef32_pk_f32_fp8 v[16:17], v4, v12 op_sel:[1,0,0]", |a, _, c| {
            let g = |n: u32| single(FP8.value(a[0] >> (16 + 8 * n) & 255) * scale(c));
            [g(0), g(1), 0, 0]
        }),
        make("v_cvt_scalef32_f32_bf8 v16, v4, v12 op_sel:[1,1,0]", |a, _, c| {
            one(single(BF8.value(a[0] >> 24) * scale(c)))
        }),
        make("v_cvt_scalef32_pk_bf16_fp4 v16, v4, v12", |a, _, c| {
            let g = |n: u32| bf16(FP4.value(a[0] >> (4 * n) & 15) * scale(c));
            one(g(0) | g(1) << 16)
        }),
        make("v_cvt_scalef32_pk_f16_fp4 v16, v4, v12 op_sel:[0,1,0]", |a, _, c| {
            let g = |n: u32| to_half(FP4.value(a[0] >> (16 + 4 * n) & 15) * scale(c));
            one(g(0) | g(1) << 16)
        }),
        make(
            "v_mov_b32 v16, v5\nv_cvt_scalef32_pk_fp4_f32 v16, v4, v8, v12 op_sel:[0,0,1,1]",
            |a, b, c| {
                let byte = quotient(FP4, a[0], c) | quotient(FP4, b[0], c) << 4;
                one(a[1] & 0x00ff_ffff | byte << 24)
            },
        ),
        make(
            "v_mov_b32 v16, v5\nv_cvt_scalef32_pk_fp8_f32 v16, v4, v8, v12 op_sel:[0,0,0,1]",
            |a, b, c| {
                let word = quotient(FP8, a[0], c) | quotient(FP8, b[0], c) << 8;
                one(a[1] & 0xffff | word << 16)
            },
        ),
        make("v_cvt_scalef32_pk_fp4_bf16 v16, v4, v12", |a, _, c| {
            let g = |x: u32| quotient(FP4, x, c);
            one(g(a[0] << 16) | g(a[0] & 0xffff_0000) << 4)
        }),
        make("v_cvt_scalef32_pk_bf8_f16 v16, v4, v12", |a, _, c| {
            let g = |x: u32| BF8.nearest(f64::from(half(x)) / scale(c));
            one(g(a[0] & 0xffff) | g(a[0] >> 16) << 8)
        }),
        // Element 9 of 32 FP6 codes lies across words 1 and 2.
        make(
            "v_mov_b32 v24, v4\nv_mov_b32 v25, v5\nv_mov_b32 v26, v6\nv_mov_b32 v27, v7\n\
              v_mov_b32 v28, v8\nv_mov_b32 v29, v9\n\
              v_cvt_scalef32_pk32_f32_fp6 v[32:63], v[24:29], v12\n\
              v_mov_b32 v16, v32\nv_mov_b32 v17, v41\nv_mov_b32 v18, v63",
            |a, b, c| {
                let all = [a[0], a[1], a[2], a[3], b[0], b[1]];
                let g = |k: u32| single(FP6.value(element(&all, 6, k)) * scale(c));
                [g(0), g(9), g(31), 0]
            },
        ),
        make(
            "v_mov_b32 v24, v4\nv_mov_b32 v25, v5\nv_mov_b32 v26, v6\nv_mov_b32 v27, v7\n\
              v_mov_b32 v28, v8\nv_mov_b32 v29, v9\n\
              v_cvt_scalef32_pk32_bf16_bf6 v[32:47], v[24:29], v12\n\
              v_mov_b32 v16, v32\nv_mov_b32 v17, v47",
            |a, b, c| {
                let all = [a[0], a[1], a[2], a[3], b[0], b[1]];
                let g = |k: u32| bf16(BF6.value(element(&all, 6, k)) * scale(c));
                [g(0) | g(1) << 16, g(30) | g(31) << 16, 0, 0]
            },
        ),
        make(&wide_encode(), |a, b, c| {
            // 32 copies of the pair (a, b): codes alternate.
            let pair = quotient(FP6, a[0], c) | quotient(FP6, b[0], c) << 6;
            let wide = (0..5).fold(0u64, |m, k| m | u64::from(pair) << (12 * k));
            [wide as u32, (wide >> 32) as u32 & 0x0fff_ffff, 0, 0]
        }),
    ]
}

fn element(words: &[u32], bits: u32, k: u32) -> u32 {
    (0..bits).fold(0, |m, b| {
        let at = k * bits + b;
        m | (words[(at / 32) as usize] >> (at % 32) & 1) << b
    })
}

fn wide_encode() -> String {
    let mut s = String::new();
    for k in 0..16 {
        s += &format!("v_mov_b32 v{}, v4\nv_mov_b32 v{}, v8\n", 32 + 2 * k, 33 + 2 * k);
    }
    s + "v_cvt_scalef32_2xpk16_fp6_f32 v[64:69], v[32:47], v[48:63], v12\n\
         v_mov_b32 v16, v64\nv_and_b32 v17, 0xfffffff, v65"
}

#[test]
fn conversions() {
    check(&cases());
}
