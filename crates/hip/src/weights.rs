//! Weights on the device, in the kernels' order.

use checkpoint::{Checkpoint, Encoded, Matrix};
use model::{DeviceError, HeadShape};

use crate::device::Memory;
use crate::kernels::matmul::{self, preshuffle, tile_bytes};
use crate::staging::Staging;
use crate::stream::Stream;

/// Plain numbers, which may be seen as bytes.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for f32 {}

pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, and any byte is a u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Puts values into device memory of their own.
pub(crate) fn upload<T: Plain>(stream: &Stream, values: &[T]) -> Result<Memory, DeviceError> {
    let memory = stream.device().allocate(size_of_val(values))?;
    stream.upload(bytes_of(values), &memory, 0)?;
    Ok(memory)
}

/// BF16 matrices of one shape.
pub struct Dense {
    memory: Memory,
    pub(crate) n: usize,
    pub(crate) k: usize,
    batch: usize,
}

impl Dense {
    /// Uploads one matrix; F32 values are rounded to BF16, half to even.
    pub(crate) fn upload(
        stream: &Stream,
        staging: &mut Staging,
        matrix: &Matrix,
    ) -> Result<Dense, DeviceError> {
        let (n, k) = (matrix.rows, matrix.cols);
        match &matrix.data {
            Encoded::Bf16(values) => Dense::upload_all(stream, staging, &[values], n, k),
            _ => Dense::upload_all(stream, staging, &[&rounded(matrix)], n, k),
        }
    }

    /// Uploads matrices `[n, k]`, one after another.
    fn upload_all(
        stream: &Stream,
        staging: &mut Staging,
        matrices: &[&[u16]],
        n: usize,
        k: usize,
    ) -> Result<Dense, DeviceError> {
        let (tiles, bytes, batch) = (n.div_ceil(16), tile_bytes(k), matrices.len());
        let (device, platform) = (stream.device(), stream.device().platform());
        let memory = device.allocate(batch * tiles * bytes)?;
        staging.upload(stream, &memory, 0, batch * tiles, bytes, |i, out| {
            preshuffle(matrices[i / tiles], k, i % tiles, platform, out);
        })?;
        Ok(Dense { memory, n, k, batch })
    }

    pub(crate) fn view(&self) -> matmul::Weights<'_> {
        matmul::Weights { memory: &self.memory, n: self.n, k: self.k, batch: self.batch }
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// A matrix's values as BF16.
fn rounded(matrix: &Matrix) -> Vec<u16> {
    let mut row = vec![0.0; matrix.cols];
    let mut values = Vec::with_capacity(matrix.rows * matrix.cols);
    for i in 0..matrix.rows {
        matrix.row(i, &mut row);
        values.extend(row.iter().map(|&value| mx::bf16::from_f32(value)));
    }
    values
}

/// A rank's `kv_b_proj`: as two batches of matrices, one matrix a head, for absorbed attention, and
/// as it is for the expanded form.
pub struct LatentProjection {
    /// `[heads][latent, nope]`: queries into the latent space.
    pub(crate) into: Dense,
    /// `[heads][v, latent]`: sums of latents to values.
    pub(crate) out_of: Dense,
    /// `[heads * (nope + v), latent]`: latents to each head's key and value.
    pub(crate) expand: Dense,
    pub(crate) shape: HeadShape,
}

impl LatentProjection {
    pub(crate) fn upload(
        stream: &Stream,
        staging: &mut Staging,
        kv_b: &Matrix,
        shape: HeadShape,
    ) -> Result<LatentProjection, DeviceError> {
        let HeadShape { heads, nope, v, latent, .. } = shape;
        let values = rounded(kv_b);
        let expand = Dense::upload_all(stream, staging, &[&values], heads * (nope + v), latent)?;
        // Head `h`'s row `i` of the file.
        let row = |h: usize, i: usize| &values[(h * (nope + v) + i) * latent..][..latent];
        let keys = (0..heads).map(|h| {
            let transposed = (0..latent).flat_map(|l| (0..nope).map(move |i| (l, i)));
            transposed.map(|(l, i)| row(h, i)[l]).collect::<Vec<u16>>()
        });
        let keys: Vec<_> = keys.collect();
        let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
        let into = Dense::upload_all(stream, staging, &keys, latent, nope)?;
        let values: Vec<_> =
            (0..heads).map(|h| &values[(h * (nope + v) + nope) * latent..][..v * latent]).collect();
        let out_of = Dense::upload_all(stream, staging, &values, v, latent)?;
        Ok(LatentProjection { into, out_of, expand, shape })
    }
}

/// Bytes of one rank's weights on a GPU: the checkpoint's formats, `kv_b_proj` a second time, and
/// what fills up the last tiles (at most a fiftieth; narrow matrices aside, nothing).
pub fn weight_bytes(checkpoint: &Checkpoint, ranks: usize) -> usize {
    let (bytes, config) = (model::weight_bytes(checkpoint, ranks), checkpoint.config());
    let kv_b = config.num_attention_heads / ranks
        * (config.qk_nope_head_dim + config.v_head_dim)
        * config.kv_lora_rank;
    bytes + bytes / 50 + 2 * config.num_hidden_layers * kv_b
}
