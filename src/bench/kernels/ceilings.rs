//! What the hardware can do, measured beside the kernels.

use hip::kernels::matmul::Output;
use hip::{Blas, Error};
use serde::Serialize;

use super::gpu::{Gpu, Operand, Random};

/// Bytes of each side of the largest copy.
const COPIED: usize = 1 << 30;
/// And of the smallest.
const SMALLEST: usize = 1 << 11;
/// Rows, columns and depth of the product.
const PRODUCT: usize = 8192;

/// Of this device.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ceilings {
    /// Bytes read and written per second by a copy on the device.
    pub(super) copy_bytes_per_s: f64,
    /// Bytes read and written in all by copies of several sizes in a graph, ascending, and the
    /// seconds that one takes. Of what is soon copied a launch is most.
    pub(super) copies: Vec<(usize, f64)>,
    /// Operations per second of the platform's library in a large BF16 product.
    pub(super) library_flops_per_s: Option<f64>,
}

impl Ceilings {
    /// Seconds of a copy that reads and writes `bytes` in all: between the nearest two that were
    /// timed.
    pub(super) fn copy_s(&self, bytes: usize) -> f64 {
        let next = self.copies.partition_point(|&(size, _)| size < bytes);
        match (next.checked_sub(1).map(|i| self.copies[i]), self.copies.get(next)) {
            (Some((size, seconds)), Some(&(more, longer))) => {
                let part = (bytes - size) as f64 / (more - size) as f64;
                seconds + part * (longer - seconds)
            }
            (None, Some(&(_, shortest))) => shortest,
            (_, None) => bytes as f64 / self.copy_bytes_per_s,
        }
    }
}

/// Measures them; says on stderr why the library has no figure.
pub(super) fn measure(gpu: &Gpu, blas: Option<&Blas<'_>>) -> Result<Ceilings, Error> {
    let (from, to) = (gpu.empty(COPIED)?, gpu.empty(COPIED)?);
    gpu.stream.fill(&from, 1)?;
    let seconds = gpu.stream.time_queued(|| gpu.stream.copy(&from, &to))?;
    drop((from, to));
    let sizes = (SMALLEST.ilog2()..=COPIED.ilog2()).map(|log| 1 << log);
    let copies = sizes.map(|side| Ok((2 * side, copy(gpu, side)?)));
    let copies = copies.collect::<Result<Vec<_>, Error>>()?;
    let library = blas.map(|blas| product(gpu, blas, Output::Bf16, [PRODUCT; 3])).transpose()?;
    let operations = 2.0 * (PRODUCT as f64).powi(3);
    Ok(Ceilings {
        copy_bytes_per_s: 2.0 * COPIED as f64 / seconds,
        copies,
        library_flops_per_s: library.map(|seconds| operations / seconds),
    })
}

/// Seconds of a copy of `side` bytes from where no cache holds them.
fn copy(gpu: &Gpu, side: usize) -> Result<f64, Error> {
    let pairs = (0..gpu.sets(2 * side)).map(|_| Ok((gpu.empty(side)?, gpu.empty(side)?)));
    let pairs = pairs.collect::<Result<Vec<_>, Error>>()?;
    for (from, _) in &pairs {
        gpu.stream.fill(from, 1)?;
    }
    gpu.stream.time(pairs.len().max(4), |i| {
        let (from, to) = &pairs[i % pairs.len()];
        gpu.stream.copy(from, to)
    })
}

/// Seconds that the library takes for `[rows, n, k]`, with matrices that no cache holds.
pub(super) fn product(
    gpu: &Gpu,
    blas: &Blas<'_>,
    output: Output,
    shape: [usize; 3],
) -> Result<f64, Error> {
    let ([rows, n, k], mut random) = (shape, Random::new(1));
    let x = Operand::bf16s(gpu, &mut random, rows * k, 1.0)?;
    let mut weights = vec![Operand::bf16s(gpu, &mut random, n * k, 1.0)?];
    for _ in 1..gpu.sets(2 * n * k) {
        weights.push(weights[0].copy(gpu)?);
    }
    let out = gpu.empty(output.bytes() * rows * n)?;
    gpu.stream.time(weights.len().max(4), |i| {
        blas.matmul(&x.memory, &weights[i % weights.len()].memory, &out, output, shape)
    })
}
