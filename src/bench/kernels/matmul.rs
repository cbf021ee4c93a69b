//! Products with BF16 matrices.

use hip::kernels::matmul::{Output, View, Weights, matmul, pair_place, tile_bytes};
use hip::{Error, Memory, Platform};
use model::Limits;

use super::case::{Case, Cost, Rate, Work};
use super::check::{close, dot, halves_written, sample, words_written};
use super::gpu::{Count, Gpu, Operand, Random};
use super::prompt::LEAST_CHUNK;
use super::shapes::Shapes;

/// A matrix, or one for each head.
#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    k: usize,
    batch: usize,
    output: Output,
}

struct Matmul {
    platform: Platform,
    rows: usize,
    shape: Shape,
    count: Count,
    x: Operand,
    weights: Vec<Operand>,
    out: Memory,
}

impl Matmul {
    fn new(gpu: &Gpu, random: &mut Random, rows: usize, shape: Shape) -> Result<Matmul, Error> {
        let Shape { n, k, batch, output } = shape;
        let values = batch * n.next_multiple_of(16) * k;
        let first = Operand::bf16s(gpu, random, values, 1.0)?;
        let mut weights = vec![first];
        for _ in 1..gpu.sets(2 * values) {
            weights.push(weights[0].copy(gpu)?);
        }
        Ok(Matmul {
            platform: gpu.device.platform(),
            rows,
            shape,
            count: gpu.count(rows)?,
            x: Operand::bf16s(gpu, random, rows * batch * k, 1.0)?,
            weights,
            out: gpu.empty(rows * batch * n * output.bytes())?,
        })
    }

    /// Element `(row, column)` of matrix `batch`, where the kernels' order has it.
    fn weight(&self, batch: usize, row: usize, column: usize) -> f32 {
        let Shape { n, k, .. } = self.shape;
        let tile = batch * n.div_ceil(16) + row / 16;
        let pair = tile * tile_bytes(k) + pair_place(self.platform, row % 16, column / 2 * 2);
        self.weights[0].bf16(pair / 2 + column % 2)
    }
}

impl Work for Matmul {
    fn cost(&self) -> Cost {
        let Shape { n, k, batch, output } = self.shape;
        Cost {
            bytes: batch * (2 * n * k + self.rows * (2 * k + output.bytes() * n)),
            in_place: 0,
            operations: 2 * batch * self.rows * n * k,
            rate: Rate::Bf16,
        }
    }

    fn sets(&self) -> usize {
        self.weights.len()
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, set: usize) -> Result<(), Error> {
        let Shape { n, k, batch, output } = self.shape;
        let x = View { memory: &self.x.memory, stride: batch * k, batch: k };
        let weights = Weights { memory: &self.weights[set].memory, n, k, batch };
        let out = View { memory: &self.out, stride: batch * n, batch: n };
        let rows = self.count.rows();
        matmul(&gpu.stream, &gpu.kernels, rows, x, weights, out, output)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let Shape { n, k, batch, output } = self.shape;
        let out = gpu.download(&self.out)?;
        match output {
            Output::F32 => words_written("out", &out)?,
            Output::Bf16 => halves_written("out", &out)?,
        }
        for row in sample(self.rows, 2, n) {
            for b in sample(batch, 1, row) {
                for column in sample(n, 6, row) {
                    let at = (row * batch + b) * n + column;
                    let x = (row * batch + b) * k;
                    let exact = dot((0..k).map(|i| {
                        f64::from(self.x.bf16(x + i)) * f64::from(self.weight(b, column, i))
                    }));
                    let (found, exact) = match output {
                        Output::F32 => (out.f32(at), exact),
                        Output::Bf16 => (out.bf16(at), exact.to_bf16()),
                    };
                    close("out", &[row, b, column], found, exact)?;
                }
            }
        }
        Ok(())
    }

    fn product(&self) -> Option<([usize; 3], Output)> {
        let Shape { n, k, batch, output } = self.shape;
        (batch == 1).then_some(([self.rows, n, k], output))
    }
}

fn add(cases: &mut Vec<Case>, name: &str, shape: Shape, tokens: &[usize]) {
    for &rows in tokens {
        let Shape { n, k, batch, .. } = shape;
        let heads = if batch > 1 { format!("{batch} heads, ") } else { String::new() };
        let text = format!("{heads}{rows} x {n} x {k}");
        let build =
            move |gpu: &Gpu, random: &mut Random| Ok(Matmul::new(gpu, random, rows, shape)?);
        cases.push(Case::new(format!("matmul {name}"), text, build));
    }
}

fn dense(n: usize, k: usize) -> Shape {
    Shape { n, k, batch: 1, output: Output::F32 }
}

/// What comes before attention.
pub(super) fn attention_inputs(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let heads = s.heads;
    add(cases, "qkv_a", dense(s.q_latent + heads.latent + heads.rope, s.hidden), tokens);
    add(cases, "q_b", dense(heads.heads * (heads.nope + heads.rope), s.q_latent), tokens);
    add(cases, "w_uk", by_head(heads.heads, heads.latent, heads.nope), tokens);
    // Prompts' keys and values, of which they have many.
    let (n, k) = (heads.heads * (heads.nope + heads.v), heads.latent);
    let keys: Vec<usize> = tokens.iter().copied().filter(|&n| n >= LEAST_CHUNK).collect();
    add(cases, "expand", Shape { n, k, batch: 1, output: Output::Bf16 }, &keys);
}

/// What comes after it.
pub(super) fn attention_outputs(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let heads = s.heads;
    add(cases, "w_uv", by_head(heads.heads, heads.v, heads.latent), tokens);
    add(cases, "o_proj", dense(s.hidden, heads.heads * heads.v), tokens);
}

/// A latent projection.
fn by_head(heads: usize, n: usize, k: usize) -> Shape {
    Shape { n, k, batch: heads, output: Output::Bf16 }
}

/// The router and the shared expert.
pub(super) fn shared_expert(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    add(cases, "router with shared gate_up", dense(s.experts + 2 * s.shared, s.hidden), tokens);
    add(cases, "shared down", dense(s.hidden, s.shared), tokens);
}

/// The output head, of as many rows as are computed at once.
pub(super) fn head(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let tokens: Vec<usize> = tokens.iter().copied().filter(|&n| n <= Limits::LOGIT_ROWS).collect();
    add(cases, "head", dense(s.vocab / s.ranks, s.hidden), &tokens);
}
