//! Absorbed MLA over the paged cache: decode, one row for each sequence.

use hip::kernels::attention::{Buffers, LATENT, Places, ROPE, Workspace, attention, splits};
use hip::kernels::rope_and_cache::entry_bytes;
use hip::{Error, Memory};
use model::CacheFormat;

use super::case::{Case, Cost, Rate, Work};
use super::check::{BF16, Exact, close, halves_written, sample};
use super::gpu::{Bytes, Count, Gpu, Operand, Random};
use super::shapes::Shapes;

/// Tokens in a block of the cache: what `moonrock serve` takes if nothing else is said.
pub(super) const BLOCK: usize = 16;
const ENTRY: usize = LATENT + ROPE;
/// Keys that are one split in any format.
const SPLIT: usize = 320;
/// Of queries: so large that some keys matter much more than others, as in a model.
pub(super) const QUERY_SIZE: f32 = 3.0;

/// So many sequences of so many keys each, of which the last asks.
#[derive(Clone, Copy)]
struct Batch {
    format: CacheFormat,
    sequences: usize,
    context: usize,
}

struct Attention {
    s: Shapes,
    batch: Batch,
    workspace: Workspace,
    count: Count,
    queries: Operand,
    caches: Vec<Operand>,
    tables: Vec<u32>,
    /// On the device: positions, starts of tables, tables, count of splits, splits.
    numbers: [Memory; 5],
    out: Memory,
}

/// Random entries as `rope_and_cache` writes them.
pub(super) fn cache(
    gpu: &Gpu,
    random: &mut Random,
    entries: usize,
    format: CacheFormat,
) -> Result<Operand, Error> {
    if format != CacheFormat::Fp8 {
        return Operand::bf16s(gpu, random, entries * ENTRY, 1.0);
    }
    let size = entry_bytes(format, LATENT, ROPE);
    Operand::new(gpu, entries * size, size, |out| {
        // E4M3 of magnitudes up to 1.9, and scales of 2^-2 to 2^0.
        out.extend((0..LATENT).map(|_| (random.below(64) | random.below(2) << 7) as u8));
        out.extend((0..LATENT / 32).map(|_| 125 + random.below(3) as u8));
        let rope = (0..ROPE).map(|_| mx::bf16::from_f32(random.unit()));
        out.extend(rope.flat_map(|code| code.to_ne_bytes()));
    })
}

/// The values of the entry in a slot of the cache, as both formats hold them exactly.
pub(super) fn entry(cache: &Operand, format: CacheFormat, slot: usize) -> Vec<f32> {
    if format != CacheFormat::Fp8 {
        return (0..ENTRY).map(|i| cache.bf16(slot * ENTRY + i)).collect();
    }
    let first = slot * entry_bytes(format, LATENT, ROPE);
    let rope = (first + LATENT + LATENT / 32) / 2;
    let value = |i: usize| match i {
        ..LATENT => {
            let scale = mx::e8m0::decode(cache.u8(first + LATENT + i / 32));
            mx::e4m3::decode(cache.u8(first + i)) * scale
        }
        _ => cache.bf16(rope + i - LATENT),
    };
    (0..ENTRY).map(value).collect()
}

impl Attention {
    fn new(gpu: &Gpu, random: &mut Random, s: Shapes, batch: Batch) -> Result<Attention, Error> {
        let Batch { format, sequences, context } = batch;
        let (blocks, heads) = (context.div_ceil(BLOCK), s.heads.heads);
        let entries = sequences * blocks * BLOCK;
        let mut caches = vec![cache(gpu, random, entries, format)?];
        for _ in 1..gpu.sets(caches[0].memory.bytes()) {
            caches.push(caches[0].copy(gpu)?);
        }
        let tables = random.permutation(sequences * blocks);
        let positions = vec![context as u32 - 1; sequences];
        let starts: Vec<u32> = (0..sequences).map(|i| (i * blocks) as u32).collect();
        let splits = splits(&positions, format, gpu.device.platform());
        Ok(Attention {
            s,
            batch,
            workspace: Workspace::new(&gpu.device, heads, context, sequences)?,
            count: gpu.count(sequences)?,
            queries: Operand::bf16s(gpu, random, sequences * heads * ENTRY, QUERY_SIZE)?,
            caches,
            numbers: [
                gpu.numbers(&positions)?,
                gpu.numbers(&starts)?,
                gpu.numbers(&tables)?,
                gpu.numbers(&[splits.len() as u32])?,
                gpu.numbers(&splits)?,
            ],
            tables,
            out: gpu.empty(sequences * heads * LATENT * 2)?,
        })
    }

    /// The values of a key.
    fn entry(&self, sequence: usize, key: usize) -> Vec<f64> {
        let Batch { format, context, .. } = self.batch;
        let block = self.tables[sequence * context.div_ceil(BLOCK) + key / BLOCK] as usize;
        let values = entry(&self.caches[0], format, block * BLOCK + key % BLOCK);
        values.into_iter().map(f64::from).collect()
    }

