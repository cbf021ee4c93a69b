//! One step's work for all ranks, and what comes back.

use crate::sampling::Draw;

/// A run of consecutive tokens of one sequence within a batch: a prompt chunk or one decode token.
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

/// One step: prompt chunks and decode tokens of any number of sequences.
///
/// Rows of one span are consecutive, spans follow one another without gaps, and `outputs` is sorted
/// by row. A row's result depends on its own sequence alone, never on its neighbours.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Input token of every row.
    pub tokens: Vec<u32>,
    /// The sequences' runs, covering all rows.
    pub spans: Vec<Span>,
    /// Rows whose logits are wanted, sorted by row, at most one entry a row.
    pub outputs: Vec<OutputRow>,
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
