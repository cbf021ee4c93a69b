//! Matrix instructions.
//!
//! A and B are unpacked to f32 (or i32) arrays, C rows are slices of registers over lanes. Products
//! accumulate with fused multiply-adds in ascending k; the hardware's internal order and precision
//! are not published, so results agree to rounding, not bit for bit. Scaled forms sum each block of
//! 32 first, then add the scaled sum. MODE and EXEC have no influence, as the ISA says.

use super::map::{scalar, vdst};
use super::mfma_unpack::{self as unpack, Matrix};
use super::valu_cvt::named;
use crate::env::{Env, FaultKind};
use crate::formats::{Format, e8m0};
use crate::inst::{Exec, ExecFn, Extra, Inst, Operand};
use crate::wave::{Row, Wave};

/// Element type of a matrix operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elem {
    /// A small or half float, widened to f32.
    Float(Format),
    /// f32.
    F32,
    /// Signed bytes.
    I8,
    /// f64.
    F64,
    /// Chosen by `cbsz` and `blgp`.
    F8f6f4,
}

/// A matrix instruction's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows of A and C, columns of B and C.
    pub(crate) m: usize,
    /// Inner dimension.
    pub(crate) k: usize,
    /// Independent blocks.
    pub(crate) blocks: usize,
    /// Types of A and B.
    pub(crate) a: Elem,
    pub(crate) b: Elem,
    /// Takes scale operands.
    pub(crate) scaled: bool,
}

impl Shape {
    /// Registers each of A, B, C.
    pub(crate) fn lanes_k(&self) -> usize {
        (self.k * self.m * self.blocks).div_ceil(64)
    }

    /// Passes of four cycles (issue cycles divided by 4), as in the published table.
    pub(crate) fn cycles(&self, cbsz: u8, blgp: u8) -> u64 {
        let base = if self.m == 32 { 32 } else { 16 };
        match self.a {
            Elem::F8f6f4 if cbsz < 2 || blgp < 2 => 2 * base,
            Elem::F32 | Elem::F64 => 2 * base,
            _ if self.m == 4 => 8,
            _ => base,
        }
    }
}

/// Parses a mnemonic; `None` if it is not a matrix instruction of this family.
pub(crate) fn parse(name: &str) -> Option<Shape> {
    let rest = name.strip_prefix("v_mfma_")?;
    let (scaled, rest) = rest.strip_prefix("scale_").map_or((false, rest), |r| (true, r));
    let (out, rest) = rest.split_once('_')?;
    let (dims, types) = rest.split_once('_')?;
    let mut d = dims.split('x').map(|x| x.parse::<usize>());
    let (m, n, k) = (d.next()?.ok()?, d.next()?.ok()?, d.next()?.ok()?);
    let (blocks, types) = match types.split_once("b_") {
        Some((b, t)) if b.parse::<usize>().is_ok() => (b.parse().ok()?, t),
        _ => (1, types),
    };
    let elem = |s: &str| match s {
        "f32" => Some(Elem::F32),
        "f64" => Some(Elem::F64),
        "i8" => Some(Elem::I8),
        "f8f6f4" => Some(Elem::F8f6f4),
        s => named(s).map(Elem::Float),
    };
    let (a, b) = match types.split_once('_') {
        Some((a, b)) => (elem(a)?, elem(b)?),
        None => (elem(types)?, elem(types)?),
    };
    let known = m == n && matches!(m, 4 | 16 | 32) && matches!(out, "f32" | "i32" | "f64");
    known.then_some(Shape { m, k, blocks, a, b, scaled })
}

/// Code of the matrix instructions.
pub(crate) static CODE: Exec = {
    unsafe fn portable(w: &mut Wave, i: &Inst, env: &mut Env) {
        run::<1>(w, i, env)
    }
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn avx2(w: &mut Wave, i: &Inst, env: &mut Env) {
        run::<8>(w, i, env)
    }
    #[cfg_attr(
        target_arch = "x86_64",
        target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
    )]
    unsafe fn avx512(w: &mut Wave, i: &Inst, env: &mut Env) {
        run::<16>(w, i, env)
    }
    [portable as ExecFn, avx2 as ExecFn, avx512 as ExecFn]
};