    /// Checks one row and head. Bound: a score's error is at most ENTRY + 4 roundings of partial
    /// sums, each below the sum of absolute products, so weights are off by a factor within
    /// e^(score error), 2^-21 for the exponential and its argument, and 2^-8 for bf16. Weights off
    /// by factors within 1 +- e move a weighted mean by at most 2 e / (1 - e) of the mean of
    /// absolute values. f32 sums add a rounding for each key, the result's bf16 2^-8; where there
    /// are several splits, f16 moves their means by 2^-11 of them, 2^-25 at least, and on CUDA as
    /// much again those of groups of eight, where there are several.
    fn check_head(&self, out: &Bytes, row: usize, head: usize) -> anyhow::Result<()> {
        let len = self.batch.context;
        let (heads, scale) = (self.s.heads.heads, f64::from(self.s.scale));
        let first = (row * heads + head) * ENTRY;
        let query: Vec<f64> = (0..ENTRY).map(|i| f64::from(self.queries.bf16(first + i))).collect();
        // The weights' sum and the weighted sums, relative to the greatest score so far.
        let (mut greatest, mut score_error, mut sum) = (f64::NEG_INFINITY, 0f64, 0f64);
        let (mut mean, mut size) = (vec![0f64; LATENT], vec![0f64; LATENT]);
        for key in 0..len {
            let entry = self.entry(row, key);
            let terms = query.iter().zip(&entry).map(|(q, k)| q * k);
            let (total, magnitude) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
            score_error = score_error.max(scale * magnitude * (ENTRY + 4) as f64 * 2f64.powi(-24));
            let score = scale * total;
            if score > greatest {
                let factor = (greatest - score).exp();
                greatest = score;
                sum *= factor;
                mean.iter_mut().chain(&mut size).for_each(|x| *x *= factor);
            }
            let weight = (score - greatest).exp();
            sum += weight;
            for (i, value) in entry[..LATENT].iter().enumerate() {
                mean[i] += weight * value;
                size[i] += weight * value.abs();
            }
        }
        let factor = score_error.exp() * (1.0 + 2f64.powi(-21)) * (1.0 + BF16) - 1.0;
        let mixed = 2.0 * factor / (1.0 - factor) + (len + 12) as f64 * 2f64.powi(-23);
        let roundings = i32::from(len > SPLIT) + i32::from(len > 8 * SPLIT);
        let half = (1.0 + 2f64.powi(-11)).powi(roundings) - 1.0;
        for i in 0..LATENT {
            let (value, size) = (mean[i] / sum, size[i] / sum);
            let bound = mixed * size + half * (size + 2f64.powi(-14));
            let exact = Exact { value, bound }.to_bf16();
            let at = (row * heads + head) * LATENT + i;
            close("out", &[row, head, i], out.bf16(at), exact)?;
        }
        Ok(())
    }
}

impl Work for Attention {
    fn cost(&self) -> Cost {
        let Batch { format, sequences, context } = self.batch;
        let (keys, heads) = (sequences * context, self.s.heads.heads);
        Cost {
            bytes: keys * entry_bytes(format, LATENT, ROPE)
                + 2 * sequences * heads * (ENTRY + LATENT)
                + 4 * self.tables.len(),
            in_place: 0,
            operations: 2 * heads * keys * (ENTRY + LATENT),
            rate: Rate::Bf16,
        }
    }

    fn sets(&self) -> usize {
        self.caches.len()
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error> {
        let [positions, table_starts, tables, split_count, splits] =
            self.numbers.each_ref().map(Memory::ptr);
        let places = Places { first_row: 0, positions, table_starts, tables, split_count, splits };
        let buffers = Buffers {
            queries: &self.queries.memory,
            cache: &self.caches[set].memory,
            format: self.batch.format,
            cache_offset: 0,
            out: &self.out,
        };
        let (heads, rows) = (self.s.heads.heads, self.count.rows());
        let (stream, kernels, workspace) = (&gpu.stream, &gpu.kernels, &self.workspace);
        attention(stream, kernels, workspace, rows, places, buffers, heads, BLOCK, self.s.scale)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let out = gpu.download(&self.out)?;
        halves_written("out", &out)?;
        for row in sample(self.batch.sequences, 1, self.batch.context) {
            for head in sample(self.s.heads.heads, 0, row) {
                self.check_head(&out, row, head)?;
            }
        }
        Ok(())
    }
}

/// Sequences that decode together, at most.
const MOST_DECODES: usize = 64;

/// Decode of as many sequences as `tokens` says.
pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize], contexts: &[usize]) {
    for (format, name) in [(CacheFormat::Bf16, "bf16"), (CacheFormat::Fp8, "fp8")] {
        for &context in contexts {
            for &sequences in tokens.iter().filter(|&&n| n <= MOST_DECODES) {
                let batch = Batch { format, sequences, context };
                let build = move |gpu: &Gpu, random: &mut Random| {
                    Ok(Attention::new(gpu, random, s, batch)?)
                };
                let text = format!("{sequences} x {context} keys");
                cases.push(Case::new(format!("attention decode {name}"), text, build));
            }
        }
    }
}
