//! `out = x w^T` with weights in any of the checkpoint's formats.

use checkpoint::Matrix;
use rayon::prelude::*;

use crate::dot::all_pairs;
use crate::simd::{Lanes, simd};
use crate::unpack::unpack;

/// Unpacked weights that one task holds at a time: half of a small L2 cache.
const SCRATCH_VALUES: usize = 32 * 1024;

simd! {
    /// Columns `first..` of the product, transposed: `out[n][t]`, as many `n` as `out` holds.
    fn columns(x: &[f32], w: &Matrix, first: usize, out: &mut [f32]) = columns_body
}

#[inline(always)]
fn columns_body<V: Lanes>(x: &[f32], w: &Matrix, first: usize, out: &mut [f32]) {
    let rows = x.len() / w.cols;
    let mut scratch = vec![0f32; out.len() / rows * w.cols];
    unpack(w, first, &mut scratch);
    all_pairs::<V>(&scratch, x, w.cols, out);
}

/// `out[t][n] = x[t] . w[n]`, `x` being `[rows, w.cols]`. Parallel over `n`.
pub(crate) fn matmul(x: &[f32], w: &Matrix, out: &mut [f32]) {
    let rows = x.len() / w.cols;
    if rows == 0 {
        return;
    }
    let per_task = (SCRATCH_VALUES / w.cols).clamp(4, 64);
    if rows == 1 {
        let tasks = out.par_chunks_mut(per_task).enumerate();
        return tasks.for_each(|(i, out)| columns(x, w, i * per_task, out));
    }
    let mut transposed = vec![0f32; out.len()];
    let tasks = transposed.par_chunks_mut(per_task * rows).enumerate();
    tasks.for_each(|(i, out)| columns(x, w, i * per_task, out));
    out.par_chunks_mut(w.rows).enumerate().for_each(|(t, row)| {
        for (n, out) in row.iter_mut().enumerate() {
            *out = transposed[n * rows + t];
        }
    });
}

/// [`matmul`] on the calling thread alone, for callers that are parallel themselves.
pub(crate) fn matmul_serial(x: &[f32], w: &Matrix, out: &mut [f32]) {
    let rows = x.len() / w.cols;
    if rows == 0 {
        return;
    }
    let per_task = (SCRATCH_VALUES / w.cols).clamp(4, 64);
    let mut transposed = vec![0f32; per_task * rows];
    for first in (0..w.rows).step_by(per_task) {
        let count = per_task.min(w.rows - first);
        let part = &mut transposed[..count * rows];
        columns(x, w, first, part);
        for (t, row) in out.chunks_exact_mut(w.rows).enumerate() {
            for (i, out) in row[first..first + count].iter_mut().enumerate() {
                *out = part[i * rows + t];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Encoded;

    /// Against sums in f64. Bound: an f32 dot product of n terms in this order rounds each
    /// product's addition once, n/16 + 4 times in a chain, so |error| <= (n/16 + 5) * 2^-24 * sum
    /// |x w|.
    #[test]
    fn products_are_right_and_rows_do_not_depend_on_their_neighbours() {
        for (rows, n, cols) in [(1, 70, 96), (2, 3, 32), (5, 129, 640), (7, 64, 7168)] {
            let value = |i: usize| ((i * 2654435761) % 2039) as f32 / 1000.0 - 1.0;
            let x: Vec<f32> = (0..rows * cols).map(value).collect();
            let weights: Vec<f32> = (0..n * cols).map(|i| value(i + 17)).collect();
            let w = Matrix { rows: n, cols, data: Encoded::F32(weights.clone()) };
            let mut out = vec![f32::NAN; rows * n];
            matmul(&x, &w, &mut out);
            let mut serial = vec![f32::NAN; rows * n];
            matmul_serial(&x, &w, &mut serial);
            assert_eq!(out, serial);
            for t in 0..rows {
                let row = &x[t * cols..(t + 1) * cols];
                let mut alone = vec![f32::NAN; n];
                matmul(row, &w, &mut alone);
                assert_eq!(alone, out[t * n..(t + 1) * n]);
                for (i, w) in weights.chunks(cols).enumerate() {
                    let terms = || row.iter().zip(w).map(|(a, b)| *a as f64 * *b as f64);
                    let bound = (cols as f64 / 16.0 + 5.0)
                        * 2f64.powi(-24)
                        * terms().map(f64::abs).sum::<f64>();
                    assert!((terms().sum::<f64>() - alone[i] as f64).abs() <= bound);
                }
            }
        }
    }
}
