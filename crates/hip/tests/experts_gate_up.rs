//! `experts_gate_up` against the formula in f64, and its forms against one another.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod experts;
mod numbers;

use checkpoint::{Activations, Matrix};
use device::Gpu;
use experts::Case;
use hip::kernels::Rows;
use hip::kernels::experts_gate_up::{Grouping, experts_gate_up};
use hip::kernels::mxfp4::{RowOrder, RowTiles, activated_bytes};
use hip::kernels::sort::slots;
use mx::BLOCK;
use numbers::{FORMS, Operand, Random, activated, dot, upload_matrices, values, weights};

/// Bytes of codes and of scales that each pair got.
type Hidden = Vec<(Vec<u8>, Vec<u8>)>;

fn run(gpu: &Gpu, case: &Case, x: &Operand, matrices: &[Matrix], tiles: RowTiles) -> Hidden {
    let width = matrices[0].rows / 2;
    let platform = gpu.device.platform();
    let tiles = tiles.of_groups(x.form, platform);
    let sorted = case.sort(gpu, tiles.count(platform));
    let slots = slots(case.chosen.len(), case.experts);
    let (codes, scales) = activated_bytes(x.form, slots, width);
    let out = (gpu.poisoned(codes / 4), gpu.poisoned(scales / 4));
    let (x_memory, w_memory) = (x.upload(gpu), upload_matrices(gpu, matrices, RowOrder::GateUp));
    experts_gate_up(
        &gpu.stream,
        &gpu.kernels,
        Rows { count: case.count(gpu).ptr(), bound: case.rows() },
        Grouping::Sorted(&sorted, tiles),
        case.top_k,
        activated(x.form, x.width, &x_memory),
        case.experts,
        weights(2 * width, x.width, &w_memory),
        activated(x.form, width, &out),
    )
    .unwrap();
    let (codes, scales): (Vec<u8>, Vec<u8>) = (gpu.download(&out.0), gpu.download(&out.1));
    let (each, each_scale) = activated_bytes(x.form, 1, width);
    let slot_of = case.slots(gpu, &sorted);
    for slot in (0..slots).filter(|slot| !slot_of.contains(slot)) {
        assert!(codes[slot * each..(slot + 1) * each].iter().all(|&byte| byte == 0xff));
    }
    let of = |slot: &usize| {
        let scales = &scales[slot * each_scale..(slot + 1) * each_scale];
        (codes[slot * each..(slot + 1) * each].to_vec(), scales.to_vec())
    };
    slot_of.iter().map(of).collect()
}

/// The same of pairs that are not sorted, of the first `rows` rows. What the others chose was never
/// written, and nothing is written for them.
fn run_by_pair(gpu: &Gpu, case: &Case, x: &Operand, matrices: &[Matrix], rows: usize) -> Hidden {
    let (width, pairs) = (matrices[0].rows / 2, rows * case.top_k);
    let (codes, scales) = activated_bytes(x.form, case.chosen.len(), width);
    let out = (gpu.poisoned(codes / 4), gpu.poisoned(scales / 4));
    let (x_memory, w_memory) = (x.upload(gpu), upload_matrices(gpu, matrices, RowOrder::GateUp));
    let chosen = gpu.upload_into(&case.chosen[..pairs], case.chosen.len());
    experts_gate_up(
        &gpu.stream,
        &gpu.kernels,
        Rows { count: gpu.upload(&[rows as u32]).ptr(), bound: case.rows() },
        Grouping::ByPair(&chosen),
        case.top_k,
        activated(x.form, x.width, &x_memory),
        case.experts,
        weights(2 * width, x.width, &w_memory),
        activated(x.form, width, &out),
    )
    .unwrap();
    let (codes, scales): (Vec<u8>, Vec<u8>) = (gpu.download(&out.0), gpu.download(&out.1));
    let (each, each_scale) = activated_bytes(x.form, 1, width);
    assert!(codes[pairs * each..].iter().all(|&byte| byte == 0xff));
    assert!(scales[pairs * each_scale..].iter().all(|&byte| byte == 0xff));
    let of = |pair: usize| {
        let scales = &scales[pair * each_scale..(pair + 1) * each_scale];
        (codes[pair * each..(pair + 1) * each].to_vec(), scales.to_vec())
    };
    (0..pairs).map(of).collect()
}

/// `silu(g) u` of a unit, and how far f32 may be from it.
fn swiglu(x: &[f32], gate: &[f32], up: &[f32]) -> (f64, f64) {
    let ((g, dg), (u, du)) = (dot(x, gate), dot(x, up));
    let silu = |g: f64| g / (1.0 + (-g).exp());
    // |silu'| is below 1.1. e^-g is off by (|g| + 2) 2^-23 (see `route`'s test), and the sum, the
    // quotient and the product by half an ulp each.
    let relative = (g.abs() + 4.0) * 2f64.powi(-23);
    let h = silu(g) * u;
    (h, relative * h.abs() + 1.1 * dg * (u.abs() + du) + silu(g).abs() * du)
}

