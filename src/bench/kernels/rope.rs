//! Rotary embedding and the rows' cache entries.

use hip::kernels::rope_and_cache::{Buffers, entry_bytes, rope_and_cache};
use hip::{Error, Memory};
use model::{CacheFormat, HeadShape};

use super::case::{Case, Cost, Work};
use super::check::{Exact, close, halves_written_in, same, sample};
use super::gpu::{Bytes, Count, Gpu, Operand, Random};
use super::norm::normalized;
use super::shapes::Shapes;

const EPS: f32 = 1e-6;
/// Positions that the table of rotations has.
const POSITIONS: usize = 4096;

struct Rope {
    rows: usize,
    shape: HeadShape,
    format: CacheFormat,
    count: Count,
    /// Half of the rows: in a batch with prompts.
    generated: Count,
    slots: Vec<u32>,
    positions: Vec<u32>,
    numbers: [Memory; 2],
    q: Operand,
    kv_a: Operand,
    norm: Operand,
    table: Operand,
    expanded: Memory,
    absorbed: Memory,
    cache: Memory,
}

impl Rope {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        shape: HeadShape,
        format: CacheFormat,
        rows: usize,
    ) -> Result<Rope, Error> {
        let HeadShape { heads, nope, rope, latent, .. } = shape;
        let slots = random.permutation(rows);
        let positions: Vec<u32> = (0..rows).map(|_| random.below(POSITIONS) as u32).collect();
        Ok(Rope {
            rows,
            shape,
            format,
            count: gpu.count(rows)?,
            generated: gpu.count(rows.div_ceil(2))?,
            numbers: [gpu.numbers(&positions)?, gpu.numbers(&slots)?],
            slots,
            positions,
            q: Operand::f32s(gpu, random, rows * heads * (nope + rope), 4.0)?,
            kv_a: Operand::f32s(gpu, random, rows * (latent + rope), 2.0)?,
            norm: Operand::f32s(gpu, random, latent, 1.5)?,
            table: Operand::f32s(gpu, random, POSITIONS * rope, 1.0)?,
            expanded: gpu.empty(2 * rows * heads * (nope + rope))?,
            absorbed: gpu.empty(2 * rows * heads * (latent + rope))?,
            cache: gpu.empty(rows * entry_bytes(format, latent, rope))?,
        })
    }

    /// Checks turned pairs: each product and the sum round once, then bf16.
    fn check_turned(
        &self,
        name: &str,
        row: usize,
        found: impl Fn(usize) -> f32,
        x: impl Fn(usize) -> f32,
    ) -> anyhow::Result<()> {
        let (rope, turns) = (self.shape.rope, self.positions[row] as usize * self.shape.rope);
        for i in 0..rope {
            let [cos, sin] = [0, 1].map(|j| f64::from(self.table.f32(turns + i / 2 * 2 + j)));
            let [a, b] = [0, 1].map(|j| f64::from(x(i / 2 * 2 + j)));
            let (one, other) = if i % 2 == 0 { (a * cos, -b * sin) } else { (b * cos, a * sin) };
            let bound = 2f64.powi(-22) * (one.abs() + other.abs());
            close(name, &[row, i], found(i), Exact { value: one + other, bound }.to_bf16())?;
        }
        Ok(())
    }

    fn check_queries(&self, row: usize, expanded: &Bytes, absorbed: &Bytes) -> anyhow::Result<()> {
        let HeadShape { heads, nope, rope, latent, .. } = self.shape;
        let width = nope + rope;
        for head in 0..heads {
            let at = row * heads + head;
            let q = |i: usize| self.q.f32(at * width + i);
            for i in 0..nope {
                let expected = mx::bf16::round(q(i));
                same("expanded", &[row, head, i], expanded.bf16(at * width + i), expected)?;
            }
            let turned = |i: usize| match row < self.generated.rows().bound {
                true => absorbed.bf16(at * (latent + rope) + latent + i),
                false => expanded.bf16(at * width + nope + i),
            };
            self.check_turned("queries", row, turned, |i| q(nope + i))?;
        }
        Ok(())
    }

    fn check_entry(&self, row: usize, cache: &Bytes) -> anyhow::Result<()> {
        let HeadShape { rope, latent, .. } = self.shape;
        let first = self.slots[row] as usize * entry_bytes(self.format, latent, rope);
        let kv_a = |i: usize| self.kv_a.f32(row * (latent + rope) + i);
        let exact = normalized(latent, EPS, kv_a, |i| self.norm.f32(i));
        let fp8 = self.format == CacheFormat::Fp8;
        for (i, exact) in exact.into_iter().enumerate() {
            let (found, exact) = match fp8 {
                false => (cache.bf16(first / 2 + i), exact),
                true => {
                    let scale = mx::e8m0::decode(cache.0[first + latent + i / 32]);
                    let value = mx::e4m3::decode(cache.0[first + i]) * scale;
                    // E4M3 rounds by 2^-4, or by half of its smallest step, 2^-10 of a scale.
                    let step = 2f64.powi(-10) * f64::from(scale);
                    let more = (exact.value.abs() + exact.bound) * 2f64.powi(-4) + step;
                    (value, Exact { bound: exact.bound + more, ..exact })
                }
            };
            close("cache", &[row, i], found, exact)?;
        }
        let rest = if fp8 { latent + latent / 32 } else { 2 * latent };
        let turned = |i: usize| cache.bf16((first + rest) / 2 + i);
        self.check_turned("cache", row, turned, |i| kv_a(latent + i))
    }
}

