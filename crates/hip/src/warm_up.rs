//! Steps that a server runs before it listens.

use std::sync::Arc;

use model::{Batch, Draw, Limits, OutputRow, SamplingParams, Span, Want};

use crate::gpu::decode_buckets;

/// Batches that make every kind of step run once: first the smallest and the largest that are not
/// recorded, so that the collectives are ready, which take other ways for large parts, then, with
/// `graphs`, one for each decode graph. They write to KV blocks that no sequence has yet.
pub fn warm_up_batches(limits: &Limits, max_num_seqs: usize, graphs: bool) -> Vec<Batch> {
    let mut batches = Vec::new();
    let buckets = decode_buckets(limits, max_num_seqs);
    if limits.block_size.min(limits.max_model_len).min(limits.max_num_batched_tokens) > 1 {
        let most = buckets.iter().max().copied().unwrap_or(1);
        let most = most.min(limits.num_blocks).min(limits.max_num_batched_tokens - 1);
        batches.push(batch(1, true));
        if graphs && most > 1 {
            batches.push(batch(most, true));
        }
    }
    if graphs {
        batches.extend(buckets.into_iter().map(|size| batch(size.min(limits.num_blocks), false)));
    }
    batches
}

/// A batch with an output for each of `spans` spans of one row each; if `prompt`, the first has two,
/// so that no graph runs it.
fn batch(spans: usize, prompt: bool) -> Batch {
    let more = usize::from(prompt);
    let span = |i: usize| match i {
        0 => Span { row: 0, rows: 1 + more, position: 0, blocks: vec![0] },
        i => Span { row: i + more, rows: 1, position: 0, blocks: vec![i as u32] },
    };
    Batch {
        tokens: vec![0; spans + more],
        spans: (0..spans).map(span).collect(),
        outputs: (0..spans).map(|i| draw(i + more)).collect(),
        ..Batch::default()
    }
}

fn draw(row: usize) -> OutputRow {
    let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let want = Want::Sample(Draw { params, index: 0, counts: None, mask: None });
    OutputRow { row, want, logprobs: None }
}
