//! Random operands of the MXFP4 kernels, and their values.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use checkpoint::{Activations, Encoded, Matrix};
use hip::kernels::mxfp4::{Activated, RowOrder, Tiles, Weights};
use hip::{Memory, Staging};
use mx::{BLOCK, ScaleRule, Ties};

use crate::device::Gpu;

/// A generator (splitmix64): one seed, one test case.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Random codes; scales from 2^-9 to 2^-2, and of each second 512 columns to 2^4 in every third
    /// 16 rows: kernels for sm_90 expand those in another way, and waves must agree which.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let packed = (0..rows * cols / 2).map(|_| self.bits() as u8).collect();
        let blocks = cols / BLOCK;
        let wide = |i: usize| i % blocks / 16 % 2 == 1 && (i / blocks / 16).is_multiple_of(3);
        let scales = (0..rows * blocks)
            .map(|i| 118 + self.below(if wide(i) { 14 } else { 8 }) as u8)
            .collect();
        Matrix { rows, cols, data: Encoded::Mxfp4 { packed, scales } }
    }
}

/// Rows of activations in one of the kernels' forms, with their values.
pub struct Operand {
    pub form: Activations,
    pub width: usize,
    pub codes: Vec<u8>,
    pub scales: Vec<u32>,
    pub values: Vec<f32>,
}

/// The E4M3 code of a value that has one.
pub fn e4m3_code(value: f32) -> u8 {
    let code = (0..=255u8).find(|&c| mx::e4m3::decode(c).to_bits() == value.to_bits());
    code.unwrap_or_else(|| panic!("{value} is no E4M3 value"))
}

/// A row's scale bytes in the kernels' order: a word for each group of 32 in 512 values, a byte for
/// each 128.
pub fn scale_words(bytes: &[u8]) -> Vec<u32> {
    let quads = bytes.len().div_ceil(16);
    let byte = |block: usize| bytes.get(block).copied().unwrap_or(127);
    (0..quads * 4)
        .map(|i| u32::from_le_bytes([0, 1, 2, 3].map(|slab| byte(i / 4 * 16 + slab * 4 + i % 4))))
        .collect()
}

impl Operand {
    /// Random rows, each with a magnitude of its own.
    pub fn random(random: &mut Random, form: Activations, rows: usize, width: usize) -> Operand {
        Operand::sized(random, form, rows, width, 0)
    }

    /// The same times `2^exponent`.
    pub fn sized(
        random: &mut Random,
        form: Activations,
        rows: usize,
        width: usize,
        exponent: i32,
    ) -> Operand {
        let (mut codes, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rows {
            let size = 2f32.powi(random.below(7) as i32 - 3 + exponent);
            let mut row: Vec<f32> = (0..width).map(|_| random.value() * size).collect();
            let mut bytes = vec![0u8; width / BLOCK];
            match form {
                Activations::Mxfp4 => {
                    let mut packed = vec![0; width / 2];
                    let rule = ScaleRule::Even;
                    mx::quantize_mxfp4(&row, rule, Ties::Even, &mut packed, &mut bytes);
                    mx::dequantize_mxfp4(&packed, &bytes, &mut row);
                    codes.extend(packed);
                }
                Activations::Mxfp8 => {
                    for (block, byte) in row.chunks_mut(BLOCK).zip(&mut bytes) {
                        *byte = mx::e8m0::e4m3_scale_byte(amax(block));
                        let (inverse, scale) =
                            (mx::e8m0::reciprocal(*byte), mx::e8m0::decode(*byte));
                        for x in block {
                            let value = mx::e4m3::round(*x * inverse);
                            codes.push(e4m3_code(value));
                            *x = value * scale;
                        }
                    }
                }
                Activations::Bf16 => {
                    for x in &mut row {
                        *x = mx::bf16::round(*x);
                        codes.extend(mx::bf16::from_f32(*x).to_le_bytes());
                    }
                }
            }
            if form != Activations::Bf16 {
                scales.extend(scale_words(&bytes));
            }
            values.extend(row);
        }
        Operand { form, width, codes, scales, values }
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// The rows of `rows`, in that order.
    pub fn pick(&self, rows: &[usize]) -> Operand {
        let count = self.values.len() / self.width.max(1);
        let (codes, scales) = (self.codes.len() / count, self.scales.len() / count);
        let take = |row: &usize| self.codes[row * codes..(row + 1) * codes].to_vec();
        let words = |row: &usize| self.scales[row * scales..(row + 1) * scales].to_vec();
        Operand {
            codes: rows.iter().flat_map(take).collect(),
            scales: rows.iter().flat_map(words).collect(),
            values: rows.iter().flat_map(|&row| self.row(row).to_vec()).collect(),
            ..*self
        }
    }

    pub fn upload(&self, gpu: &Gpu) -> (Memory, Memory) {
        (gpu.upload(&self.codes), gpu.upload(&self.scales))
    }
}

pub fn amax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |a, x| a.max(x.abs()))
}

/// Matrices of one shape in device memory, by way of a staging memory of a few tiles.
pub fn upload_matrices(gpu: &Gpu, matrices: &[Matrix], order: RowOrder) -> (Memory, Memory) {
    let tiles = |m| Tiles::new(m, order, gpu.device.platform()).unwrap();
    let all: Vec<Tiles<'_>> = matrices.iter().map(tiles).collect();
    let (count, (code_bytes, scale_bytes)) = (all[0].count(), all[0].bytes());
    let mut staging = Staging::new(&gpu.device, 3 * code_bytes.max(scale_bytes)).unwrap();
    let codes = gpu.empty::<u8>(all.len() * count * code_bytes);
    let scales = gpu.empty::<u8>(all.len() * count * scale_bytes);
    let (stream, tiles) = (&gpu.stream, all.len() * count);
    let write = |i: usize, out: &mut [u8]| all[i / count].codes(i % count, out);
    staging.upload(stream, &codes, 0, tiles, code_bytes, write).unwrap();
    let write = |i: usize, out: &mut [u8]| all[i / count].scales(i % count, out);
    staging.upload(stream, &scales, 0, tiles, scale_bytes, write).unwrap();
    (codes, scales)
}

pub fn activated(
    form: Activations,
    width: usize,
    (codes, scales): &(Memory, Memory),
) -> Activated<'_> {
    Activated { form, width, codes, scales }
}

pub fn weights(rows: usize, cols: usize, (codes, scales): &(Memory, Memory)) -> Weights<'_> {
    Weights { rows, cols, codes, scales }
}

/// The product of a row of activations and a row of a matrix, and how far a sum in f32 may be from
/// it: products of codes are exact, each of the at most k additions rounds by at most 2^-24 of a
/// sum that the magnitudes' sum bounds.
pub fn dot(x: &[f32], w: &[f32]) -> (f64, f64) {
    let products = || x.iter().zip(w).map(|(&x, &w)| x as f64 * w as f64);
    let magnitudes: f64 = products().map(f64::abs).sum();
    (products().sum(), x.len() as f64 * 2f64.powi(-24) * magnitudes)
}

pub fn values(matrix: &Matrix) -> Vec<Vec<f32>> {
    let row = |r| {
        let mut out = vec![0.0; matrix.cols];
        matrix.row(r, &mut out);
        out
    };
    (0..matrix.rows).map(row).collect()
}

pub const FORMS: [Activations; 3] = [Activations::Mxfp4, Activations::Mxfp8, Activations::Bf16];
