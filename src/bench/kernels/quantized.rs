//! Operands in MX formats, `quantize`, and products with a single MXFP4 matrix.

use checkpoint::Activations;
use hip::kernels::matmul_mxfp4::matmul_mxfp4;
use hip::kernels::mxfp4::{
    Activated, RowTiles, Weights, activated_bytes, code, slot, weight_bytes,
};
use hip::kernels::quantize::quantize;
use hip::{Error, Memory, Platform};
use mx::{BLOCK, ScaleRule, Ties, bf16, e2m1, e4m3, e8m0};

use super::case::{Case, Cost, Rate, Work};
use super::check::{close, dot, same, sample, words_written};
use super::gpu::{Bytes, Count, Gpu, Operand, Random};
use super::shapes::Shapes;

pub(super) const FORMS: [Activations; 3] =
    [Activations::Bf16, Activations::Mxfp8, Activations::Mxfp4];

pub(super) fn name(form: Activations) -> &'static str {
    match form {
        Activations::Bf16 => "bf16",
        Activations::Mxfp8 => "mxfp8",
        Activations::Mxfp4 => "mxfp4",
    }
}

pub(super) fn rate(form: Activations) -> Rate {
    match form {
        Activations::Bf16 => Rate::Bf16,
        Activations::Mxfp8 => Rate::Fp8,
        Activations::Mxfp4 => Rate::Fp4,
    }
}

/// Where a row's scale of block `block` stands among its scale bytes.
pub(super) fn scale_at(block: usize) -> usize {
    block / 16 * 16 + block % 4 * 4 + block % 16 / 4
}

/// MXFP4 matrices in the kernels' order: random codes, and scales small enough for sums over
/// thousands of columns to be of order 1.
pub(super) struct Matrices {
    rows: usize,
    cols: usize,
    codes: Operand,
    scales: Operand,
    platform: Platform,
}

impl Matrices {
    /// `cols` must be a multiple of 128: padding would have to be zeros.
    pub(super) fn new(
        gpu: &Gpu,
        random: &mut Random,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Matrices, Error> {
        let (codes, scales) = weight_bytes(rows, cols);
        let codes = Operand::new(gpu, count * codes, 16, |out| {
            out.extend(random.bits().to_ne_bytes());
            out.extend(random.bits().to_ne_bytes());
        })?;
        let scales = Operand::new(gpu, count * scales, 16, |out| {
            out.extend([(); 16].map(|()| 116 + random.below(4) as u8));
        })?;
        Ok(Matrices { rows, cols, codes, scales, platform: gpu.device.platform() })
    }

    pub(super) fn copy(&self, gpu: &Gpu) -> Result<Matrices, Error> {
        Ok(Matrices { codes: self.codes.copy(gpu)?, scales: self.scales.copy(gpu)?, ..*self })
    }

    /// Bytes of one matrix.
    pub(super) fn bytes(&self) -> usize {
        let (codes, scales) = weight_bytes(self.rows, self.cols);
        codes + scales
    }

    pub(super) fn weights(&self) -> Weights<'_> {
        let (codes, scales) = (&self.codes.memory, &self.scales.memory);
        Weights { rows: self.rows, cols: self.cols, codes, scales }
    }

    /// Values of a row of matrix `index`, as it stands in the kernels' order: tiles of 16 rows, in
    /// each slabs of 128 columns, in each 64 chunks of 32 columns; of scales 64 words for each 512
    /// columns, a byte for each slab.
    pub(super) fn row(&self, index: usize, row: usize) -> Vec<f32> {
        let tile = index * (self.rows.next_multiple_of(64) / 16) + row / 16;
        let (slabs, quads) = (self.cols.div_ceil(128), self.cols.div_ceil(512));
        let value = |column: usize| {
            let (word, scale) = places(self.platform, row % 16, column);
            let at = tile * slabs * 1024 + 4 * word;
            let word = [0, 1, 2, 3].map(|byte| self.codes.u8(at + byte));
            let code = code(self.platform, u32::from_le_bytes(word), column % 8);
            let scale = self.scales.u8(tile * quads * 256 + scale);
            e2m1::VALUES[usize::from(code)] * e8m0::decode(scale)
        };
        (0..self.cols).map(value).collect()
    }
}

/// Which word of a tile's codes has that of a row and column, and which byte of its scales.
fn places(platform: Platform, row: usize, column: usize) -> (usize, usize) {
    let (block, within) = (column / BLOCK, column % BLOCK);
    let slot = slot(platform, row, block % 4);
    let word = (block / 4 * 64 + slot) * 4 + within / 8;
    (word, (block / 16 * 64 + slot) * 4 + block % 16 / 4)
}

/// Rows of activations on the device, in any form.
pub(super) struct Rows {
    pub(super) form: Activations,
    pub(super) width: usize,
    pub(super) codes: Memory,
    pub(super) scales: Memory,
}

