//! MX blocks: 32 elements along a row that share one E8M0 scale.

use crate::e2m1::{self, Ties};
use crate::e4m3;
use crate::e8m0::{self, ScaleRule};

/// Elements that share a scale.
pub const BLOCK: usize = 32;

/// The largest magnitude; NaN or an infinity if there is one. Magnitudes order as their bits do.
fn amax(block: &[f32]) -> f32 {
    f32::from_bits(block.iter().fold(0, |a, x| a.max(x.abs().to_bits() as i32)) as u32)
}

/// Quantizes a row (a multiple of 32 values) to MXFP4.
///
/// `packed` receives two codes a byte, the even element in the low nibble; `scales` one byte a
/// block. A block with a NaN or an infinity gets the scale [`e8m0::NAN`], and codes without
/// meaning.
///
/// # Panics
/// If the lengths do not fit one another.
pub fn quantize_mxfp4(
    row: &[f32],
    rule: ScaleRule,
    ties: Ties,
    packed: &mut [u8],
    scales: &mut [u8],
) {
    assert_eq!(row.len(), scales.len() * BLOCK);
    assert_eq!(row.len(), packed.len() * 2);
    for ((block, bytes), scale) in
        row.chunks_exact(BLOCK).zip(packed.chunks_exact_mut(BLOCK / 2)).zip(scales)
    {
        let amax = amax(block);
        if !amax.is_finite() {
            *scale = e8m0::NAN;
            continue;
        }
        *scale = rule.scale_byte(amax);
        let inverse = e8m0::reciprocal(*scale);
        let mut codes = [0u8; BLOCK];
        for (x, code) in block.iter().zip(&mut codes) {
            *code = e2m1::encode(x * inverse, ties);
        }
        for (pair, byte) in codes.chunks_exact(2).zip(bytes) {
            *byte = pair[0] | pair[1] << 4;
        }
    }
}

/// The values of an MXFP4 row; exact in BF16 too.
///
/// # Panics
/// If the lengths do not fit one another.
pub fn dequantize_mxfp4(packed: &[u8], scales: &[u8], out: &mut [f32]) {
    assert_eq!(out.len(), scales.len() * BLOCK);
    assert_eq!(out.len(), packed.len() * 2);
    for ((block, bytes), &scale) in
        out.chunks_exact_mut(BLOCK).zip(packed.chunks_exact(BLOCK / 2)).zip(scales)
    {
        let scale = e8m0::decode(scale);
        for (pair, &byte) in block.chunks_exact_mut(2).zip(bytes) {
            pair[0] = e2m1::VALUES[(byte & 15) as usize] * scale;
            pair[1] = e2m1::VALUES[(byte >> 4) as usize] * scale;
        }
    }
}

/// Replaces activations by what is left of them after MXFP4: scale rule `Even`, ties to even.
///
/// # Panics
/// If the length is not a multiple of 32.
pub fn round_trip_mxfp4(row: &mut [f32]) {
    assert_eq!(row.len() % BLOCK, 0);
    for block in row.chunks_exact_mut(BLOCK) {
        let scale = ScaleRule::Even.scale_byte(amax(block));
        let (inverse, scale) = (e8m0::reciprocal(scale), e8m0::decode(scale));
        for x in block {
            *x = e2m1::VALUES[e2m1::encode(*x * inverse, Ties::Even) as usize] * scale;
        }
    }
}

/// Replaces activations by what is left of them after MXFP8 (E4M3).
///
/// # Panics
/// If the length is not a multiple of 32.
pub fn round_trip_mxfp8(row: &mut [f32]) {
    assert_eq!(row.len() % BLOCK, 0);
    for block in row.chunks_exact_mut(BLOCK) {
        let scale = e8m0::e4m3_scale_byte(amax(block));
        let (inverse, scale) = (e8m0::reciprocal(scale), e8m0::decode(scale));
        for x in block {
            *x = e4m3::round(*x * inverse) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibble_order_and_scale() {
        let mut row = [0.0f32; BLOCK];
        (row[0], row[1], row[31]) = (6.0, -0.5, 3.0);
        let (mut packed, mut scales) = ([0u8; 16], [0u8; 1]);
        quantize_mxfp4(&row, ScaleRule::Even, Ties::Even, &mut packed, &mut scales);
        assert_eq!((packed[0], packed[15], scales[0]), (0x97, 0x50, 127));
        let mut back = [f32::NAN; BLOCK];
        dequantize_mxfp4(&packed, &scales, &mut back);
        assert_eq!(back, row);
    }

    /// Every code under every scale: what was read is written again, byte for byte, when the block
    /// holds a 4 or 6 (so that its largest magnitude determines the same scale).
    #[test]
    fn every_code_under_every_scale() {
        for scale in 0..=254u8 {
            for top in [6u8, 7] {
                for code in (0..16u8).filter(|&c| c != 8) {
                    let mut packed = [code | code << 4; 16];
                    packed[7] = top | top << 4;
                    let mut row = [0.0; BLOCK];
                    dequantize_mxfp4(&packed, &[scale], &mut row);
                    if row.iter().any(|x| x.is_infinite()) {
                        assert!(scale >= 253, "2^126 * 4 is the first to overflow f32");
                        continue;
                    }
                    let (mut again, mut scales) = ([0u8; 16], [0u8; 1]);
                    quantize_mxfp4(&row, ScaleRule::Even, Ties::Even, &mut again, &mut scales);
                    assert_eq!((again, scales[0]), (packed, scale));
                }
            }
        }
    }

    #[test]
    fn even_clips_between_six_and_seven_and_zero_blocks_are_zero() {
        let mut row = [0.0f32; BLOCK];
        let (mut packed, mut scales) = ([0xffu8; 16], [0xffu8; 1]);
        quantize_mxfp4(&row, ScaleRule::Even, Ties::Even, &mut packed, &mut scales);
        assert_eq!((packed, scales), ([0; 16], [0]));
        row[3] = 6.9;
        round_trip_mxfp4(&mut row);
        assert_eq!(row[3], 6.0);
    }

    #[test]
    fn values_that_are_not_finite_show_in_the_scale() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [1.0f32; 2 * BLOCK];
            row[BLOCK + 5] = bad;
            let (mut packed, mut scales) = ([0u8; BLOCK], [0u8; 2]);
            quantize_mxfp4(&row, ScaleRule::Even, Ties::Even, &mut packed, &mut scales);
            assert_eq!(scales, [125, e8m0::NAN]);
        }
    }

    /// Errors of one rounding: E2M1 is within a quarter of the largest magnitude's power of two
    /// (half the widest spacing, 2 * scale, or the clipping of (6, 7)), E4M3 within 2^-4 of each
    /// normal value.
    #[test]
    fn round_trips_stay_within_half_a_spacing() {
        let row: Vec<f32> = (0..256).map(|i| ((i * 2654435761u64 as i64) % 997) as f32).collect();
        let (mut four, mut eight) = (row.clone(), row.clone());
        round_trip_mxfp4(&mut four);
        round_trip_mxfp8(&mut eight);
        for (block, (four, eight)) in
            row.chunks(BLOCK).zip(four.chunks(BLOCK).zip(eight.chunks(BLOCK)))
        {
            let scale = e8m0::decode(ScaleRule::Even.scale_byte(amax(block)));
            let smallest = e8m0::decode(e8m0::e4m3_scale_byte(amax(block))) * 2f32.powi(-10);
            for i in 0..BLOCK {
                assert!((block[i] - four[i]).abs() <= scale);
                assert!((block[i] - eight[i]).abs() <= (block[i].abs() / 16.0).max(smallest));
            }
        }
    }
}
