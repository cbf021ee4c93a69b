//! The verbs, each handed to the launcher of its name.

use std::ops::Range;
use std::sync::Arc;

use checkpoint::{Encoded, Matrix};
use model::{Backend, Batch, CacheShape, DeviceError, HeadShape, Limits, RouterShape, RowOutput};

use crate::device::Memory;
use crate::gpu::{AllReduce, Buffer, Cache, Gpu, Mode, Weights};
use crate::kernels::embed::Tokens;
use crate::kernels::matmul::{Output, View};
use crate::kernels::ranks::Parts;
use crate::kernels::rope_and_cache::entry_bytes;
use crate::kernels::route::Hidden;
use crate::kernels::{
    self, all_reduce, attention, attention_prompt, gather_entries, rope_and_cache,
};
use crate::moe::{Experts, Quantized, Routing};
use crate::prompts::Launch;
use crate::weights::{Dense, LatentProjection, upload};

impl Backend for Gpu {
    type Matrix = Weights;
    type Vector = Memory;
    type LatentProjection = LatentProjection;
    type Experts = Experts;
    type Buffer = Buffer;
    type Routing = Routing;

    fn matrix(&mut self, weights: Matrix) -> Result<Weights, DeviceError> {
        let Gpu { stream, staging, .. } = self;
        match weights.data {
            Encoded::Mxfp4 { .. } => {
                Ok(Weights::Quantized(Quantized::upload(stream, staging, &weights)?))
            }
            Encoded::Bf16(_) | Encoded::F32(_) => {
                Ok(Weights::Dense(Dense::upload(stream, staging, &weights)?))
            }
            Encoded::Int4 { .. } => Err(DeviceError(
                "INT4 weights run on the CPU alone; `moonrock quantize` makes MXFP4 of them".into(),
            )),
        }
    }

    fn vector(&mut self, values: Vec<f32>) -> Result<Memory, DeviceError> {
        upload(&self.stream, &values)
    }

    fn latent_projection(
        &mut self,
        kv_b: Matrix,
        shape: HeadShape,
    ) -> Result<LatentProjection, DeviceError> {
        LatentProjection::upload(&self.stream, &mut self.staging, &kv_b, shape)
    }

    fn new_experts(&mut self, count: usize) -> Result<Experts, DeviceError> {
        Ok(Experts::new(count))
    }

    fn add_expert(
        &mut self,
        experts: &mut Experts,
        gate_up: Matrix,
        down: Matrix,
    ) -> Result<(), DeviceError> {
        experts.add(&self.stream, &mut self.staging, &gate_up, &down)
    }

    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer, DeviceError> {
        let memory = self.stream.device().allocate(4 * rows * width)?;
        // Rows that a graph's padding leaves unwritten travel between ranks all the same.
        self.stream.fill(&memory, f32::NAN.to_bits())?;
        Ok(Buffer { memory, width, rows: self.input.rows() })
    }

    fn routing(&mut self, rows: usize, shape: RouterShape) -> Result<Routing, DeviceError> {
        Routing::new(self.stream.device(), rows, shape)
    }

    fn allocate_cache(&mut self, shape: CacheShape) -> Result<(), DeviceError> {
        let (format, rope) = (self.options.cache, self.attention.rope);
        let entry = entry_bytes(format, shape.latent_dim - rope, rope);
        let bytes = shape.layers * shape.blocks * shape.block_size * entry;
        let memory = self.stream.device().allocate(bytes)?;
        self.cache = Some(Cache { memory, shape, format, entry });
        Ok(())
    }

