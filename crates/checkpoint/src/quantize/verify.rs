//! Reading input and output again: every value of the output is compared with what it came from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::pieces::run;
use super::plan::{Quantization, Sink, TensorPlan};
use super::source::Inputs;
use super::write::Buffers;
use crate::CheckpointError;
use crate::shards::{Located, Shards};

/// No element is further from its source than this part of its block's largest magnitude, under any
/// rule. In units of the scale the largest is at least 2. Up to 2 the codes are 0.5 apart, up to 4
/// they are 1 apart (so the largest is above 2), up to 6 they are 2 apart (the largest is above 4):
/// half of each is at most a quarter of the largest. Beyond 6 the error is largest - 6, at most 2
/// of 8. Blocks whose scale is the smallest one are exempt: their largest may be anything below.
const BOUND: f32 = 0.25;

/// How far the weights of one class are from their sources.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassError {
    /// What the tensors are for.
    pub class: &'static str,
    /// How many they are.
    pub tensors: usize,
    /// Largest difference in a block, relative to the block's largest magnitude.
    pub max: f64,
    /// Root of the sum of squared differences, relative to that of the squared values.
    pub rms: f64,
}

/// Sums over a class.
#[derive(Default, Clone)]
struct Sums {
    tensors: usize,
    max: f64,
    difference: f64,
    values: f64,
}

struct Job<'a> {
    tensor: &'a TensorPlan,
    written: Vec<&'a Located>,
    range: Range<usize>,
}

impl Quantization {
    /// Reads the complete output and compares it with the input. `progress` hears of input bytes.
    ///
    /// # Errors
    /// A tensor that is missing or has another type or shape; a copy that differs; a NaN, an
    /// infinity, or a difference that rounding cannot make.
    pub fn verify(
        &self,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<ClassError>, CheckpointError> {
        let shards = Shards::open(&self.options.output)?;
        let files = Inputs::open(&shards)?;
        let sums = Mutex::new(BTreeMap::<&'static str, Sums>::new());
        let tensors = self.shards.iter().flat_map(|shard| &shard.tensors);
        let jobs = tensors.flat_map(|tensor| self.comparisons(&shards, tensor));
        run(self.pieces.threads, jobs, |buffers: &mut Buffers, job: Job| {
            let part = self.compare(&files, &job, buffers)?;
            let (whole, len) = (job.tensor.elements().max(1), job.range.len());
            progress((job.tensor.source.bytes() as u128 * len as u128 / whole as u128) as usize);
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = sums.entry(job.tensor.class).or_default();
            sum.tensors += (job.range.start == 0) as usize;
            sum.max = sum.max.max(part.max);
            sum.difference += part.difference;
            sum.values += part.values;
            Ok(())
        })?;
        let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
        let error = |(class, sum): (_, Sums)| ClassError {
            class,
            tensors: sum.tensors,
            max: sum.max,
            rms: if sum.values > 0.0 { (sum.difference / sum.values).sqrt() } else { 0.0 },
        };
        Ok(sums.into_iter().map(error).collect())
    }

    /// Finds a tensor in the output, checks its shape, and yields its pieces.
    fn comparisons<'a>(
        &'a self,
        shards: &'a Shards,
        tensor: &'a TensorPlan,
    ) -> Box<dyn Iterator<Item = Result<Job<'a>, CheckpointError>> + Send + 'a> {
        let find = |(name, dtype, shape): (String, _, Vec<usize>)| {
            let found = shards.get(&name);
            match found.filter(|found| found.dtype == dtype && found.shape == shape) {
                Some(found) => Ok(found),
                None => Err(CheckpointError::Tensor {
                    path: self.options.output.clone(),
                    tensor: name,
                    problem: format!(
                        "found {:?}, expected {dtype:?} {shape:?}",
                        found.map(|found| (found.dtype, &found.shape))
                    ),
                }),
            }
        };
        let written = tensor.written().into_iter().map(find).collect::<Result<Vec<_>, _>>();
        match written {
            Ok(written) => Box::new(
                self.pieces
                    .of(tensor.elements())
                    .map(move |range| Ok(Job { tensor, written: written.clone(), range })),
            ),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn compare(
        &self,
        files: &Inputs,
        job: &Job,
        buffers: &mut Buffers,
    ) -> Result<Sums, CheckpointError> {
        let Job { tensor, written, range } = job;
        let Buffers { piece, values, main, scales } = buffers;
        tensor.source.read(&self.inputs, range.clone(), piece)?;
        let differs = |element: usize, problem: &str| CheckpointError::Tensor {
            path: files.path(written[0].shard).clone(),
            tensor: tensor.output.clone(),
            problem: format!("element {}: {problem}", range.start + element),
        };
        let mut sums = Sums::default();
        let mut bad = None;
        match tensor.sink {
            Sink::Same => {
                let bits = tensor.source.main().dtype.bitsize();
                files.read(written[0], range.start * bits / 8..range.end * bits / 8, main)?;
                if *main != piece.raw {
                    bad = Some((0, "differs from the input, in this piece"));
                }
            }
            Sink::Bf16 => {
                files.read(written[0], range.start * 2..range.end * 2, main)?;
                self.decoded(tensor, piece, values, range, |at, values| {
                    let found = main[at.start * 2..at.end * 2].chunks_exact(2);
                    let same = |(found, &value): (&[u8], &f32)| {
                        mx::bf16::to_f32(u16::from_le_bytes([found[0], found[1]])) == value
                    };
                    if let Some(i) = found.zip(values).position(|pair| !same(pair)) {
                        bad = Some((at.start + i, "differs from the input"));
                    }
                });
            }
            Sink::Mxfp4 => {
                files.read(written[0], range.start / 2..range.end / 2, main)?;
                let blocks = range.start / mx::BLOCK..range.end / mx::BLOCK;
                files.read(written[1], blocks, scales)?;
                self.decoded(tensor, piece, values, range, |at, values| {
                    let packed = &main[at.start / 2..at.end / 2];
                    let scales = &scales[at.start / mx::BLOCK..at.end / mx::BLOCK];
                    if let Err((i, problem)) = sums.add(values, packed, scales) {
                        bad = Some((at.start + i, problem));
                    }
                });
            }
        }
        bad.map_or(Ok(sums), |(element, problem)| Err(differs(element, problem)))
    }
}

impl Sums {
    /// Adds the differences between values and MXFP4 blocks.
    fn add(
        &mut self,
        values: &[f32],
        packed: &[u8],
        scales: &[u8],
    ) -> Result<(), (usize, &'static str)> {
        let mut found = [0f32; mx::BLOCK];
        for (i, (block, (packed, scale))) in values
            .chunks_exact(mx::BLOCK)
            .zip(packed.chunks_exact(mx::BLOCK / 2).zip(scales.chunks_exact(1)))
            .enumerate()
        {
            mx::dequantize_mxfp4(packed, scale, &mut found);
            let largest = block.iter().fold(0f32, |a, x| a.max(x.abs()));
            let mut worst = 0f32;
            for (x, y) in block.iter().zip(&found) {
                if !y.is_finite() || !x.is_finite() {
                    return Err((i * mx::BLOCK, "NaN or infinity in its block"));
                }
                let difference = (x - y).abs();
                worst = worst.max(difference);
                self.difference += difference as f64 * difference as f64;
                self.values += *x as f64 * *x as f64;
            }
            if scale[0] > 0 && worst > BOUND * largest {
                return Err((i * mx::BLOCK, "further from its source than rounding goes"));
            }
            if largest > 0.0 {
                self.max = self.max.max((worst / largest) as f64);
            }
        }
        Ok(())
    }
}
