//! Sparse matrix instructions (gfx950's): of each four k of A two are kept, and an index tells
//! which.
//!
//! D = C + A·B with A as m × K/2 values. Element e of a lane belongs to four k, of which two bits
//! of the lane's index register pick one. Layouts are those that others measured on an MI350 for
//! the float forms; the integer forms are taken to be as the 8-bit floats.

use super::map::vdst;
use super::mfma::{Elem, Shape, place};
use crate::env::Env;
use crate::inst::{Exec, ExecFn, Extra, Inst, Operand};
use crate::wave::Wave;

/// Parses a mnemonic; `None` if it is not one of this family.
pub(crate) fn parse(name: &str) -> Option<Shape> {
    let dense = super::mfma::parse(&name.replacen("v_smfmac_", "v_mfma_", 1))?;
    let wide = matches!(dense.a, Elem::Float(f) if f.bits() == 16);
    let k = if dense.m == 16 { 64 } else { 32 } * if wide { 1 } else { 2 };
    let ours = name.starts_with("v_smfmac_") && dense.k == k && dense.blocks == 1;
    ours.then_some(dense)
}

/// Code of the sparse instructions.
pub(crate) const CODE: Exec = [run as ExecFn; 3];

unsafe fn run(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Extra::Mfma(index) = i.extra else { return };
    let Some(s) = env.kernel.code.mfma.get(usize::from(index)).copied() else { return };
    env.counters.mfma(s.cycles(0, 0), s.m, s.k, 1);
    let first = |o: Operand| match o {
        Operand::V { r, .. } => usize::from(r),
        _ => 0,
    };
    let (a, b, set) = (first(i.src[0]), first(i.src[1]), first(i.src[3]));
    let bits = bits(&s);
    // Sixteen-bit forms use half of the index register.
    let half = if bits == 16 && i.mods.cbsz == 0 { 16 * u32::from(i.mods.abid & 1) } else { 0 };
    let code = |w: &Wave, r: usize, lane: usize, e: usize| {
        let per = 32 / bits as usize;
        w.v[r + e / per].0[lane] >> (bits * (e % per) as u32) & ((1 << bits) - 1)
    };
    let mut results = Vec::with_capacity(s.m * s.m);
    for row in 0..s.m {
        let kept = kept(w, &s, (set, half), row);
        for col in 0..s.m {
            let (r, lane) = place(s.m, 0, row, col);
            let start = w.v[vdst(i.dst) + r].0[lane];
            let pairs = kept.iter().map(|(k, la, e)| {
                let (lb, eb) = dense(&s, *k, col);
                (code(w, a, *la, *e), code(w, b, lb, eb))
            });
            results.push((r, lane, sum(&s, start, pairs)));
        }
    }
    for (r, lane, x) in results {
        w.v[vdst(i.dst) + r].0[lane] = x;
    }
    if env.strict {
        super::mfma::validity(w, i, s);
    }
}

fn bits(s: &Shape) -> u32 {
    match s.a {
        Elem::Float(f) => f.bits(),
        _ => 8,
    }
}

/// The kept elements of a row of A by ascending k: k, lane, element in the lane.
fn kept(w: &Wave, s: &Shape, (set, half): (usize, u32), row: usize) -> Vec<(usize, usize, usize)> {
    let groups = 64 / s.m;
    let per = s.k / 2 / groups;
    let mut out: Vec<_> = (0..groups)
        .flat_map(|g| (0..per).map(move |e| (g, e)))
        .map(|(g, e)| {
            let lane = s.m * g + row;
            let pick = w.v[set].0[lane] >> half >> (2 * e) & 3;
            (4 * quad(s, g, e) + pick as usize, lane, e)
        })
        .collect();
    out.sort_unstable();
    out
}

/// Which four k element `e` of lane group `g` belongs to.
fn quad(s: &Shape, g: usize, e: usize) -> usize {
    if bits(s) == 16 {
        return 4 * g + e / 2;
    }
    let (four, pair) = (e / 4, e % 4 / 2);
    match s.m {
        16 => 16 * (g / 2) + 4 * (g % 2) + 8 * (four % 2) + 2 * (four / 2) + pair,
        _ => 8 * g + 4 * (four % 2) + 2 * (four / 2) + pair,
    }
}

/// Lane and element of B[k][col]: chunks of eight k go round the lane groups.
fn dense(s: &Shape, k: usize, col: usize) -> (usize, usize) {
    let groups = 64 / s.m;
    (s.m * (k / 8 % groups) + col, k / 8 / groups * 8 + k % 8)
}

fn sum(s: &Shape, start: u32, pairs: impl Iterator<Item = (u32, u32)>) -> u32 {
    match (s.a, s.b) {
        (Elem::Float(fa), Elem::Float(fb)) => pairs
            .fold(f32::from_bits(start), |c, (x, y)| fa.decode(x).mul_add(fb.decode(y), c))
            .to_bits(),
        _ => pairs.fold(start as i32, |c, (x, y)| {
            c.wrapping_add(i32::from(x as u8 as i8) * i32::from(y as u8 as i8))
        }) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_layout() {
        assert!(parse("v_smfmac_f32_16x16x128_fp8_fp8").is_some_and(|s| s.k == 128));
        assert!(parse("v_smfmac_f32_16x16x32_f16").is_none(), "an older form");
        assert!(parse("v_mfma_f32_16x16x32_f16").is_none());
        // Every four k has two kept elements, each k one place in B.
        for name in [
            "f32_16x16x128_fp8_bf8",
            "f32_32x32x64_bf8_bf8",
            "f32_16x16x64_f16",
            "i32_32x32x64_i8",
            "f32_32x32x32_bf16",
        ] {
            let s = parse(&format!("v_smfmac_{name}")).expect(name);
            let groups = 64 / s.m;
            let mut quads: Vec<usize> = (0..groups)
                .flat_map(|g| (0..s.k / 2 / groups).map(move |e| (g, e)))
                .map(|(g, e)| quad(&s, g, e))
                .collect();
            quads.sort_unstable();
            assert_eq!(quads, (0..s.k / 2).map(|n| n / 2).collect::<Vec<_>>(), "{name}");
            let places: std::collections::HashSet<_> = (0..s.k).map(|k| dense(&s, k, 0)).collect();
            assert!(places.len() == s.k && places.iter().all(|p| p.1 < s.k / groups));
        }
    }
}