    fn begin(&mut self, batch: &Arc<Batch>) -> Result<(), DeviceError> {
        let bucket = self.bucket(batch);
        let bound = bucket.unwrap_or(batch.tokens.len());
        let (block_size, format) = (self.cache()?.shape.block_size, self.options.cache);
        let recorded = bucket.is_some_and(|size| !self.graphs.contains_key(&size));
        let slot = self.begin_step(batch, recorded)?;
        self.input.send(&self.stream, slot, batch, bound, block_size, format)?;
        self.mode = match bucket {
            None => Mode::Run,
            Some(size) => match self.graphs.get(&size) {
                Some(graph) => {
                    // SAFETY: the memory is the model's, whose backend this is.
                    unsafe { self.stream.run(graph)? };
                    Mode::Replay
                }
                None => {
                    self.stream.begin_capture()?;
                    Mode::Record(size)
                }
            },
        };
        Ok(())
    }

    fn embed(&mut self, table: &Weights, out: &mut Buffer) -> Result<(), DeviceError> {
        let Weights::Dense(table) = table else {
            return Err(DeviceError("an embedding table in MXFP4 is not supported".into()));
        };
        (out.rows, out.width) = (self.input.rows(), table.k);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let Gpu { stream, kernels, input, sampler, .. } = self;
        let (ids, carried) = (input.tokens(), input.carried());
        let tokens = Tokens { ids, carried, drawn: sampler.tokens().ptr() };
        let (memory, shape) = (table.memory(), [table.n, table.k]);
        kernels::embed::embed(stream, kernels, out.rows, tokens, memory, &out.memory, shape)?;
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &Buffer,
        weight: &Memory,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        (out.rows, out.width) = (x.rows, weight.bytes() / 4);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, .. }, widths) = (self, [x.width, out.width]);
        let (x, out, rows) = (&x.memory, &out.memory, x.rows);
        Ok(kernels::rms_norm::rms_norm(stream, kernels, rows, x, weight, out, widths, eps)?)
    }

    fn reduce_add_rms_norm(
        &mut self,
        residual: &mut Buffer,
        delta: &mut Buffer,
        weight: &Memory,
        eps: f32,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let (rows, width) = (residual.rows, residual.width);
        (out.rows, out.width) = (rows, width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let few = rows.bound <= all_reduce::MAX_ROWS;
        if let Some(peers) = self.peers.as_mut().filter(|_| few) {
            let (stream, kernels, twins) =
                (&self.stream, &self.kernels, peers.twins(&delta.memory)?);
            let (residual, out) = (&residual.memory, &out.memory);
            all_reduce::all_reduce_norm(
                stream, kernels, rows, twins, residual, weight, out, width, eps,
            )?;
            return Ok(());
        }
        self.add_ranks(delta)?;
        let Gpu { stream, kernels, .. } = self;
        let (residual, delta, out) = (&residual.memory, &delta.memory, &out.memory);
        kernels::rms_norm::add_rms_norm(
            stream, kernels, rows, residual, delta, weight, out, width, eps,
        )?;
        Ok(())
    }

    fn matmul(&mut self, x: &Buffer, w: &Weights, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (x.rows, w.rows());
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, moe, .. }, rows) = (self, x.rows);
        match w {
            Weights::Quantized(w) => moe.matmul(stream, kernels, rows, &x.memory, w, &out.memory),
            Weights::Dense(w) => {
                let (x, out) = (whole(&x.memory, x.width), whole(&out.memory, out.width));
                let (w, form) = (w.view(), Output::F32);
                kernels::matmul::matmul(stream, kernels, rows, x, w, out, form)?;
                Ok(())
            }
        }
    }

    fn rope_and_cache(
        &mut self,
        layer: usize,
        shape: HeadShape,
        q: &mut Buffer,
        kv_a: &Buffer,
        norm: &Memory,
        eps: f32,
        table: &Memory,
    ) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let cache = self.cache()?;
        let buffers = rope_and_cache::Buffers {
            q: &q.memory,
            kv_a: &kv_a.memory,
            kv_stride: kv_a.width,
            norm,
            table,
            expanded: &self.attention.expanded,
            absorbed: &self.attention.absorbed,
            cache: &cache.memory,
            format: cache.format,
            cache_offset: cache.offset(layer),
        };
        rope_and_cache::rope_and_cache(
            &self.stream,
            &self.kernels,
            q.rows,
            self.input.positions(),
            self.input.slots(),
            self.input.generated().count,
            shape,
            buffers,
            eps,
        )?;
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
        let HeadShape { heads, v, .. } = kv_b.shape;
        (out.rows, out.width) = (q.rows, heads * v);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        if self.input.generated().bound > 0 {
            self.absorbed(layer, kv_b, scale, &out.memory)?;
        }
        self.input
            .prompts()
            .iter()
            .try_for_each(|launch| self.expanded(launch, layer, kv_b, scale, &out.memory))
    }

    fn swiglu(&mut self, gate_up: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (gate_up.rows, gate_up.width / 2);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, .. }, rows, width) = (self, out.rows, out.width);
        kernels::swiglu::swiglu(stream, kernels, rows, &gate_up.memory, &out.memory, width)?;
        Ok(())
    }

    fn clear(&mut self, like: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (like.rows, like.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        Ok(self.stream.fill(&out.memory, 0)?)
    }

    fn route(
        &mut self,
        x: &Buffer,
        bias: &Memory,
        routing: &mut Routing,
        hidden: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let experts = bias.bytes() / 4;
        (hidden.rows, hidden.width) = (x.rows, (x.width - experts) / 2);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, .. }, rows, shape) = (self, x.rows, routing.shape);
        let (choice, hidden) =
            (routing.choice(), Hidden { memory: &hidden.memory, width: hidden.width });
        let x = &x.memory;
        kernels::route::route(stream, kernels, rows, x, bias, experts, shape, choice, hidden)?;
        Ok(())
    }

    fn experts(
        &mut self,
        x: &Buffer,
        routing: &Routing,
        experts: &Experts,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (Gpu { stream, kernels, moe, .. }, rows) = (self, x.rows);
        moe.experts(stream, kernels, rows, &x.memory, routing, experts, &out.memory)
    }

    fn select(
        &mut self,
        x: &Buffer,
        outputs: Range<usize>,
        out: &mut Buffer,
    ) -> Result<(), DeviceError> {
        let round = outputs.start / Limits::LOGIT_ROWS;
        (out.rows, out.width) = (self.input.outputs(round), x.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (indices, rows, width) = (self.input.output_rows(round), out.rows, x.width);
        let Gpu { stream, kernels, .. } = self;
        let (x, out) = (&x.memory, &out.memory);
        Ok(kernels::select::select(stream, kernels, rows, indices, x, out, width)?)
    }

    fn gather_columns(&mut self, part: &Buffer, out: &mut Buffer) -> Result<(), DeviceError> {
        (out.rows, out.width) = (part.rows, self.ranks * part.width);
        if self.mode == Mode::Replay {
            return Ok(());
        }
        let (stream, kernels) = (&self.stream, &self.kernels);
        // One rank's columns are put in place by the same kernel: a copy within the device.
        let own = part.rows.bound * part.width;
        let parts = match self.ranks {
            1 => Parts { memory: &part.memory, stride: own, width: part.width, ranks: 1 },
            _ => self.gather(part)?,
        };
        Ok(kernels::ranks::gather_columns(stream, kernels, part.rows, parts, &out.memory)?)
    }

    fn sample(&mut self, logits: &Buffer, outputs: Range<usize>) -> Result<(), DeviceError> {
        if let Mode::Record(size) = self.mode {
            let graph = self.stream.end_capture()?;
            // SAFETY: the memory is the model's, whose backend this is.
            unsafe { self.stream.run(&graph)? };
            self.graphs.insert(size, graph);
        }
        self.mode = Mode::Run;
        self.sample_step(&logits.memory, outputs.len())
    }

    fn end(&mut self) -> Result<(), DeviceError> {
        self.end_step()
    }

    fn results(&mut self, wait: bool) -> Result<Option<Vec<RowOutput>>, DeviceError> {
        self.take_results(wait)
    }
}

