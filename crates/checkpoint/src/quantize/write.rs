//! Converting and writing: every piece goes to its own place in its shard, in any order.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};

use mx::Ties;
use safetensors::Dtype;

use super::output::{Output, io, partial};
use super::pieces::{CHUNK, chunks, run};
use super::plan::{Quantization, ShardPlan, Sink, TensorPlan};
use super::source::Piece;
use crate::CheckpointError;

/// A shard that is being written.
struct ShardFile {
    path: PathBuf,
    file: File,
    /// Pieces that are not written yet.
    left: AtomicUsize,
    complete: AtomicBool,
}

impl ShardFile {
    fn write(&self, bytes: &[u8], at: usize) -> Result<(), CheckpointError> {
        let written = self.file.write_all_at(bytes, at as u64);
        written.map_err(|reason| io(&partial(&self.path), reason))
    }

    /// Counts a piece as written; the last one gives the file its name.
    fn piece_done(&self) -> Result<(), CheckpointError> {
        if self.left.fetch_sub(1, AcqRel) > 1 {
            return Ok(());
        }
        let flushed = self.file.sync_all();
        flushed
            .and_then(|()| std::fs::rename(partial(&self.path), &self.path))
            .map_err(|reason| io(&self.path, reason))?;
        self.complete.store(true, Relaxed);
        Ok(())
    }
}

impl Drop for ShardFile {
    fn drop(&mut self) {
        if !self.complete.load(Relaxed) {
            // After an error. If it stays, the next run removes it.
            let _ = std::fs::remove_file(partial(&self.path));
        }
    }
}

struct Job<'a> {
    shard: Arc<ShardFile>,
    tensor: &'a TensorPlan,
    range: Range<usize>,
}

/// What a thread keeps from piece to piece.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) piece: Piece,
    pub(super) values: Vec<f32>,
    pub(super) main: Vec<u8>,
    pub(super) scales: Vec<u8>,
}

impl Quantization {
    /// Writes the output, or the rest of it if a run with the same plan was stopped. `progress`
    /// hears of input bytes as they are done with, those of complete shards at once.
    ///
    /// # Errors
    /// Files in the way of a run without `force`; no room; a file that cannot be read or written; a
    /// NaN or an infinity in a weight. Nothing incomplete is left under a final name.
    pub fn write(&self, progress: &(dyn Fn(usize) + Sync)) -> Result<(), CheckpointError> {
        let output = Output::prepare(self)?;
        let (left, done): (Vec<_>, Vec<_>) = self.shards.iter().partition(|s| !output.has(s));
        let input =
            |shard: &ShardPlan| shard.tensors.iter().map(|t| t.source.bytes()).sum::<usize>();
        progress(done.into_iter().map(input).sum());
        let jobs = left.into_iter().flat_map(|shard| self.jobs(&output, shard));
        run(self.pieces.threads, jobs, |buffers: &mut Buffers, job: Job| {
            self.convert(&job, buffers)?;
            let (whole, part) = (job.tensor.elements().max(1), job.range.len());
            progress((job.tensor.source.bytes() as u128 * part as u128 / whole as u128) as usize);
            job.shard.piece_done()
        })?;
        output.finish(self)
    }

    /// Begins the shard and yields its pieces.
    fn jobs<'a>(
        &'a self,
        output: &Output,
        shard: &'a ShardPlan,
    ) -> Box<dyn Iterator<Item = Result<Job<'a>, CheckpointError>> + Send + 'a> {
        let (path, file) = match output.begin(shard) {
            Ok(begun) => begun,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let pieces = shard.tensors.iter().map(|tensor| self.pieces.of(tensor.elements()).len());
        let left = AtomicUsize::new(pieces.sum());
        let file = Arc::new(ShardFile { path, file, left, complete: AtomicBool::new(false) });
        Box::new(shard.tensors.iter().flat_map(move |tensor| {
            let file = file.clone();
            let job = move |range| Ok(Job { shard: file.clone(), tensor, range });
            self.pieces.of(tensor.elements()).map(job)
        }))
    }

    fn convert(&self, job: &Job, buffers: &mut Buffers) -> Result<(), CheckpointError> {
        let Job { shard, tensor, range } = job;
        let Buffers { piece, values, main, scales } = buffers;
        tensor.source.read(&self.inputs, range.clone(), piece)?;
        match tensor.sink {
            Sink::Same => {
                let tensor_in = tensor.source.main();
                if let Some(at) = not_finite(tensor_in.dtype, &piece.raw) {
                    return Err(self.not_finite(tensor, range.start + at));
                }
                let at = tensor.at[0] + range.start * tensor_in.dtype.bitsize() / 8;
                shard.write(&piece.raw, at)
            }
            Sink::Bf16 => {
                main.clear();
                self.decoded(tensor, piece, values, range, |_, values| {
                    let bits = values.iter().map(|&value| mx::bf16::from_f32(value));
                    main.extend(bits.flat_map(u16::to_le_bytes));
                });
                let raw = not_finite(Dtype::BF16, main);
                if let Some(at) = raw {
                    return Err(self.not_finite(tensor, range.start + at));
                }
                shard.write(main, tensor.at[0] + range.start * 2)
            }
            Sink::Mxfp4 => {
                main.resize(range.len() / 2, 0);
                scales.resize(range.len() / mx::BLOCK, 0);
                self.decoded(tensor, piece, values, range, |at, values| {
                    let packed = &mut main[at.start / 2..at.end / 2];
                    let scales = &mut scales[at.start / mx::BLOCK..at.end / mx::BLOCK];
                    mx::quantize_mxfp4(values, self.options.rule, Ties::Even, packed, scales);
                });
                if let Some(block) = scales.iter().position(|&scale| scale == mx::e8m0::NAN) {
                    return Err(self.not_finite(tensor, range.start + block * mx::BLOCK));
                }
                shard.write(main, tensor.at[0] + range.start / 2)?;
                shard.write(scales, tensor.at[1] + range.start / mx::BLOCK)
            }
        }
    }

    /// Gives the values of a piece to `take`, chunk by chunk, with their places in the piece.
    pub(super) fn decoded(
        &self,
        tensor: &TensorPlan,
        piece: &Piece,
        values: &mut Vec<f32>,
        range: &Range<usize>,
        mut take: impl FnMut(Range<usize>, &[f32]),
    ) {
        values.resize(CHUNK, 0.0);
        for at in chunks(range.len()) {
            let values = &mut values[..at.len()];
            tensor.source.decode(piece, at.clone(), values);
            take(at, values);
        }
    }

    fn not_finite(&self, tensor: &TensorPlan, element: usize) -> CheckpointError {
        let (row, col) = (element / tensor.cols.max(1), element % tensor.cols.max(1));
        self.fault(tensor, format!("NaN or infinity in row {row}, from column {col} on"))
    }
}

/// The first element of a BF16 or F32 tensor that is not finite.
fn not_finite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    // All exponent bits set. The upper half of an F32 has its exponent where a BF16 has it.
    let bad = |high: u8, low: u8| high & 0x7f == 0x7f && low & 0x80 != 0;
    match dtype {
        Dtype::BF16 => bytes.chunks_exact(2).position(|b| bad(b[1], b[0])),
        Dtype::F32 => bytes.chunks_exact(4).position(|b| bad(b[3], b[2])),
        _ => None,
    }
}
