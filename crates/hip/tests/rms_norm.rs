//! RMS norm against f64.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::rms_norm::{add_rms_norm, rms_norm};
use mx::bf16::{from_f32, to_f32};
use random::Random;

const EPS: f32 = 1e-5;

/// `weight * x / sqrt(mean(x^2) + EPS)` within the kernel's error: the mean's relative error is at
/// most width * 2^-24 (a sum of positive terms), halved by the root; the root's instruction is good
/// to 2^-22 (both targets document 1 to 2 ulp), two products round once each; then bf16 rounds by
/// 2^-8 of the result (half of its last of 7 bits).
fn check(x: &[f32], weight: &[f32], out: &[u16]) {
    let width = weight.len();
    for (x, out) in x.chunks(width).zip(out.chunks(width)) {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
        let error = (width as f64 / 2.0 + 6.0) * 2f64.powi(-24) + 2f64.powi(-8);
        for i in 0..width {
            let exact = f64::from(weight[i]) * f64::from(x[i]) / (mean + f64::from(EPS)).sqrt();
            let found = f64::from(to_f32(out[i]));
            assert!((found - exact).abs() <= error * exact.abs(), "{i}: {found} for {exact}");
        }
    }
}

/// `out` and `residual` after the kernel, of the first `rows` rows; the rest stays as it was.
fn run(
    gpu: &Gpu,
    rows: usize,
    bound: usize,
    x: &[f32],
    delta: Option<&[f32]>,
    weight: &[f32],
) -> (Vec<u16>, Vec<f32>) {
    let width = weight.len();
    // Behind each row's values stands what does not count.
    let gap = if delta.is_none() { 4 } else { 0 };
    let spread: Vec<f32> = x[..rows * width]
        .chunks(width)
        .flat_map(|row| row.iter().copied().chain([f32::NAN; 4].into_iter().take(gap)))
        .collect();
    let x = gpu.upload_into(&spread, bound * (width + gap));
    let memory = gpu.upload(weight);
    let count = gpu.upload(&[rows as u32]);
    let out = gpu.poisoned(bound * width / 2 + 1);
    let rows_of = Rows { count: count.ptr(), bound };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    match delta {
        None => {
            let widths = [width + gap, width];
            rms_norm(stream, kernels, rows_of, &x, &memory, &out, widths, EPS).unwrap();
        }
        Some(delta) => {
            let delta = gpu.upload_into(&delta[..rows * width], bound * width);
            add_rms_norm(stream, kernels, rows_of, &x, &delta, &memory, &out, width, EPS).unwrap();
        }
    }
    let values: Vec<u16> = gpu.download(&out);
    assert!(values[rows * width..].iter().all(|&v| v == u16::MAX), "rows beyond the last");
    let mut residual = vec![0u8; rows * width * 4];
    gpu.stream.download(&x, 0, &mut residual).unwrap();
    let residual = residual.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (values[..rows * width].to_vec(), residual.collect())
}

#[test]
fn norms_are_right_and_rows_independent() {
    let gpu = device::gpu();
    let mut random = Random::new(1);
    for (rows, width) in [(0, 64), (1, 4), (3, 1536), (2, 7168), (5, 384), (1, 8192)] {
        let x = random.f32s(rows * width, 3.0);
        let delta = random.f32s(rows * width, 1.0);
        let weight = random.f32s(width, 1.5);
        let (out, _) = run(&gpu, rows, rows + 2, &x, None, &weight);
        check(&x, &weight, &out);
        let (out, residual) = run(&gpu, rows, rows + 1, &x, Some(&delta), &weight);
        let sums: Vec<f32> = x.iter().zip(&delta).map(|(x, d)| x + d).collect();
        assert_eq!(residual, sums);
        check(&sums, &weight, &out);
        if rows > 1 {
            let last = (rows - 1) * width;
            let (alone, _) = run(&gpu, 1, 1, &x[last..], Some(&delta[last..]), &weight);
            assert_eq!(alone, out[last..]);
        }
    }
}

#[test]
fn extreme_values() {
    let gpu = device::gpu();
    let weight = vec![1.0; 8];
    let mut x = vec![0.0; 8 * 4];
    x[8..16].fill(1e-30);
    x[16..24].fill(1e15);
    x[24] = f32::NAN;
    let (out, _) = run(&gpu, 4, 4, &x, None, &weight);
    assert!(out[..8].iter().all(|&v| to_f32(v) == 0.0));
    check(&x[8..24], &weight, &out[8..24]);
    assert!(out[24..].iter().all(|&v| to_f32(v).is_nan()));
    let wide = from_f32(1.0);
    assert_eq!(out[16..24], [wide; 8]);
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("norms_are_right_and_rows_independent");
}
