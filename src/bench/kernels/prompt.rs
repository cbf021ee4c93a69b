//! Expanded MLA: sequences' cache entries one after another, and attention of prompts' chunks. The
//! product between the two is a `matmul` of `heads * (NOPE + VALUE)` columns.

use hip::kernels::attention::{LATENT, ROPE};
use hip::kernels::attention_prompt::{self, Buffers, Chunk, NOPE, VALUE, attention_prompt};
use hip::kernels::gather_entries::{self, gather_entries};
use hip::kernels::rope_and_cache::entry_bytes;
use hip::{Error, Memory};
use model::CacheFormat;

use super::attention::{BLOCK, QUERY_SIZE, cache, entry};
use super::case::{Case, Cost, Rate, Work};
use super::check::{BF16, Exact, close, halves_written, same, sample};
use super::gpu::{Bytes, Gpu, Operand, Random};
use super::shapes::Shapes;

const QUERY: usize = NOPE + ROPE;
const EXPANDED: usize = NOPE + VALUE;

/// So many prompts of `context` keys, of which the last `rows` are there.
#[derive(Clone, Copy)]
struct Batch {
    prompts: usize,
    rows: usize,
    context: usize,
}

impl Batch {
    fn chunks(self) -> Vec<Chunk> {
        let Batch { prompts, rows, context } = self;
        let blocks = context.div_ceil(BLOCK);
        let chunk = |i| Chunk { row: i * rows, rows, first: context - rows, table: i * blocks };
        (0..prompts).map(chunk).collect()
    }
}

struct Prompts {
    heads: usize,
    scale: f32,
    batch: Batch,
    chunks: Vec<Chunk>,
    blocks: Memory,
    queries: Operand,
    keys_values: Operand,
    ropes: Operand,
    out: Memory,
}

impl Prompts {
    fn new(gpu: &Gpu, random: &mut Random, s: Shapes, batch: Batch) -> Result<Prompts, Error> {
        let (heads, chunks) = (s.heads.heads, batch.chunks());
        let (rows, keys) = (batch.prompts * batch.rows, batch.prompts * batch.context);
        Ok(Prompts {
            heads,
            scale: s.scale,
            batch,
            blocks: gpu.numbers(&attention_prompt::list(&chunks))?,
            chunks,
            queries: Operand::bf16s(gpu, random, rows * heads * QUERY, QUERY_SIZE)?,
            keys_values: Operand::bf16s(gpu, random, keys * heads * EXPANDED, 1.0)?,
            ropes: Operand::bf16s(gpu, random, keys * ROPE, 1.0)?,
            out: gpu.empty(rows * heads * VALUE * 2)?,
        })
    }

    /// Checks one row and head. Bound: a score's error is at most QUERY + 4 roundings of partial
    /// sums, each below the sum of absolute products, so weights are off by a factor within
    /// e^(score error), 2^-21 for the exponential and its argument, and, where they multiply
    /// values, 2^-8 for bf16. Weights off by factors within 1 +- e move a weighted mean by at most
    /// 2 e / (1 - e) of the mean of absolute values. f32 sums add a rounding for each key, the
    /// result's bf16 2^-8.
    fn check_head(&self, out: &Bytes, row: usize, head: usize) -> anyhow::Result<()> {
        let Batch { rows, context, .. } = self.batch;
        let (len, scale) = (context - rows + row % rows + 1, f64::from(self.scale));
        let begin = row / rows * context;
        let at = row * self.heads + head;
        let query: Vec<f64> =
            (0..QUERY).map(|i| f64::from(self.queries.bf16(at * QUERY + i))).collect();
        // The weights' sum and the weighted sums, relative to the greatest score so far.
        let (mut greatest, mut score_error, mut sum) = (f64::NEG_INFINITY, 0f64, 0f64);
        let (mut mean, mut size) = ([0f64; VALUE], [0f64; VALUE]);
        for key in begin..begin + len {
            let first = (key * self.heads + head) * EXPANDED;
            let value = |i: usize| match i {
                ..NOPE => self.keys_values.bf16(first + i),
                _ => self.ropes.bf16(key * ROPE + i - NOPE),
            };
            let terms = query.iter().enumerate().map(|(i, q)| q * f64::from(value(i)));
            let (total, magnitude) = terms.fold((0.0, 0.0), |(s, m), t: f64| (s + t, m + t.abs()));
            score_error = score_error.max(scale * magnitude * (QUERY + 4) as f64 * 2f64.powi(-24));
            let score = scale * total;
            if score > greatest {
                let factor = (greatest - score).exp();
                greatest = score;
                sum *= factor;
                mean.iter_mut().chain(&mut size).for_each(|x| *x *= factor);
            }
            let weight = (score - greatest).exp();
            sum += weight;
            for i in 0..VALUE {
                let term = weight * f64::from(self.keys_values.bf16(first + NOPE + i));
                mean[i] += term;
                size[i] += term.abs();
            }
        }
        let factor = score_error.exp() * (1.0 + 2f64.powi(-21)) * (1.0 + BF16) - 1.0;
        let mixed = 2.0 * factor / (1.0 - factor) + (len + 12) as f64 * 2f64.powi(-23);
        for i in 0..VALUE {
            let exact = Exact { value: mean[i] / sum, bound: mixed * size[i] / sum }.to_bf16();
            close("out", &[row, head, i], out.bf16(at * VALUE + i), exact)?;
        }
        Ok(())
    }
}

