//! `quantize` against `crates/mx`: the same bits.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod device;
mod numbers;

use checkpoint::Activations;
use device::Gpu;
use hip::Memory;
use hip::kernels::Rows;
use hip::kernels::mxfp4::{Activated, activated_bytes};
use hip::kernels::quantize::quantize;
use mx::{BLOCK, ScaleRule, Ties};
use numbers::{Random, amax, scale_words};

/// Values of blocks of all magnitudes, with zeros, ties, and the largest and smallest BF16.
fn rows(random: &mut Random, rows: usize, width: usize) -> Vec<u16> {
    let mut x: Vec<u16> = (0..rows * width / BLOCK)
        .flat_map(|block| {
            let size = 2f32.powi(random.below(200) as i32 - 100);
            let values: Vec<f32> = match block % 5 {
                0 => (0..32).map(|_| random.value() * size).collect(),
                1 => (0..32).map(|i| (i as f32 - 16.0) * 0.25 * size).collect(),
                2 => vec![0.0; 32],
                3 => (0..32).map(|_| random.value() * f32::MIN_POSITIVE).collect(),
                _ => (0..32).map(|i| random.value() * 10f32.powi(i - 16)).collect(),
            };
            values.into_iter().map(mx::bf16::from_f32)
        })
        .collect();
    if let [first, second, ..] = &mut x[..] {
        (*first, *second) = (0x7f7f, 0x8001); // the largest value, the smallest subnormal
    }
    x
}

fn run(gpu: &Gpu, form: Activations, x: &[u16], rows: usize, width: usize) -> (Memory, Memory) {
    let (codes, scales) = activated_bytes(form, rows + 1, width);
    let out = (gpu.poisoned(codes / 4), gpu.poisoned(scales / 4));
    let count = gpu.upload(&[rows as u32]);
    // The bound is one more than there are: the row behind the last must stay.
    let mut padded = x.to_vec();
    padded.extend(vec![0; width]);
    let rows = Rows { count: count.ptr(), bound: rows + 1 };
    let activated = Activated { form, width, codes: &out.0, scales: &out.1 };
    quantize(&gpu.stream, &gpu.kernels, rows, &gpu.upload(&padded), activated).unwrap();
    out
}

fn check(gpu: &Gpu, form: Activations, seed: u64, rows: usize, width: usize) {
    let x = self::rows(&mut Random(seed), rows, width);
    let out = run(gpu, form, &x, rows, width);
    let codes: Vec<u8> = gpu.download(&out.0);
    let scales: Vec<u32> = gpu.download(&out.1);
    let (code_bytes, scale_bytes) = activated_bytes(form, 1, width);
    for row in 0..rows {
        let values: Vec<f32> =
            x[row * width..(row + 1) * width].iter().map(|&b| mx::bf16::to_f32(b)).collect();
        let codes = &codes[row * code_bytes..(row + 1) * code_bytes];
        let scales = &scales[row * scale_bytes / 4..(row + 1) * scale_bytes / 4];
        let mut bytes = vec![0; width / BLOCK];
        if form == Activations::Mxfp4 {
            let mut packed = vec![0; code_bytes];
            mx::quantize_mxfp4(&values, ScaleRule::Even, Ties::Even, &mut packed, &mut bytes);
            assert_eq!(codes, packed, "row {row} of {rows}, width {width}");
        } else {
            let blocks = values.chunks(BLOCK).zip(codes.chunks(BLOCK)).zip(&mut bytes);
            for ((block, codes), byte) in blocks {
                *byte = mx::e8m0::e4m3_scale_byte(amax(block));
                let inverse = mx::e8m0::reciprocal(*byte);
                let expected: Vec<f32> =
                    block.iter().map(|x| mx::e4m3::round(x * inverse)).collect();
                let found: Vec<f32> = codes.iter().map(|&c| mx::e4m3::decode(c)).collect();
                assert_eq!(found, expected, "row {row} of {rows}, width {width}");
            }
        }
        assert_eq!(scales, scale_words(&bytes), "row {row} of {rows}, width {width}");
    }
    assert!(codes[rows * code_bytes..].iter().all(|&byte| byte == 0xff));
    assert!(scales[rows * scale_bytes / 4..].iter().all(|&word| word == u32::MAX));
}

#[test]
fn is_exactly_the_formats_crate() {
    let gpu = device::gpu();
    for form in [Activations::Mxfp4, Activations::Mxfp8] {
        for (seed, (rows, width)) in
            [(0, 64), (1, 32), (3, 96), (5, 544), (2, 2048), (3, 2592)].into_iter().enumerate()
        {
            check(&gpu, form, seed as u64, rows, width);
        }
    }
}

#[test]
fn in_every_schedule() {
    device::in_every_schedule("is_exactly_the_formats_crate");
}