impl Work for Rope {
    fn cost(&self) -> Cost {
        let HeadShape { heads, nope, rope, latent, .. } = self.shape;
        let entry = entry_bytes(self.format, latent, rope);
        // f32 in, bf16 out; a position, a slot and its rotations; the weights once.
        let row = 6 * heads * (nope + rope) + 4 * (latent + rope) + entry + 8 + 4 * rope;
        Cost::of_bytes(self.rows * row + 4 * latent)
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.expanded, &self.absorbed, &self.cache]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let [positions, slots] = self.numbers.each_ref().map(Memory::ptr);
        let buffers = Buffers {
            q: &self.q.memory,
            kv_a: &self.kv_a.memory,
            kv_stride: self.shape.latent + self.shape.rope,
            norm: &self.norm.memory,
            table: &self.table.memory,
            expanded: &self.expanded,
            absorbed: &self.absorbed,
            cache: &self.cache,
            format: self.format,
            cache_offset: 0,
        };
        let (stream, kernels, rows) = (&gpu.stream, &gpu.kernels, self.count.rows());
        let generated = self.generated.rows().count;
        let shape = self.shape;
        rope_and_cache(stream, kernels, rows, positions, slots, generated, shape, buffers, EPS)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let HeadShape { heads, nope, rope, .. } = self.shape;
        let expanded = gpu.download(&self.expanded)?;
        for at in 0..self.rows * heads {
            let first = at * (nope + rope);
            halves_written_in("expanded", &expanded, first..first + nope)?;
        }
        let absorbed = gpu.download(&self.absorbed)?;
        let cache = gpu.download(&self.cache)?;
        for row in sample(self.rows, 30, self.shape.heads) {
            self.check_queries(row, &expanded, &absorbed)?;
            self.check_entry(row, &cache)?;
        }
        Ok(())
    }
}

pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    for (format, name) in [(CacheFormat::Bf16, "bf16"), (CacheFormat::Fp8, "fp8")] {
        for &rows in tokens {
            let text = format!("{rows} x {} heads", s.heads.heads);
            let build = move |gpu: &Gpu, random: &mut Random| {
                Ok(Rope::new(gpu, random, s.heads, format, rows)?)
            };
            cases.push(Case::new(format!("rope_and_cache {name}"), text, build));
        }
    }
}