impl Work for Prompts {
    fn cost(&self) -> Cost {
        let Prompts { heads, batch: Batch { prompts, rows, context }, .. } = *self;
        let keys = rows * (context - rows) + rows * (rows + 1) / 2;
        let values = rows * heads * (QUERY + VALUE) + context * (heads * EXPANDED + ROPE);
        Cost {
            bytes: 2 * prompts * values,
            in_place: 0,
            operations: 2 * prompts * heads * keys * (QUERY + VALUE),
            rate: Rate::Bf16,
        }
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let buffers = Buffers {
            queries: &self.queries.memory,
            keys_values: &self.keys_values.memory,
            ropes: &self.ropes.memory,
            out: &self.out,
        };
        let (chunks, blocks) = (&self.chunks, self.blocks.ptr());
        attention_prompt(&gpu.stream, &gpu.kernels, chunks, blocks, buffers, self.heads, self.scale)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let out = gpu.download(&self.out)?;
        halves_written("out", &out)?;
        let Batch { prompts, rows, context } = self.batch;
        for row in sample(prompts * rows, 2, context) {
            for head in sample(self.heads, 0, row) {
                self.check_head(&out, row, head)?;
            }
        }
        Ok(())
    }
}

/// All entries of a batch's sequences.
struct Gather {
    format: CacheFormat,
    batch: Batch,
    chunks: Vec<Chunk>,
    list: Memory,
    caches: Vec<Operand>,
    table: Vec<u32>,
    blocks: Memory,
    latents: Memory,
    ropes: Memory,
}

impl Gather {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        format: CacheFormat,
        batch: Batch,
    ) -> Result<Gather, Error> {
        let (chunks, keys) = (batch.chunks(), batch.prompts * batch.context);
        let table = random.permutation(batch.prompts * batch.context.div_ceil(BLOCK));
        let mut caches = vec![cache(gpu, random, table.len() * BLOCK, format)?];
        for _ in 1..gpu.sets(caches[0].memory.bytes()) {
            caches.push(caches[0].copy(gpu)?);
        }
        Ok(Gather {
            format,
            batch,
            list: gpu.numbers(&gather_entries::list(&chunks))?,
            chunks,
            caches,
            blocks: gpu.numbers(&table)?,
            table,
            latents: gpu.empty(2 * keys * LATENT)?,
            ropes: gpu.empty(2 * keys * ROPE)?,
        })
    }
}

impl Work for Gather {
    fn cost(&self) -> Cost {
        let entry = entry_bytes(self.format, LATENT, ROPE) + 2 * (LATENT + ROPE);
        let Batch { prompts, context, .. } = self.batch;
        Cost::of_bytes(prompts * context * entry + 4 * self.table.len())
    }

    fn sets(&self) -> usize {
        self.caches.len()
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.latents, &self.ropes]
    }

    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error> {
        let buffers = gather_entries::Buffers {
            cache: &self.caches[set].memory,
            format: self.format,
            cache_offset: 0,
            latents: &self.latents,
            ropes: &self.ropes,
        };
        let places = gather_entries::Places { list: self.list.ptr(), tables: self.blocks.ptr() };
        gather_entries(&gpu.stream, &gpu.kernels, &self.chunks, places, buffers, BLOCK)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (latents, ropes) = (gpu.download(&self.latents)?, gpu.download(&self.ropes)?);
        halves_written("latents", &latents)?;
        halves_written("ropes", &ropes)?;
        let Batch { prompts, context, .. } = self.batch;
        for key in sample(prompts * context, 64, context) {
            let (prompt, place) = (key / context, key % context);
            let block = self.table[prompt * context.div_ceil(BLOCK) + place / BLOCK];
            let slot = block as usize * BLOCK + place % BLOCK;
            let values = entry(&self.caches[0], self.format, slot);
            for (i, &value) in values.iter().enumerate() {
                let found = match i {
                    ..LATENT => latents.bf16(key * LATENT + i),
                    _ => ropes.bf16(key * ROPE + i - LATENT),
                };
                same("entries", &[key, i], found, value)?;
            }
        }
        Ok(())
    }
}

/// Rows that make a prompt's chunk, at least: more than decode.
pub(super) const LEAST_CHUNK: usize = 256;
/// Rows of each of many prompts.
const SHORT: usize = 64;

/// Prompts whose last rows come in one chunk, and many short ones.
pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize], contexts: &[usize]) {
    let chunks = || tokens.iter().copied().filter(|&n| n >= LEAST_CHUNK);
    let short = |rows: usize| {
        let batch = Batch { prompts: rows / SHORT, rows: SHORT, context: SHORT };
        (batch, format!("{} prompts of {SHORT}", batch.prompts))
    };
    let mut gathers: Vec<(Batch, String)> = contexts
        .iter()
        .map(|&context| (Batch { prompts: 1, rows: context, context }, format!("{context} keys")))
        .collect();
    gathers.extend(chunks().map(short));
    for (format, name) in [(CacheFormat::Bf16, "bf16"), (CacheFormat::Fp8, "fp8")] {
        for &(batch, ref text) in &gathers {
            let build =
                move |gpu: &Gpu, random: &mut Random| Ok(Gather::new(gpu, random, format, batch)?);
            cases.push(Case::new(format!("gather_entries {name}"), text.clone(), build));
        }
    }
    let mut batches = Vec::new();
    for &context in contexts {
        let own = chunks().filter(|&rows| rows <= context);
        batches.extend(
            own.map(|rows| {
                (Batch { prompts: 1, rows, context }, format!("{rows} x {context} keys"))
            }),
        );
    }
    batches.extend(chunks().map(short));
    for (batch, text) in batches {
        let build = move |gpu: &Gpu, random: &mut Random| Ok(Prompts::new(gpu, random, s, batch)?);
        cases.push(Case::new("attention_prompt", text, build));
    }
}
