//! The small number formats: f16, bf16, FP8, BF8, FP6, BF6, FP4 and the E8M0 scale.

use crate::fpmode;

/// A format with sign, exponent and mantissa fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Exponent bits.
    pub exp: u32,
    /// Mantissa bits.
    pub man: u32,
    /// What the highest exponent means.
    pub top: Top,
}

/// Meaning of an all-ones exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// Infinity and NaN as in IEEE 754.
    Ieee,
    /// Numbers, but all ones in the mantissa is NaN (E4M3 of OCP).
    NanOnly,
    /// Numbers only (OCP MX element formats).
    Finite,
}

/// OCP E4M3.
pub const FP8: Format = Format { exp: 4, man: 3, top: Top::NanOnly };
/// OCP E5M2.
pub const BF8: Format = Format { exp: 5, man: 2, top: Top::Ieee };
/// E2M3.
pub const FP6: Format = Format { exp: 2, man: 3, top: Top::Finite };
/// E3M2.
pub const BF6: Format = Format { exp: 3, man: 2, top: Top::Finite };
/// E2M1.
pub const FP4: Format = Format { exp: 2, man: 1, top: Top::Finite };
/// IEEE half.
pub const F16: Format = Format { exp: 5, man: 10, top: Top::Ieee };
/// bfloat16.
pub const BF16: Format = Format { exp: 8, man: 7, top: Top::Ieee };

/// 2^n for any n that f64 can hold.
pub(crate) fn pow2(n: i32) -> f64 {
    f64::from_bits(((n.clamp(-1022, 1023) + 1023) as u64) << 52)
}

impl Format {
    /// Bits of one element.
    pub const fn bits(self) -> u32 {
        1 + self.exp + self.man
    }

    const fn bias(self) -> i32 {
        (1 << (self.exp - 1)) - 1
    }

    /// The value of the low bits of `code`.
    pub fn decode(self, code: u32) -> f32 {
        let man = code & ((1 << self.man) - 1);
        let exp = code >> self.man & ((1 << self.exp) - 1);
        let neg = code >> (self.exp + self.man) & 1 == 1;
        let top = exp == (1 << self.exp) - 1;
        let value = match self.top {
            Top::Ieee if top && man == 0 => f64::INFINITY,
            Top::Ieee if top => f64::NAN,
            Top::NanOnly if top && man == (1 << self.man) - 1 => f64::NAN,
            _ if exp == 0 => f64::from(man) * pow2(1 - self.bias() - self.man as i32),
            _ => {
                let m = f64::from(man + (1 << self.man));
                m * pow2(exp as i32 - self.bias() - self.man as i32)
            }
        };
        (if neg { -value } else { value }) as f32
    }

    /// The largest finite code without sign.
    pub const fn max_code(self) -> u32 {
        match self.top {
            Top::Ieee => (((1 << self.exp) - 1) << self.man) - 1,
            Top::NanOnly => (1 << (self.exp + self.man)) - 2,
            Top::Finite => (1 << (self.exp + self.man)) - 1,
        }
    }

    /// Rounds to nearest even. Beyond the largest number: itself if `saturate` or if the format
    /// has nothing else, infinity if it has one, else NaN. NaN without a NaN code becomes the
    /// largest number.
    pub fn encode(self, x: f64, saturate: bool) -> u32 {
        self.encode_with(x, saturate, |q| q.round_ties_even())
    }

    /// Stochastic rounding: `noise` in [0, 1) is added below the last kept bit.
    pub fn encode_stochastic(self, x: f64, noise: f64, saturate: bool) -> u32 {
        self.encode_with(x, saturate, |q| (q + noise).floor())
    }

    fn encode_with(self, x: f64, saturate: bool, round: impl Fn(f64) -> f64) -> u32 {
        let sign = u32::from(x.is_sign_negative()) << (self.exp + self.man);
        let nan = match self.top {
            Top::Ieee => (((1 << self.exp) - 1) << self.man) | 1 << (self.man - 1),
            Top::NanOnly => (1 << (self.exp + self.man)) - 1,
            Top::Finite => self.max_code(),
        };
        if x.is_nan() {
            return sign | nan;
        }
        let over = match self.top {
            _ if saturate => self.max_code(),
            Top::Ieee => self.max_code() + 1,
            _ => nan,
        };
        let a = x.abs();
        if a.is_infinite() {
            return sign | over;
        }
        let e = ((a.to_bits() >> 52) as i32 - 1023).max(1 - self.bias());
        // In units of the last place at this exponent; exact, since only the exponent changes.
        let q = round(a * pow2(self.man as i32 - e)) as u64;
        let code = ((e - 1 + self.bias()) as u64) * (1 << self.man) + q;
        sign | if code > u64::from(self.max_code()) { over } else { code as u32 }
    }
}

/// Half to single, exact; MODE may flush denormals.
#[inline(always)]
pub fn f16_to_f32(x: u16) -> f32 {
    let x = u32::from(x);
    let (magnitude, sign) = ((x & 0x7fff) << 13, (x & 0x8000) << 16);
    let shifted = magnitude + (112 << 23);
    let bits = match magnitude >> 23 {
        // Infinity and NaN.
        31 => shifted + (112 << 23),
        // Zero and denormals: a leading one is put in front and taken away again.
        0 if fpmode::half().is_some_and(|h| h.1) => 0,
        0 => {
            (f32::from_bits(shifted + (1 << 23)) - f32::from_bits(113 << 23)).to_bits() & !(1 << 31)
        }
        _ => shifted,
    };
    f32::from_bits(bits | sign)
}

