//! How `kernels/mxfp4.h` wants MXFP4 matrices and activations to stand in memory.

use checkpoint::{Activations, Encoded, Matrix};
use mx::BLOCK;

use super::{AT_ONCE, Rows, check_room, check_shape};
use crate::{Device, Error, Memory, Platform};

/// Rows of a tile.
const TILE: usize = 16;
/// Rows of the matrix that a wave multiplies with: 4 tiles.
const WAVE_ROWS: usize = 4 * TILE;
/// Values of a row in a slab: what one matrix instruction takes.
const SLAB: usize = 128;
/// Values of a row that a word of scales of each of its 4 groups covers.
const QUAD: usize = 512;

/// An MXFP4 matrix seen as tiles of 16 rows, in the kernels' order. Its rows are filled up to a
/// multiple of 64 and its columns to one of 128 (scales: 512) with zeros.
pub struct Tiles<'a> {
    rows: usize,
    cols: usize,
    packed: &'a [u8],
    scales: &'a [u8],
    order: RowOrder,
    packing: Packing,
}

/// How a tile's codes stand in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// For gfx950, whose matrix instructions take codes as the file has them.
    Codes,
    /// For sm_90, which makes BF16 of them, two at a time: codes `2 p` and `2 p + 1` of a word, in
    /// which bit `b` of the first stands at [`PAIRS`]`[p][b]`, and of the second 16 places on.
    Pairs,
}

/// Where shifts by 1, 4 and 7 (around the word), or for the last pair a multiplication of what the
/// shift by 7 brings, bring the bits of a code to BF16's: mantissa, exponent, sign at 6, 7, 8, 15.
const PAIRS: [[u32; 4]; 4] = [[5, 6, 7, 14], [2, 3, 4, 11], [31, 0, 1, 8], [29, 25, 26, 28]];

impl Packing {
    fn of(platform: Platform) -> Packing {
        match platform {
            Platform::Hip => Packing::Codes,
            Platform::Cuda => Packing::Pairs,
        }
    }

    /// Where among the 64 chunks of a slab, or words of scales of a quad, a row has group `group`:
    /// neighbouring lanes take neighbouring ones.
    fn slot(self, row: usize, group: usize) -> usize {
        match self {
            Packing::Codes => group * TILE + row,
            Packing::Pairs => row * 4 + group,
        }
    }

