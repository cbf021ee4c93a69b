//! One request on its way: its tokens, its blocks, and how far it is computed.

use std::sync::Arc;

use model::{Batch, Draw, OutputRow, RowOutput, Span, TokenCounts, Want};

use crate::block_pool::BlockPool;
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
    /// Room for `tokens`; none while waiting.
    pub(crate) blocks: Vec<u32>,
    /// How many of `blocks`, from the first, are published in the pool.
    published: usize,
    counts: Option<Arc<TokenCounts>>,
    /// Scores of prompt tokens 1, 2, … that the caller was not told yet.
    prompt_scores: Vec<TokenInfo>,
    /// How many prompt tokens were scored.
    scored: usize,
    started_before: bool,
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
            published: 0,
            counts,
            prompt_scores: Vec::new(),
            scored: 0,
            started_before: false,
        }
    }

    /// Tokens known: the prompt's and those generated.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
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

    /// The published blocks this sequence can begin with. Never all tokens: the last one's row is
    /// needed for what comes next, and so are the rows that still have to be scored.
    pub(crate) fn find_prefix(&self, pool: &BlockPool) -> Vec<u32> {
        let unscored = self.request.prompt_logprobs.is_some() && self.scored + 1 < self.prompt_len;
        let usable = if unscored { self.scored } else { self.tokens.len() - 1 };
        pool.find(self.request.cache_salt.as_ref(), &self.tokens[..usable])
    }

    /// Begins to run with these blocks, the first `published` of them from [`Self::find_prefix`].
    pub(crate) fn start(&mut self, blocks: Vec<u32>, published: usize, block_size: usize) {
        self.computed = published * block_size;
        self.blocks = blocks;
        self.published = published;
    }

    /// Once, after the first start: how many prompt tokens were in the cache.
    pub(crate) fn first_start(&mut self) -> Option<usize> {
        let first = !std::mem::replace(&mut self.started_before, true);
        first.then_some(self.computed)
    }

    /// Gives all blocks back. What was computed is to be computed again; tokens and scores stay.
    pub(crate) fn stop(&mut self, pool: &mut BlockPool) {
        pool.release(&std::mem::take(&mut self.blocks));
        self.computed = 0;
        self.published = 0;
    }

    /// Lets other sequences use the blocks that have become full.
    pub(crate) fn publish_full_blocks(&mut self, pool: &mut BlockPool, block_size: usize) {
        let salt = self.request.cache_salt.as_ref();
        while (self.published + 1) * block_size <= self.computed {
            let (before, rest) = self.blocks.split_at_mut(self.published);
            let tokens = &self.tokens[self.published * block_size..][..block_size];
            rest[0] = pool.publish(salt, before, tokens, rest[0]);
            self.published += 1;
        }
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
            let unscored = self.scored < next && next < self.prompt_len;
            unscored.then(|| (Want::Score(self.tokens[next]), Some(count)))
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
        let done = self.pending() == 0;
        let sampled = if done && self.request.max_tokens > 0 { infos.pop() } else { None };
        self.scored += infos.len();
        self.prompt_scores.append(&mut infos);
        if !done {
            return Vec::new();
        }
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
