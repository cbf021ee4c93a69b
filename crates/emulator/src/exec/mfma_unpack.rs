//! Unpacking of matrix operands from their lane layouts (gfx950: contiguous k per lane, 8-bit
//! `f8f6f4` operands in chunks of 16).

use super::mfma::{Elem, Shape};
use crate::formats::{BF8, BF16, F16, FP4, FP8, Format, bf16_to_f32, f16_to_f32};
use crate::inst::Operand;
use crate::wave::{Row, Wave};

fn base(o: Operand) -> Option<usize> {
    match o {
        Operand::V { r, .. } => Some(r.into()),
        _ => None,
    }
}

/// The k of element `e` of lane group `g`.
#[inline(always)]
fn k_of(s: &Shape, chunked: bool, g: usize, e: usize) -> usize {
    let per = s.lanes_k();
    if chunked { e / 16 * (s.k / 2) + 16 * g + e % 16 } else { g * per + e }
}

/// The first lane of lane group `g` of `block`, and the number of groups.
fn groups(s: &Shape, block: usize) -> (usize, usize) {
    let groups = (64 / (s.m * s.blocks)).max(1);
    (block * s.m * groups, groups)
}

fn chunked(s: &Shape, elem: Elem) -> bool {
    matches!((s.a, elem), (Elem::F8f6f4, Elem::Float(f)) if f.bits() == 8)
}

/// One operand as `[k][row or column]`; entries past the shape are stale and never read.
pub(crate) type Matrix = [[f32; 32]; 128];

const BYTES: Elem = Elem::Float(FP8);
const BYTES_IEEE: Elem = Elem::Float(BF8);

/// Unpacks A or B of one block.
#[inline(always)]
pub(super) fn unpack<const WIDE: bool>(
    rows: &[Row],
    s: &Shape,
    elem: Elem,
    block: usize,
    out: &mut Matrix,
) {
    let (lane0, n) = groups(s, block);
    let chunk = chunked(s, elem);
    for g in 0..n {
        let lane = lane0 + g * s.m;
        if WIDE && cfg!(target_arch = "x86_64") && elem == Elem::Float(FP4) && s.m >= 16 {
            for r in 0..s.lanes_k() / 8 {
                let k = k_of(s, chunk, g, 8 * r) & 120;
                let regs = &rows[r].0[lane..lane + s.m];
                // SAFETY: WIDE means that the CPU has AVX2.
                unsafe { fp4_wide(regs, &mut out[k..k + 8]) };
            }
            continue;
        }
        if WIDE && cfg!(target_arch = "x86_64") && s.m >= 16 && matches!(elem, BYTES | BYTES_IEEE) {
            for r in 0..s.lanes_k() / 4 {
                let k = k_of(s, chunk, g, 4 * r) & 124;
                let regs = &rows[r].0[lane..lane + s.m];
                // SAFETY: as above.
                unsafe { fp8_wide(regs, &mut out[k..k + 4], elem == BYTES_IEEE) };
            }
            continue;
        }
        for e in 0..s.lanes_k() {
            let row = &mut out[k_of(s, chunk, g, e) & 127];
            match elem {
                Elem::F32 => words(rows, e, lane, s.m, row, f32::from_bits),
                Elem::Float(BF16) => {
                    let sh = 16 * (e as u32 % 2);
                    words(rows, e / 2, lane, s.m, row, |x| bf16_to_f32(x >> sh & 0xffff));
                }
                Elem::Float(FP4) => {
                    let sh = 4 * (e as u32 % 8);
                    words(rows, e / 8, lane, s.m, row, |x| FP4.decode(x >> sh & 15));
                }
                Elem::Float(FP8) => {
                    let sh = 8 * (e as u32 % 4);
                    words(rows, e / 4, lane, s.m, row, |x| fp8(x >> sh));
                }
                Elem::Float(BF8) => {
                    let sh = 8 * (e as u32 % 4);
                    words(rows, e / 4, lane, s.m, row, |x| bf8(x >> sh));
                }
                Elem::Float(F16) => {
                    let sh = 16 * (e as u32 % 2);
                    words(rows, e / 2, lane, s.m, row, |x| f16_to_f32((x >> sh) as u16));
                }
                Elem::Float(f) => small(rows, lane, (s.m, e), f, row),
                Elem::I8 | Elem::F64 | Elem::F8f6f4 => {}
            }
        }
    }
}

