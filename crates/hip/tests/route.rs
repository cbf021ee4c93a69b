//! `route` against the formula in f64, and its activation against `swiglu`.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::route::{Choice, Hidden, route};
use hip::kernels::swiglu::swiglu;
use model::RouterShape;
use numbers::Random;

fn run(
    gpu: &Gpu,
    logits: &[f32],
    bias: &[f32],
    rows: usize,
    shape: RouterShape,
) -> (Vec<u32>, Vec<f32>) {
    let (chosen, weights, _) = run_with_hidden(gpu, logits, &[], 0, bias, rows, shape);
    (chosen, weights)
}

/// With `gate_up`, `[rows, 2 * width]`, behind the logits; also returns what became of it, in bf16.
fn run_with_hidden(
    gpu: &Gpu,
    logits: &[f32],
    gate_up: &[f32],
    width: usize,
    bias: &[f32],
    rows: usize,
    shape: RouterShape,
) -> (Vec<u32>, Vec<f32>, Vec<u16>) {
    let experts = bias.len();
    let row = |row: usize| {
        let (logits, rest) = (&logits[row * experts..], &gate_up[row * 2 * width..]);
        [&logits[..experts], &rest[..2 * width]].concat()
    };
    let x: Vec<f32> = (0..rows).flat_map(row).collect();
    // Rows beyond the count are never written: reading them would be reported.
    let x = gpu.upload_into(&x, (rows + 1) * (experts + 2 * width));
    let (out, weights) =
        (gpu.poisoned((rows + 1) * shape.top_k), gpu.poisoned((rows + 1) * shape.top_k));
    let hidden = gpu.poisoned((rows + 1) * width / 2);
    let count = gpu.upload(&[rows as u32]);
    route(
        &gpu.stream,
        &gpu.kernels,
        Rows { count: count.ptr(), bound: rows + 1 },
        &x,
        &gpu.upload(bias),
        experts,
        shape,
        Choice { experts: &out, weights: &weights },
        Hidden { memory: &hidden, width },
    )
    .unwrap();
    let (mut chosen, mut weights): (Vec<u32>, Vec<f32>) =
        (gpu.download(&out), gpu.download(&weights));
    assert!(chosen.split_off(rows * shape.top_k).iter().all(|&id| id == u32::MAX));
    assert!(weights.split_off(rows * shape.top_k).iter().all(|weight| weight.is_nan()));
    let mut hidden: Vec<u16> = gpu.download(&hidden);
    assert!(hidden.split_off(rows * width).iter().all(|&code| code == u16::MAX));
    (chosen, weights, hidden)
}

/// Relative error of a score: e^-l is exp2 of a product that rounds by 2^-24 of at most 1.45 |l|
/// (so by |l| 2^-24 of the result), an exp2 of 1 ulp, a sum and a quotient of half an ulp each.
fn score_error(logit: f32) -> f64 {
    (logit.abs() as f64 + 4.0) * 2f64.powi(-23)
}

fn check(gpu: &Gpu, seed: u64, rows: usize, experts: usize, shape: RouterShape) {
    let mut random = Random(seed);
    let logits: Vec<f32> = (0..rows * experts).map(|_| random.value() * 12.0).collect();
    let bias: Vec<f32> = (0..experts).map(|_| random.value() * 0.3).collect();
    let (chosen, weights) = run(gpu, &logits, &bias, rows, shape);
    for row in 0..rows {
        let logits = &logits[row * experts..(row + 1) * experts];
        let score = |e: usize| 1.0 / (1.0 + (-logits[e] as f64).exp());
        let biased = |e: usize| score(e) + bias[e] as f64;
        // The sum s + b, of magnitude below 2, rounds by 2^-24 more.
        let error = |e: usize| score_error(logits[e]) * score(e) + 2f64.powi(-23);
        let at = row * shape.top_k..(row + 1) * shape.top_k;
        let (chosen, weights) = (&chosen[at.clone()], &weights[at]);
        assert!(chosen.is_sorted_by(|a, b| a < b), "{chosen:?}");
        let worst = chosen.iter().map(|&e| biased(e as usize) + error(e as usize));
        let worst = worst.fold(f64::INFINITY, f64::min);
        for e in (0..experts).filter(|&e| !chosen.contains(&(e as u32))) {
            assert!(biased(e) - error(e) <= worst, "row {row}: {e} is better than {chosen:?}");
        }
        let sum: f64 = chosen.iter().map(|&e| score(e as usize)).sum();
        for (&e, &weight) in chosen.iter().zip(weights) {
            let divisor = if shape.normalize { sum + 1e-20 } else { 1.0 };
            let expected = score(e as usize) / divisor * shape.scale as f64;
            // The sum's error is at most that of its worst score and top_k roundings.
            let relative = score_error(12.0) * 2.0 + (shape.top_k + 3) as f64 * 2f64.powi(-24);
            assert!((weight as f64 - expected).abs() <= relative * expected, "row {row}, {e}");
        }
    }
}

