//! The CPU backend with activations rounded to BF16 where the GPU backend rounds them between
//! verbs: what difference BF16 makes to a model.

use std::ops::Range;
use std::sync::Arc;

use checkpoint::Matrix;
use cpu::Cpu;
use model::{Backend, Batch, CacheShape, DeviceError, HeadShape, RouterShape, RowOutput};

type Result<T> = std::result::Result<T, DeviceError>;

pub(crate) struct Rounded(pub(crate) Cpu);

fn round(buffer: &mut <Cpu as Backend>::Buffer) {
    for value in buffer.values_mut() {
        *value = mx::bf16::round(*value);
    }
}

impl Backend for Rounded {
    type Matrix = <Cpu as Backend>::Matrix;
    type Vector = <Cpu as Backend>::Vector;
    type LatentProjection = <Cpu as Backend>::LatentProjection;
    type Experts = <Cpu as Backend>::Experts;
    type Buffer = <Cpu as Backend>::Buffer;
    type Routing = <Cpu as Backend>::Routing;

    fn matrix(&mut self, weights: Matrix) -> Result<Self::Matrix> {
        self.0.matrix(weights)
    }
    fn vector(&mut self, values: Vec<f32>) -> Result<Self::Vector> {
        self.0.vector(values)
    }
    fn latent_projection(&mut self, w: Matrix, s: HeadShape) -> Result<Self::LatentProjection> {
        self.0.latent_projection(w, s)
    }
    fn new_experts(&mut self, count: usize) -> Result<Self::Experts> {
        self.0.new_experts(count)
    }
    fn add_expert(&mut self, e: &mut Self::Experts, g: Matrix, d: Matrix) -> Result<()> {
        self.0.add_expert(e, g, d)
    }
    fn buffer(&mut self, rows: usize, width: usize) -> Result<Self::Buffer> {
        self.0.buffer(rows, width)
    }
    fn routing(&mut self, rows: usize, shape: RouterShape) -> Result<Self::Routing> {
        self.0.routing(rows, shape)
    }
    fn allocate_cache(&mut self, shape: CacheShape) -> Result<()> {
        self.0.allocate_cache(shape)
    }
    fn begin(&mut self, batch: &Arc<Batch>) -> Result<()> {
        self.0.begin(batch)
    }
    fn embed(&mut self, table: &Self::Matrix, out: &mut Self::Buffer) -> Result<()> {
        self.0.embed(table, out)
    }
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.0.rms_norm(x, weight, eps, out)?;
        round(out);
        Ok(())
    }
    fn reduce_add_rms_norm(
        &mut self,
        residual: &mut Self::Buffer,
        delta: &mut Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.0.reduce_add_rms_norm(residual, delta, weight, eps, out)?;
        round(out);
        Ok(())
    }
    fn matmul(&mut self, x: &Self::Buffer, w: &Matrix, out: &mut Self::Buffer) -> Result<()> {
        self.0.matmul(x, w, out)
    }
    fn rope_and_cache(
        &mut self,
        layer: usize,
        shape: HeadShape,
        q: &mut Self::Buffer,
        kv_a: &Self::Buffer,
        norm: &Self::Vector,
        eps: f32,
        table: &Self::Vector,
    ) -> Result<()> {
        self.0.rope_and_cache(layer, shape, q, kv_a, norm, eps, table)?;
        round(q);
        Ok(())
    }
    fn attention(
        &mut self,
        layer: usize,
        q: &Self::Buffer,
        kv_b: &Self::LatentProjection,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.0.attention(layer, q, kv_b, scale, out)?;
        round(out);
        Ok(())
    }
    fn swiglu(&mut self, gate_up: &Self::Buffer, out: &mut Self::Buffer) -> Result<()> {
        self.0.swiglu(gate_up, out)?;
        round(out);
        Ok(())
    }
    fn clear(&mut self, like: &Self::Buffer, out: &mut Self::Buffer) -> Result<()> {
        self.0.clear(like, out)
    }
    fn route(
        &mut self,
        x: &Self::Buffer,
        bias: &Self::Vector,
        routing: &mut Self::Routing,
        hidden: &mut Self::Buffer,
    ) -> Result<()> {
        self.0.route(x, bias, routing, hidden)?;
        round(hidden);
        Ok(())
    }
    fn experts(
        &mut self,
        x: &Self::Buffer,
        routing: &Self::Routing,
        experts: &Self::Experts,
        out: &mut Self::Buffer,
    ) -> Result<()> {
        self.0.experts(x, routing, experts, out)
    }
    fn select(&mut self, x: &Self::Buffer, o: Range<usize>, out: &mut Self::Buffer) -> Result<()> {
        self.0.select(x, o, out)
    }
    fn gather_columns(&mut self, part: &Self::Buffer, out: &mut Self::Buffer) -> Result<()> {
        self.0.gather_columns(part, out)
    }
    fn sample(&mut self, logits: &Self::Buffer, o: Range<usize>) -> Result<()> {
        self.0.sample(logits, o)
    }
    fn end(&mut self) -> Result<()> {
        self.0.end()
    }
    fn results(&mut self, wait: bool) -> Result<Option<Vec<RowOutput>>> {
        self.0.results(wait)
    }
}