/// Checks that a pair's `codes` are what some values within the bounds of `h` round to.
fn check_row(form: Activations, h: &[(f64, f64)], codes: &[u8], scales: &[u8]) {
    let ends: Vec<[f32; 2]> =
        h.iter().map(|&(h, error)| [(h - error) as f32, (h + error) as f32]).collect();
    if form == Activations::Bf16 {
        for ([low, high], bytes) in ends.iter().zip(codes.chunks(2)) {
            let value = mx::bf16::to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
            assert!(mx::bf16::round(*low) <= value && value <= mx::bf16::round(*high));
        }
        return;
    }
    for (block, ends) in ends.chunks(BLOCK).enumerate() {
        let scale = scales[block / 16 * 16 + block % 4 * 4 + block % 16 / 4];
        let most = ends.iter().map(|[low, high]| low.abs().max(high.abs()));
        let least = ends
            .iter()
            .map(|[low, high]| if low * high <= 0.0 { 0.0 } else { low.abs().min(high.abs()) });
        let (most, least) = (most.fold(0.0, f32::max), least.fold(0.0, f32::max));
        let byte = |amax: f32| match form {
            Activations::Mxfp4 => mx::ScaleRule::Even.scale_byte(amax),
            _ => mx::e8m0::e4m3_scale_byte(amax),
        };
        assert!((byte(least)..=byte(most)).contains(&scale), "{least} to {most}: {scale}");
        let inverse = mx::e8m0::reciprocal(scale);
        for (i, [low, high]) in ends.iter().enumerate() {
            let at = block * BLOCK + i;
            let round = |x: f32| match form {
                Activations::Mxfp4 => {
                    mx::e2m1::VALUES[mx::e2m1::encode(x * inverse, mx::Ties::Even) as usize]
                }
                _ => mx::e4m3::round(x * inverse),
            };
            let value = match form {
                Activations::Mxfp4 => {
                    mx::e2m1::VALUES[(codes[at / 2] >> (at % 2 * 4) & 15) as usize]
                }
                _ => mx::e4m3::decode(codes[at]),
            };
            assert!(
                round(*low) <= value && value <= round(*high),
                "unit {at}: {low} to {high} over 2^{}: {value}",
                scale as i32 - 127
            );
        }
    }
    for block in h.len() / BLOCK..scales.len() {
        assert_eq!(scales[block / 16 * 16 + block % 4 * 4 + block % 16 / 4], 127);
    }
}

fn check(gpu: &Gpu, case: &Case, form: Activations, hidden: usize, width: usize) {
    let mut random = Random(hidden as u64);
    let x = Operand::random(&mut random, form, case.rows(), hidden);
    let matrices: Vec<Matrix> =
        (0..case.experts).map(|_| random.matrix(2 * width, hidden)).collect();
    let found = run(gpu, case, &x, &matrices, RowTiles::Few);
    let dense: Vec<_> = matrices.iter().map(values).collect();
    for (pair, (codes, scales)) in found.iter().enumerate() {
        let (x, w) = (x.row(pair / case.top_k), &dense[case.chosen[pair] as usize]);
        let h: Vec<_> = (0..width).map(|unit| swiglu(x, &w[unit], &w[width + unit])).collect();
        check_row(form, &h, codes, scales);
    }
    for tiles in [RowTiles::Some, RowTiles::Many] {
        assert!(run(gpu, case, &x, &matrices, tiles) == found, "{tiles:?}");
    }
    for row in [0, case.rows() / 2].into_iter().filter(|&row| row < case.rows()) {
        let pairs = row * case.top_k..(row + 1) * case.top_k;
        let alone = Case { chosen: case.chosen[pairs.clone()].to_vec(), ..*case };
        let alone = run(gpu, &alone, &x.pick(&[row]), &matrices, RowTiles::Few);
        assert!(alone == found[pairs], "row {row} alone differs");
    }
}

#[test]
fn is_the_formula_rounded() {
    let gpu = device::gpu();
    for form in FORMS {
        check(&gpu, &Case::random(1, 20, 2, 5), form, 1184, 96);
        check(&gpu, &Case::random(2, 3, 3, 3), form, 32, 32);
    }
}

#[test]
fn ragged_experts_and_long_rows() {
    let gpu = device::gpu();
    for form in FORMS {
        check(&gpu, &Case::random(1, 0, 2, 5), form, 64, 32);
        check(&gpu, &Case::same(110, 3, 4), form, 160, 32);
        check(&gpu, &Case::same(70, 3, 4), form, 160, 32);
        check(&gpu, &Case::same(40, 3, 4), form, 160, 32);
        for rows in [20, 24, 25, 33] {
            check(&gpu, &Case::same(rows, 3, 4), form, 160, 32);
        }
        check(&gpu, &Case::random(4, 4, 1, 2), form, 4640, 32);
        check(&gpu, &Case::same(50, 0, 1), form, 4640, 32);
        check(&gpu, &Case::random(5, 2, 2, 2), form, 256, 544);
    }
}

/// Of each number of rows below the bound, and of the bound.
fn check_by_pair(gpu: &Gpu, case: &Case, form: Activations, hidden: usize, width: usize) {
    let mut random = Random((hidden + case.top_k) as u64);
    let x = Operand::random(&mut random, form, case.rows(), hidden);
    let matrices: Vec<Matrix> =
        (0..case.experts).map(|_| random.matrix(2 * width, hidden)).collect();
    let sorted = run(gpu, case, &x, &matrices, RowTiles::Few);
    for rows in 0..=case.rows() {
        let found = run_by_pair(gpu, case, &x, &matrices, rows);
        assert!(found == sorted[..rows * case.top_k], "{rows} of {} rows", case.rows());
    }
}

#[test]
fn pairs_that_are_not_sorted_have_the_same_bits() {
    let gpu = device::gpu();
    for form in FORMS {
        for top_k in 1..=8 {
            // Rows share experts.
            let case = Case::random(top_k as u64, 1 + top_k % 4, top_k, top_k + 1);
            let (hidden, width) = [(32, 32), (288, 96), (1184, 32), (544, 160)][top_k / 2 % 4];
            check_by_pair(&gpu, &case, form, hidden, width);
        }
        check_by_pair(&gpu, &Case::random(9, 1, 8, 11), form, 4640, 32);
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("is_the_formula_rounded");
    device::in_every_schedule("pairs_that_are_not_sorted_have_the_same_bits");
}