/// Single to half, rounded as MODE says, by default to nearest even; NaN payloads are not kept.
pub fn f32_to_f16(x: f32) -> u16 {
    match fpmode::half() {
        None => F16.encode(x.into(), false) as u16,
        Some((round, _, flush)) => f32_to_f16_mode(x, round, flush),
    }
}

fn f32_to_f16_mode(x: f32, round: u32, flush: bool) -> u16 {
    if !x.is_finite() {
        return F16.encode(x.into(), false) as u16;
    }
    let inward = match round {
        0 => false,
        1 => x < 0.0,
        2 => x > 0.0,
        _ => true,
    };
    // Magnitudes are rounded, so only inwards and outwards are left.
    let code = match (round, inward) {
        (0, _) => F16.encode(x.into(), false),
        (_, true) => F16.encode_with(x.into(), true, f64::trunc),
        (_, false) => F16.encode_with(x.into(), false, f64::ceil),
    };
    (if flush && code & 0x7c00 == 0 { code & 0x8000 } else { code }) as u16
}

/// Single to half towards zero.
pub fn f32_to_f16_rtz(x: f32) -> u16 {
    if !x.is_finite() {
        return f32_to_f16(x);
    }
    F16.encode_with(x.into(), true, f64::trunc) as u16
}

/// bfloat16 to single.
#[inline(always)]
pub fn bf16_to_f32(x: u32) -> f32 {
    f32::from_bits(x << 16)
}

/// Single to bfloat16, to nearest even; NaNs are quieted.
#[inline(always)]
pub fn f32_to_bf16(x: u32) -> u32 {
    let nan = (x & 0x7fff_ffff) > 0x7f80_0000;
    let round = x.wrapping_add(0x7fff + (x >> 16 & 1)) >> 16;
    if nan { x >> 16 | 0x40 } else { round }
}

/// The value of an E8M0 scale code; 0xff is NaN.
pub fn e8m0(code: u32) -> f32 {
    match code & 0xff {
        0 => f32::from_bits(0x0040_0000),
        0xff => f32::NAN,
        e => f32::from_bits(e << 23),
    }
}

/// Element `k` of densely packed `bits`-wide elements.
pub fn unpack(words: &[u32], bits: u32, k: usize) -> u32 {
    let at = k * bits as usize;
    let (word, shift) = (at / 32, at % 32);
    let lo = words.get(word).copied().unwrap_or(0);
    let hi = words.get(word + 1).copied().unwrap_or(0);
    ((u64::from(hi) << 32 | u64::from(lo)) >> shift) as u32 & ((1u32 << bits) - 1)
}

/// Stores element `k` of densely packed `bits`-wide elements.
pub fn pack(words: &mut [u32], bits: u32, k: usize, code: u32) {
    let at = k * bits as usize;
    for b in 0..bits as usize {
        if code >> b & 1 == 1
            && let Some(w) = words.get_mut((at + b) / 32)
        {
            *w |= 1 << ((at + b) % 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published FP4 values (OCP MX specification, table of E2M1).
    #[test]
    fn fp4_values() {
        let v: Vec<f32> = (0..8).map(|c| FP4.decode(c)).collect();
        assert_eq!(v, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!((FP8.decode(0x7e), BF8.decode(0x7b)), (448.0, 57344.0));
        assert_eq!((FP6.decode(0x1f), BF6.decode(0x1f)), (7.5, 28.0));
        assert!(FP8.decode(0x7f).is_nan() && e8m0(0xff).is_nan());
        assert_eq!((e8m0(127), e8m0(0)), (1.0, 2f32.powi(-127)));
    }

    /// Every code survives decode and encode, and every midpoint goes to the even neighbour.
    #[test]
    fn round_trip_and_ties() {
        for f in [FP8, BF8, FP6, BF6, FP4, F16] {
            for c in 0..=f.max_code() {
                let v = f64::from(f.decode(c));
                assert_eq!(f.encode(v, false), c);
                assert_eq!(f.encode(-v, false), c | 1 << (f.bits() - 1));
                if c < f.max_code() {
                    let mid = (v + f64::from(f.decode(c + 1))) / 2.0;
                    assert_eq!(f.encode(mid, false), c + (c & 1), "{f:?} {c}");
                }
            }
        }
        assert_eq!((FP4.encode(7.0, false), FP4.encode(f64::NAN, false)), (7, 7));
        assert_eq!((FP8.encode(1e9, false), FP8.encode(1e9, true)), (0x7f, 0x7e));
        assert_eq!(f32_to_f16_rtz(1e9), 0x7bff);
        for c in 0..=0xffff {
            let (got, want) = (f16_to_f32(c), F16.decode(c.into()));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{c:#x}");
        }
        for k in 0..20_000u32 {
            let x = f32::from_bits((0x3380_0000 + k * 7919) | ((k & 1) << 31));
            let at = |round| f16_to_f32(f32_to_f16_mode(x, round, false));
            let (up, down, zero) = (at(1), at(2), at(3));
            assert!(down <= x && x <= up, "{down} {x} {up}");
            assert_eq!(zero, if x < 0.0 { up } else { down });
            assert!(at(0) == up || at(0) == down);
        }
        assert_eq!(f32_to_f16_mode(1e-6, 1, true), 0, "a denormal is flushed");
        assert_eq!(f32_to_bf16(0x3f80_8000), 0x3f80);
        assert_eq!(f32_to_bf16(0x3f81_8000), 0x3f82);
    }
}
