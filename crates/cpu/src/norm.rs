//! RMS norm.

use rayon::prelude::*;

use crate::dot::dots;
use crate::simd::{Lanes, simd};

simd! {
    /// `out = weight * x * rsqrt(mean(x^2) + eps)` for one row.
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body<V: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = dots::<V, _, _>([x], [x])[0][0] / x.len() as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = weight * (x * factor);
    }
}

/// [`rms_norm`] of the first `weight.len()` values of every row of `width`.
pub(crate) fn rms_norm_rows(x: &[f32], width: usize, weight: &[f32], eps: f32, out: &mut [f32]) {
    let rows = x.par_chunks(width).zip(out.par_chunks_mut(weight.len()));
    rows.for_each(|(x, out)| rms_norm(&x[..weight.len()], weight, eps, out));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bound: the mean's relative error is (n/16 + 5) * 2^-24 (a sum of positive terms), halved by
    /// the root; then four roundings. Together under 8 * 2^-24 at n = 48.
    #[test]
    fn against_f64() {
        let x: Vec<f32> = (0..104).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let weight: Vec<f32> = (0..48).map(|i| 0.5 + i as f32 / 48.0).collect();
        let mut out = vec![f32::NAN; 96];
        rms_norm_rows(&x, 52, &weight, 1e-5, &mut out);
        for (x, out) in x.chunks(52).zip(out.chunks(48)) {
            let mean = x[..48].iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / 48.0;
            for i in 0..48 {
                let exact = weight[i] as f64 * x[i] as f64 / (mean + 1e-5).sqrt();
                assert!((exact - out[i] as f64).abs() <= 8.0 * 2f64.powi(-24) * exact.abs());
            }
        }
    }
}
