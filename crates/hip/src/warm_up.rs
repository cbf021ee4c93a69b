//! Steps that a server runs before it listens.

use std::sync::Arc;

use model::{Batch, DeviceError, Draw, Limits, OutputRow, Ranks, SamplingParams, Span, Want};

use crate::gpu::decode_buckets;

/// Log-probabilities that are compared of each row.
const COMPARED: usize = 5;

/// Runs every kind of step once. First the smallest and the largest that are not recorded, so that
/// the collectives are ready, which take other ways for large parts; then, with `graphs`, one for
/// each decode graph. With `compare`, which holds for sums in rank order, a graph must then give
/// the bits that other tokens' rows have in a batch that is not recorded: HIP of ROCm 7.2.0 to
/// 7.2.3 at least replays graphs wrongly in some processes and not in others (ROCm/clr, issue 279).
/// Batches write to KV blocks that no sequence has yet. `told(n, of)` hears that `n` sizes are
/// done.
///
/// # Errors
/// A failed device or rank, or a graph that does not compute what its kernels do.
pub fn warm_up(
    ranks: &mut Ranks,
    limits: &Limits,
    max_num_seqs: usize,
    graphs: bool,
    compare: bool,
    mut told: impl FnMut(usize, usize),
) -> Result<(), DeviceError> {
    let buckets = if graphs { decode_buckets(limits, max_num_seqs) } else { Vec::new() };
    let sizes: Vec<usize> = buckets.iter().map(|&size| size.min(limits.num_blocks)).collect();
    // So many rows have room beside the two that keep a batch from being recorded.
    let rows = limits.max_num_batched_tokens.saturating_sub(2).min(limits.num_blocks - 1);
    let most = if limits.block_size.min(limits.max_model_len) > 1 { rows } else { 0 };
    if most > 0 {
        ranks.run(batch(1, 0, true))?;
    }
    if let Some(&largest) = sizes.last().filter(|_| most > 1) {
        ranks.run(batch(largest.min(most), 0, true))?;
    }
    for (i, &size) in sizes.iter().enumerate() {
        ranks.run(batch(size, 0, false))?;
        if compare && size <= most {
            let expected = ranks.run(batch(size, 1, true))?;
            if ranks.run(batch(size, 1, false))? != expected {
                return Err(DeviceError(format!(
                    "the graph for {size} sequences does not compute what its kernels compute: the \
                     GPU's runtime is at fault (HIP of ROCm 7.2.0 to 7.2.3 is known for that); \
                     start again, or with --enforce-eager"
                )));
            }
        }
        told(i + 1, sizes.len());
    }
    Ok(())
}

/// A batch of `rows` sequences of one generated token each, which depends on `variant`, and a draw
/// for each. With `beside` there are two rows of another's prompt behind them, so that it is not
/// recorded.
fn batch(rows: usize, variant: usize, beside: bool) -> Batch {
    let more = if beside { 2 } else { 0 };
    let span = |row: usize, rows, generated| Span {
        row,
        rows,
        position: 0,
        blocks: vec![row as u32],
        generated,
    };
    let mut spans: Vec<Span> = (0..rows).map(|row| span(row, 1, true)).collect();
    spans.extend(beside.then(|| span(rows, more, false)));
    Batch {
        tokens: (0..rows + more).map(|row| ((3 * row + variant) % 64) as u32).collect(),
        spans,
        outputs: (0..rows).map(draw).collect(),
        ..Batch::default()
    }
}

fn draw(row: usize) -> OutputRow {
    let params = Arc::new(SamplingParams { temperature: 0.0, ..SamplingParams::default() });
    let want = Want::Sample(Draw { params, index: 0, counts: None, mask: None });
    OutputRow { row, want, logprobs: Some(COMPARED) }
}
