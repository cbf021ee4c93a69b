//! The sampler.

use std::f32::consts::LOG2_E;

use hip::kernels::sample::{Buffers, Drawn, NONE, Request, TEAMS_BYTES, sample};
use hip::{Error, Memory};
use model::{Limits, uniform};

use super::case::{Case, Cost, Work};
use super::check::same;
use super::gpu::{Gpu, Operand, Random};
use super::shapes::Shapes;

const TOP_P: f32 = 0.95;

struct Sample {
    rows: usize,
    vocab: usize,
    /// Draws from the most likely tokens; else takes the most likely one.
    draw: bool,
    logits: Operand,
    requests: Memory,
    tokens: Memory,
    results: Memory,
    teams: Memory,
}

/// What row `row` wants.
fn request(row: usize, draw: bool) -> Request {
    Request {
        seed: row as u64,
        scored: NONE,
        scale: if draw { LOG2_E } else { 0.0 },
        top_p: if draw { (TOP_P * (1 << 24) as f32) as u32 } else { 1 << 24 },
        mask: NONE,
        repetition: 1.0,
        ..Request::default()
    }
}

/// A request as it stands in memory.
fn bytes(request: &Request) -> Vec<u8> {
    let Request { seed, index, scored, scale, min_p, top_k, top_p, logprobs, .. } = *request;
    let Request { first_adjustment, adjustments, mask, .. } = *request;
    let Request { presence, frequency, repetition, .. } = *request;
    let wide = [seed, index].into_iter().flat_map(u64::to_ne_bytes);
    let (scale, min_p) = (scale.to_bits(), min_p.to_bits());
    let words = [scored, scale, min_p, top_k, top_p, logprobs, first_adjustment, adjustments, mask];
    let penalties = [presence, frequency, repetition].map(f32::to_bits);
    wide.chain(words.into_iter().chain(penalties).flat_map(u32::to_ne_bytes)).collect()
}

impl Sample {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        [rows, vocab]: [usize; 2],
        draw: bool,
    ) -> Result<Sample, Error> {
        // A few likely tokens.
        let logits = Operand::new(gpu, 4 * rows * vocab, 4, |out| {
            let likely = if random.below(4000) == 0 { 12.0 } else { 0.0 };
            out.extend((random.unit() * 4.0 + likely).to_ne_bytes());
        })?;
        let requests: Vec<u8> = (0..rows).flat_map(|row| bytes(&request(row, draw))).collect();
        let teams = gpu.empty(TEAMS_BYTES)?;
        gpu.stream.fill(&teams, 0)?;
        Ok(Sample {
            rows,
            vocab,
            draw,
            logits,
            requests: gpu.filled(&requests)?,
            tokens: gpu.empty(4 * rows)?,
            results: gpu.empty(rows * size_of::<Drawn>())?,
            teams,
        })
    }

    /// Checks a drawn token: tokens in order of their logits, the lower id first among equals, and
    /// of those that make up TOP_P of the weight the one where the running sum exceeds the draw.
    /// The device's weights are off by at most (3 d 2^-24 + 2^-23) of themselves at a distance d
    /// from the largest logit, and cut to 2^-44 (`kernels/sample.hip`); all sums by the total of
    /// that, so a draw so near to the end of a token's weight may take its neighbour.
    fn check_draw(&self, row: usize, token: u32) -> anyhow::Result<()> {
        let logit = |id: u32| self.logits.f32(row * self.vocab + id as usize);
        let mut order: Vec<u32> = (0..self.vocab as u32).collect();
        order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
        let largest = f64::from(logit(order[0]));
        let distance = |id: u32| largest - f64::from(logit(id));
        let weights: Vec<f64> = order.iter().map(|&id| (-distance(id)).exp()).collect();
        let relative = |id: u32| 3.0 * distance(id) * 2f64.powi(-24) + 2f64.powi(-23);
        let errors = order.iter().zip(&weights).map(|(&id, w)| w * relative(id) + 2f64.powi(-44));
        let (error, total): (f64, f64) = (errors.sum(), weights.iter().sum());
        let draw = |share: f64| {
            let mut sum = 0.0;
            let enough = f64::from(TOP_P) * total + 2.0 * share * error;
            let kept = weights.iter().take_while(|&&weight| {
                let more = sum < enough;
                sum += if more { weight } else { 0.0 };
                more
            });
            let kept = kept.count();
            let target = f64::from(uniform(row as u64, 0)) * sum + 2.0 * share * error;
            let mut running = 0.0;
            let at = weights[..kept].iter().position(|weight| {
                running += weight;
                running > target
            });
            order[at.unwrap_or(kept - 1)]
        };
        if token == draw(-1.0) || token == draw(1.0) {
            return Ok(());
        }
        same("token", &[row], token, draw(0.0))
    }
}

impl Work for Sample {
    fn cost(&self) -> Cost {
        let row = 4 * self.vocab + size_of::<Request>() + 4;
        // Of a result without log-probabilities only the token is written.
        Cost::of_bytes(self.rows * (row + 4))
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.tokens, &self.results]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let buffers = Buffers {
            logits: &self.logits.memory,
            first: 0,
            first_token: 0,
            requests: self.requests.ptr(),
            adjustments: 0,
            masks: 0,
            tokens: &self.tokens,
            results: &self.results,
            teams: &self.teams,
        };
        sample(&gpu.stream, &gpu.kernels, self.rows, self.vocab, buffers)
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (tokens, results) = (gpu.download(&self.tokens)?, gpu.download(&self.results)?);
        for row in 0..self.rows {
            let token = tokens.u32(row);
            same("result", &[row], results.u32(row * size_of::<Drawn>() / 4), token)?;
            if self.draw {
                self.check_draw(row, token)?;
                continue;
            }
            let logit = |id: usize| self.logits.f32(row * self.vocab + id);
            let best = (1..self.vocab).fold(0, |best, id| match logit(id) > logit(best) {
                true => id,
                false => best,
            });
            same("token", &[row], token, best as u32)?;
        }
        Ok(())
    }
}

/// Rows that are drawn from together, at most.
const MOST_ROWS: usize = Limits::LOGIT_ROWS;

pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    for (kernel, draw) in [("sample greedy", false), ("sample top-p", true)] {
        for &rows in tokens.iter().filter(|&&rows| rows <= MOST_ROWS) {
            let shape = [rows, s.vocab];
            let build =
                move |gpu: &Gpu, random: &mut Random| Ok(Sample::new(gpu, random, shape, draw)?);
            cases.push(Case::new(kernel, format!("{rows} x {}", s.vocab), build));
        }
    }
}
