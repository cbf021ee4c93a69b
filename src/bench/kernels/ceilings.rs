//! What the hardware can do, measured beside the kernels.

use hip::{Blas, Error};
use serde::Serialize;

use super::gpu::{Gpu, Operand, Random};

/// Bytes of each side of the copy.
const COPIED: usize = 1 << 30;
/// Rows, columns and depth of the product.
const PRODUCT: usize = 8192;

/// Of this device.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ceilings {
    /// Bytes read and written per second by a copy on the device.
    pub(super) copy_bytes_per_s: f64,
    /// Operations per second of the platform's library in a large BF16 product.
    pub(super) library_flops_per_s: Option<f64>,
}

/// Measures them; says on stderr why the library has no figure.
pub(super) fn measure(gpu: &Gpu, blas: Option<&Blas<'_>>) -> Result<Ceilings, Error> {
    let (from, to) = (gpu.empty(COPIED)?, gpu.empty(COPIED)?);
    gpu.stream.fill(&from, 1)?;
    let seconds = gpu.stream.time_queued(|| gpu.stream.copy(&from, &to))?;
    let library = blas.map(|blas| product(gpu, blas, [PRODUCT; 3])).transpose()?;
    let operations = 2.0 * (PRODUCT as f64).powi(3);
    Ok(Ceilings {
        copy_bytes_per_s: 2.0 * COPIED as f64 / seconds,
        library_flops_per_s: library.map(|seconds| operations / seconds),
    })
}

/// Seconds that the library takes for `[rows, n, k]`, with matrices that no cache holds.
pub(super) fn product(gpu: &Gpu, blas: &Blas<'_>, shape: [usize; 3]) -> Result<f64, Error> {
    let ([rows, n, k], mut random) = (shape, Random::new(1));
    let x = Operand::bf16s(gpu, &mut random, rows * k, 1.0)?;
    let mut weights = vec![Operand::bf16s(gpu, &mut random, n * k, 1.0)?];
    for _ in 1..gpu.sets(2 * n * k) {
        weights.push(weights[0].copy(gpu)?);
    }
    let out = gpu.empty(2 * rows * n)?;
    gpu.stream.time(weights.len().max(4), |i| {
        blas.matmul(&x.memory, &weights[i % weights.len()].memory, &out, shape)
    })
}
