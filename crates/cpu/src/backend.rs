//! The verbs, each handed to the module of its name.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use checkpoint::{Activations, Checkpoint, Encoded, Format, Matrix, Shape};
use model::{
    Backend, Batch, CacheFormat, CacheShape, DeviceError, HeadShape, RouterShape, RowOutput,
};
use rayon::prelude::*;

use crate::attention::{self, Cache, LatentProjection};
use crate::experts::{self, Expert, Experts};
use crate::group::Group;
use crate::matmul::matmul;
use crate::norm::rms_norm_rows;
use crate::route::Routing;
use crate::sample::sample;

/// Activations `[rows, width]`, row-major. Grows to what is written to it.
#[derive(Debug, Default)]
pub struct Buffer {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

impl Buffer {
    fn resize(&mut self, rows: usize, width: usize) {
        (self.rows, self.width) = (rows, width);
        self.values.resize(rows * width, 0.0);
    }

    /// The values, row by row.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

/// One rank on the host's cores.
pub struct Cpu {
    group: Group,
    activations: Activations,
    cache_format: CacheFormat,
    cache: Option<Cache>,
    /// The latest batch, with all tokens known.
    batch: Arc<Batch>,
    /// What its outputs drew, for the next one's carried rows.
    drawn: Vec<u32>,
    /// Results since `begin`.
    sampled: Vec<RowOutput>,
    /// Those of ended batches.
    ended: VecDeque<Vec<RowOutput>>,
}

impl Cpu {
    /// A rank of `group` that multiplies 4-bit matrices with `activations`.
    pub fn new(group: Group, activations: Activations) -> Cpu {
        Cpu {
            group,
            activations,
            cache_format: CacheFormat::Native,
            cache: None,
            batch: Arc::default(),
            drawn: Vec::new(),
            sampled: Vec::new(),
            ended: VecDeque::new(),
        }
    }

    /// The same with another KV cache. It takes the room of f32 in any format.
    pub fn with_cache(self, cache_format: CacheFormat) -> Cpu {
        Cpu { cache_format, ..self }
    }

    /// Adds the ranks' buffers, in rank order, into every rank's.
    fn add_ranks(&self, x: &mut Buffer) {
        if self.group.ranks() == 1 {
            return;
        }
        let mut sum = vec![0f32; x.values.len()];
        self.group.exchange(&x.values, |_, part| {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        });
        x.values = sum;
    }

