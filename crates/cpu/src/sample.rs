//! The sampler: one token per row of logits.

use model::{
    Draw, LateMask, OutputRow, RowOutput, SamplingParams, TokenCounts, TokenMask, Want, uniform,
};
use rayon::prelude::*;

/// Draws or scores one token per row of `vocab` logits, once all masks are there.
pub(crate) fn sample(logits: &[f32], vocab: usize, outputs: &[OutputRow]) -> Vec<RowOutput> {
    for output in outputs {
        if let Want::Sample(Draw { mask: Some(mask), .. }) = &output.want {
            mask.wait();
        }
    }
    let rows = logits.par_chunks_exact(vocab).zip(outputs);
    rows.map(|(logits, output)| one(logits, output)).collect()
}

fn one(logits: &[f32], output: &OutputRow) -> RowOutput {
    let token = match &output.want {
        Want::Score(token) => *token,
        Want::Sample(draw) => draw_token(logits, draw),
    };
    let Some(count) = output.logprobs else {
        return RowOutput { token, logprob: None, top: Vec::new() };
    };
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| ((l - max) as f64).exp()).sum();
    let norm = max as f64 + sum.ln();
    let logprob = |id: u32| (logits[id as usize] as f64 - norm) as f32;
    let top = largest(logits, count).into_iter().map(|id| (id, logprob(id))).collect();
    RowOutput { token, logprob: Some(logprob(token)), top }
}

/// The `count` largest logits' ids, best first, lower ids first among equals.
fn largest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| by_logit(logits, *a, *b);
    let count = count.min(ids.len());
    if count < ids.len() {
        ids.select_nth_unstable_by(count, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}

fn by_logit(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

fn draw_token(logits: &[f32], draw: &Draw) -> u32 {
    let params = &draw.params;
    let mut adjusted;
    let mask = draw.mask.as_ref().and_then(LateMask::wait);
    let unchanged = params.logit_bias.is_empty() && draw.counts.is_none() && mask.is_none();
    let logits = if unchanged {
        logits
    } else {
        adjusted = logits.to_vec();
        adjust(&mut adjusted, params, draw.counts.as_deref());
        if let Some(mask) = mask {
            forbid(&mut adjusted, mask);
        }
        &adjusted
    };
    if params.temperature == 0.0 {
        return largest(logits, 1)[0];
    }
    let kept = distribution(logits, params);
    let total: f64 = kept.iter().map(|(_, p)| *p).sum();
    let mut left = uniform(params.seed, draw.index) as f64 * total;
    for &(id, p) in &kept {
        if left < p {
            return id;
        }
        left -= p;
    }
    // Rounding can leave a crumb after the last; the first is always kept and has the most weight.
    kept[0].0
}

/// Bias and penalties on the raw logits.
fn adjust(logits: &mut [f32], params: &SamplingParams, counts: Option<&TokenCounts>) {
    if let Some(counts) = counts {
        let repetition = params.repetition_penalty;
        let output_only = counts.output.keys().filter(|id| !counts.prompt.contains(id));
        for &id in counts.prompt.iter().chain(output_only) {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        for (&id, &count) in &counts.output {
            logits[id as usize] -=
                params.frequency_penalty * count as f32 + params.presence_penalty;
        }
    }
    for &(id, bias) in &params.logit_bias {
        logits[id as usize] += bias;
    }
}

/// Makes what the mask does not allow impossible.
fn forbid(logits: &mut [f32], mask: &TokenMask) {
    for (id, logit) in (0..).zip(logits) {
        if !mask.allows(id) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The candidates that `min_p`, `top_k` and `top_p` leave, best first, with unnormalized
/// probabilities.
fn distribution(logits: &[f32], params: &SamplingParams) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |id: u32| ((logits[id as usize] - max) as f64 / params.temperature as f64).exp();
    let mut ids = match params.top_k {
        0 => (0..logits.len() as u32).collect(),
        k => largest(logits, k as usize),
    };
    ids.retain(|&id| weight(id) >= params.min_p as f64 && weight(id) > 0.0);
    ids.sort_unstable_by(|&a, &b| by_logit(logits, a, b));
    let mut kept: Vec<(u32, f64)> = ids.into_iter().map(|id| (id, weight(id))).collect();
    if params.top_p < 1.0 {
        let enough = params.top_p as f64 * kept.iter().map(|(_, p)| *p).sum::<f64>();
        let mut sum = 0.0;
        let beyond = kept.iter().position(|(_, p)| {
            sum += p;
            sum >= enough
        });
        kept.truncate(beyond.map_or(kept.len(), |last| last + 1));
    }
    kept
}

#[cfg(test)]
#[path = "sample_tests.rs"]
mod tests;