/// LANES is what the variant computes at a time.
#[inline(always)]
fn run<const LANES: usize>(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Extra::Mfma(index) = i.extra else { return };
    let Some(s) = env.kernel.code.mfma.get(usize::from(index)).copied() else { return };
    env.counters.mfma(s.cycles(i.mods.cbsz, i.mods.blgp), s.m, s.k, s.blocks);
    match (s.a, s.m) {
        (Elem::I8, _) => integer(w, i, s),
        (Elem::F64, _) => double(w, i, s),
        (_, 32) => float::<32, LANES>(w, i, s, env),
        (_, 16) => float::<16, LANES>(w, i, s, env),
        _ => float::<4, LANES>(w, i, s, env),
    }
    if env.strict {
        validity(w, i, s);
    }
}

/// Row of the register file and lane of C[i][j] in block b.
pub(crate) fn place(m: usize, b: usize, i: usize, j: usize) -> (usize, usize) {
    match m {
        32 => (16 * b + 4 * (i / 8) + i % 4, 32 * (i / 4 % 2) + j),
        16 => (4 * b + i % 4, 16 * (i / 4) + j),
        _ => (i, 4 * b + j),
    }
}

/// The initial value of C at (register, lane).
fn initial(w: &Wave, o: Operand, r: usize, lane: usize) -> u32 {
    match o {
        Operand::V { r: first, .. } => w.v[usize::from(first) + r].0[lane],
        o => scalar(w, o),
    }
}

/// The scale factors of one side: [block of 32 k][row].
fn scales(w: &Wave, i: &Inst, side: usize, m: usize, blocks: usize) -> [[f32; 32]; 4] {
    let sel = i.mods.op_sel >> side & 1 | (i.mods.op_sel_hi >> side & 1) << 1;
    let mut out = [[1.0; 32]; 4];
    for b in 0..blocks {
        for r in 0..m {
            let code = match i.src[3 + side] {
                Operand::V { r: reg, .. } => w.v[usize::from(reg)].0[m * b + r] >> (8 * sel),
                // An inline constant's exponent byte.
                Operand::Imm(x) => (x as u32) >> 23,
                o => scalar(w, o) >> (8 * sel),
            };
            out[b][r] = e8m0(code);
        }
    }
    out
}

/// Unpacked operands, kept between instructions.
pub(crate) struct Scratch {
    a: Matrix,
    b: Matrix,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { a: [[0.0; 32]; 128], b: [[0.0; 32]; 128] }
    }
}

#[inline(always)]
fn float<const N: usize, const LANES: usize>(w: &mut Wave, i: &Inst, s: Shape, env: &mut Env) {
    let scale = s.scaled.then(|| {
        let n = s.k / 32;
        (scales(w, i, 0, s.m, n), scales(w, i, 1, s.m, n))
    });
    if let (true, Some((x, y))) = (env.nan_scale, &scale)
        && x.iter().chain(y).any(|r| r.iter().any(|v| v.is_nan()))
    {
        return env.fault(w, i, FaultKind::NanScale, None, None, "a scale is 0xff (NaN)");
    }
    let Scratch { a, b } = &mut *env.matrix;
    let (Operand::V { r: ra, .. }, Operand::V { r: rb, .. }) = (i.src[0], i.src[1]) else { return };
    let pattern = if s.a == Elem::F8f6f4 { 0 } else { i.mods.blgp };
    let swizzled = (pattern != 0).then(|| swizzle(w, i.src[1], pattern));
    for block in 0..s.blocks {
        let from = source_block(&s, i, block);
        let (ea, eb) = (s.a.chosen(i.mods.cbsz), s.b.chosen(i.mods.blgp));
        unpack::unpack::<LANES>(&w.v[ra.into()..], &s, ea, from, a);
        let rows = swizzled.as_deref().unwrap_or(&w.v[rb.into()..]);
        unpack::unpack::<LANES>(rows, &s, eb, block, b);
        // Four rows at a time, so that their sums do not wait for each other.
        for row in (0..s.m).step_by(4) {
            let mut c = [[0f32; N]; 4];
            for (q, c) in c.iter_mut().enumerate() {
                let (r, lane) = place(s.m, block, row + q, 0);
                load_row(w, i.src[2], r, lane, c);
            }
            match &scale {
                None => dot(a, b, row, (0, s.k), &mut c),
                Some((x, y)) => {
                    for n in 0..s.k / 32 {
                        let mut sum = [[0f32; N]; 4];
                        dot(a, b, row, (32 * n, 32 * n + 32), &mut sum);
                        for q in 0..4 {
                            let x = x[n][row + q];
                            for (j, c) in c[q].iter_mut().enumerate() {
                                *c += sum[q][j] * (x * y[n][j]);
                            }
                        }
                    }
                }
            }
            // A row's place in D is its place in C: writing it never disturbs another row's input.
            for (q, c) in c.iter().enumerate() {
                let (r, lane) = place(s.m, block, row + q, 0);
                let to = &mut w.v[vdst(i.dst) + r].0[lane..lane + N];
                for (o, x) in to.iter_mut().zip(c) {
                    *o = x.to_bits();
                }
            }
        }
    }
}

