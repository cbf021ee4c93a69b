//! One request on its way: its tokens, its blocks, and how far it is computed.

use std::sync::Arc;

use model::{Batch, Draw, OutputRow, RowOutput, Span, TokenCounts, Want};

use crate::request::{Event, FinishReason, Request, TokenInfo};

/// A sequence's place in line. The lower one is served first: by priority, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) priority: i32,
    /// Counts the requests of an engine, so it is unique.
    pub(crate) arrival: u64,
}

/// A request and its progress.
///
/// ```text
/// tokens     [ prompt ............................ | generated ........ ]
/// computed   [ in the KV cache ...... | pending: still to be run ...... ]
/// ```
#[derive(Debug)]
pub(crate) struct Sequence {
    request: Request,
    /// The prompt (taken out of `request`), then what was generated.
    tokens: Vec<u32>,
    prompt_len: usize,
    computed: usize,
    /// Room for `tokens` and what `max_tokens` allows; empty while waiting.
    pub(crate) blocks: Vec<u32>,
    counts: Option<Arc<TokenCounts>>,
    /// Scores of prompt tokens 1, 2, … as far as they are computed.
    prompt_scores: Vec<TokenInfo>,
}

impl Sequence {
    pub(crate) fn new(mut request: Request) -> Sequence {
        let tokens = std::mem::take(&mut request.prompt);
        let counts = request.sampling.needs_counts().then(|| {
            let prompt = tokens.iter().copied().collect();
            Arc::new(TokenCounts { prompt, ..TokenCounts::default() })
        });
        Sequence {
            request,
            prompt_len: tokens.len(),
            tokens,
            computed: 0,
            blocks: Vec::new(),
            counts,
            prompt_scores: Vec::new(),
        }
    }

    /// Tokens when the sequence ends by length.
    pub(crate) fn final_len(&self) -> usize {
        self.prompt_len + self.request.max_tokens
    }

    /// Tokens known but not yet run. At least 1 in every running sequence.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether only the token generated last is to be run.
    pub(crate) fn is_decoding(&self) -> bool {
        self.pending() == 1 && self.generated() > 0
    }

    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Appends the next `rows` pending tokens to the batch; returns how many outputs they ask for.
    pub(crate) fn append_to(&self, batch: &mut Batch, rows: usize, block_size: usize) -> usize {
        let (row, end) = (batch.tokens.len(), self.computed + rows);
        let outputs_before = batch.outputs.len();
        batch.tokens.extend_from_slice(&self.tokens[self.computed..end]);
        batch.spans.push(Span {
            row,
            rows,
            position: self.computed,
            blocks: self.blocks[..end.div_ceil(block_size)].to_vec(),
        });
        for position in self.computed..end {
            if let Some((want, logprobs)) = self.wanted(position) {
                let row = row + position - self.computed;
                batch.outputs.push(OutputRow { row, want, logprobs });
            }
        }
        batch.outputs.len() - outputs_before
    }

    /// What is wanted of the logits behind `position`, and how many log-probabilities with it.
    fn wanted(&self, position: usize) -> Option<(Want, Option<usize>)> {
        let next = position + 1;
        if next == self.tokens.len() {
            let draw = Draw {
                params: self.request.sampling.clone(),
                index: self.generated() as u64,
                counts: self.counts.clone(),
            };
            (self.request.max_tokens > 0).then_some((Want::Sample(draw), self.request.logprobs))
        } else {
            let count = self.request.prompt_logprobs?;
            (next < self.prompt_len).then(|| (Want::Score(self.tokens[next]), Some(count)))
        }
    }

    /// Takes the results of the next `rows` pending tokens. Returns what the caller is to be told.
    pub(crate) fn advance(
        &mut self,
        rows: usize,
        results: impl Iterator<Item = RowOutput>,
    ) -> Vec<Event> {
        self.computed += rows;
        let mut infos: Vec<TokenInfo> = results.map(TokenInfo::from).collect();
        if self.pending() > 0 {
            self.prompt_scores.append(&mut infos);
            return Vec::new();
        }
        let sampled = if self.request.max_tokens > 0 { infos.pop() } else { None };
        self.prompt_scores.append(&mut infos);

        let mut events = Vec::new();
        if self.generated() == 0 && self.request.prompt_logprobs.is_some() {
            events.push(Event::Prompt(std::mem::take(&mut self.prompt_scores)));
        }
        let finish = match sampled {
            Some(info) => {
                let id = info.id;
                events.push(Event::Token(info));
                self.push_token(id)
            }
            None => Some(FinishReason::Length),
        };
        events.extend(finish.map(Event::Finished));
        events
    }

    fn push_token(&mut self, id: u32) -> Option<FinishReason> {
        self.tokens.push(id);
        if let Some(counts) = &mut self.counts {
            *Arc::make_mut(counts).output.entry(id).or_default() += 1;
        }
        if self.request.stop_ids.contains(&id) {
            Some(FinishReason::Stop)
        } else {
            (self.generated() == self.request.max_tokens).then_some(FinishReason::Length)
        }
    }
}

impl From<RowOutput> for TokenInfo {
    fn from(output: RowOutput) -> TokenInfo {
        TokenInfo { id: output.token, logprob: output.logprob, top: output.top }
    }
}
