use checkpoint::Encoded;
use model::RouterShape;

use super::*;

const HIDDEN: usize = 64;
const WIDTH: usize = 32;

fn value(i: usize) -> f32 {
    ((i * 2654435761) % 1009) as f32 / 500.0 - 1.0
}

fn matrix(rows: usize, cols: usize, seed: usize) -> Matrix {
    let values = (0..rows * cols).map(|i| value(i * 7 + seed)).collect();
    Matrix { rows, cols, data: Encoded::F32(values) }
}

fn experts(count: usize) -> Experts {
    let expert = |e: usize| Expert {
        gate_up: matrix(2 * WIDTH, HIDDEN, e * 1000),
        down: matrix(HIDDEN, WIDTH, e * 1000 + 500),
    };
    Experts((0..count).map(expert).collect())
}

fn routing(chosen: &[(usize, f32)], top_k: usize) -> Routing {
    let shape = RouterShape { top_k, normalize: true, scale: 1.0 };
    Routing { shape, chosen: chosen.to_vec() }
}

/// The formula in f64, activations rounded where the precision says so.
fn expected(expert: &Expert, x: &[f32], activations: Activations) -> Vec<f64> {
    let product = |m: &Matrix, x: &[f32]| -> Vec<f64> {
        let mut row = vec![0.0; m.cols];
        (0..m.rows)
            .map(|r| {
                m.row(r, &mut row);
                row.iter().zip(x).map(|(w, x)| *w as f64 * *x as f64).sum()
            })
            .collect()
    };
    let mut x = x.to_vec();
    quantize(&mut x, activations);
    let gate_up = product(&expert.gate_up, &x);
    let mut hidden: Vec<f32> = (0..WIDTH)
        .map(|i| (gate_up[i] / (1.0 + (-gate_up[i]).exp()) * gate_up[WIDTH + i]) as f32)
        .collect();
    quantize(&mut hidden, activations);
    product(&expert.down, &hidden)
}

/// Bound for unquantized activations: sums of 64 and 32 terms of at most 1 and about 30 in
/// magnitude, each chain of at most n/16 + 5 = 9 roundings of 2^-24, and a handful more in SwiGLU
/// and the weighted sum: 30 * 32 * 20 * 2^-24 < 2e-3.
#[test]
fn weighted_sums_are_the_formula() {
    let (all, rows, top_k) = (experts(4), 5, 2);
    let x: Vec<f32> = (0..rows * HIDDEN).map(|i| value(i * 3 + 1)).collect();
    let chosen: Vec<(usize, f32)> =
        (0..rows).flat_map(|r| [(r % 3, 0.25 + r as f32), (3, 0.5)]).collect();
    let mut out: Vec<f32> = (0..rows * HIDDEN).map(|i| i as f32 / 8.0).collect();
    let before = out.clone();
    all.accumulate(&x, HIDDEN, &routing(&chosen, top_k), Activations::Bf16, &mut out);
    for r in 0..rows {
        let row = &x[r * HIDDEN..(r + 1) * HIDDEN];
        let mut sum: Vec<f64> =
            before[r * HIDDEN..(r + 1) * HIDDEN].iter().map(|v| *v as f64).collect();
        for &(expert, weight) in &chosen[r * top_k..(r + 1) * top_k] {
            for (sum, y) in sum.iter_mut().zip(expected(&all.0[expert], row, Activations::Bf16)) {
                *sum += weight as f64 * y;
            }
        }
        for (found, exact) in out[r * HIDDEN..].iter().zip(&sum) {
            assert!((*found as f64 - exact).abs() < 2e-3, "{found} {exact}");
        }
    }
}

/// Quantizing SwiGLU's result turns a last-bit difference into a whole step only at a tie, which
/// these values do not hit; so the same bound as above applies.
#[test]
fn activations_are_quantized_before_both_products() {
    let all = experts(1);
    let x: Vec<f32> = (0..HIDDEN).map(|i| value(i * 3 + 1)).collect();
    let mut results = Vec::new();
    for activations in [Activations::Bf16, Activations::Mxfp8, Activations::Mxfp4] {
        let mut out = vec![0.0; HIDDEN];
        all.accumulate(&x, HIDDEN, &routing(&[(0, 1.0)], 1), activations, &mut out);
        for (found, exact) in out.iter().zip(expected(&all.0[0], &x, activations)) {
            assert!((*found as f64 - exact).abs() < 2e-3, "{activations:?}: {found} {exact}");
        }
        results.push(out);
    }
    assert!(results[0] != results[1] && results[1] != results[2]);
}

#[test]
fn no_rows_are_no_work() {
    experts(2).accumulate(&[], HIDDEN, &routing(&[], 2), Activations::Mxfp4, &mut []);
}