impl Gpu {
    /// Attention of generated tokens' rows, whose keys are the latents themselves.
    fn absorbed(
        &self,
        layer: usize,
        kv_b: &LatentProjection,
        scale: f32,
        out: &Memory,
    ) -> Result<(), DeviceError> {
        let HeadShape { heads, nope, rope, v, latent } = kv_b.shape;
        let (stream, kernels) = (&self.stream, &self.kernels);
        let (cache, own, rows) = (self.cache()?, &self.attention, self.input.generated());
        let by_head = |memory, width| View { memory, stride: heads * width, batch: width };
        kernels::matmul::matmul(
            stream,
            kernels,
            rows,
            by_head(&own.expanded, nope + rope),
            kv_b.into.view(),
            by_head(&own.absorbed, latent + rope),
            Output::Bf16,
        )?;
        let buffers = attention::Buffers {
            queries: &own.absorbed,
            cache: &cache.memory,
            format: cache.format,
            cache_offset: cache.offset(layer),
            out: &own.mixed,
        };
        let (workspace, block) = (&own.splits, cache.shape.block_size);
        for &(rows, places) in self.input.attended() {
            attention::attention(
                stream, kernels, workspace, rows, places, buffers, heads, block, scale,
            )?;
        }
        kernels::matmul::matmul(
            stream,
            kernels,
            rows,
            by_head(&own.mixed, latent),
            kv_b.out_of.view(),
            by_head(out, v),
            Output::Bf16,
        )?;
        Ok(())
    }