    fn cache(&mut self) -> Result<&mut Cache, DeviceError> {
        self.cache.as_mut().ok_or_else(|| DeviceError("the KV cache is not allocated".into()))
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type LatentProjection = LatentProjection;
    type Experts = Experts;
    type Buffer = Buffer;
    type Routing = Routing;

    fn matrix(&mut self, weights: Matrix) -> Result<Matrix, DeviceError> {
        Ok(weights)
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Vec<f32>, DeviceError> {
        Ok(values)
    }

    fn latent_projection(
        &mut self,
        kv_b: Matrix,
        shape: HeadShape,
    ) -> Result<LatentProjection, DeviceError> {
        Ok(LatentProjection::new(&kv_b, shape))
    }

    fn new_experts(&mut self, count: usize) -> Result<Experts, DeviceError> {
        Ok(Experts(Vec::with_capacity(count)))
    }

    fn add_expert(
        &mut self,
        experts: &mut Experts,
        gate_up: Matrix,
        down: Matrix,
    ) -> Result<(), DeviceError> {
        experts.0.push(Expert { gate_up, down });
        Ok(())
    }

    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer, DeviceError> {
        Ok(Buffer { values: Vec::with_capacity(rows * width), ..Buffer::default() })
    }

    fn routing(&mut self, rows: usize, shape: RouterShape) -> Result<Routing, DeviceError> {
        Ok(Routing::new(rows, shape))
    }

    fn allocate_cache(&mut self, shape: CacheShape) -> Result<(), DeviceError> {
        self.cache = Some(Cache::new(shape, self.cache_format));
        Ok(())
    }

    fn begin(&mut self, batch: &Arc<Batch>) -> Result<(), DeviceError> {
        self.batch = match batch.carried.is_empty() {
            true => Arc::clone(batch),
            false => Arc::new(batch.resolved(&self.drawn)?),
        };
        self.drawn.clear();
        Ok(())
    }

    fn embed(&mut self, table: &Matrix, out: &mut Buffer) -> Result<(), DeviceError> {
        let tokens = &self.batch.tokens;
        out.resize(tokens.len(), table.cols);
        for (&token, row) in tokens.iter().zip(out.values.chunks_mut(table.cols)) {
            table.row(token as usize, row);
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &Buffer,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        out.resize(x.rows, weight.len());
        rms_norm_rows(&x.values, x.width, weight, eps, &mut out.values);
        Ok(())
    }

    fn reduce_add_rms_norm(
        &mut self,
        residual: &mut Buffer,
        delta: &mut Buffer,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        self.add_ranks(delta);
        for (residual, delta) in residual.values.iter_mut().zip(&delta.values) {
            *residual += delta;
        }
        self.rms_norm(residual, weight, eps, out)
    }

    fn matmul(&mut self, x: &Buffer, w: &Matrix, out: &mut Buffer) -> Result<(), DeviceError> {
        out.resize(x.rows, w.rows);
        let four_bit = matches!(w.data, Encoded::Mxfp4 { .. } | Encoded::Int4 { .. });
        if four_bit && self.activations != Activations::Bf16 {
            let mut quantized = x.values.clone();
            experts::quantize(&mut quantized, self.activations);
            matmul(&quantized, w, &mut out.values);
        } else {
            matmul(&x.values, w, &mut out.values);
        }
        Ok(())
    }

    fn rope_and_cache(
        &mut self,
        layer: usize,
        shape: HeadShape,
        q: &mut Buffer,
        kv_a: &Buffer,
        norm: &Vec<f32>,
        eps: f32,
        table: &Vec<f32>,
    ) -> Result<(), DeviceError> {
        if self.cache_format == CacheFormat::Fp8 && !shape.latent.is_multiple_of(mx::BLOCK) {
            return Err(DeviceError(format!(
                "an FP8 KV cache holds {} values together: kv_lora_rank is {}",
                mx::BLOCK,
                shape.latent
            )));
        }
        let batch = Arc::clone(&self.batch);
        let (q, kv_a) = (&mut q.values, (&*kv_a.values, kv_a.width));
        let cache = self.cache()?;
        attention::rope_and_cache(cache, &batch.spans, layer, shape, q, kv_a, norm, eps, table);
        Ok(())
    }

    fn attention(
        &mut self,
        layer: usize,
        q: &Buffer,
        kv_b: &LatentProjection,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        out.resize(q.rows, kv_b.out_width());
        let batch = Arc::clone(&self.batch);
        let cache = self.cache()?;
        attention::attention(cache, &batch.spans, layer, &q.values, kv_b, scale, &mut out.values);
        Ok(())
    }

    fn swiglu(&mut self, gate_up: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        gated(gate_up, 0, out);
        Ok(())
    }

    fn clear(&mut self, like: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        out.resize(like.rows, like.width);
        out.values.fill(0.0);
        Ok(())
    }

    fn route(
        &mut self,
        x: &Buffer,
        bias: &Vec<f32>,
        routing: &mut Routing,
        hidden: &mut Buffer,
    ) -> Result<(), DeviceError> {
        routing.route(&x.values, x.width, bias);
        gated(x, bias.len(), hidden);
        Ok(())
    }

    fn experts(
        &mut self,
        x: &Buffer,
        routing: &Routing,
        experts: &Experts,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        experts.accumulate(&x.values, x.width, routing, self.activations, &mut out.values);
        Ok(())
    }

    fn select(
        &mut self,
        x: &Buffer,
        outputs: Range<usize>,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let outputs = &self.batch.outputs[outputs];
        out.resize(outputs.len(), x.width);
        for (output, row) in outputs.iter().zip(out.values.chunks_exact_mut(x.width)) {
            row.copy_from_slice(&x.values[output.row * x.width..(output.row + 1) * x.width]);
        }
        Ok(())
    }

    fn gather_columns(&mut self, part: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        let (ranks, width) = (self.group.ranks(), part.width);
        out.resize(part.rows, ranks * width);
        self.group.exchange(&part.values, |rank, part| {
            let rows = out.values.chunks_exact_mut(ranks * width);
            for (out, part) in rows.zip(part.chunks_exact(width)) {
                out[rank * width..(rank + 1) * width].copy_from_slice(part);
            }
        });
        Ok(())
    }

    fn sample(&mut self, logits: &Buffer, outputs: Range<usize>) -> Result<(), DeviceError> {
        let results = sample(&logits.values, logits.width, &self.batch.outputs[outputs]);
        self.drawn.extend(results.iter().map(|result| result.token));
        self.sampled.extend(results);
        Ok(())
    }

    fn end(&mut self) -> Result<(), DeviceError> {
        self.ended.push_back(std::mem::take(&mut self.sampled));
        Ok(())
    }

    fn results(&mut self, _wait: bool) -> Result<Option<Vec<RowOutput>>, DeviceError> {
        Ok(self.ended.pop_front())
    }
}

/// `out = silu(g) * u` for rows `[.. | g | u]`, of which the first `skip` values are others.
fn gated(x: &Buffer, skip: usize, out: &mut Buffer) {
    let width = (x.width - skip) / 2;
    out.resize(x.rows, width);
    if width > 0 {
        let rows = x.values.par_chunks(x.width).zip(out.values.par_chunks_mut(width));
        rows.for_each(|(x, out)| experts::swiglu(&x[skip..], out));
    }
}

/// Bytes of one rank's weights on this backend: the checkpoint's formats, but `kv_b_proj` in f32.
pub fn weight_bytes(checkpoint: &Checkpoint, ranks: usize) -> usize {
    let all = checkpoint.tensors().iter();
    let projections = all.filter(|(spec, _)| spec.name.ends_with("kv_b_proj"));
    let extra = projections.map(|(spec, format)| {
        let Shape::Matrix { rows, cols } = spec.shape else { return 0 };
        Format::F32.bytes(rows / ranks * cols) - format.bytes(rows / ranks * cols)
    });
    model::weight_bytes(checkpoint, ranks) + extra.sum::<usize>()
}
