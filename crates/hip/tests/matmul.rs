//! BF16 matrix products against f64.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use std::ops::Range;

use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::matmul::{Output, View, Weights, matmul};
use mx::bf16::{from_f32, to_f32};
use random::Random;

/// A batch of products of `rows` rows.
struct Case {
    rows: usize,
    n: usize,
    k: usize,
    batch: usize,
    x: Vec<u16>,
    w: Vec<u16>,
}

impl Case {
    fn new(random: &mut Random, rows: usize, n: usize, k: usize, batch: usize) -> Case {
        let x = random.bf16s(rows * k * batch, 2.0);
        let w = random.bf16s(n * k * batch, 0.5);
        Case { rows, n, k, batch, x, w }
    }

    /// `[rows][batch][n]` by the kernel, in the form that `bound` picks: f32 bits.
    fn run(&self, gpu: &Gpu, bound: usize, output: Output) -> Vec<u32> {
        let Case { rows, n, k, batch, .. } = *self;
        // Rows beyond the last are never written: reading them would be reported.
        let x = gpu.upload_into(&self.x, bound * batch * k);
        let weights = gpu.upload_dense(&self.w, n, k);
        let count = gpu.upload(&[rows as u32]);
        let out = gpu.poisoned(bound * batch * n);
        let rows_of = Rows { count: count.ptr(), bound };
        let x = View { memory: &x, stride: batch * k, batch: k };
        let weights = Weights { memory: &weights, n, k, batch };
        let view = View { memory: &out, stride: batch * n, batch: n };
        matmul(&gpu.stream, &gpu.kernels, rows_of, x, weights, view, output).unwrap();
        let values: Vec<u32> = match output {
            Output::F32 => gpu.download(&out),
            Output::Bf16 => {
                let codes: Vec<u16> = gpu.download(&out);
                codes.iter().take(bound * batch * n).map(|&c| u32::from(c) << 16).collect()
            }
        };
        let (own, beyond) = values.split_at(rows * batch * n);
        assert!(beyond.iter().all(|v| f32::from_bits(*v).is_nan()), "rows beyond the last");
        own.to_vec()
    }

    /// One element's exact value, and the bound of the kernel's error: a chain of k / 32 matrix
    /// instructions, each of which adds 32 exact products in an order of its own, so at most k
    /// additions; segments add fewer than 8 more. Each rounds a partial sum that is at
    /// most the sum of absolute products.
    fn exact(&self, row: usize, batch: usize, column: usize) -> (f64, f64) {
        let (n, k) = (self.n, self.k);
        let x = &self.x[(row * self.batch + batch) * k..][..k];
        let w = &self.w[(batch * n + column) * k..][..k];
        let terms = x.iter().zip(w).map(|(x, w)| f64::from(to_f32(*x)) * f64::from(to_f32(*w)));
        let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
        (sum, (k as f64 + 8.0) * 2f64.powi(-24) * size)
    }

    fn check(&self, values: &[u32]) {
        for (i, value) in values.iter().enumerate() {
            let (row, batch, column) =
                (i / self.n / self.batch, i / self.n % self.batch, i % self.n);
            let (exact, bound) = self.exact(row, batch, column);
            let error = (f64::from(f32::from_bits(*value)) - exact).abs();
            assert!(error <= bound, "row {row} batch {batch} column {column}: {error} > {bound}");
        }
    }

    fn part(&self, rows: Range<usize>) -> Case {
        let width = self.batch * self.k;
        let x = self.x[rows.start * width..rows.end * width].to_vec();
        Case { rows: rows.len(), x, w: self.w.clone(), ..*self }
    }
}

fn shapes() -> Vec<(usize, usize, usize, usize)> {
    vec![
        (1, 16, 32, 1),
        (3, 40, 320, 1),
        (16, 100, 768, 1),
        (17, 33, 544, 2),
        (5, 128, 512, 4),
        (2, 512, 128, 3),
        (130, 24, 288, 1),
        // More columns and slabs than a workgroup of any form for many rows takes at once.
        (133, 393, 224, 2),
        (33, 8, 1056, 1),
        // So many workgroups that waves take two tiles of weights.
        (20, 56, 1024, 100),
    ]
}

#[test]
fn products_are_right_and_the_same_bits_in_every_form() {
    let gpu = device::gpu();
    let mut random = Random::new(1);
    for (rows, n, k, batch) in shapes() {
        let case = Case::new(&mut random, rows, n, k, batch);
        let many = case.run(&gpu, 257, Output::F32);
        case.check(&many);
        assert_eq!(case.run(&gpu, rows.max(17), Output::F32), many);
        if rows <= 16 {
            assert_eq!(case.run(&gpu, rows, Output::F32), many);
            assert_eq!(case.run(&gpu, 16, Output::F32), many);
        }
        let last = rows - 1;
        let alone = case.part(last..rows).run(&gpu, 1, Output::F32);
        assert_eq!(alone, many[last * n * batch..]);
        let rounded: Vec<u32> =
            many.iter().map(|v| u32::from(from_f32(f32::from_bits(*v))) << 16).collect();
        assert_eq!(case.run(&gpu, 257, Output::Bf16), rounded);
        assert_eq!(case.run(&gpu, rows.max(17), Output::Bf16), rounded);
        if rows <= 16 {
            assert_eq!(case.run(&gpu, 16, Output::Bf16), rounded);
        }
    }
}