/// The block whose A `block` uses: `cbsz` blocks (as a power of two) share that of number `abid`.
fn source_block(s: &Shape, i: &Inst, block: usize) -> usize {
    if s.a == Elem::F8f6f4 || i.mods.cbsz == 0 {
        return block;
    }
    let shared = (1usize << i.mods.cbsz.min(4)).min(s.blocks);
    block / shared * shared + usize::from(i.mods.abid) % shared
}

/// The registers of B with its lanes moved as `blgp` says.
fn swizzle(w: &Wave, o: Operand, blgp: u8) -> Vec<Row> {
    let Operand::V { r, n } = o else { return vec![] };
    let source = |l: usize| match blgp {
        1 => l % 32,
        2 => 32 + l % 32,
        3 => (l + 16) % 64,
        _ => 16 * usize::from(blgp & 3) + l % 16,
    };
    let rows = &w.v[usize::from(r)..usize::from(r) + usize::from(n)];
    rows.iter().map(|row| Row(std::array::from_fn(|l| row.0[source(l)]))).collect()
}

#[inline(always)]
fn load_row<const N: usize>(w: &Wave, o: Operand, r: usize, lane: usize, c: &mut [f32; N]) {
    match o {
        Operand::V { r: first, .. } => {
            let from = &w.v[usize::from(first) + r].0[lane..lane + N];
            for (c, x) in c.iter_mut().zip(from) {
                *c = f32::from_bits(*x);
            }
        }
        o => *c = [f32::from_bits(scalar(w, o)); N],
    }
}

#[inline(always)]
fn dot<const N: usize>(
    a: &Matrix,
    b: &Matrix,
    row: usize,
    (from, to): (usize, usize),
    c: &mut [[f32; N]; 4],
) {
    let mut acc = *c;
    for (a, b) in a[from..to].iter().zip(&b[from..to]) {
        for q in 0..4 {
            let x = a[(row + q) & 31];
            for j in 0..N {
                acc[q][j] = x.mul_add(b[j], acc[q][j]);
            }
        }
    }
    *c = acc;
}

/// Stores one element of D.
fn out_at(w: &mut Wave, i: &Inst, r: usize, lane: usize, x: u32) {
    w.v[vdst(i.dst) + r].0[lane] = x;
}

impl Elem {
    /// The element format, resolved by the instruction's format code for `f8f6f4`.
    fn chosen(self, code: u8) -> Elem {
        use crate::formats::{BF6, BF8, FP4, FP6, FP8};
        match self {
            Elem::F8f6f4 => Elem::Float([FP8, BF8, FP6, BF6, FP4][usize::from(code.min(4))]),
            e => e,
        }
    }
}

fn integer(w: &mut Wave, i: &Inst, s: Shape) {
    for block in 0..s.blocks {
        let a = unpack::bytes(w, i.src[0], s, source_block(&s, i, block));
        let b = unpack::bytes(w, i.src[1], s, block);
        for row in 0..s.m {
            for col in 0..s.m {
                let (r, lane) = place(s.m, block, row, col);
                let mut acc = initial(w, i.src[2], r, lane) as i32;
                for k in 0..s.k {
                    acc = acc.wrapping_add(i32::from(a[row][k]) * i32::from(b[col][k]));
                }
                out_at(w, i, r, lane, acc as u32);
            }
        }
    }
}