/// The same after a download.
pub(super) struct HostRows {
    form: Activations,
    width: usize,
    pub(super) codes: Bytes,
    pub(super) scales: Bytes,
}

impl Rows {
    /// Room for `count` rows.
    pub(super) fn new(
        gpu: &Gpu,
        form: Activations,
        count: usize,
        width: usize,
    ) -> Result<Rows, Error> {
        let (codes, scales) = activated_bytes(form, count, width);
        Ok(Rows { form, width, codes: gpu.empty(codes)?, scales: gpu.empty(scales)? })
    }

    /// Rows of what `x`, bf16, has.
    pub(super) fn from_bf16(
        gpu: &Gpu,
        form: Activations,
        count: &Count,
        width: usize,
        x: &Operand,
    ) -> Result<Rows, Error> {
        let rows = Rows::new(gpu, form, count.rows().bound, width)?;
        match form {
            Activations::Bf16 => gpu.stream.copy(&x.memory, &rows.codes)?,
            _ => quantize(&gpu.stream, &gpu.kernels, count.rows(), &x.memory, rows.activated())?,
        }
        Ok(rows)
    }

    pub(super) fn activated(&self) -> Activated<'_> {
        let Rows { form, width, codes, scales } = self;
        Activated { form: *form, width: *width, codes, scales }
    }

    pub(super) fn outputs(&self) -> Vec<&Memory> {
        match self.form {
            Activations::Bf16 => vec![&self.codes],
            _ => vec![&self.codes, &self.scales],
        }
    }

    pub(super) fn download(&self, gpu: &Gpu) -> Result<HostRows, Error> {
        let Rows { form, width, .. } = *self;
        let (codes, scales) = (gpu.download(&self.codes)?, gpu.download(&self.scales)?);
        Ok(HostRows { form, width, codes, scales })
    }
}

impl HostRows {
    /// Scale byte of a block.
    pub(super) fn scale(&self, row: usize, block: usize) -> u8 {
        self.scales.0[row * self.width.div_ceil(512) * 16 + scale_at(block)]
    }

    /// A value without its scale.
    pub(super) fn code(&self, row: usize, column: usize) -> f32 {
        let at = row * self.width + column;
        match self.form {
            Activations::Bf16 => self.codes.bf16(at),
            Activations::Mxfp8 => e4m3::decode(self.codes.0[at]),
            Activations::Mxfp4 => {
                e2m1::VALUES[usize::from(self.codes.0[at / 2] >> (at % 2 * 4) & 15)]
            }
        }
    }

    pub(super) fn row(&self, row: usize) -> Vec<f32> {
        let scale = |column: usize| match self.form {
            Activations::Bf16 => 1.0,
            _ => e8m0::decode(self.scale(row, column / BLOCK)),
        };
        (0..self.width).map(|column| self.code(row, column) * scale(column)).collect()
    }

    /// The scale that the form's rule gives a block whose largest magnitude is `amax`.
    pub(super) fn rule(&self, amax: f32) -> u8 {
        match self.form {
            Activations::Mxfp4 => ScaleRule::Even.scale_byte(amax),
            _ => e8m0::e4m3_scale_byte(amax),
        }
    }

    /// `x` over the scale, as the form rounds it.
    pub(super) fn round(&self, x: f32, scale: u8) -> f32 {
        match self.form {
            Activations::Bf16 => bf16::round(x),
            Activations::Mxfp8 => e4m3::round(x * e8m0::reciprocal(scale)),
            Activations::Mxfp4 => {
                e2m1::VALUES[usize::from(e2m1::encode(x * e8m0::reciprocal(scale), Ties::Even))]
            }
        }
    }
}

/// `x . w`.
pub(super) fn product(x: &[f32], w: &[f32]) -> super::check::Exact {
    dot(x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)))
}

struct Quantize {
    count: Count,
    x: Operand,
    out: Rows,
}

impl Work for Quantize {
    fn cost(&self) -> Cost {
        let rows = self.count.rows().bound;
        let (codes, scales) = activated_bytes(self.out.form, rows, self.out.width);
        Cost::of_bytes(2 * rows * self.out.width + codes + scales)
    }

    fn outputs(&self) -> Vec<&Memory> {
        self.out.outputs()
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let (rows, out) = (self.count.rows(), self.out.activated());
        quantize(&gpu.stream, &gpu.kernels, rows, &self.x.memory, out)
    }

    /// Every value: the same bits as the formats' crate.
    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (out, width) = (self.out.download(gpu)?, self.out.width);
        for row in 0..self.count.rows().bound {
            for block in 0..width / BLOCK {
                let first = row * width + block * BLOCK;
                let x: Vec<f32> = (first..first + BLOCK).map(|i| self.x.bf16(i)).collect();
                let scale = out.rule(x.iter().fold(0.0, |amax, x| amax.max(x.abs())));
                same("scales", &[row, block], out.scale(row, block), scale)?;
                for (i, &x) in x.iter().enumerate() {
                    let column = block * BLOCK + i;
                    let (found, expected) = (out.code(row, column), out.round(x, scale));
                    same("codes", &[row, column], found, expected)?;
                }
            }
        }
        Ok(())
    }
}

