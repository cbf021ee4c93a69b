//! Weights from the checkpoint's formats to f32, a few rows at a time.

use checkpoint::{Encoded, Matrix};

/// Writes rows `first..` of `m`, as many as `out` holds, as values.
#[inline(always)]
pub(crate) fn unpack(m: &Matrix, first: usize, out: &mut [f32]) {
    let (start, end) = (first * m.cols, first * m.cols + out.len());
    let at = |per: usize| start / per..end / per;
    match &m.data {
        Encoded::F32(values) => out.copy_from_slice(&values[at(1)]),
        Encoded::Bf16(values) => {
            for (out, &bits) in out.iter_mut().zip(&values[at(1)]) {
                *out = mx::bf16::to_f32(bits);
            }
        }
        Encoded::Mxfp4 { packed, scales } => {
            let (packed, scales) = (&packed[at(2)], &scales[at(mx::BLOCK)]);
            groups(packed, scales, out, |&scale| mx::e8m0::decode(scale) * 0.5, twice_e2m1);
        }
        Encoded::Int4 { packed, scales } => {
            let (packed, scales) = (&packed[at(2)], &scales[at(mx::int4::GROUP)]);
            groups(packed, scales, out, |&scale| mx::bf16::to_f32(scale), |n| n as i32 - 8);
        }
    }
}

/// Groups of 32 nibbles (16 bytes), lowest first, each `integer(nibble) * factor(scale)`.
#[inline(always)]
fn groups<S>(
    packed: &[u8],
    scales: &[S],
    out: &mut [f32],
    factor: impl Fn(&S) -> f32,
    integer: impl Fn(u32) -> i32,
) {
    for ((out, bytes), scale) in out.chunks_exact_mut(32).zip(packed.chunks_exact(16)).zip(scales) {
        let factor = factor(scale);
        for (out, bytes) in out.chunks_exact_mut(8).zip(bytes.chunks_exact(4)) {
            let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            for (i, out) in out.iter_mut().enumerate() {
                *out = integer((word >> (4 * i)) & 15) as f32 * factor;
            }
        }
    }
}

/// Twice the value of an E2M1 code, an integer: shifts instead of a table, so that it vectorizes.
#[inline(always)]
fn twice_e2m1(code: u32) -> i32 {
    let (exponent, mantissa) = ((code >> 1) & 3, code & 1);
    let normal = (exponent != 0) as u32;
    let magnitude = (((normal << 1) | mantissa) << (exponent - normal)) as i32;
    let sign = (code >> 3) as i32;
    (magnitude ^ -sign) + sign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_e2m1_is_twice_the_table() {
        for code in 0..16u32 {
            assert_eq!(twice_e2m1(code) as f32, 2.0 * mx::e2m1::VALUES[code as usize]);
        }
    }

    /// Every format against the reference reader, every nibble under every scale.
    #[test]
    fn every_format_equals_the_reference() {
        let cols = 512;
        let bytes: Vec<u8> = (0..=255).collect();
        for scale in 0..=254u8 {
            let scales = vec![scale; 16];
            check(Matrix { rows: 1, cols, data: Encoded::Mxfp4 { packed: bytes.clone(), scales } });
        }
        for scale in (0..0x7f00u16).step_by(97) {
            let scales = vec![scale; 16];
            check(Matrix { rows: 1, cols, data: Encoded::Int4 { packed: bytes.clone(), scales } });
        }
        let halves: Vec<u16> = (0..1024).map(|i| i * 31).collect();
        check(Matrix { rows: 2, cols, data: Encoded::Bf16(halves) });
        let floats: Vec<f32> = (0..1024).map(|i| i as f32 * 0.37).collect();
        check(Matrix { rows: 2, cols, data: Encoded::F32(floats) });
    }

    fn check(m: Matrix) {
        let mut expected = vec![0.0; m.cols];
        let mut found = vec![f32::NAN; m.cols];
        for row in 0..m.rows {
            m.row(row, &mut expected);
            unpack(&m, row, &mut found);
            // -0.0 == 0.0: the reference keeps code 8's sign, the integer form does not.
            assert_eq!(found, expected);
        }
    }
}
