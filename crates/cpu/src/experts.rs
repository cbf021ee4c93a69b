//! Routed experts: gather, gate/up, SwiGLU, down, weighted sum.

use checkpoint::{Activations, Matrix};
use rayon::prelude::*;

use crate::matmul::matmul_serial;
use crate::route::Routing;

/// One layer's experts on this rank.
pub struct Experts(pub(crate) Vec<Expert>);

pub(crate) struct Expert {
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
}

/// `silu(g) * u` of a row `[g | u]`.
pub(crate) fn swiglu(gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
        *out = g / (1.0 + (-g).exp()) * u;
    }
}

/// Rounds rows of activations (whole blocks of 32) to what a 4-bit matrix multiplies with.
pub(crate) fn quantize(rows: &mut [f32], activations: Activations) {
    match activations {
        Activations::Bf16 => {}
        Activations::Mxfp8 => mx::round_trip_mxfp8(rows),
        Activations::Mxfp4 => mx::round_trip_mxfp4(rows),
    }
}

impl Expert {
    /// The expert's output for gathered rows, already quantized.
    fn forward(&self, x: &[f32], activations: Activations) -> Vec<f32> {
        let rows = x.len() / self.gate_up.cols;
        let width = self.down.cols;
        let mut gate_up = vec![0f32; rows * 2 * width];
        matmul_serial(x, &self.gate_up, &mut gate_up);
        let mut hidden = vec![0f32; rows * width];
        for (gate_up, hidden) in gate_up.chunks_exact(2 * width).zip(hidden.chunks_mut(width)) {
            swiglu(gate_up, hidden);
        }
        quantize(&mut hidden, activations);
        let mut out = vec![0f32; rows * self.down.rows];
        matmul_serial(&hidden, &self.down, &mut out);
        out
    }
}

impl Experts {
    /// `out[r] += sum over r's experts of weight * expert(x[r])`, in ascending order of expert.
    /// Parallel over experts.
    pub(crate) fn accumulate(
        &self,
        x: &[f32],
        hidden: usize,
        routing: &Routing,
        activations: Activations,
        out: &mut [f32],
    ) {
        let top_k = routing.shape.top_k;
        let mut x = x.to_vec();
        quantize(&mut x, activations);
        let mut members = vec![Vec::new(); self.0.len()];
        for (i, &(expert, weight)) in routing.chosen.iter().enumerate() {
            members[expert].push((i / top_k, weight));
        }
        let results: Vec<Vec<f32>> = self
            .0
            .par_iter()
            .zip(&members)
            .map(|(expert, members)| {
                let rows = members.iter().map(|&(row, _)| &x[row * hidden..(row + 1) * hidden]);
                expert.forward(&rows.flatten().copied().collect::<Vec<_>>(), activations)
            })
            .collect();
        for (members, result) in members.iter().zip(&results) {
            for (&(row, weight), y) in members.iter().zip(result.chunks_exact(hidden)) {
                for (out, y) in out[row * hidden..(row + 1) * hidden].iter_mut().zip(y) {
                    *out += weight * y;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "experts_tests.rs"]
mod tests;