#[test]
fn chooses_the_best_and_weighs_them() {
    let gpu = device::gpu();
    let shape = RouterShape { top_k: 8, normalize: true, scale: 2.827 };
    check(&gpu, 1, 5, 384, shape);
    check(&gpu, 2, 0, 384, shape);
    check(&gpu, 3, 1, 512, RouterShape { normalize: false, ..shape });
    check(&gpu, 4, 9, 8, shape);
    check(&gpu, 5, 6, 13, RouterShape { top_k: 1, ..shape });
    check(&gpu, 6, 2, 100, RouterShape { top_k: 32, ..shape });
}

#[test]
fn equals_go_to_the_lower_index_and_extremes_stay_finite() {
    let gpu = device::gpu();
    let shape = RouterShape { top_k: 3, normalize: true, scale: 1.0 };
    let mut logits = vec![0.0; 70];
    (logits[3], logits[68]) = (-500.0, 500.0); // scores 0 and 1
    let (chosen, weights) = run(&gpu, &logits, &[0.0; 70], 1, shape);
    assert_eq!((chosen, weights), (vec![0, 1, 68], vec![0.25, 0.25, 0.5]));
    let (chosen, weights) = run(&gpu, &[-1000.0; 70], &[0.0; 70], 1, shape);
    assert_eq!((chosen, weights), (vec![0, 1, 2], vec![0.0; 3]));
}

/// What stands behind the logits does not change the choice, and becomes what `swiglu` makes of it.
#[test]
fn activates_what_stands_behind_the_logits() {
    let gpu = device::gpu();
    let shape = RouterShape { top_k: 3, normalize: true, scale: 2.827 };
    let shapes =
        [(0, 8, 4), (1, 384, 512), (5, 384, 512), (9, 4, 32), (3, 100, 1028), (1, 12, 2048)];
    for (seed, (rows, experts, width)) in shapes.into_iter().enumerate() {
        let mut random = Random(seed as u64);
        let mut values = |count: usize, scale: f32| -> Vec<f32> {
            (0..count).map(|_| random.value() * scale).collect()
        };
        let (logits, bias) = (values(rows * experts, 12.0), values(experts, 0.3));
        // Scores of such values would be the largest.
        let mut gate_up = values(rows * 2 * width, 90.0);
        if rows > 0 {
            gate_up[..4].copy_from_slice(&[f32::INFINITY, -200.0, 200.0, f32::NAN]);
        }
        let (chosen, weights, hidden) =
            run_with_hidden(&gpu, &logits, &gate_up, width, &bias, rows, shape);
        assert_eq!((chosen, weights), run(&gpu, &logits, &bias, rows, shape));

        let (count, out) = (gpu.upload(&[rows as u32]), gpu.poisoned((rows + 1) * width / 2));
        let x = gpu.upload_into(&gate_up, (rows + 1) * 2 * width);
        let bound = Rows { count: count.ptr(), bound: rows + 1 };
        swiglu(&gpu.stream, &gpu.kernels, bound, &x, &out, width).unwrap();
        let expected: Vec<u16> = gpu.download(&out);
        assert_eq!(hidden, expected[..rows * width], "{rows} x {experts}, {width} units");
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("chooses_the_best_and_weighs_them");
    device::in_every_schedule("activates_what_stands_behind_the_logits");
}
