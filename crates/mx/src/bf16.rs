//! BF16: the upper half of an `f32`.

/// The value of a BF16.
pub fn to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The nearest BF16, ties to the even one; NaN stays NaN (quiet).
pub fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let nan = ((bits >> 16) | 0x40) as u16;
    // At most 0x7f80_0000 + 0x8000 (sign aside): no overflow out of the sign bit. Wrapping, so that
    // loops become vector code where overflow is checked; only a NaN can overflow.
    let rounded = (bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1) >> 16) as u16;
    if value.is_nan() { nan } else { rounded }
}

/// The value rounded to BF16.
pub fn round(value: f32) -> f32 {
    to_f32(from_f32(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=u16::MAX {
            let value = to_f32(code);
            if value.is_nan() {
                assert!(to_f32(from_f32(value)).is_nan());
            } else {
                assert_eq!(from_f32(value), code);
            }
        }
    }

    #[test]
    fn every_midpoint_goes_to_the_even_code() {
        for code in 0..0x7f80u16 {
            let midpoint = f32::from_bits(((code as u32) << 16) | 0x8000);
            let even = code + (code & 1);
            assert_eq!(from_f32(midpoint), even);
            assert_eq!(from_f32(-midpoint), even | 0x8000);
            let (below, above) = (midpoint.to_bits() - 1, midpoint.to_bits() + 1);
            assert_eq!(from_f32(f32::from_bits(below)), code);
            assert_eq!(from_f32(f32::from_bits(above)), code + 1);
        }
    }
}
