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
pub(super) fn unpack<const LANES: usize>(
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
        if LANES > 1 && cfg!(target_arch = "x86_64") && elem == Elem::Float(FP4) && s.m >= 16 {
            for r in 0..s.lanes_k() / 8 {
                let k = k_of(s, chunk, g, 8 * r) & 120;
                let (regs, out) = (&rows[r].0[lane..lane + s.m], &mut out[k..k + 8]);
                // SAFETY: the CPU has AVX2 where LANES is 8, AVX-512 where it is 16.
                unsafe { if LANES == 16 { fp4_16(regs, out) } else { fp4_8(regs, out) } };
            }
            continue;
        }
        if s.m >= 16 && matches!(elem, BYTES | BYTES_IEEE) {
            for r in 0..s.lanes_k() / 4 {
                let k = k_of(s, chunk, g, 4 * r) & 124;
                let (regs, out) = (&rows[r].0[lane..lane + s.m], &mut out[k..k + 4]);
                if elem == BYTES { bytes_of(regs, out, fp8) } else { bytes_of(regs, out, bf8) }
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
unsafe fn fp4_8(regs: &[u32], out: &mut [[f32; 32]]) {
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

/// As [`fp4_8`], sixteen lanes and all sixteen codes at a time.
///
/// # Safety
/// The CPU must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn fp4_16(regs: &[u32], out: &mut [[f32; 32]]) {
    use std::arch::x86_64::*;
    let table = _mm512_setr_ps(
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
    );
    for (n, x) in regs.chunks_exact(16).take(2).enumerate() {
        // SAFETY: the chunk holds 64 bytes.
        let mut x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        for row in out.iter_mut() {
            // The permute looks at four bits.
            let v = _mm512_permutexvar_ps(x, table);
            // SAFETY: `n` is below 2, so sixteen lanes fit the row's 32.
            unsafe { _mm512_storeu_ps(row.as_mut_ptr().add(16 * n), v) };
            x = _mm512_srli_epi32::<4>(x);
        }
    }
}

/// Never called: only x86-64 has these variants.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn fp4_8(_: &[u32], _: &mut [[f32; 32]]) {}

/// Never called: only x86-64 has these variants.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn fp4_16(_: &[u32], _: &mut [[f32; 32]]) {}

/// The four 8-bit codes of each lane's register, in blocks of 16 lanes that the compiler turns
/// into vector registers.
#[inline(always)]
fn bytes_of(regs: &[u32], out: &mut [[f32; 32]], value: impl Fn(u32) -> f32) {
    for (n, block) in regs.as_chunks::<16>().0.iter().take(2).enumerate() {
        for (byte, row) in out.iter_mut().enumerate() {
            let mut v = [0f32; 16];
            for l in 0..16 {
                v[l] = value(block[l] >> (8 * byte));
            }
            row[16 * n..16 * n + 16].copy_from_slice(&v);
        }
    }
}

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
    fn four_bit_codes() {
        let regs: [u32; 32] =
            std::array::from_fn(|k| 0x7654_3210 ^ 0x1111_1111u32.wrapping_mul(k as u32));
        type Wide = unsafe fn(&[u32], &mut [[f32; 32]]);
        for (simd, wide) in [(Simd::Avx2, fp4_8 as Wide), (Simd::Avx512, fp4_16)] {
            if !simd.missing().is_empty() {
                continue;
            }
            let mut out = [[0f32; 32]; 8];
            // SAFETY: the CPU lacks nothing for the variant.
            unsafe { wide(&regs, &mut out) };
            for (lane, x) in regs.iter().enumerate() {
                for (k, row) in out.iter().enumerate() {
                    let want = FP4.decode(x >> (4 * k) & 15);
                    assert_eq!(row[lane].to_bits(), want.to_bits(), "{simd}: {x:#x} code {k}");
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
