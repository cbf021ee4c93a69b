//! How `kernels/mxfp4.h` wants MXFP4 matrices and activations to stand in memory.

use checkpoint::{Activations, Encoded, Matrix};
use mx::BLOCK;
use rayon::prelude::*;

use super::{check_room, check_shape};
use crate::{Error, Memory};

/// Rows of a tile.
const TILE: usize = 16;
/// Rows of the matrix that a wave multiplies with: 4 tiles.
const WAVE_ROWS: usize = 4 * TILE;
/// Values of a row in a slab: what one matrix instruction takes.
const SLAB: usize = 128;
/// Values of a row that a word of scales of each of its 4 groups covers.
const QUAD: usize = 512;

/// An MXFP4 matrix in the kernels' order of tiles.
pub struct Tiles {
    /// For each tile of 16 rows and slab of 128 columns, 64 chunks of 16 bytes.
    pub codes: Vec<u8>,
    /// For each tile and 512 columns, 64 words of 4 scale bytes.
    pub scales: Vec<u32>,
}

/// Which row of the file stands where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As in the file.
    Plain,
    /// The file has all gate rows, then all up rows; the kernel wants 32 of each in turn.
    GateUp,
}

impl RowOrder {
    /// The file's row that stands at `row` of `rows`.
    fn source(self, row: usize, rows: usize) -> usize {
        match self {
            RowOrder::Plain => row,
            RowOrder::GateUp => {
                let (block, within) = (row / WAVE_ROWS, row % WAVE_ROWS);
                let half = if within < BLOCK { 0 } else { rows / 2 };
                half + block * BLOCK + within % BLOCK
            }
        }
    }
}

impl Tiles {
    /// Puts a matrix into tiles. Its rows are filled up to a multiple of 64 and its columns to one
    /// of 128 (scales: 512) with zeros.
    ///
    /// # Errors
    /// A matrix that is not MXFP4, or gate and up rows that are not whole blocks of 32.
    pub fn new(matrix: &Matrix, order: RowOrder) -> Result<Tiles, Error> {
        let &Matrix { rows, cols, .. } = matrix;
        let Encoded::Mxfp4 { packed, scales } = &matrix.data else {
            return Err(Error::Unfit(format!("a matrix [{rows}, {cols}] is not MXFP4")));
        };
        if order == RowOrder::GateUp && !rows.is_multiple_of(2 * BLOCK) {
            return Err(Error::Unfit(format!(
                "{} expert units are not a multiple of {BLOCK}",
                rows / 2
            )));
        }
        let tiles = rows.div_ceil(WAVE_ROWS) * 4;
        let (slabs, quads) = (cols.div_ceil(SLAB), cols.div_ceil(QUAD));
        let mut out = Tiles {
            codes: vec![0; tiles * slabs * TILE * SLAB / 2],
            scales: vec![u32::from_ne_bytes([127; 4]); tiles * quads * WAVE_ROWS],
        };
        let code_tiles = out.codes.par_chunks_exact_mut(slabs * TILE * SLAB / 2);
        let scale_tiles = out.scales.par_chunks_exact_mut(quads * WAVE_ROWS);
        code_tiles.zip(scale_tiles).enumerate().for_each(|(tile, (codes, words))| {
            for place in 0..TILE.min(rows.saturating_sub(tile * TILE)) {
                let row = order.source(tile * TILE + place, rows);
                let chunks = packed[row * cols / 2..(row + 1) * cols / 2].chunks_exact(BLOCK / 2);
                let scales = &scales[row * cols / BLOCK..(row + 1) * cols / BLOCK];
                for (block, (chunk, &scale)) in chunks.zip(scales).enumerate() {
                    let slot = block % 4 * TILE + place;
                    let at = (block / 4 * 64 + slot) * (BLOCK / 2);
                    codes[at..at + BLOCK / 2].copy_from_slice(chunk);
                    let word = &mut words[block / 16 * 64 + slot];
                    let shift = block % 16 / 4 * 8;
                    *word = *word & !(0xff << shift) | (scale as u32) << shift;
                }
            }
        });
        Ok(out)
    }
}

/// Rows of activations that multiply with MXFP4 matrices.
#[derive(Clone, Copy)]
pub struct Activated<'a> {
    /// Their form.
    pub form: Activations,
    /// Values of a row, a multiple of 32.
    pub width: usize,
    /// The values: E2M1 (two a byte), E4M3, or BF16.
    pub codes: &'a Memory,
    /// Scale bytes, in the kernels' order; not used for BF16.
    pub scales: &'a Memory,
}

/// Bytes that `rows` rows of `width` activations take: the values, and the scales.
pub fn activated_bytes(form: Activations, rows: usize, width: usize) -> (usize, usize) {
    let scales = rows * width.div_ceil(QUAD) * 16;
    match form {
        Activations::Mxfp4 => (rows * width / 2, scales),
        Activations::Mxfp8 => (rows * width, scales),
        Activations::Bf16 => (rows * width * 2, 0),
    }
}

impl Activated<'_> {
    /// Words of scales of a row.
    pub(crate) fn scale_words(&self) -> usize {
        self.width.div_ceil(QUAD) * 4
    }

    pub(crate) fn check_room(&self, kernel: &str, rows: usize) -> Result<(), Error> {
        let (codes, scales) = activated_bytes(self.form, rows, self.width);
        check_shape(kernel, self.width.is_multiple_of(BLOCK), "widths must be multiples of 32")?;
        check_room(kernel, "codes", self.codes, codes)?;
        check_room(kernel, "scales", self.scales, scales)
    }
}

/// MXFP4 matrices of one shape in device memory, one after another, each as [`Tiles`] has it.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
    /// Their codes.
    pub codes: &'a Memory,
    /// Their scales.
    pub scales: &'a Memory,
}

/// Bytes of codes and of scales of a matrix in tiles.
pub fn weight_bytes(rows: usize, cols: usize) -> (usize, usize) {
    let rows = rows.next_multiple_of(WAVE_ROWS);
    (rows * cols.next_multiple_of(SLAB) / 2, rows * cols.next_multiple_of(QUAD) / BLOCK)
}

impl Weights<'_> {
    pub(crate) fn check_room(&self, kernel: &str, count: usize) -> Result<(), Error> {
        let (codes, scales) = weight_bytes(self.rows, self.cols);
        check_shape(kernel, self.cols.is_multiple_of(BLOCK), "widths must be multiples of 32")?;
        check_room(kernel, "weights", self.codes, count * codes)?;
        check_room(kernel, "weight scales", self.scales, count * scales)
    }
}

/// How many tiles of 16 rows a workgroup takes at once. The results do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowTiles {
    /// One: decode.
    Few,
    /// Four, or two for BF16 (whose operands take more registers): weights are read once for all.
    Many,
}

impl RowTiles {
    /// The form for `pairs` rows over `matrices` matrices: many, where their mean is above 4.
    pub fn for_rows(pairs: usize, matrices: usize) -> RowTiles {
        if pairs > 4 * matrices { RowTiles::Many } else { RowTiles::Few }
    }

    /// How many they are.
    pub fn count(self, form: Activations) -> usize {
        match (self, form) {
            (RowTiles::Few, _) => 1,
            (RowTiles::Many, Activations::Bf16) => 2,
            (RowTiles::Many, _) => 4,
        }
    }
}
