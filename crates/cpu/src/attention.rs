//! Rotary embedding, the latent KV cache, and absorbed MLA over it.

use checkpoint::Matrix;
use model::{CacheFormat, CacheShape, HeadShape, Span};
use rayon::prelude::*;

use crate::dot::all_pairs;
use crate::norm::rms_norm;
use crate::simd::{Lanes, simd};

/// The paged latent cache, f32: `[layer][block][token in block][latent_dim]`. Of formats with fewer
/// bits it holds the values that they leave.
pub(crate) struct Cache {
    shape: CacheShape,
    format: CacheFormat,
    values: Vec<f32>,
}

impl Cache {
    pub(crate) fn new(shape: CacheShape, format: CacheFormat) -> Cache {
        let tokens = shape.layers * shape.blocks * shape.block_size;
        Cache { shape, format, values: vec![0.0; tokens * shape.latent_dim] }
    }

    /// Where position `position` of a sequence with these blocks lies.
    fn offset(&self, layer: usize, blocks: &[u32], position: usize) -> usize {
        let CacheShape { blocks: count, block_size, latent_dim, .. } = self.shape;
        let block = layer * count + blocks[position / block_size] as usize;
        (block * block_size + position % block_size) * latent_dim
    }

    /// Entries of positions `0..len`, block by block: each a run of whole entries.
    fn runs<'a>(
        &'a self,
        layer: usize,
        blocks: &'a [u32],
        len: usize,
    ) -> impl Iterator<Item = &'a [f32]> {
        let CacheShape { block_size, latent_dim, .. } = self.shape;
        (0..len.div_ceil(block_size)).map(move |i| {
            let start = self.offset(layer, blocks, i * block_size);
            let tokens = block_size.min(len - i * block_size);
            &self.values[start..start + tokens * latent_dim]
        })
    }
}

/// Rotates neighbouring pairs by `cos, sin` pairs.
fn rotate(values: &mut [f32], table: &[f32]) {
    for (pair, turn) in values.chunks_exact_mut(2).zip(table.chunks_exact(2)) {
        let (x, y, cos, sin) = (pair[0], pair[1], turn[0], turn[1]);
        pair[0] = x * cos - y * sin;
        pair[1] = y * cos + x * sin;
    }
}

/// See [`model::Backend::rope_and_cache`].
#[expect(clippy::too_many_arguments, reason = "the verb's arguments and what the backend holds")]
pub(crate) fn rope_and_cache(
    cache: &mut Cache,
    spans: &[Span],
    layer: usize,
    shape: HeadShape,
    q: &mut [f32],
    (kv_a, stride): (&[f32], usize),
    norm: &[f32],
    eps: f32,
    table: &[f32],
) {
    let (head, latent_dim) = (shape.nope + shape.rope, shape.latent + shape.rope);
    for span in spans {
        for i in 0..span.rows {
            let (row, position) = (span.row + i, span.position + i);
            let table = &table[position * shape.rope..(position + 1) * shape.rope];
            let q = &mut q[row * shape.heads * head..(row + 1) * shape.heads * head];
            for head in q.chunks_exact_mut(head) {
                rotate(&mut head[shape.nope..], table);
            }
            let (latent, key) =
                kv_a[(row + 1) * stride - latent_dim..][..latent_dim].split_at(shape.latent);
            let offset = cache.offset(layer, &span.blocks, position);
            let entry = &mut cache.values[offset..offset + latent_dim];
            rms_norm(latent, norm, eps, &mut entry[..shape.latent]);
            entry[shape.latent..].copy_from_slice(key);
            rotate(&mut entry[shape.latent..], table);
            store_as(cache.format, entry, shape.latent);
        }
    }
}

/// Rounds an entry, whose first `latent` values are the latent, to what `format` holds of it.
fn store_as(format: CacheFormat, entry: &mut [f32], latent: usize) {
    if format == CacheFormat::Native {
        return;
    }
    for value in &mut *entry {
        *value = mx::bf16::round(*value);
    }
    if format == CacheFormat::Fp8 {
        mx::round_trip_mxfp8(&mut entry[..latent]);
    }
}

/// A rank's `kv_b_proj` in f32, laid out for absorbed attention.
pub struct LatentProjection {
    shape: HeadShape,
    /// `[head][latent][nope]`: `W_UK` transposed, so that `q W_UK` is made of dot products.
    keys: Vec<f32>,
    /// `[head][v][latent]`: `W_UV`.
    values: Vec<f32>,
}

impl LatentProjection {
    pub(crate) fn new(kv_b: &Matrix, shape: HeadShape) -> LatentProjection {
        let HeadShape { heads, nope, v, latent, .. } = shape;
        let mut keys = vec![0f32; heads * latent * nope];
        let mut values = vec![0f32; heads * v * latent];
        let mut row = vec![0f32; latent];
        for head in 0..heads {
            for i in 0..nope {
                kv_b.row(head * (nope + v) + i, &mut row);
                for (l, &value) in row.iter().enumerate() {
                    keys[(head * latent + l) * nope + i] = value;
                }
            }
            for i in 0..v {
                let at = (head * v + i) * latent;
                kv_b.row(head * (nope + v) + nope + i, &mut values[at..at + latent]);
            }
        }
        LatentProjection { shape, keys, values }
    }