struct Matmul {
    tiles: RowTiles,
    count: Count,
    x: Rows,
    weights: Vec<Matrices>,
    out: Memory,
}

impl Matmul {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        form: Activations,
        [rows, n, k]: [usize; 3],
    ) -> Result<Matmul, Error> {
        let count = gpu.count(rows)?;
        let x = Operand::bf16s(gpu, random, rows * k, 1.0)?;
        let x = Rows::from_bf16(gpu, form, &count, k, &x)?;
        let mut weights = vec![Matrices::new(gpu, random, 1, n, k)?];
        for _ in 1..gpu.sets(weights[0].bytes()) {
            weights.push(weights[0].copy(gpu)?);
        }
        let tiles = RowTiles::for_rows(rows, 1);
        gpu.stream.synchronize()?;
        Ok(Matmul { tiles, count, x, weights, out: gpu.empty(rows * n * 4)? })
    }
}

impl Work for Matmul {
    fn cost(&self) -> Cost {
        let (rows, matrix) = (self.count.rows().bound, &self.weights[0]);
        let (codes, scales) = activated_bytes(self.x.form, rows, self.x.width);
        Cost {
            bytes: matrix.bytes() + codes + scales + 4 * rows * matrix.rows,
            in_place: 0,
            operations: 2 * rows * matrix.rows * matrix.cols,
            rate: rate(self.x.form),
        }
    }

    fn sets(&self) -> usize {
        self.weights.len()
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error> {
        let (rows, x, w) = (self.count.rows(), self.x.activated(), self.weights[set].weights());
        matmul_mxfp4(&gpu.stream, &gpu.kernels, rows, self.tiles, x, w, &self.out)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (out, x, n) = (gpu.download(&self.out)?, self.x.download(gpu)?, self.weights[0].rows);
        words_written("out", &out)?;
        for row in sample(self.count.rows().bound, 2, n) {
            let x = x.row(row);
            for column in sample(n, 6, row) {
                let exact = product(&x, &self.weights[0].row(0, column));
                close("out", &[row, column], out.f32(row * n + column), exact)?;
            }
        }
        Ok(())
    }
}

/// `quantize`, and the MLP of the dense layers, which is MXFP4.
pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    for form in [Activations::Mxfp8, Activations::Mxfp4] {
        for &rows in tokens {
            let text = format!("{rows} x {}", s.hidden);
            let build = move |gpu: &Gpu, random: &mut Random| {
                Ok(Quantize {
                    count: gpu.count(rows)?,
                    x: Operand::bf16s(gpu, random, rows * s.hidden, 3.0)?,
                    out: Rows::new(gpu, form, rows, s.hidden)?,
                })
            };
            cases.push(Case::new(format!("quantize {}", name(form)), text, build));
        }
    }
    for (part, n, k) in [("gate_up", 2 * s.dense, s.hidden), ("down", s.hidden, s.dense)] {
        for form in FORMS {
            for &rows in tokens {
                let text = format!("{rows} x {n} x {k}");
                let build = move |gpu: &Gpu, random: &mut Random| {
                    Ok(Matmul::new(gpu, random, form, [rows, n, k])?)
                };
                let kernel = format!("matmul_mxfp4 dense {part} {}", name(form));
                cases.push(Case::new(kernel, text, build));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::{Encoded, Matrix};
    use hip::kernels::mxfp4::{RowOrder, Tiles};

    use super::*;

    #[test]
    fn codes_and_scales_are_found_where_each_platform_has_them() {
        let mut random = Random::new(2);
        let packed: Vec<u8> = (0..64 * 320).map(|_| random.bits() as u8).collect();
        let bytes: Vec<u8> = (0..64 * 20).map(|_| random.bits() as u8).collect();
        let data = Encoded::Mxfp4 { packed: packed.clone(), scales: bytes.clone() };
        let matrix = Matrix { rows: 64, cols: 640, data };
        for platform in [Platform::Hip, Platform::Cuda] {
            let tiles = Tiles::new(&matrix, RowOrder::Plain, platform).unwrap();
            let (mut codes, mut scales) = (vec![0; tiles.bytes().0], vec![0; tiles.bytes().1]);
            tiles.codes(2, &mut codes);
            tiles.scales(2, &mut scales);
            for (row, column) in (0..16).flat_map(|row| (0..640).map(move |c| (row, c))) {
                let (word, scale) = places(platform, row, column);
                let word = u32::from_le_bytes(codes[4 * word..][..4].try_into().unwrap());
                let expected = packed[(32 + row) * 320 + column / 2] >> (column % 2 * 4) & 15;
                assert_eq!(code(platform, word, column % 8), expected, "{platform:?}");
                let expected = bytes[(32 + row) * 20 + column / BLOCK];
                assert_eq!(scales[scale], expected, "{platform:?}");
            }
        }
    }
}
