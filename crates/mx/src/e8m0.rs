//! E8M0: a power of two, `2^(byte - 127)`. 0xFF is NaN.

/// The byte that no checkpoint may hold.
pub const NAN: u8 = 0xff;

/// The scale a byte stands for. Byte 0 is 2^-127, a subnormal `f32`.
pub fn decode(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x0040_0000),
        NAN => f32::NAN,
        _ => f32::from_bits((byte as u32) << 23),
    }
}

/// `1 / decode(byte)`, exact. Byte 254's is 2^-127.
///
/// # Panics
/// If `byte` is [`NAN`]: no rule produces it and readers refuse it.
pub fn reciprocal(byte: u8) -> f32 {
    decode(254 - byte)
}

/// How a block's largest magnitude, `m * 2^k` with `1 <= m < 2`, becomes the exponent of its E2M1
/// scale. All give byte 0 for a zero block and clamp to 0..=254.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRule {
    /// `k-2` if `m < 1.75`, else `k-1`: Quark's "even", which made the published weights; also
    /// AITER's Triton kernels and vLLM. Scaled magnitudes in (6, 7) clip to 6.
    Even,
    /// `k-2`: the rule of the OCP specification, and Quark's "floor". Scaled magnitudes in (6, 8)
    /// clip to 6.
    Floor,
    /// `k-2` if `m == 1`, else `k-1`: Quark's "ceil". Never clips.
    Ceil,
    /// `k-2` if `m < 1.5`, else `k-1`: AITER's HIP kernels before June 2026.
    AiterOld,
    /// `k-2` if `m <= 1.5`, else `k-1`: AITER's HIP kernels since. Never clips.
    AiterNew,
}

impl ScaleRule {
    /// The scale byte of a block whose largest magnitude is `amax`, finite and not negative.
    pub fn scale_byte(self, amax: f32) -> u8 {
        let bits = amax.to_bits() & 0x7fff_ffff;
        let exponent = (bits >> 23) as i32;
        let mantissa = bits & 0x007f_ffff;
        let round_up = match self {
            ScaleRule::Even => mantissa >= 0x0060_0000,
            ScaleRule::Floor => false,
            ScaleRule::Ceil => mantissa > 0,
            ScaleRule::AiterOld => mantissa >= 0x0040_0000,
            ScaleRule::AiterNew => mantissa > 0x0040_0000,
        };
        (exponent - 2 + round_up as i32).clamp(0, 254) as u8
    }
}

/// The scale byte of an MXFP8 (E4M3) block: the smallest power of two under which `amax` does not
/// exceed 448 = 1.75 * 2^8, so nothing clips. This project's choice: no checkpoint declares one.
pub fn e4m3_scale_byte(amax: f32) -> u8 {
    let bits = amax.to_bits() & 0x7fff_ffff;
    let round_up = (bits & 0x007f_ffff) > 0x0060_0000;
    ((bits >> 23) as i32 - 8 + round_up as i32).clamp(0, 254) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_power_of_two() {
        for byte in 0..=254u8 {
            assert_eq!(decode(byte) as f64, 2f64.powi(byte as i32 - 127));
            assert_eq!(reciprocal(byte) as f64, 2f64.powi(127 - byte as i32));
        }
        assert!(decode(NAN).is_nan());
    }

    /// amax and the bytes of Even, AiterOld, AiterNew.
    #[test]
    fn golden_bytes() {
        let golden = [
            (1.0, [125, 125, 125]),
            (1.49, [125, 125, 125]),
            (1.5, [125, 126, 125]),
            (1.74, [125, 126, 126]),
            (1.75, [126, 126, 126]),
            (3.0, [126, 127, 126]),
            (3.4, [126, 127, 127]),
            (3.5, [127, 127, 127]),
            (6.0, [127, 128, 127]),
            (6.1, [127, 128, 128]),
            (7.0, [128, 128, 128]),
            (0.1, [121, 122, 122]),
            (448.0, [134, 134, 134]),
        ];
        for (amax, bytes) in golden {
            let rules = [ScaleRule::Even, ScaleRule::AiterOld, ScaleRule::AiterNew];
            assert_eq!(rules.map(|rule| rule.scale_byte(amax)), bytes, "amax {amax}");
        }
    }

    /// The rules against their published arithmetic, for every BF16 magnitude.
    #[test]
    fn rules_agree_with_their_formulas() {
        for bits in 0x0080..0x7f80u16 {
            let amax = crate::bf16::to_f32(bits);
            let even = (((amax.to_bits() + 0x0020_0000) & 0xff80_0000) >> 23) as i32 - 2;
            assert_eq!(ScaleRule::Even.scale_byte(amax) as i32, even.clamp(0, 254));
            let log2 = (amax as f64).log2();
            let floor = log2.floor() as i32 - 2 + 127;
            let ceil = log2.ceil() as i32 - 2 + 127;
            assert_eq!(ScaleRule::Floor.scale_byte(amax) as i32, floor.clamp(0, 254));
            assert_eq!(ScaleRule::Ceil.scale_byte(amax) as i32, ceil.clamp(0, 254));
            // Old: amax / 4 rounded to a power of two; new: amax / 6 rounded up to one.
            let old = (amax as f64 / 4.0 * 4.0 / 3.0).log2().floor() as i32 + 127;
            let new = (amax as f64 / 6.0).log2().ceil() as i32 + 127;
            assert_eq!(ScaleRule::AiterOld.scale_byte(amax) as i32, old.clamp(0, 254), "{amax}");
            assert_eq!(ScaleRule::AiterNew.scale_byte(amax) as i32, new.clamp(0, 254), "{amax}");
        }
        let even = [ScaleRule::Even, ScaleRule::Ceil, ScaleRule::AiterOld, ScaleRule::AiterNew];
        for (rule, largest) in
            even.map(|rule| (rule, 253)).into_iter().chain([(ScaleRule::Floor, 252)])
        {
            assert_eq!(rule.scale_byte(0.0), 0);
            assert_eq!(rule.scale_byte(f32::from_bits(1)), 0);
            assert_eq!(rule.scale_byte(f32::MAX), largest);
        }
    }

    #[test]
    fn e4m3_blocks_use_the_range_and_never_clip() {
        for bits in 0x0500..0x7f80u16 {
            let amax = crate::bf16::to_f32(bits);
            let scaled = amax as f64 / decode(e4m3_scale_byte(amax)) as f64;
            assert!(scaled <= 448.0 && scaled > 224.0, "amax {amax} scales to {scaled}");
        }
    }
}