    /// Values per row of attention's result.
    pub(crate) fn out_width(&self) -> usize {
        self.shape.heads * self.shape.v
    }
}

/// One row's attention for some neighbouring heads.
pub(crate) struct Task<'a> {
    cache: &'a Cache,
    kv_b: &'a LatentProjection,
    blocks: &'a [u32],
    layer: usize,
    /// Positions seen: the row's own and all before it.
    len: usize,
    scale: f32,
    first_head: usize,
}

simd! {
    /// Attention of one task: `q` is `[heads, nope + rope]`, `out` `[heads, v]`.
    fn attend(task: &Task<'_>, q: &[f32], out: &mut [f32]) = attend_body
}

#[inline(always)]
fn attend_body<V: Lanes>(task: &Task<'_>, q: &[f32], out: &mut [f32]) {
    let HeadShape { nope, rope, v, latent, .. } = task.kv_b.shape;
    let heads = q.len() / (nope + rope);
    let entry = latent + rope;
    let mut queries = vec![0f32; heads * entry];
    for ((i, q), query) in q.chunks_exact(nope + rope).enumerate().zip(queries.chunks_mut(entry)) {
        let head = task.first_head + i;
        let keys = &task.kv_b.keys[head * latent * nope..(head + 1) * latent * nope];
        all_pairs::<V>(&q[..nope], keys, nope, &mut query[..latent]);
        query[latent..].copy_from_slice(&q[nope..]);
    }
    // scores[position][head]
    let mut scores = vec![0f32; task.len * heads];
    let mut rest = &mut scores[..];
    for run in task.cache.runs(task.layer, task.blocks, task.len) {
        let (part, tail) = rest.split_at_mut(run.len() / entry * heads);
        all_pairs::<V>(run, &queries, entry, part);
        rest = tail;
    }
    let sums = softmax_numerators(&mut scores, heads, task.scale);
    let mut mixed = vec![0f32; heads * latent];
    let entries = task.cache.runs(task.layer, task.blocks, task.len);
    let entries = entries.flat_map(|run| run.chunks_exact(entry));
    for (entry, weights) in entries.zip(scores.chunks_exact(heads)) {
        for (mixed, &weight) in mixed.chunks_exact_mut(latent).zip(weights) {
            for (mixed, c) in mixed.iter_mut().zip(&entry[..latent]) {
                *mixed = weight.mul_add(*c, *mixed);
            }
        }
    }
    for (i, (mixed, out)) in mixed.chunks_exact_mut(latent).zip(out.chunks_exact_mut(v)).enumerate()
    {
        mixed.iter_mut().for_each(|x| *x /= sums[i]);
        let head = task.first_head + i;
        let values = &task.kv_b.values[head * v * latent..(head + 1) * v * latent];
        all_pairs::<V>(mixed, values, latent, out);
    }
}

/// Replaces `scores[position][head]` by `exp(scale * (score - max))`; returns each head's sum,
/// added up in order of position.
#[inline(always)]
fn softmax_numerators(scores: &mut [f32], heads: usize, scale: f32) -> Vec<f32> {
    let mut max = vec![f32::NEG_INFINITY; heads];
    for row in scores.chunks_exact(heads) {
        max.iter_mut().zip(row).for_each(|(max, s)| *max = max.max(*s));
    }
    let mut sums = vec![0f32; heads];
    for row in scores.chunks_exact_mut(heads) {
        for ((s, max), sum) in row.iter_mut().zip(&max).zip(&mut sums) {
            *s = (scale * (*s - max)).exp();
            *sum += *s;
        }
    }
    sums
}

/// See [`model::Backend::attention`]. Parallel over rows, and over heads where rows are few.
pub(crate) fn attention(
    cache: &Cache,
    spans: &[Span],
    layer: usize,
    q: &[f32],
    kv_b: &LatentProjection,
    scale: f32,
    out: &mut [f32],
) {
    let HeadShape { heads, nope, rope, v, .. } = kv_b.shape;
    let rows = out.len() / (heads * v);
    let together = if rows >= 2 * rayon::current_num_threads() { heads } else { 1 };
    let owners: Vec<(&Span, usize)> =
        spans.iter().flat_map(|s| (0..s.rows).map(move |i| (s, s.position + i + 1))).collect();
    let tasks =
        q.par_chunks(together * (nope + rope)).zip(out.par_chunks_mut(together * v)).enumerate();
    tasks.for_each(|(i, (q, out))| {
        let (span, len) = owners[i * together / heads];
        let first_head = i * together % heads;
        let blocks = &span.blocks;
        attend(&Task { cache, kv_b, blocks, layer, len, scale, first_head }, q, out);
    });
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
