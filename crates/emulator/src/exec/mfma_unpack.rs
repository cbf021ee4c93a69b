//! Unpacking of matrix operands from their lane layouts (gfx950: contiguous k per lane, 8-bit
//! `f8f6f4` operands in chunks of 16).

use super::mfma::{Elem, Shape};
use crate::formats::{BF16, FP4, Format, bf16_to_f32};
use crate::inst::Operand;
use crate::wave::Wave;

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

/// Calls `put(k, row)` with the values of 16 or 32 (or 4) lanes for every k.
#[inline(always)]
fn each(
    w: &Wave,
    o: Operand,
    s: &Shape,
    elem: Elem,
    block: usize,
    mut put: impl FnMut(usize, &[f32; 32]),
) {
    let Some(first) = base(o) else { return };
    let (lane0, n) = groups(s, block);
    let chunk = chunked(s, elem);
    let mut row = [0f32; 32];
    for g in 0..n {
        let lane = lane0 + g * s.m;
        for e in 0..s.lanes_k() {
            match elem {
                Elem::F32 => words(w, first + e, lane, s.m, &mut row, f32::from_bits),
                Elem::Float(BF16) => {
                    let sh = 16 * (e as u32 % 2);
                    words(w, first + e / 2, lane, s.m, &mut row, |x| bf16_to_f32(x >> sh & 0xffff));
                }
                Elem::Float(FP4) => {
                    let sh = 4 * (e as u32 % 8);
                    words(w, first + e / 8, lane, s.m, &mut row, |x| fp4(x >> sh));
                }
                Elem::Float(f) => small(w, first, lane, (s.m, e), f, &mut row),
                Elem::I8 | Elem::F64 | Elem::F8f6f4 => {}
            }
            put(k_of(s, chunk, g, e), &row);
        }
    }
}

#[inline(always)]
fn words(w: &Wave, r: usize, lane: usize, m: usize, out: &mut [f32; 32], f: impl Fn(u32) -> f32) {
    let regs = &w.v[r].0[lane..lane + m];
    for (o, x) in out.iter_mut().zip(regs) {
        *o = f(*x);
    }
}

/// FP4 by arithmetic: twice the value is 0 1 2 3 4 6 8 12.
#[inline(always)]
fn fp4(x: u32) -> f32 {
    let (e, m) = (x >> 1 & 3, x & 1);
    let twice = if e == 0 { m } else { (2 | m) << (e.wrapping_sub(1) & 3) };
    let v = twice as i32 as f32 * 0.5;
    f32::from_bits(v.to_bits() | (x & 8) << 28)
}

/// Any other format of at most 16 bits, through a table for the 6- and 8-bit ones.
fn small(
    w: &Wave,
    first: usize,
    lane: usize,
    (m, e): (usize, usize),
    f: Format,
    out: &mut [f32; 32],
) {
    let bits = f.bits() as usize;
    let (word, shift) = (e * bits / 32, e * bits % 32);
    let table = (bits <= 8).then(|| table(f));
    for (l, o) in out.iter_mut().enumerate().take(m) {
        let lo = u64::from(w.v[first + word].0[lane + l]);
        let hi = match shift + bits > 32 {
            true => u64::from(w.v[first + word + 1].0[lane + l]),
            false => 0,
        };
        let code = ((hi << 32 | lo) >> shift) as u32 & ((1 << bits) - 1);
        *o = table.map_or_else(|| f.decode(code), |t| t[code as usize]);
    }
}

fn table(f: Format) -> &'static [f32; 256] {
    use std::sync::OnceLock;
    static TABLES: [OnceLock<[f32; 256]>; 4] = [const { OnceLock::new() }; 4];
    let slot = match (f.exp, f.man) {
        (4, 3) => 0,
        (5, 2) => 1,
        (2, 3) => 2,
        _ => 3,
    };
    TABLES[slot].get_or_init(|| std::array::from_fn(|c| f.decode(c as u32)))
}

/// A as `out[row][k]`.
#[inline(always)]
pub(super) fn rows(
    w: &Wave,
    o: Operand,
    s: Shape,
    elem: Elem,
    block: usize,
    out: &mut [[f32; 128]; 32],
) {
    each(w, o, &s, elem, block, |k, row| {
        for i in 0..s.m {
            out[i][k & 127] = row[i];
        }
    });
}

/// B as `out[k][column]`.
#[inline(always)]
pub(super) fn columns<const N: usize>(
    w: &Wave,
    o: Operand,
    s: Shape,
    elem: Elem,
    block: usize,
    out: &mut [[f32; N]; 128],
) {
    each(w, o, &s, elem, block, |k, row| {
        out[k & 127].copy_from_slice(&row[..N]);
    });
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
