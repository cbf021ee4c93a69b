//! E2M1: a sign, two exponent bits, one mantissa bit. No infinities, no NaN.

/// The value of each code; bit 3 is the sign. Code 8 is a negative zero.
pub const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Where a value halfway between two codes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ties {
    /// To the even code, as Quark's weights, AITER and gfx950's own conversion do.
    Even,
    /// Away from zero, as Quark 0.11.1's Triton emulation does.
    Away,
}

/// The nearest code. Magnitudes above 6 saturate; whatever rounds to zero is +0, as Quark stores
/// it.
///
/// NaN has no code; it saturates like an infinity, so callers refuse it first.
pub fn encode(value: f32, ties: Ties) -> u8 {
    let code = match ties {
        Ties::Even => nearest_even(value),
        Ties::Away => match value.abs() {
            m if m < 0.25 => 0,
            m if m < 0.75 => 1,
            m if m < 1.25 => 2,
            m if m < 1.75 => 3,
            m if m < 2.5 => 4,
            m if m < 3.5 => 5,
            m if m < 5.0 => 6,
            _ => 7,
        },
    };
    // Bit 7 of 0 - code is set unless the code is 0: zero has no sign.
    code | ((value.to_bits() >> 28) as u8 & 8 & (0u8.wrapping_sub(code) >> 4))
}

/// The code of the magnitude, without branches and checks: loops over it become vector code.
#[inline]
fn nearest_even(value: f32) -> u8 {
    let magnitude = value.abs().min(6.0);
    // From 1 on: an `f32` cut to one mantissa bit, ties to even, and to the smaller exponent bias.
    let bits = magnitude.to_bits();
    let rounded = bits.wrapping_add(0x001f_ffff).wrapping_add((bits >> 22) & 1);
    let normal = (rounded >> 22).wrapping_sub(126 << 1);
    // Below 1: multiples of 0.5, the spacing of `f32` from 2^22 on.
    let small = (magnitude + 4_194_304.0).to_bits().wrapping_sub(4_194_304f32.to_bits());
    (if magnitude < 1.0 { small } else { normal }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes' values written as the format defines them: (-1)^s 2^(e-1) (1 + m/2), subnormal at
    /// e = 0.
    #[test]
    fn values_follow_the_format() {
        for code in 0..16u32 {
            let (sign, exponent, mantissa) = (code >> 3, (code >> 1) & 3, code & 1);
            let magnitude = match exponent {
                0 => 0.5 * mantissa as f32,
                e => (1.0 + 0.5 * mantissa as f32) * 2f32.powi(e as i32 - 1),
            };
            let expected = if sign == 1 { -magnitude } else { magnitude };
            assert_eq!(VALUES[code as usize].to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..16u8 {
            for ties in [Ties::Even, Ties::Away] {
                let expected = if code == 8 { 0 } else { code };
                assert_eq!(encode(VALUES[code as usize], ties), expected);
            }
        }
    }

    /// Every BF16 value against a search for the nearest code.
    #[test]
    fn the_nearest_code_is_chosen() {
        for bits in 0..=u16::MAX {
            let value = crate::bf16::to_f32(bits);
            if value.is_nan() {
                continue;
            }
            for ties in [Ties::Even, Ties::Away] {
                assert_eq!(encode(value, ties), nearest(value, ties), "{value} {ties:?}");
            }
        }
    }

    fn nearest(value: f32, ties: Ties) -> u8 {
        let clipped = value.abs().min(6.0) as f64;
        let mut best = 0u8;
        for code in 1..8u8 {
            let error = |c: u8| (VALUES[c as usize] as f64 - clipped).abs();
            let closer = error(code) < error(best);
            let tie = error(code) == error(best);
            let wins_tie = match ties {
                Ties::Even => code % 2 == 0,
                Ties::Away => true,
            };
            if closer || (tie && wins_tie) {
                best = code;
            }
        }
        if value < 0.0 && best != 0 { best | 8 } else { best }
    }

    #[test]
    fn published_ties() {
        let points = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
        let even = points.map(|v| VALUES[encode(v, Ties::Even) as usize]);
        let away = points.map(|v| VALUES[encode(v, Ties::Away) as usize]);
        assert_eq!(even, [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
        assert_eq!(away, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    }
}
