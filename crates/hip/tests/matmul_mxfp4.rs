//! `matmul_mxfp4` against the formula in f64, and its forms against one another.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use checkpoint::{Activations, Encoded, Matrix};
use device::Gpu;
use hip::kernels::Rows;
use hip::kernels::matmul_mxfp4::matmul_mxfp4;
use hip::kernels::mxfp4::{RowOrder, RowTiles};
use mx::BLOCK;
use numbers::{FORMS, Operand, Random, activated, dot, upload_matrices, values, weights};

fn run(gpu: &Gpu, x: &Operand, rows: usize, w: &Matrix, tiles: RowTiles) -> Vec<u32> {
    let x_memory = x.upload(gpu);
    let bound = x.values.len() / x.width;
    let w_memory = upload_matrices(gpu, std::slice::from_ref(w), RowOrder::Plain);
    let out = gpu.poisoned(bound * w.rows);
    let count = gpu.upload(&[rows as u32]);
    let rows = Rows { count: count.ptr(), bound };
    let (x, w) = (activated(x.form, x.width, &x_memory), weights(w.rows, w.cols, &w_memory));
    matmul_mxfp4(&gpu.stream, &gpu.kernels, rows, tiles, x, w, &out).unwrap();
    gpu.download(&out)
}

fn check(gpu: &Gpu, form: Activations, rows: usize, n: usize, k: usize) {
    let mut random = Random((rows * n + k) as u64);
    let x = Operand::random(&mut random, form, rows + 1, k);
    check_product(gpu, &x, rows, &random.matrix(n, k));
}

fn check_product(gpu: &Gpu, x: &Operand, rows: usize, w: &Matrix) {
    let n = w.rows;
    let found = run(gpu, x, rows, w, RowTiles::Few);
    let dense = values(w);
    for (row, out) in found.chunks(n).enumerate() {
        for (&out, w) in out.iter().zip(&dense) {
            let (expected, error) = dot(x.row(row), w);
            let out = f32::from_bits(out);
            match row < rows {
                true => assert!((out as f64 - expected).abs() <= error, "{expected}, {out}"),
                false => assert!(out.is_nan()),
            }
        }
    }
    assert!(run(gpu, x, rows, w, RowTiles::Many) == found);
    if let Some(last) = rows.checked_sub(1) {
        let alone = run(gpu, &x.pick(&[last]), 1, w, RowTiles::Few);
        assert!(alone == found[last * n..rows * n]);
    }
}

#[test]
fn is_the_product() {
    let gpu = device::gpu();
    for form in FORMS {
        check(&gpu, form, 0, 64, 64);
        check(&gpu, form, 1, 16, 32);
        check(&gpu, form, 19, 112, 1184);
        check(&gpu, form, 66, 40, 160);
        check(&gpu, form, 100, 40, 160);
        check(&gpu, form, 2, 64, 4640);
        check(&gpu, form, 35, 64, 4640);
    }
}

/// A matrix whose rows have the scales of `scales` in turn, and values of at most 1 where those of
/// 6 would be infinite.
fn scaled(random: &mut Random, rows: usize, cols: usize, scales: &[u8]) -> Matrix {
    let of = |row: usize| scales[row % scales.len()];
    let mut packed = Vec::new();
    for row in 0..rows {
        for _ in 0..cols / 2 {
            let codes = random.bits() as u8;
            packed.push(if of(row) > 251 { codes & 0xaa } else { codes });
        }
    }
    let scales = (0..rows).flat_map(|row| vec![of(row); cols / BLOCK]).collect();
    Matrix { rows, cols, data: Encoded::Mxfp4 { packed, scales } }
}

#[test]
fn of_any_scale() {
    let gpu = device::gpu();
    for form in FORMS {
        // So large that no product with the smallest scales is subnormal in f32, or so small that
        // no sum with the largest is infinite.
        for (size, scales) in
            [(40, &[0, 1, 2, 3][..]), (0, &[100, 127, 128, 129]), (-20, &[90, 253, 254, 252])]
        {
            for rows in [3, 11] {
                let mut random = Random(rows as u64);
                let x = Operand::sized(&mut random, form, rows, 1184, size);
                check_product(&gpu, &x, rows, &scaled(&mut random, 64, 1184, scales));
            }
        }
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("is_the_product");
}
