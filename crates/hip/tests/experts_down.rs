//! `experts_down` and `experts_combine` against the formulas in f64, and their forms against one
//! another; `experts_down_of_rows` against both of them.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod experts;
mod numbers;

use checkpoint::{Activations, Matrix};
use device::Gpu;
use experts::Case;
use hip::kernels::Rows;
use hip::kernels::experts_down::{experts_combine, experts_down, experts_down_of_rows};
use hip::kernels::mxfp4::{RowOrder, RowTiles};
use hip::kernels::route::Choice;
use hip::kernels::sort::slots;
use numbers::{FORMS, Operand, Random, activated, dot, upload_matrices, values, weights};

/// Every pair's row of y, BF16. `h` is by pair.
fn run(gpu: &Gpu, case: &Case, h: &Operand, matrices: &[Matrix], tiles: RowTiles) -> Vec<u16> {
    let hidden = matrices[0].rows;
    let platform = gpu.device.platform();
    let tiles = tiles.of_groups(h.form, platform);
    let sorted = case.sort(gpu, tiles.count(platform));
    // Slots without a pair hold the first pair's row: nothing may come of them.
    let mut by_slot = vec![0; slots(case.chosen.len(), case.experts)];
    for (pair, slot) in case.slots(gpu, &sorted).into_iter().enumerate() {
        by_slot[slot] = pair;
    }
    let h_memory = h.pick(&by_slot).upload(gpu);
    let w_memory = upload_matrices(gpu, matrices, RowOrder::Plain);
    let y = gpu.poisoned(case.chosen.len() * hidden / 2);
    experts_down(
        &gpu.stream,
        &gpu.kernels,
        Rows { count: case.count(gpu).ptr(), bound: case.rows() },
        &sorted,
        case.top_k,
        tiles,
        activated(h.form, h.width, &h_memory),
        case.experts,
        weights(hidden, h.width, &w_memory),
        &y,
    )
    .unwrap();
    gpu.download(&y)
}

fn check(gpu: &Gpu, case: &Case, form: Activations, hidden: usize, width: usize) {
    let mut random = Random(hidden as u64);
    let h = Operand::random(&mut random, form, case.chosen.len(), width);
    let matrices: Vec<Matrix> = (0..case.experts).map(|_| random.matrix(hidden, width)).collect();
    let found = run(gpu, case, &h, &matrices, RowTiles::Few);
    let dense: Vec<_> = matrices.iter().map(values).collect();
    for (pair, y) in found.chunks(hidden).enumerate() {
        let w = &dense[case.chosen[pair] as usize];
        for (column, (&y, w)) in y.iter().zip(w).enumerate() {
            let (expected, error) = dot(h.row(pair), w);
            // What some sum within the bounds is rounded to.
            let ends = [expected - error, expected + error].map(|end| mx::bf16::round(end as f32));
            let y = mx::bf16::to_f32(y);
            assert!(ends[0] <= y && y <= ends[1], "pair {pair}, {column}: {ends:?}, {y}");
        }
    }
    for tiles in [RowTiles::Some, RowTiles::Many] {
        assert!(run(gpu, case, &h, &matrices, tiles) == found, "{tiles:?}");
    }
    for row in [0, case.rows() / 2].into_iter().filter(|&row| row < case.rows()) {
        let pairs: Vec<usize> = (row * case.top_k..(row + 1) * case.top_k).collect();
        let chosen = pairs.iter().map(|&pair| case.chosen[pair]).collect();
        let alone = Case { chosen, ..*case };
        let alone = run(gpu, &alone, &h.pick(&pairs), &matrices, RowTiles::Few);
        let at = row * case.top_k * hidden;
        assert!(alone == found[at..at + alone.len()], "row {row} alone differs");
    }
}

#[test]
fn is_the_product() {
    let gpu = device::gpu();
    for form in FORMS {
        check(&gpu, &Case::random(1, 20, 2, 5), form, 288, 96);
        check(&gpu, &Case::random(2, 3, 3, 3), form, 32, 32);
    }
}

#[test]
fn ragged_experts_and_long_rows() {
    let gpu = device::gpu();
    for form in FORMS {
        check(&gpu, &Case::same(110, 3, 4), form, 64, 512);
        check(&gpu, &Case::same(70, 3, 4), form, 64, 512);
        check(&gpu, &Case::same(70, 3, 4), form, 544, 1184);
        check(&gpu, &Case::same(40, 3, 4), form, 64, 512);
        for rows in [20, 24, 25, 33] {
            check(&gpu, &Case::same(rows, 3, 4), form, 64, 512);
        }
        check(&gpu, &Case::random(4, 4, 1, 2), form, 96, 1184);
        check(&gpu, &Case::same(50, 0, 1), form, 96, 1184);
    }
    // So many blocks that a workgroup takes several of a group on CUDA.
    check(&gpu, &Case::random(6, 40, 1, 8), Activations::Bf16, 33_792, 96);
}

