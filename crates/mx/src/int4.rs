//! INT4 groups as compressed-tensors packs them: offset binary, 32 per BF16 scale, lowest nibble
//! first.

/// Elements that share a scale.
pub const GROUP: usize = 32;

/// The integer a nibble stands for, -8..=7.
pub fn decode(nibble: u8) -> i32 {
    (nibble & 15) as i32 - 8
}

/// Unpacks one row: each nibble's integer times its group's scale, exact in f32 (4 + 8 significant
/// bits). Tools that decompress this format to BF16 tensors round each product once more
/// ([`crate::bf16::round`]); a matmul that applies the scale itself does not.
///
/// `packed` has half as many bytes as `out` elements, `scales` one BF16 per 32 elements.
///
/// # Panics
/// If the lengths do not fit one another.
pub fn dequantize(packed: &[u8], scales: &[u16], out: &mut [f32]) {
    assert_eq!(packed.len() * 2, out.len());
    assert_eq!(scales.len() * GROUP, out.len());
    for ((group, bytes), &scale) in
        out.chunks_exact_mut(GROUP).zip(packed.chunks_exact(GROUP / 2)).zip(scales)
    {
        let scale = crate::bf16::to_f32(scale);
        for (pair, &byte) in group.chunks_exact_mut(2).zip(bytes) {
            pair[0] = decode(byte) as f32 * scale;
            pair[1] = decode(byte >> 4) as f32 * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nibble_in_every_place() {
        for nibble in 0..16u8 {
            for place in 0..GROUP {
                let mut packed = [0x88u8; GROUP / 2];
                let shift = 4 * (place % 2);
                packed[place / 2] = (packed[place / 2] & !(15 << shift)) | (nibble << shift);
                let mut out = [f32::NAN; GROUP];
                dequantize(&packed, &[crate::bf16::from_f32(0.25)], &mut out);
                let mut expected = [0.0; GROUP];
                expected[place] = (nibble as i32 - 8) as f32 * 0.25;
                assert_eq!(out, expected);
            }
        }
    }

    #[test]
    fn products_are_exact() {
        // 7 * 1.0078125 = 7.0546875 needs nine significant bits, one more than BF16 has.
        let scale = crate::bf16::from_f32(1.0078125);
        let mut out = [0.0; GROUP];
        dequantize(&[0xff; GROUP / 2], &[scale], &mut out);
        assert_eq!(out, [7.0546875; GROUP]);
        assert_eq!(crate::bf16::round(out[0]), 7.0625);
    }
}