#[inline(always)]
fn words(
    rows: &[Row],
    r: usize,
    lane: usize,
    m: usize,
    out: &mut [f32; 32],
    f: impl Fn(u32) -> f32,
) {
    let regs = &rows[r].0[lane..lane + m];
    for (o, x) in out.iter_mut().zip(regs) {
        *o = f(*x);
    }
}

/// The eight codes of each lane's register, looked up eight lanes at a time.
///
/// # Safety
/// The CPU must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fp4_wide(regs: &[u32], out: &mut [[f32; 32]]) {
    use std::arch::x86_64::*;
    let table = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
    for (n, x) in regs.chunks_exact(8).take(4).enumerate() {
        // SAFETY: the chunk holds 32 bytes.
        let mut x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        for row in out.iter_mut() {
            // The permute looks at three bits; the fourth is the sign.
            let v = _mm256_permutevar8x32_ps(table, x);
            let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(x, _mm256_set1_epi32(8)));
            let v = _mm256_or_ps(v, _mm256_castsi256_ps(sign));
            // SAFETY: `n` is below 4, so eight lanes fit the row's 32.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr().add(8 * n), v) };
            x = _mm256_srli_epi32::<4>(x);
        }
    }
}

/// The four codes of each lane's register, eight lanes at a time: see [`fp8`] and (`ieee`) [`bf8`].
///
/// # Safety
/// The CPU must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fp8_wide(regs: &[u32], out: &mut [[f32; 32]], ieee: bool) {
    use std::arch::x86_64::*;
    let all = _mm256_set1_epi32;
    for (n, x) in regs.chunks_exact(8).take(4).enumerate() {
        // SAFETY: the chunk holds 32 bytes.
        let mut x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        for row in out.iter_mut() {
            let magnitude = _mm256_and_si256(x, all(0x7f));
            let (v, special, top) = if ieee {
                let v = _mm256_castsi256_ps(_mm256_slli_epi32::<21>(magnitude));
                let v = _mm256_mul_ps(v, _mm256_castsi256_ps(all((127 + 112) << 23)));
                let special = _mm256_cmpgt_epi32(magnitude, all(0x7b));
                let mantissa = _mm256_slli_epi32::<21>(_mm256_and_si256(x, all(3)));
                (v, special, _mm256_or_si256(mantissa, all(0x7f80_0000)))
            } else {
                let v = _mm256_castsi256_ps(_mm256_slli_epi32::<20>(magnitude));
                let v = _mm256_mul_ps(v, _mm256_castsi256_ps(all((127 + 120) << 23)));
                (v, _mm256_cmpeq_epi32(magnitude, all(0x7f)), all(0x7fc0_0000))
            };
            let v = _mm256_blendv_ps(v, _mm256_castsi256_ps(top), _mm256_castsi256_ps(special));
            let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(x, all(0x80)));
            let v = _mm256_or_ps(v, _mm256_castsi256_ps(sign));
            // SAFETY: `n` is below 4, so eight lanes fit the row's 32.
            unsafe { _mm256_storeu_ps(row.as_mut_ptr().add(8 * n), v) };
            x = _mm256_srli_epi32::<8>(x);
        }
    }
}

/// Never called: only x86-64 has a wide variant.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn fp8_wide(_: &[u32], _: &mut [[f32; 32]], _: bool) {}

/// Never called: only x86-64 has a wide variant.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn fp4_wide(_: &[u32], _: &mut [[f32; 32]]) {}

