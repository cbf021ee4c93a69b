//! A rank's part of a weight, in the format of the file.

/// Row-major weights in one of the checkpoint's formats.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded {
    /// BF16 bits.
    Bf16(Vec<u16>),
    /// F32.
    F32(Vec<f32>),
    /// MXFP4: two E2M1 codes a byte (even element low), an E8M0 byte per 32 elements of a row.
    Mxfp4 {
        /// `rows * cols / 2` bytes.
        packed: Vec<u8>,
        /// `rows * cols / 32` bytes, none of them 0xFF.
        scales: Vec<u8>,
    },
    /// INT4 groups: two offset-binary nibbles a byte (even element low), a BF16 scale per 32
    /// elements of a row.
    Int4 {
        /// `rows * cols / 2` bytes.
        packed: Vec<u8>,
        /// `rows * cols / 32` BF16 bits, all finite.
        scales: Vec<u16>,
    },
}

/// A linear layer's weight `[rows = outputs, cols = inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The weights.
    pub data: Encoded,
}

impl Matrix {
    /// Bytes the weights take in this form.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Encoded::Bf16(values) => values.len() * 2,
            Encoded::F32(values) => values.len() * 4,
            Encoded::Mxfp4 { packed, scales } => packed.len() + scales.len(),
            Encoded::Int4 { packed, scales } => packed.len() + scales.len() * 2,
        }
    }

    /// Writes row `row` as values to `out`.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `cols` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        let at = |per: usize| row * self.cols / per..(row + 1) * self.cols / per;
        match &self.data {
            Encoded::Bf16(values) => {
                for (out, &bits) in out.iter_mut().zip(&values[at(1)]) {
                    *out = mx::bf16::to_f32(bits);
                }
            }
            Encoded::F32(values) => out.copy_from_slice(&values[at(1)]),
            Encoded::Mxfp4 { packed, scales } => {
                mx::dequantize_mxfp4(&packed[at(2)], &scales[at(mx::BLOCK)], out);
            }
            Encoded::Int4 { packed, scales } => {
                mx::int4::dequantize(&packed[at(2)], &scales[at(mx::int4::GROUP)], out);
            }
        }
    }

    /// Appends another matrix's rows; does nothing and returns false if widths or formats differ.
    #[must_use]
    pub fn stack(&mut self, other: &Matrix) -> bool {
        if self.cols != other.cols {
            return false;
        }
        match (&mut self.data, &other.data) {
            (Encoded::Bf16(a), Encoded::Bf16(b)) => a.extend(b),
            (Encoded::F32(a), Encoded::F32(b)) => a.extend(b),
            (
                Encoded::Mxfp4 { packed, scales },
                Encoded::Mxfp4 { packed: more, scales: more_scales },
            ) => {
                packed.extend(more);
                scales.extend(more_scales);
            }
            (
                Encoded::Int4 { packed, scales },
                Encoded::Int4 { packed: more, scales: more_scales },
            ) => {
                packed.extend(more);
                scales.extend(more_scales);
            }
            _ => return false,
        }
        self.rows += other.rows;
        true
    }
}
