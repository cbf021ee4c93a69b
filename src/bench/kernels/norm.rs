//! RMS norm, alone and with the residual's addition.

use hip::kernels::rms_norm::{add_rms_norm, rms_norm};
use hip::{Error, Memory};

use super::case::{Case, Cost, Work};
use super::check::{Exact, close, halves_written, same, sample};
use super::gpu::{Count, Gpu, Operand, Random};
use super::shapes::Shapes;

const EPS: f32 = 1e-5;

/// `weight * x / sqrt(mean(x^2) + eps)` rounded to bf16. The mean's relative error is at most 2^-24
/// for each value (a sum of positive terms), halved by the root; the root's instruction is good to
/// 2^-22 (both targets document 1 to 2 ulp), and two products round once each.
pub(super) fn normalized(
    width: usize,
    eps: f32,
    x: impl Fn(usize) -> f32,
    weight: impl Fn(usize) -> f32,
) -> Vec<Exact> {
    let mean = (0..width).map(|i| f64::from(x(i)).powi(2)).sum::<f64>() / width as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    let error = (width as f64 / 2.0 + 6.0) * 2f64.powi(-24);
    let value = |i: usize| f64::from(weight(i)) * f64::from(x(i)) * factor;
    let exact = |value: f64| Exact { value, bound: error * value.abs() }.to_bf16();
    (0..width).map(|i| exact(value(i))).collect()
}

struct Norm {
    rows: usize,
    width: usize,
    count: Count,
    x: Operand,
    /// What is added to `x` first, if anything is.
    delta: Option<Operand>,
    weight: Operand,
    out: Memory,
}

impl Norm {
    fn new(
        gpu: &Gpu,
        random: &mut Random,
        [rows, width]: [usize; 2],
        add: bool,
    ) -> Result<Norm, Error> {
        let x = Operand::f32s(gpu, random, rows * width, 1.0)?;
        let delta = add.then(|| Operand::f32s(gpu, random, rows * width, 0.5)).transpose()?;
        Ok(Norm {
            rows,
            width,
            count: gpu.count(rows)?,
            x,
            delta,
            weight: Operand::f32s(gpu, random, width, 1.0)?,
            out: gpu.empty(2 * rows * width)?,
        })
    }
}

impl Work for Norm {
    fn cost(&self) -> Cost {
        let values = self.rows * self.width;
        match self.delta {
            None => Cost::of_bytes(6 * values + 4 * self.width),
            Some(_) => {
                let bytes = 14 * values + 4 * self.width;
                Cost { in_place: 4 * values, ..Cost::of_bytes(bytes) }
            }
        }
    }

    fn outputs(&self) -> Vec<&Memory> {
        vec![&self.out]
    }

    fn launch(&self, gpu: &Gpu, _: usize) -> Result<(), Error> {
        let (stream, kernels, rows) = (&gpu.stream, &gpu.kernels, self.count.rows());
        let (x, weight, out, width) = (&self.x.memory, &self.weight.memory, &self.out, self.width);
        match &self.delta {
            None => rms_norm(stream, kernels, rows, x, weight, out, [width, width], EPS),
            Some(delta) => {
                let delta = &delta.memory;
                add_rms_norm(stream, kernels, rows, x, delta, weight, out, width, EPS)
            }
        }
    }

    fn check(&self, gpu: &Gpu) -> anyhow::Result<()> {
        let (out, residual) = (gpu.download(&self.out)?, gpu.download(&self.x.memory)?);
        halves_written("out", &out)?;
        for row in sample(self.rows, 14, self.width) {
            let x = |i: usize| {
                let x = self.x.f32(row * self.width + i);
                self.delta.as_ref().map_or(x, |delta| x + delta.f32(row * self.width + i))
            };
            for i in 0..self.width {
                same("residual", &[row, i], residual.f32(row * self.width + i), x(i))?;
            }
            let exact = normalized(self.width, EPS, x, |i| self.weight.f32(i));
            for (i, exact) in exact.into_iter().enumerate() {
                close("out", &[row, i], out.bf16(row * self.width + i), exact)?;
            }
        }
        Ok(())
    }
}

pub(super) fn cases(cases: &mut Vec<Case>, s: Shapes, tokens: &[usize]) {
    let kernels = [("rms_norm", s.q_latent, false), ("add_rms_norm", s.hidden, true)];
    for (kernel, width, add) in kernels {
        for &rows in tokens {
            let build = move |gpu: &Gpu, random: &mut Random| {
                Ok(Norm::new(gpu, random, [rows, width], add)?)
            };
            cases.push(Case::new(kernel, format!("{rows} x {width}"), build));
        }
    }
}
