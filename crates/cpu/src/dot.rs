//! Dot products in the one order that this backend sums in.

use crate::simd::Lanes;

/// Lanes of a sum: element `k` goes to lane `k % LANES`.
pub(crate) const LANES: usize = 16;

/// The dot products of `X` vectors with `W` others, all of one length.
///
/// Lane `l` adds `x[k] * w[k]` for `k = l, l + 16, …` by fused multiply-add from 0; then lane `l`
/// takes up lane `l + 8`, `l + 4`, `l + 2`, `l + 1`. How many products are computed at a time does
/// not change any of them.
#[inline(always)]
pub(crate) fn dots<V: Lanes, const X: usize, const W: usize>(
    x: [&[f32]; X],
    w: [&[f32]; W],
) -> [[f32; W]; X] {
    let x = x.map(|x| x.as_chunks::<LANES>());
    let w = w.map(|w| w.as_chunks::<LANES>());
    let mut lanes = [[V::zero(); W]; X];
    for k in 0..w[0].0.len() {
        for i in 0..X {
            for j in 0..W {
                lanes[i][j] = lanes[i][j].add_product(&x[i].0[k], &w[j].0[k]);
            }
        }
    }
    let mut sums = [[0f32; W]; X];
    for i in 0..X {
        for j in 0..W {
            let mut lanes = lanes[i][j].array();
            for ((lane, x), w) in lanes.iter_mut().zip(x[i].1).zip(w[j].1) {
                *lane = x.mul_add(*w, *lane);
            }
            sums[i][j] = tree(lanes);
        }
    }
    sums
}

#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `out[t * w.len() / len + n] = x_t . w_n` for rows `x_t`, `w_n` of `len` elements.
#[inline(always)]
pub(crate) fn all_pairs<V: Lanes>(x: &[f32], w: &[f32], len: usize, out: &mut [f32]) {
    let n = w.len() / len;
    if n == 1 {
        return one_column::<V>(x, w, len, out);
    }
    let mut x_rows = x.chunks_exact(len);
    let mut out_rows = out.chunks_exact_mut(n);
    while x_rows.len() >= 2 {
        let (Some(a), Some(b)) = (x_rows.next(), x_rows.next()) else { return };
        let (Some(out_a), Some(out_b)) = (out_rows.next(), out_rows.next()) else { return };
        let mut pairs = w.chunks_exact(2 * len);
        for (i, pair) in (&mut pairs).enumerate() {
            let sums = dots::<V, _, _>([a, b], [&pair[..len], &pair[len..]]);
            out_a[2 * i..2 * i + 2].copy_from_slice(&sums[0]);
            out_b[2 * i..2 * i + 2].copy_from_slice(&sums[1]);
        }
        if n % 2 == 1 {
            let sums = dots::<V, _, _>([a, b], [pairs.remainder()]);
            (out_a[n - 1], out_b[n - 1]) = (sums[0][0], sums[1][0]);
        }
    }
    if let (Some(a), Some(out)) = (x_rows.next(), out_rows.next()) {
        one_column::<V>(w, a, len, out);
    }
}

/// [`all_pairs`] for one vector `w`.
#[inline(always)]
fn one_column<V: Lanes>(x: &[f32], w: &[f32], len: usize, out: &mut [f32]) {
    let mut quads = x.chunks_exact(4 * len);
    let mut out_quads = out.chunks_exact_mut(4);
    for (x, out) in (&mut quads).zip(&mut out_quads) {
        let x = [&x[..len], &x[len..2 * len], &x[2 * len..3 * len], &x[3 * len..]];
        out.copy_from_slice(&dots::<V, _, _>(x, [w]).map(|[sum]| sum));
    }
    let rest = quads.remainder().chunks_exact(len);
    for (x, out) in rest.zip(out_quads.into_remainder()) {
        *out = dots::<V, _, _>([x], [w])[0][0];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::simd;

    simd! { fn all_pairs_fast(x: &[f32], w: &[f32], len: usize, out: &mut [f32]) = all_pairs }

    /// The documented order, written down once more.
    fn scalar(x: &[f32], w: &[f32]) -> f32 {
        let mut lanes = [0f32; 16];
        for k in 0..x.len() {
            lanes[k % 16] = x[k].mul_add(w[k], lanes[k % 16]);
        }
        let eight: Vec<f32> = (0..8).map(|l| lanes[l] + lanes[l + 8]).collect();
        let four: Vec<f32> = (0..4).map(|l| eight[l] + eight[l + 4]).collect();
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[test]
    fn every_grouping_and_instruction_set_gives_the_documented_bits() {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 311.0 - 1.5;
        for len in [1, 15, 16, 17, 64, 100] {
            for (rows, n) in [(1, 1), (1, 7), (2, 3), (3, 4), (5, 6)] {
                let x: Vec<f32> = (0..rows * len).map(value).collect();
                let w: Vec<f32> = (0..n * len).map(|i| value(i * 3 + 1)).collect();
                let expected: Vec<f32> = x
                    .chunks(len)
                    .flat_map(|x| w.chunks(len).map(|w| scalar(x, w)).collect::<Vec<_>>())
                    .collect();
                let (mut portable, mut fast) = (vec![f32::NAN; rows * n], vec![f32::NAN; rows * n]);
                all_pairs::<[f32; 16]>(&x, &w, len, &mut portable);
                all_pairs_fast(&x, &w, len, &mut fast);
                assert_eq!(portable, expected, "{rows} x {n} of {len}");
                assert_eq!(fast, expected, "{rows} x {n} of {len}");
            }
        }
    }
}