    /// Writes `chunk`, whole words of codes, to `out`.
    fn write(self, chunk: &[u8], out: &mut [u8]) {
        match self {
            Packing::Codes => out.copy_from_slice(chunk),
            Packing::Pairs => {
                for (codes, out) in chunk.chunks_exact(4).zip(out.chunks_exact_mut(4)) {
                    let word =
                        pack_pairs(u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]));
                    out.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// Where among the 64 chunks of a slab, or words of scales of a quad, a platform's kernels want row
/// `row` of a tile and group `group`, of 4.
pub fn slot(platform: Platform, row: usize, group: usize) -> usize {
    Packing::of(platform).slot(row, group)
}

/// Code `i` of the 8 in a word of codes as a platform's kernels want it.
pub fn code(platform: Platform, word: u32, i: usize) -> u8 {
    let bit = |at: usize| (word >> (at % 32) & 1) as u8;
    match Packing::of(platform) {
        Packing::Codes => (word >> (4 * i) & 15) as u8,
        Packing::Pairs => {
            let places = PAIRS[i / 2].map(|at| at as usize + i % 2 * 16);
            (0..4).map(|b| bit(places[b]) << b).sum()
        }
    }
}

/// See [`Packing::Pairs`].
fn pack_pairs(codes: u32) -> u32 {
    let mut word = 0;
    for i in 0..8 {
        for (bit, at) in PAIRS[i as usize / 2].into_iter().enumerate() {
            word |= (codes >> (4 * i + bit as u32) & 1) << ((at + i % 2 * 16) % 32);
        }
    }
    word
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

impl Tiles<'_> {
    /// Sees `matrix` as tiles for a platform's kernels.
    ///
    /// # Errors
    /// A matrix that is not MXFP4, or gate and up rows that are not whole blocks of 32.
    pub fn new(matrix: &Matrix, order: RowOrder, platform: Platform) -> Result<Tiles<'_>, Error> {
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
        Ok(Tiles { rows, cols, packed, scales, order, packing: Packing::of(platform) })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(WAVE_ROWS) * 4
    }

    /// Bytes of a tile's codes, and of its scales.
    pub fn bytes(&self) -> (usize, usize) {
        let (slabs, quads) = (self.cols.div_ceil(SLAB), self.cols.div_ceil(QUAD));
        (slabs * TILE * SLAB / 2, quads * WAVE_ROWS * 4)
    }

    /// The file's rows of tile `tile`, each with its place.
    fn places(&self, tile: usize) -> impl Iterator<Item = (usize, usize)> {
        let places = 0..TILE.min(self.rows.saturating_sub(tile * TILE));
        places.map(move |place| (place, self.order.source(tile * TILE + place, self.rows)))
    }

    /// Writes a tile's codes: for each slab of 128 columns, 64 chunks of 16 bytes.
    pub fn codes(&self, tile: usize, out: &mut [u8]) {
        const CHUNK: usize = BLOCK / 2;
        out.fill(0);
        for (place, row) in self.places(tile) {
            let codes = &self.packed[row * self.cols / 2..(row + 1) * self.cols / 2];
            for (block, chunk) in codes.chunks_exact(CHUNK).enumerate() {
                let at = (block / 4 * 64 + self.packing.slot(place, block % 4)) * CHUNK;
                self.packing.write(chunk, &mut out[at..at + CHUNK]);
            }
        }
    }

    /// Writes a tile's scales: for each 512 columns, 64 little-endian words of 4 scale bytes.
    pub fn scales(&self, tile: usize, out: &mut [u8]) {
        out.fill(127);
        for (place, row) in self.places(tile) {
            let scales = &self.scales[row * self.cols / BLOCK..(row + 1) * self.cols / BLOCK];
            for (block, &scale) in scales.iter().enumerate() {
                let word = block / 16 * 64 + self.packing.slot(place, block % 4);
                out[4 * word + block % 16 / 4] = scale;
            }
        }
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

/// How many rows a workgroup takes at once. The results do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowTiles {
    /// 16: decode. The values of k are cut into parts for its waves.
    Few,
    /// 32 of a group, of BF16 on CUDA: the rows go through LDS, where weights are ahead of their
    /// use too. Elsewhere as `Many`.
    Some,
    /// 64, on CUDA 96: the rows go through LDS, so that weights are read once for all of them.
    Many,
}

impl RowTiles {
    /// The form for `pairs` rows over `matrices` matrices: few, unless they are more than 16 and 12
    /// for each: with fewer nine in ten matrices have at most 16, and are read once in any form.
    /// Some, up to 24 for each: likewise of 32.
    pub fn for_rows(pairs: usize, matrices: usize) -> RowTiles {
        if pairs <= (12 * matrices).max(16) {
            RowTiles::Few
        } else if pairs <= 24 * matrices {
            RowTiles::Some
        } else {
            RowTiles::Many
        }
    }

    /// The form that experts' groups of rows in `form` take on a platform: that for some takes rows
    /// as they are, BF16.
    pub fn of_groups(self, form: Activations, platform: Platform) -> RowTiles {
        match (self, form, platform) {
            (RowTiles::Some, Activations::Bf16, Platform::Cuda) => RowTiles::Some,
            (RowTiles::Some, ..) => RowTiles::Many,
            (tiles, ..) => tiles,
        }
    }

    /// How many tiles of 16 rows they are on a platform.
    pub fn count(self, platform: Platform) -> usize {
        match (self, platform) {
            (RowTiles::Few, _) => 1,
            (RowTiles::Some, Platform::Cuda) => 2,
            (RowTiles::Some | RowTiles::Many, Platform::Hip) => 4,
            (RowTiles::Many, Platform::Cuda) => 6,
        }
    }
}

/// Whether kernels for up to four rows have a form for as many as there may be, in so many
/// workgroups that take most of a processor each: for one row, on CUDA, while all have room.
pub(crate) fn has_form_of_one(device: &Device, rows: Rows, workgroups: usize) -> bool {
    rows.bound == 1 && device.platform() == Platform::Cuda && workgroups <= AT_ONCE
}

/// The grid and the threads of a form for many rows: a workgroup for each of `blocks` blocks and
/// `groups` groups; on CUDA workgroups take these by turns.
pub(crate) fn many_rows_launch(device: &Device, blocks: usize, groups: usize) -> ([u32; 3], u32) {
    match device.platform() {
        Platform::Hip => ([blocks as u32, groups as u32, 1], 256),
        Platform::Cuda => ([AT_ONCE.min(blocks * groups) as u32, 1, 1], 384),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_grow_with_the_rows() {
        let of = |rows: usize| RowTiles::for_rows(rows * 8, 384);
        assert_eq!([64, 576].map(of), [RowTiles::Few; 2]);
        assert_eq!([577, 1024, 1152].map(of), [RowTiles::Some; 3]);
        assert_eq!([1153, 4096].map(of), [RowTiles::Many; 2]);
    }

    /// Takes words apart as `fp4_pairs` of `kernels/arch/sm90.h` does.
    #[test]
    fn pairs_stand_where_shifts_find_them() {
        let bits = 0x81c0_81c0;
        let check = |codes: u32| {
            let mut out = [0; 4];
            Packing::Pairs.write(&codes.to_le_bytes(), &mut out);
            let word = u32::from_le_bytes(out);
            let turned = word.rotate_left(7);
            let last = (turned & 0x001b_001b).wrapping_mul(1 << 2 | 1 << 7 | 1 << 12);
            let pairs = [word << 1 & bits, word << 4 & bits, turned & bits, last & bits];
            for i in 0..8 {
                let half = pairs[i / 2] >> (i % 2 * 16) & 0xffff;
                let code = codes >> (4 * i) & 15;
                assert_eq!(half, (code & 8) << 12 | (code & 7) << 6, "code {i} of {codes:x}");
            }
        };
        // Both codes of a pair, beside each other's neighbours and alone.
        for pair in 0..=0xffu32 {
            for others in [0, u32::MAX, 0xa5a5_a5a5] {
                for at in [0, 8, 16, 24] {
                    check(others & !(0xff << at) | pair << at);
                }
            }
        }
    }

    /// A lane's two chunks are of rows 8 apart, and it has group `lane % 4` of row `lane / 4`.
    #[test]
    fn chunks_stand_as_lanes_take_them() {
        for (row, group) in (0..TILE).flat_map(|row| (0..4).map(move |group| (row, group))) {
            let (chunk, lane) = (row / 8, row % 8 * 4 + group);
            assert_eq!(Packing::Pairs.slot(row, group), 32 * chunk + lane);
            assert_eq!(Packing::Codes.slot(row, group), 16 * group + row);
        }
    }
}