    /// Attention of prompts' rows: each head's keys and values are made of the latents first.
    fn expanded(
        &self,
        launch: &Launch,
        layer: usize,
        kv_b: &LatentProjection,
        scale: f32,
        out: &Memory,
    ) -> Result<(), DeviceError> {
        let HeadShape { heads, nope, v, latent, .. } = kv_b.shape;
        let (stream, kernels) = (&self.stream, &self.kernels);
        let (cache, own) = (self.cache()?, &self.attention);
        let Launch { chunks, keys, sequences, blocks } = launch;
        let places = gather_entries::Places { list: *sequences, tables: self.input.tables() };
        let entries = gather_entries::Buffers {
            cache: &cache.memory,
            format: cache.format,
            cache_offset: cache.offset(layer),
            latents: &own.latents,
            ropes: &own.ropes,
        };
        let block = cache.shape.block_size;
        gather_entries::gather_entries(stream, kernels, chunks, places, entries, block)?;
        kernels::matmul::matmul(
            stream,
            kernels,
            *keys,
            whole(&own.latents, latent),
            kv_b.expand.view(),
            whole(&own.keys_values, heads * (nope + v)),
            Output::Bf16,
        )?;
        let buffers = attention_prompt::Buffers {
            queries: &own.expanded,
            keys_values: &own.keys_values,
            ropes: &own.ropes,
            out,
        };
        attention_prompt::attention_prompt(
            stream, kernels, chunks, *blocks, buffers, heads, scale,
        )?;
        Ok(())
    }

    /// Adds the ranks' `x` into every rank's.
    fn add_ranks(&self, x: &Buffer) -> Result<(), DeviceError> {
        match &self.group {
            None => {}
            Some(group) if self.options.all_reduce == AllReduce::Library => {
                group.all_reduce(&self.stream, &x.memory, x.rows.bound * x.width)?;
            }
            Some(_) => {
                let parts = self.gather(x)?;
                let (stream, kernels) = (&self.stream, &self.kernels);
                kernels::ranks::sum_ranks(stream, kernels, x.rows, parts, &x.memory)?;
            }
        }
        Ok(())
    }
}

/// A buffer as one side of a product.
fn whole(memory: &Memory, width: usize) -> View<'_> {
    View { memory, stride: width, batch: 0 }
}
