//! One request on its way: its tokens, its blocks, and how far it is computed.

use std::sync::Arc;

use model::{Batch, Carried, Draw, OutputRow, RowOutput, Span, TokenCounts, Want};

use crate::block_pool::BlockPool;
use crate::constraint::{MaskWork, Masks};
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
/// tokens     [ prompt ......................... | generated ....... | drawing ]
/// launched   [ landed ...... | in batches under way | pending: still to be run ]
/// ```
///
/// A batch is launched, and lands when its results are there. In between, what comes after its rows
/// can be launched already: a token that is still being drawn is a row's input by reference.
#[derive(Debug)]
pub(crate) struct Sequence {
    request: Request,
    /// The prompt (taken out of `request`), then what was generated.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens that batches under way draw. At most 1 when a batch is planned.
    drawing: usize,
    /// Where the latest of them is among its batch's outputs.
    last_draw: usize,
    launched: usize,
    landed: usize,
    /// Room for the tokens; none while waiting.
    pub(crate) blocks: Vec<u32>,
    /// How many of `blocks`, from the first, are published in the pool.
    published: usize,
    counts: Option<Arc<TokenCounts>>,
    masks: Option<Masks>,
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
            let prompt = Arc::new(tokens.iter().copied().collect());
            Arc::new(TokenCounts { prompt, ..TokenCounts::default() })
        });
        Sequence {
            masks: request.constraint.take().map(Masks::new),
            request,
            prompt_len: tokens.len(),
            tokens,
            drawing: 0,
            last_draw: 0,
            launched: 0,
            landed: 0,
            blocks: Vec::new(),
            published: 0,
            counts,
            prompt_scores: Vec::new(),
            scored: 0,
            started_before: false,
        }
    }

    /// The prompt's tokens and those generated, known or still being drawn.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len() + self.drawing
    }

    /// Tokens that can be run: all but the very last one, behind which nothing is wanted.
    pub(crate) fn runnable(&self) -> usize {
        self.len().min(self.prompt_len + self.request.max_tokens.saturating_sub(1))
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Tokens not yet in a batch. At least 1 in every running sequence, unless its last result is
    /// under way.
    fn pending(&self) -> usize {
        self.runnable() - self.launched
    }

    /// Whether the next token to be run was generated, rather than of the prompt.
    pub(crate) fn is_past_prompt(&self) -> bool {
        self.launched >= self.prompt_len
    }

    /// The most rows of this sequence that can be in the next batch: none of generated tokens with
    /// the prompt's, as a backend may compute them differently.
    pub(crate) fn next_rows(&self) -> usize {
        if self.is_past_prompt() { self.pending() } else { self.prompt_len - self.launched }
    }

    /// Whether only the token generated last is to be run.
    pub(crate) fn is_decoding(&self) -> bool {
        self.pending() == 1 && self.generated() > 0
    }

    fn generated(&self) -> usize {
        self.len() - self.prompt_len
    }

    /// The published blocks this sequence can begin with. Never all tokens: the last one's row is
    /// needed for what comes next, and so are the rows that still have to be scored.
    pub(crate) fn find_prefix(&self, pool: &BlockPool) -> Vec<u32> {
        let unscored = self.request.prompt_logprobs.is_some() && self.scored + 1 < self.prompt_len;
        let usable = if unscored { self.scored } else { self.tokens.len() - 1 };
        pool.find(self.request.cache_salt.as_ref(), &self.tokens[..usable], self.prompt_len)
    }

    /// Begins to run with these blocks, the first `published` of them from [`Self::find_prefix`].
    pub(crate) fn start(&mut self, blocks: Vec<u32>, published: usize, block_size: usize) {
        self.launched = published * block_size;
        self.landed = self.launched;
        self.blocks = blocks;
        self.published = published;
    }

    /// Once, after the first start: how many prompt tokens were in the cache.
    pub(crate) fn first_start(&mut self) -> Option<usize> {
        let first = !std::mem::replace(&mut self.started_before, true);
        first.then_some(self.landed)
    }

    /// Gives all blocks back. What was computed, or is under way, is to be computed again; known
    /// tokens and scores stay.
    pub(crate) fn stop(&mut self, pool: &mut BlockPool) {
        pool.release(&std::mem::take(&mut self.blocks));
        if let Some(masks) = &mut self.masks {
            masks.forget_promised();
        }
        self.drawing = 0;
        self.launched = 0;
        self.landed = 0;
        self.published = 0;
    }

    /// Lets other sequences use the blocks that have become full.
    pub(crate) fn publish_full_blocks(&mut self, pool: &mut BlockPool, block_size: usize) {
        let salt = self.request.cache_salt.as_ref();
        while (self.published + 1) * block_size <= self.landed {
            let (before, rest) = self.blocks.split_at_mut(self.published);
            let tokens = &self.tokens[self.published * block_size..][..block_size];
            rest[0] = pool.publish(salt, before, tokens, self.prompt_len, rest[0]);
            self.published += 1;
        }
    }

    /// Appends the next `rows` tokens to the batch, at most [`Self::next_rows`]. Returns how many
    /// outputs they ask for, and whether nothing is pending behind them before they land.
    pub(crate) fn launch(
        &mut self,
        batch: &mut Batch,
        rows: usize,
        block_size: usize,
    ) -> (usize, bool) {
        let (row, position, end) = (batch.tokens.len(), self.launched, self.launched + rows);
        let outputs_before = batch.outputs.len();
        let known = end.min(self.tokens.len());
        batch.tokens.extend_from_slice(&self.tokens[position..known]);
        if known < end {
            batch.carried.push(Carried { row: batch.tokens.len(), output: self.last_draw });
            batch.tokens.push(0);
        }
        let blocks = self.blocks[..end.div_ceil(block_size)].to_vec();
        batch.spans.push(Span { row, rows, position, blocks, generated: self.is_past_prompt() });
        for position in position..end {
            if let Some((want, logprobs)) = self.wanted(position) {
                let row = row + position - self.launched;
                batch.outputs.push(OutputRow { row, want, logprobs });
            }
        }
        self.launched = end;
        let last = end == self.len();
        if last && self.request.max_tokens > 0 {
            self.last_draw = batch.outputs.len() - 1;
            self.drawing += 1;
        }
        (batch.outputs.len() - outputs_before, last)
    }

    /// What is wanted of the logits behind `position`, and how many log-probabilities with it.
    fn wanted(&self, position: usize) -> Option<(Want, Option<usize>)> {
        let next = position + 1;
        if next == self.len() {
            let draw = Draw {
                params: self.request.sampling.clone(),
                index: self.generated() as u64,
                counts: self.counts.clone(),
                mask: self.masks.as_ref().map(|masks| masks.of(self.drawing)),
            };
            (self.request.max_tokens > 0).then_some((Want::Sample(draw), self.request.logprobs))
        } else {
            let count = self.request.prompt_logprobs?;
            let unscored = self.scored < next && next < self.prompt_len;
            unscored.then(|| (Want::Score(self.tokens[next]), Some(count)))
        }
    }

    /// Takes the results of the oldest rows under way. `last` is what `launch` said of them.
    /// Returns what the caller is to be told, and the mask that is to be computed.
    pub(crate) fn land(
        &mut self,
        rows: usize,
        last: bool,
        results: impl Iterator<Item = RowOutput>,
    ) -> (Vec<Event>, Option<MaskWork>) {
        self.landed += rows;
        let mut infos: Vec<TokenInfo> = results.map(TokenInfo::from).collect();
        let sampled = if last && self.request.max_tokens > 0 { infos.pop() } else { None };
        self.scored += infos.len();
        self.prompt_scores.append(&mut infos);
        let mut events = Vec::new();
        if !last {
            return (events, None);
        }
        if self.tokens.len() == self.prompt_len && self.request.prompt_logprobs.is_some() {
            events.push(Event::Prompt(std::mem::take(&mut self.prompt_scores)));
        }
        let Some(info) = sampled else {
            events.push(Event::Finished(FinishReason::Length));
            return (events, None);
        };
        if let Some(reason) = self.masks.as_ref().and_then(Masks::failure) {
            events.push(Event::ConstraintFailed(reason.clone()));
            return (events, None);
        }
        let id = info.id;
        events.push(Event::Token(info));
        let finish = self.push_token(id);
        events.extend(finish.map(Event::Finished));
        let masks = self.masks.as_mut().filter(|_| finish.is_none());
        (events, masks.map(|masks| masks.advance(id)))
    }

    fn push_token(&mut self, id: u32) -> Option<FinishReason> {
        self.drawing -= 1;
        self.tokens.push(id);
        if let Some(counts) = &mut self.counts {
            *Arc::make_mut(counts).output.entry(id).or_default() += 1;
        }
        if self.request.stop_ids.contains(&id) {
            Some(FinishReason::Stop)
        } else {
            (self.tokens.len() - self.prompt_len == self.request.max_tokens)
                .then_some(FinishReason::Length)
        }
    }
}

impl From<RowOutput> for TokenInfo {
    fn from(output: RowOutput) -> TokenInfo {
        TokenInfo { id: output.token, logprob: output.logprob, top: output.top }
    }
}
