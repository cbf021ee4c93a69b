//! Reading a weight in any input format, a run of elements at a time.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::CheckpointError;
use crate::shards::{Located, Shards};

/// Rows and columns that share a scale in FP8 checkpoints.
pub(super) const FP8_BLOCK: usize = 128;

/// The shards, opened for reads at offsets: pages of a mapping would count as the process's memory.
pub(super) struct Inputs(Vec<(PathBuf, File)>);

impl Inputs {
    pub(super) fn open(shards: &Shards) -> Result<Inputs, CheckpointError> {
        let open = |path: &std::path::Path| match File::open(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(reason) => Err(CheckpointError::Io { path: path.to_owned(), reason }),
        };
        let files: Result<_, _> = shards.files().map(|(path, _)| open(path)).collect();
        Ok(Inputs(files?))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().map(|(path, _)| path)
    }

    pub(super) fn path(&self, shard: usize) -> &PathBuf {
        &self.0[shard].0
    }

    /// Fills `buffer` with bytes `range` of a tensor.
    pub(super) fn read(
        &self,
        tensor: &Located,
        range: Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let (path, file) = &self.0[tensor.shard];
        buffer.resize(range.len(), 0);
        file.read_exact_at(buffer, (tensor.bytes.start + range.start) as u64)
            .map_err(|reason| CheckpointError::Io { path: path.clone(), reason })
    }
}

/// Where a tensor's values come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Bytes to be copied; they are not looked at, unless they are BF16 or F32.
    Plain(Located),
    /// `weight` F8_E4M3 `[rows, cols]` and `weight_scale_inv` F32, one per block of 128 x 128.
    Fp8 { weight: Located, scale: Located },
    /// `weight_packed` I32 `[rows, cols / 8]` and `weight_scale` BF16 `[rows, cols / 32]`.
    Int4 { packed: Located, scale: Located },
}

/// A run of elements, read.
#[derive(Default)]
pub(super) struct Piece {
    /// The elements' bytes.
    pub(super) raw: Vec<u8>,
    scales: Vec<u8>,
    start: usize,
}

static E4M3: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| mx::e4m3::decode(code as u8)));

impl Source {
    /// Bytes in the input, scales included.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Source::Plain(tensor) => tensor.bytes.len(),
            Source::Fp8 { weight, scale } => weight.bytes.len() + scale.bytes.len(),
            Source::Int4 { packed, scale } => packed.bytes.len() + scale.bytes.len(),
        }
    }

    /// The tensor that errors name.
    pub(super) fn main(&self) -> &Located {
        match self {
            Source::Plain(tensor) => tensor,
            Source::Fp8 { weight, .. } => weight,
            Source::Int4 { packed, .. } => packed,
        }
    }

    /// Reads the elements `range`; for INT4 both its ends are multiples of 32.
    pub(super) fn read(
        &self,
        inputs: &Inputs,
        range: Range<usize>,
        piece: &mut Piece,
    ) -> Result<(), CheckpointError> {
        piece.start = range.start;
        match self {
            Source::Plain(tensor) => {
                let bits = tensor.dtype.bitsize();
                let bytes = range.start * bits / 8..range.end * bits / 8;
                inputs.read(tensor, bytes, &mut piece.raw)
            }
            Source::Fp8 { weight, scale } => {
                inputs.read(weight, range, &mut piece.raw)?;
                inputs.read(scale, 0..scale.bytes.len(), &mut piece.scales)
            }
            Source::Int4 { packed, scale } => {
                inputs.read(packed, range.start / 2..range.end / 2, &mut piece.raw)?;
                let groups = range.start / mx::int4::GROUP..range.end / mx::int4::GROUP;
                inputs.read(scale, groups.start * 2..groups.end * 2, &mut piece.scales)
            }
        }
    }

    /// Writes the values of the elements `at`, counted from the piece's start, to `out`. What is
    /// compressed becomes BF16 values. Values that are not finite come out as they are.
    pub(super) fn decode(&self, piece: &Piece, at: Range<usize>, out: &mut [f32]) {
        let pairs = |bytes: Range<usize>| piece.raw[bytes].chunks_exact(2);
        match self {
            Source::Plain(tensor) if tensor.dtype == safetensors::Dtype::F32 => {
                let bytes = &piece.raw[at.start * 4..at.end * 4];
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Source::Plain(_) => {
                for (out, b) in out.iter_mut().zip(pairs(at.start * 2..at.end * 2)) {
                    *out = mx::bf16::to_f32(u16::from_le_bytes([b[0], b[1]]));
                }
            }
            Source::Fp8 { weight, scale } => {
                let (cols, across) = (weight.shape[1], scale.shape[1]);
                for (i, out) in at.zip(out) {
                    let (row, col) = ((piece.start + i) / cols, (piece.start + i) % cols);
                    let block = row / FP8_BLOCK * across + col / FP8_BLOCK;
                    let s = &piece.scales[4 * block..4 * block + 4];
                    let scale = f32::from_le_bytes([s[0], s[1], s[2], s[3]]);
                    *out = mx::bf16::round(E4M3[piece.raw[i] as usize] * scale);
                }
            }
            Source::Int4 { .. } => {
                let groups = at.start / mx::int4::GROUP..at.end / mx::int4::GROUP;
                let scales: Vec<u16> = piece.scales[groups.start * 2..groups.end * 2]
                    .chunks_exact(2)
                    .map(|b| u16::from_le_bytes([b[0], b[1]]))
                    .collect();
                mx::int4::dequantize(&piece.raw[at.start / 2..at.end / 2], &scales, out);
                out.iter_mut().for_each(|value| *value = mx::bf16::round(*value));
            }
        }
    }
}
