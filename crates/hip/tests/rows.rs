//! The kernels that move or combine rows: embed, select, swiglu, sum_ranks, gather_columns.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod random;

use hip::kernels::Rows;
use hip::kernels::embed::{NONE, Tokens, embed};
use hip::kernels::ranks::{Parts, gather_columns, sum_ranks};
use hip::kernels::select::select;
use hip::kernels::swiglu::swiglu;
use mx::bf16::to_f32;
use random::Random;

#[test]
fn embeddings_are_the_tables_rows() {
    let gpu = device::gpu();
    let mut random = Random::new(1);
    for (rows, vocab, width) in [(0, 5, 32), (1, 1, 32), (7, 50, 2080), (3, 33, 384)] {
        let table = random.bf16s(vocab * width, 2.0);
        let mut tokens: Vec<u32> = (0..rows).map(|_| random.below(vocab) as u32).collect();
        let memory = gpu.upload_dense(&table, vocab, width);
        let ids = gpu.upload_into(&tokens, rows + 1);
        // Every other row's token is one that was drawn; of those, an impossible one counts as 0.
        let mut drawn: Vec<u32> = (0..9).map(|_| random.below(vocab) as u32).collect();
        drawn[4] = vocab as u32;
        let carried: Vec<u32> =
            (0..rows as u32).map(|row| if row % 2 == 0 { NONE } else { 7 - row }).collect();
        for (token, &carried) in tokens.iter_mut().zip(&carried).filter(|(_, c)| **c != NONE) {
            *token = if carried == 4 { 0 } else { drawn[carried as usize] };
        }
        let (places, drawn) = (gpu.upload_into(&carried, rows + 1), gpu.upload(&drawn));
        let count = gpu.upload(&[rows as u32]);
        let out = gpu.poisoned((rows + 1) * width);
        let bound = Rows { count: count.ptr(), bound: rows + 1 };
        let given = Tokens { ids: ids.ptr(), carried: places.ptr(), drawn: drawn.ptr() };
        let shape = [vocab, width];
        embed(&gpu.stream, &gpu.kernels, bound, given, &memory, &out, shape).unwrap();
        assert_eq!(gpu.download::<u32>(&ids)[..rows], tokens);
        let values: Vec<f32> = gpu.download(&out);
        for (token, row) in tokens.iter().zip(values.chunks(width)) {
            let own = &table[*token as usize * width..][..width];
            assert!(own.iter().zip(row).all(|(code, value)| to_f32(*code) == *value));
        }
        assert!(values[rows * width..].iter().all(|v| v.is_nan()));
    }
}

#[test]
fn selected_rows_are_copies() {
    let gpu = device::gpu();
    let mut random = Random::new(2);
    for (count, rows, width) in [(0, 3, 8), (1, 1, 8), (4, 9, 2056)] {
        let x = random.bf16s(rows * width, 2.0);
        let indices: Vec<u32> = (0..count).map(|_| random.below(rows) as u32).collect();
        let memory = gpu.upload(&x);
        let numbers = gpu.upload_into(&indices, count + 1);
        let number = gpu.upload(&[count as u32]);
        let out = gpu.poisoned((count + 1) * width / 2);
        let bound = Rows { count: number.ptr(), bound: count + 1 };
        select(&gpu.stream, &gpu.kernels, bound, numbers.ptr(), &memory, &out, width).unwrap();
        let values: Vec<u16> = gpu.download(&out);
        for (index, row) in indices.iter().zip(values.chunks(width)) {
            assert_eq!(row, &x[*index as usize * width..][..width]);
        }
        assert!(values[count * width..].iter().all(|&v| v == u16::MAX));
    }
}

/// Bound: e^-g is good to 3 * 2^-23 + |g| * 2^-24 (its argument's product rounds once, the
/// instruction by an ulp or two), division and product round once each, bf16 by 2^-8. Below the
/// smallest normal number only the absolute error counts.
#[test]
fn gated_activations_are_right() {
    let gpu = device::gpu();
    let mut random = Random::new(3);
    for (rows, width) in [(0, 4), (1, 4), (3, 1028), (2, 384)] {
        let mut x = random.f32s(rows * 2 * width, 8.0);
        if rows > 0 {
            x[..4].copy_from_slice(&[-200.0, 200.0, 0.0, -88.0]);
        }
        let memory = gpu.upload_into(&x, (rows + 1) * 2 * width);
        let count = gpu.upload(&[rows as u32]);
        let out = gpu.poisoned((rows + 1) * width / 2);
        let bound = Rows { count: count.ptr(), bound: rows + 1 };
        swiglu(&gpu.stream, &gpu.kernels, bound, &memory, &out, width).unwrap();
        let values: Vec<u16> = gpu.download(&out);
        for (x, row) in x.chunks(2 * width).zip(values.chunks(width)) {
            for i in 0..width {
                let (g, u) = (f64::from(x[i]), f64::from(x[width + i]));
                let exact = g / (1.0 + (-g).exp()) * u;
                let error = (10.0 + g.abs()) * 2f64.powi(-24) + 2f64.powi(-8);
                let found = f64::from(to_f32(row[i]));
                let bound = error * exact.abs() + f64::from(f32::MIN_POSITIVE);
                assert!((found - exact).abs() <= bound, "g {g} u {u}: {found} for {exact}");
            }
        }
        assert!(values[rows * width..].iter().all(|&v| v == u16::MAX));
    }
}

#[test]
fn ranks_are_added_and_joined_in_order() {
    let gpu = device::gpu();
    let mut random = Random::new(4);
    for (rows, width, ranks) in [(0, 4, 2), (1, 4, 1), (3, 1028, 4), (2, 64, 8)] {
        let stride = (rows + 1) * width;
        let x = random.f32s(ranks * stride, 1e4);
        let memory = gpu.upload(&x);
        let count = gpu.upload(&[rows as u32]);
        let bound = Rows { count: count.ptr(), bound: rows + 1 };
        let parts = Parts { memory: &memory, stride, width, ranks };
        let sums = gpu.poisoned(stride);
        sum_ranks(&gpu.stream, &gpu.kernels, bound, parts, &sums).unwrap();
        let joined = gpu.poisoned(stride * ranks);
        gather_columns(&gpu.stream, &gpu.kernels, bound, parts, &joined).unwrap();
        let (sums, joined): (Vec<f32>, Vec<f32>) = (gpu.download(&sums), gpu.download(&joined));
        for i in 0..rows * width {
            let sum = (1..ranks).fold(x[i], |sum, rank| sum + x[rank * stride + i]);
            assert_eq!(sums[i], sum);
            for rank in 0..ranks {
                let at = (i / width * ranks + rank) * width + i % width;
                assert_eq!(joined[at], x[rank * stride + i]);
            }
        }
        assert!(sums[rows * width..].iter().all(|v| v.is_nan()));
        assert!(joined[rows * width * ranks..].iter().all(|v| v.is_nan()));
    }
}