/// Bounds with which CUDA's forms for many rows take each of their cuts: blocks of 64 rows and 32,
/// 64, 96 and 128 columns by workgroups alone, by clusters of 4 with two segments each and, but for
/// 128, of 8 with one; of 128 rows and 128, 144 and 192 columns alone and by clusters of 4, of 144
/// by clusters of 8.
#[test]
fn every_cut_has_the_same_bits() {
    let gpu = device::gpu();
    let mut random = Random::new(4);
    for (rows, n, k, batch, bound) in [
        (131, 160, 224, 1, 12800),
        (130, 270, 96, 1, 7680),
        (70, 41, 224, 1, 100),
        (70, 99, 1312, 1, 200),
        (33, 25, 1312, 1, 40),
        (9, 201, 32, 5, 200),
        (70, 235, 2048, 1, 200),
        (2, 100, 3072, 1, 200),
        (130, 447, 32, 5, 200),
        (3, 199, 2048, 1, 500),
        (2, 233, 3072, 1, 200),
        (65, 100, 96, 5, 1920),
        (2, 289, 3072, 1, 500),
        (70, 607, 1056, 1, 2600),
        (3, 289, 4096, 1, 1024),
        (131, 395, 224, 2, 2600),
        (2, 395, 4096, 1, 1024),
        (2, 396, 4096, 1, 640),
        (66, 1000, 512, 1, 2600),
        (2, 607, 4096, 1, 896),
    ] {
        let case = Case::new(&mut random, rows, n, k, batch);
        let many = case.run(&gpu, bound, Output::F32);
        for part in [0..rows.min(32), rows - 1..rows] {
            let few = case.part(part.clone());
            let expected = few.run(&gpu, few.rows, Output::F32);
            few.check(&expected);
            let values = &many[part.start * n * batch..part.end * n * batch];
            assert_eq!(values, expected, "{rows} x {n} x {k}");
        }
        let rounded: Vec<u32> =
            many.iter().map(|v| u32::from(from_f32(f32::from_bits(*v))) << 16).collect();
        assert_eq!(case.run(&gpu, bound, Output::Bf16), rounded, "{rows} x {n} x {k}");
    }
}

/// A column depends on its own row of weights alone, whatever stands before or behind it: shapes of
/// the router's and the shared experts', with fewer columns of x.
#[test]
fn stacked_matrices_have_the_same_bits() {
    let gpu = device::gpu();
    let mut random = Random::new(5);
    for (rows, upper, lower, k) in [(1, 384, 1024, 1056), (41, 24, 256, 384), (130, 16, 64, 256)] {
        let both = Case::new(&mut random, rows, upper + lower, k, 1);
        let (w_upper, w_lower) = both.w.split_at(upper * k);
        let part = |n, w: &[u16]| Case { rows, n, k, batch: 1, x: both.x.clone(), w: w.to_vec() };
        let [upper, lower] = [part(upper, w_upper), part(lower, w_lower)];
        for bound in [rows, 257] {
            let run = |case: &Case| case.run(&gpu, bound, Output::F32);
            let (upper_out, lower_out) = (run(&upper), run(&lower));
            let rows_apart = upper_out.chunks(upper.n).zip(lower_out.chunks(lower.n));
            for ((upper, lower), row) in rows_apart.zip(run(&both).chunks(both.n)) {
                assert_eq!([upper, lower].concat(), row);
            }
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let gpu = device::gpu();
    let mut random = Random::new(2);
    let case = Case::new(&mut random, 0, 48, 512, 1);
    for bound in [0, 1, 70, 257] {
        assert!(case.run(&gpu, bound, Output::F32).is_empty());
    }
}

/// What overflows, is infinite or no number in one row stays in it.
#[test]
fn extreme_values_stay_in_their_row() {
    let gpu = device::gpu();
    let mut random = Random::new(3);
    let mut case = Case::new(&mut random, 4, 20, 512, 1);
    let clean = case.run(&gpu, 4, Output::F32);
    case.x[512..1024].fill(from_f32(f32::MAX));
    case.x[1024] = from_f32(f32::INFINITY);
    case.x[1536] = from_f32(f32::NAN);
    for bound in [4, 64, 257] {
        let values = case.run(&gpu, bound, Output::F32);
        assert_eq!(values[..20], clean[..20]);
        assert!(values[40..60].iter().all(|v| !f32::from_bits(*v).is_finite()));
        assert!(values[60..].iter().all(|v| f32::from_bits(*v).is_nan()));
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("products_are_right_and_the_same_bits_in_every_form");
}