/// The value of an E4M3 code: its exponent and mantissa as those of a single, scaled.
#[inline(always)]
fn fp8(x: u32) -> f32 {
    let scale = f32::from_bits((127 + 120) << 23);
    let v = f32::from_bits((x & 0x7f) << 20) * scale;
    let bits = if x & 0x7f == 0x7f { 0x7fc0_0000 } else { v.to_bits() };
    f32::from_bits(bits | (x & 0x80) << 24)
}

/// The value of an E5M2 code.
#[inline(always)]
fn bf8(x: u32) -> f32 {
    let scale = f32::from_bits((127 + 112) << 23);
    let v = f32::from_bits((x & 0x7f) << 21) * scale;
    let top = 0x7f80_0000 | (x & 3) << 21;
    let bits = if x & 0x7c == 0x7c { top } else { v.to_bits() };
    f32::from_bits(bits | (x & 0x80) << 24)
}

/// The 6-bit formats, through a table.
#[inline(always)]
fn small(rows: &[Row], lane: usize, (m, e): (usize, usize), f: Format, out: &mut [f32; 32]) {
    let bits = f.bits() as usize;
    let (word, shift) = (e * bits / 32, (e * bits % 32) as u32);
    let mask = (1u32 << bits) - 1;
    let lo = &rows[word].0[lane..lane + m];
    let over = shift as usize + bits > 32;
    let hi = &rows[word + usize::from(over)].0[lane..lane + m];
    for ((o, l), h) in out.iter_mut().zip(lo).zip(hi) {
        let pair = u64::from(*h) << 32 | u64::from(*l);
        let code = (pair >> shift) as u32 & mask;
        *o = table(f)[(code & 0xff) as usize];
    }
}

fn table(f: Format) -> &'static [f32; 256] {
    use std::sync::OnceLock;
    static TABLES: [OnceLock<[f32; 256]>; 2] = [const { OnceLock::new() }; 2];
    TABLES[usize::from(f.exp == 2)].get_or_init(|| std::array::from_fn(|c| f.decode(c as u32)))
}

/// Signed bytes of A or B as `[row][k]`.
pub(super) fn bytes(w: &Wave, o: Operand, s: Shape, block: usize) -> [[i8; 64]; 32] {
    let mut out = [[0i8; 64]; 32];
    let Some(first) = base(o) else { return out };
    let (lane0, n) = groups(&s, block);
    for g in 0..n {
        for e in 0..s.lanes_k() {
            for (i, row) in out.iter_mut().enumerate().take(s.m) {
                let x = w.v[first + e / 4].0[lane0 + g * s.m + i];
                row[k_of(&s, false, g, e) & 63] = (x >> (8 * (e % 4))) as i8;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Simd;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn wide_bytes_are_the_same() {
        if !Simd::Avx2.missing().is_empty() {
            return;
        }
        let regs: Vec<u32> = (0..64).map(|k| 0x0302_0100 + 0x0404_0404 * k).collect();
        for (ieee, one) in [(false, fp8 as fn(u32) -> f32), (true, bf8)] {
            for chunk in regs.chunks_exact(16) {
                let mut out = [[0f32; 32]; 4];
                // SAFETY: the CPU has AVX2, as found above.
                unsafe { fp8_wide(chunk, &mut out, ieee) };
                for (lane, x) in chunk.iter().enumerate() {
                    for (b, row) in out.iter().enumerate() {
                        let want = one(x >> (8 * b));
                        assert_eq!(row[lane].to_bits(), want.to_bits(), "{x:#x} byte {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn eight_bit_codes() {
        for c in 0..256 {
            for (got, want) in [(fp8(c), FP8.decode(c)), (bf8(c), BF8.decode(c))] {
                assert!(got == want || got.is_nan() && want.is_nan(), "{c:#x}: {got}, {want}");
                assert!(want.is_nan() || got.is_sign_negative() == want.is_sign_negative());
            }
        }
    }
}
