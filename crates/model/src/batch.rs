//! One step's work for all ranks, and what comes back.

use std::sync::Arc;

use crate::DeviceError;
use crate::sampling::Draw;

/// A run of consecutive tokens of one sequence within a batch: of its prompt, or of those generated
/// (one that was drawn last, or several that are computed again), never of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// First row of the run in `Batch::tokens`.
    pub row: usize,
    /// Rows in the run, at least 1.
    pub rows: usize,
    /// Position in the sequence of the run's first token. Positions before it are in the cache.
    pub position: usize,
    /// The sequence's KV blocks in order, enough for `position + rows` tokens.
    pub blocks: Vec<u32>,
    /// Whether the run's tokens were generated, rather than of the request's prompt: a backend may
    /// compute the two differently, and each the same whenever it is computed.
    pub generated: bool,
}

/// What is wanted of one row's logits.
#[derive(Debug, Clone)]
pub enum Want {
    /// The next token, drawn.
    Sample(Draw),
    /// The log-probability of a token that is known already (prompt log-probabilities).
    Score(u32),
}

/// A row whose logits are computed.
#[derive(Debug, Clone)]
pub struct OutputRow {
    /// Index into `Batch::tokens`.
    pub row: usize,
    /// What is wanted of it.
    pub want: Want,
    /// `None`: no log-probabilities. `Some(n)`: the token's own and the n most likely ones.
    pub logprobs: Option<usize>,
}

/// A row whose input token the previous batch draws. It was not known when this batch was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Index into `Batch::tokens`; what stands there is not read.
    pub row: usize,
    /// Index into the previous batch's `outputs`.
    pub output: usize,
}

/// One step: prompt chunks and decode tokens of any number of sequences.
///
/// Rows of one span are consecutive, spans follow one another without gaps, those of generated
/// tokens before those of prompts, and `outputs` is sorted by row. A row's result depends on its
/// own sequence alone, never on its neighbours.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Input token of every row.
    pub tokens: Vec<u32>,
    /// Rows whose token the previous batch draws, sorted by row, at most one entry a row.
    pub carried: Vec<Carried>,
    /// The sequences' runs, covering all rows.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, sorted by row, at most one entry a row.
    pub outputs: Vec<OutputRow>,
}

impl Batch {
    /// The batch with its carried rows filled in. `drawn` has the token of each of the previous
    /// batch's outputs. A token that is filled in is counted for the draw behind its row.
    ///
    /// # Errors
    /// As [`Batch::check_carried`].
    pub fn resolved(&self, drawn: &[u32]) -> Result<Batch, DeviceError> {
        self.check_carried(drawn.len())?;
        let mut batch = self.clone();
        for Carried { row, output } in batch.carried.drain(..) {
            let id = drawn[output];
            batch.tokens[row] = id;
            if let Ok(own) = batch.outputs.binary_search_by_key(&row, |output| output.row)
                && let Want::Sample(Draw { counts: Some(counts), .. }) =
                    &mut batch.outputs[own].want
            {
                *Arc::make_mut(counts).output.entry(id).or_default() += 1;
            }
        }
        Ok(batch)
    }

    /// Refuses carried rows that cannot be, behind a batch of so many outputs.
    ///
    /// # Errors
    /// A carried row that is not in this batch, or an output that was not in the previous one.
    pub fn check_carried(&self, outputs: usize) -> Result<(), DeviceError> {
        let wrong = |c: &&Carried| c.row >= self.tokens.len() || c.output >= outputs;
        match self.carried.iter().find(wrong) {
            None => Ok(()),
            Some(Carried { row, output }) => Err(DeviceError(format!(
                "row {row} carries output {output}, but the previous batch had {outputs}"
            ))),
        }
    }

    /// Refuses spans in a wrong order.
    ///
    /// # Errors
    /// A span of generated tokens behind one of a prompt.
    pub fn check_order(&self) -> Result<(), DeviceError> {
        match self.spans.windows(2).find(|pair| !pair[0].generated && pair[1].generated) {
            None => Ok(()),
            Some(pair) => Err(DeviceError(format!(
                "row {} was generated, but comes behind a prompt's row",
                pair[1].row
            ))),
        }
    }

    /// How many rows hold generated tokens: so many from the first.
    pub fn generated_rows(&self) -> usize {
        self.spans.iter().take_while(|span| span.generated).map(|span| span.rows).sum()
    }

    /// Whether `row`'s token is one that the previous batch draws.
    pub fn carries(&self, row: usize) -> bool {
        self.carried.binary_search_by_key(&row, |carried| carried.row).is_ok()
    }

    /// Whether a draw's mask is still in the making: it may need the previous batch's results.
    pub fn awaits_masks(&self) -> bool {
        self.outputs.iter().any(|output| match &output.want {
            Want::Sample(Draw { mask: Some(mask), .. }) => !mask.is_set(),
            _ => false,
        })
    }
}

/// The result of one `OutputRow`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowOutput {
    /// The drawn token, or the scored one.
    pub token: u32,
    /// Log-probability of `token` under the raw logits (before bias, penalties and temperature), if
    /// asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens with their log-probabilities, best first (equal ones: lower id
    /// first).
    pub top: Vec<(u32, f32)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{SamplingParams, TokenCounts};

    #[test]
    fn carried_rows_take_what_was_drawn_and_count_it() {
        let counts = Arc::new(TokenCounts { output: [(7, 1)].into(), ..TokenCounts::default() });
        let params = Arc::new(SamplingParams::default());
        let draw = Draw { params, index: 2, counts: Some(counts.clone()), mask: None };
        let want = Want::Sample(draw);
        let batch = Batch {
            tokens: vec![5, 0],
            carried: vec![Carried { row: 1, output: 2 }],
            outputs: vec![OutputRow { row: 1, want, logprobs: None }],
            ..Batch::default()
        };
        let resolved = batch.resolved(&[1, 2, 7]).unwrap();
        assert_eq!((resolved.tokens, resolved.carried), (vec![5, 7], vec![]));
        let Want::Sample(Draw { counts: Some(own), .. }) = &resolved.outputs[0].want else {
            panic!("the draw has lost its counts");
        };
        assert_eq!((own.output[&7], counts.output[&7]), (2, 1));

        let error = batch.resolved(&[1, 2]).unwrap_err();
        assert!(error.0.contains("output 2, but the previous batch had 2"), "{error}");
        let beyond = Batch { tokens: vec![5], ..batch };
        assert!(beyond.resolved(&[1, 2, 7]).is_err());
    }

    #[test]
    fn generated_rows_come_first() {
        let batch = |spans: &[(usize, bool)]| {
            let mut batch = Batch::default();
            for &(rows, generated) in spans {
                let row = batch.tokens.len();
                batch.tokens.resize(row + rows, 5);
                batch.spans.push(Span {
                    row,
                    rows,
                    position: 3,
                    blocks: vec![row as u32],
                    generated,
                });
            }
            batch
        };
        for (spans, rows) in [
            (&[][..], 0),
            (&[(3, false)], 0),
            (&[(1, true), (4, true)], 5),
            (&[(1, true), (4, true), (2, false), (1, false)], 5),
        ] {
            let batch = batch(spans);
            assert_eq!((batch.check_order().is_ok(), batch.generated_rows()), (true, rows));
        }
        let error =
            batch(&[(1, true), (2, false), (1, false), (1, true)]).check_order().unwrap_err();
        assert!(error.0.starts_with("row 4 was generated"), "{error}");
    }
}