/// f64 forms: 16x16x4 (C row i at register i/4, lanes 16·(i%4)+j) and 4x4x4 with 4 blocks.
fn double(w: &mut Wave, i: &Inst, s: Shape) {
    let at = |w: &Wave, o: Operand, k: usize, lane: usize| match o {
        Operand::V { r, .. } => {
            let r = usize::from(r) + 2 * k;
            f64::from_bits(u64::from(w.v[r].0[lane]) | u64::from(w.v[r + 1].0[lane]) << 32)
        }
        o => f64::from_bits(super::map::scalar64(w, o)),
    };
    let mut results = Vec::with_capacity(256);
    for block in 0..s.blocks {
        for row in 0..s.m {
            for col in 0..s.m {
                let (r, lane) = match s.m {
                    16 => (row / 4, 16 * (row % 4) + col),
                    _ => (0, 16 * row + 4 * block + col),
                };
                let mut acc = at(w, i.src[2], r, lane);
                if i.mods.neg >> 2 & 1 == 1 {
                    acc = -acc;
                }
                for k in 0..s.k {
                    let l = |x: usize| if s.m == 16 { 16 * k + x } else { 16 * k + 4 * block + x };
                    let sign = |k: u8| if i.mods.neg >> k & 1 == 1 { -1.0 } else { 1.0 };
                    let (a, b) = (at(w, i.src[0], 0, l(row)), at(w, i.src[1], 0, l(col)));
                    acc = (sign(0) * a).mul_add(sign(1) * b, acc);
                }
                results.push((r, lane, acc.to_bits()));
            }
        }
    }
    for (r, lane, x) in results {
        out_at(w, i, 2 * r, lane, x as u32);
        out_at(w, i, 2 * r + 1, lane, (x >> 32) as u32);
    }
}

/// D[i][j] is defined if row i of A, column j of B and C[i][j] are.
pub(super) fn validity(w: &mut Wave, i: &Inst, s: Shape) {
    let all = |w: &Wave, o: Operand| match o {
        Operand::V { r, n } => {
            (usize::from(r)..usize::from(r) + usize::from(n)).fold(!0, |v, r| v & w.vvalid[r])
        }
        _ => !0,
    };
    let (a, b) = (all(w, i.src[0]), all(w, i.src[1]));
    let (sa, sb) = (all(w, i.src[3]), all(w, i.src[4]));
    let c0 = match i.src[2] {
        Operand::V { r, .. } => Some(usize::from(r)),
        _ => None,
    };
    let Operand::V { r: d, n } = i.dst else { return };
    let (d, n) = (usize::from(d), usize::from(n));
    if a & b & sa & sb == !0 {
        for k in 0..n {
            w.vvalid[d + k] = c0.map_or(!0, |c| w.vvalid[c + k]);
        }
        return;
    }
    let (a, b) = (a & sa, b & sb);
    let period = if s.m == 4 { 64 } else { s.m };
    let fold = |x: u64, i: usize| (i..64).step_by(period).all(|l| x >> l & 1 == 1);
    let c: Vec<u64> = (0..n).map(|k| c0.map_or(!0, |c| w.vvalid[c + k])).collect();
    let mut out = vec![0u64; n];
    for block in 0..s.blocks {
        for row in 0..s.m {
            for col in 0..s.m {
                let (r, lane) = place(s.m, block, row, col);
                let base = if s.m == 4 { 4 * block } else { 0 };
                let ok = fold(a, base + row) && fold(b, base + col);
                if r < n && ok {
                    out[r] |= c[r] & 1 << lane;
                }
            }
        }
    }
    w.vvalid[d..d + n].copy_from_slice(&out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let s = parse("v_mfma_scale_f32_32x32x64_f8f6f4").unwrap();
        assert!(s.scaled && s.m == 32 && s.k == 64 && s.blocks == 1);
        let s = parse("v_mfma_f32_4x4x4_16b_f16").unwrap();
        assert_eq!((s.m, s.blocks, s.lanes_k()), (4, 16, 4));
        assert!(parse("v_mfma_f32_16x16x32_fp8_bf8").is_some_and(|s| s.a != s.b));
        assert!(parse("v_mfma_i32_16x16x64_i8").is_some_and(|s| s.lanes_k() == 16));
    }
}