fn combine(gpu: &Gpu, rows: usize, top_k: usize, hidden: usize) {
    let mut random = Random(hidden as u64);
    let mut values = |count: usize| (0..count).map(|_| random.value()).collect::<Vec<f32>>();
    // One row more than there are.
    let (y, out) = (values((rows + 1) * top_k * hidden), values((rows + 1) * hidden));
    let y: Vec<u16> = y.into_iter().map(mx::bf16::from_f32).collect();
    let weights = values((rows + 1) * top_k);
    let (count, sums) = (gpu.upload(&[rows as u32]), gpu.upload(&out));
    let bound = Rows { count: count.ptr(), bound: rows + 1 };
    let (stream, kernels) = (&gpu.stream, &gpu.kernels);
    let (y_memory, w_memory) = (gpu.upload(&y), gpu.upload(&weights));
    experts_combine(stream, kernels, bound, &y_memory, &w_memory, top_k, hidden, &sums).unwrap();
    let found: Vec<f32> = gpu.download(&sums);
    for (i, (&before, &found)) in out.iter().zip(&found).enumerate() {
        let (row, column) = (i / hidden, i % hidden);
        let mut expected = before;
        for k in (0..top_k).filter(|_| row < rows) {
            let pair = row * top_k + k;
            let y = mx::bf16::to_f32(y[pair * hidden + column]);
            expected = weights[pair].mul_add(y, expected);
        }
        assert_eq!(found.to_bits(), expected.to_bits(), "row {row}, column {column}");
    }
}

#[test]
fn weighted_sums_are_exactly_fused_multiply_adds_in_order() {
    let gpu = device::gpu();
    combine(&gpu, 0, 8, 64);
    combine(&gpu, 1, 8, 7168);
    combine(&gpu, 5, 3, 1056);
    combine(&gpu, 2, 17, 260);
}

/// The sums of rows whose pairs are not sorted: of each number of rows below the bound, and of the
/// bound. `out` of rows that there are not stays, and what they chose was never written.
fn check_rows(gpu: &Gpu, case: &Case, form: Activations, hidden: usize, width: usize) {
    let mut random = Random((hidden + case.top_k) as u64);
    let h = Operand::random(&mut random, form, case.chosen.len(), width);
    let matrices: Vec<Matrix> = (0..case.experts).map(|_| random.matrix(hidden, width)).collect();
    let factors: Vec<f32> = case.chosen.iter().map(|_| random.value()).collect();
    let out: Vec<f32> = (0..case.rows() * hidden).map(|_| random.value()).collect();
    let y = run(gpu, case, &h, &matrices, RowTiles::Few);
    let w_memory = upload_matrices(gpu, &matrices, RowOrder::Plain);
    let (bound, top_k) = (case.rows(), case.top_k);
    for rows in 0..=bound {
        let pairs: Vec<usize> = (0..rows * top_k).collect();
        let h_memory = (
            gpu.upload_into(&h.pick(&pairs).codes, h.codes.len()),
            gpu.upload_into(&h.pick(&pairs).scales, h.scales.len()),
        );
        let chosen = gpu.upload_into(&case.chosen[..pairs.len()], case.chosen.len());
        let weights_memory = gpu.upload_into(&factors[..pairs.len()], factors.len());
        let (count, sums) = (gpu.upload(&[rows as u32]), gpu.upload(&out));
        experts_down_of_rows(
            &gpu.stream,
            &gpu.kernels,
            Rows { count: count.ptr(), bound },
            Choice { experts: &chosen, weights: &weights_memory },
            top_k,
            activated(form, width, &h_memory),
            case.experts,
            weights(hidden, width, &w_memory),
            &sums,
        )
        .unwrap();
        let found: Vec<f32> = gpu.download(&sums);
        for (i, (&before, &found)) in out.iter().zip(&found).enumerate() {
            let (row, column) = (i / hidden, i % hidden);
            let mut expected = before;
            for pair in (row * top_k..(row + 1) * top_k).filter(|_| row < rows) {
                let y = mx::bf16::to_f32(y[pair * hidden + column]);
                expected = factors[pair].mul_add(y, expected);
            }
            assert_eq!(found.to_bits(), expected.to_bits(), "row {row} of {rows}, {column}");
        }
    }
}

#[test]
fn rows_that_are_not_sorted_have_the_same_sums() {
    let gpu = device::gpu();
    for form in FORMS {
        for top_k in 1..=8 {
            // Rows share experts.
            let case = Case::random(top_k as u64, 1 + top_k % 4, top_k, top_k + 1);
            let (hidden, width) = [(32, 32), (288, 96), (96, 1184), (544, 512)][top_k / 2 % 4];
            check_rows(&gpu, &case, form, hidden, width);
        }
        check_rows(&gpu, &Case::random(9, 1, 8, 11), form, 1312, 512);
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("is_the_product");
    device::in_every_schedule("rows_that_are_not_sorted_have_the_same_sums");
}
