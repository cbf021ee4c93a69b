//! E4M3 (OCP "fn" variant): bias 7, no infinities, 0x7f and 0xff are NaN, largest magnitude 448.

/// Largest finite magnitude.
pub const MAX: f32 = 448.0;

/// The value of a code.
pub fn decode(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, (code & 7) as f32);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent as i32 - 7),
    };
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The value rounded to E4M3: nearest, ties to even, magnitudes above 448 saturate, NaN stays NaN.
pub fn round(value: f32) -> f32 {
    let magnitude = value.abs();
    if magnitude >= MAX {
        return MAX.copysign(value);
    }
    // Spacing of the codes around the value: 2^(k-3), never below the subnormals' 2^-9.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let spacing = 2f32.powi(exponent - 3);
    (magnitude / spacing).round_ties_even().copysign(value) * spacing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite() -> impl Iterator<Item = u8> {
        (0..=0x7eu8).chain(0x80..=0xfe)
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in finite() {
            assert_eq!(round(decode(code)).to_bits(), decode(code).to_bits(), "code {code:#x}");
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan() && round(f32::NAN).is_nan());
        assert_eq!((decode(0x7e), decode(1), decode(8)), (448.0, 2f32.powi(-9), 2f32.powi(-6)));
    }

    #[test]
    fn every_bf16_goes_to_the_nearest_code() {
        for bits in 0..0x7f80u16 {
            let value = crate::bf16::to_f32(bits);
            let best = (0..=0x7eu8)
                .min_by(|&a, &b| {
                    let error = |c: u8| (decode(c) as f64 - value.min(MAX) as f64).abs();
                    error(a).total_cmp(&error(b)).then((a & 1).cmp(&(b & 1)))
                })
                .unwrap();
            assert_eq!(round(value), decode(best), "value {value}");
            assert_eq!(round(-value), -decode(best));
        }
    }
}
