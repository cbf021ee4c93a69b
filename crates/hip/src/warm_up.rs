//! Steps that a server runs before it listens.

use std::sync::Arc;

use model::{Batch, Draw, Limits, OutputRow, SamplingParams, Span, Want};

use crate::gpu::decode_buckets;

/// Batches that make every kind of step run once: first one that is not recorded, so that the
/// collectives are ready, then, with `graphs`, one for each decode graph. They write to KV blocks
/// that no sequence has yet.
pub fn warm_up_batches(limits: &Limits, max_num_seqs: usize, graphs: bool) -> Vec<Batch> {
    let mut batches = Vec::new();
    if limits.block_size.min(limits.max_model_len).min(limits.max_num_batched_tokens) > 1 {
        batches.push(Batch {
            tokens: vec![0; 2],
            spans: vec![Span { row: 0, rows: 2, position: 0, blocks: vec![0] }],
            outputs: vec![draw(1)],
            ..Batch::default()
        });
    }
    if graphs {
        let buckets = decode_buckets(limits, max_num_seqs)
            .into_iter()
            .map(|size| size.min(limits.num_blocks));
        batches.extend(buckets.map(|rows| {
            Batch {
                tokens: vec![0; rows],
                spans: (0..rows)
                    .map(|row| Span { row, rows: 1, position: 0, blocks: vec![row as u32] })
                    .collect(),
                outputs: (0..rows).map(draw).collect(),
                ..Batch::default()
            }
        }));
    }
    batches
}

fn draw(row: usize) -> OutputRow {
    let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let want = Want::Sample(Draw { params, index: 0, counts: None, mask: None });
    OutputRow { row, want, logprobs: None }
}
