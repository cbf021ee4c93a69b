//! A device that keeps a paged cache of tokens instead of attention keys, and whose "model" is a
//! hash of a sequence's whole history: a wrong position, token, block or draw changes what it
//! answers or is an error, and so is a token of a prompt that was computed like a generated one, or
//! the other way round.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use model::{
    Batch, Carried, DeviceError, Draw, LateMask, OutputRow, RowOutput, Span, TokenMask, Want,
};

use crate::{Constraint, Device, Event, FinishReason, Request, TokenInfo};

/// Answers batches like a model on a paged cache.
pub(super) struct FakeDevice {
    block_size: usize,
    vocab_size: u32,
    max_rows: usize,
    /// What was last written to each slot of each block: a position, its token, and whether that
    /// was computed as a generated one.
    slots: Vec<Option<(usize, u32, bool)>>,
    /// What the latest batch drew.
    drawn: Vec<u32>,
    /// Batches not waited for.
    launched: VecDeque<Batch>,
}

/// Runs a batch when it is waited for, which nobody can tell from earlier.
impl Device for FakeDevice {
    fn launch(&mut self, batch: Batch) -> Result<(), DeviceError> {
        self.launched.push_back(batch);
        ensure(self.launched.len() <= 2, || "three batches at once".into())
    }

    fn wait(&mut self) -> Result<Vec<RowOutput>, DeviceError> {
        let batch = self.launched.pop_front().ok_or_else(|| device_error("nothing launched"))?;
        self.execute(batch)
    }
}

impl FakeDevice {
    pub(super) fn new(blocks: usize, block_size: usize, vocab: usize, max_rows: usize) -> Self {
        let slots = vec![None; blocks * block_size];
        let (vocab_size, drawn, launched) = (vocab as u32, Vec::new(), VecDeque::new());
        FakeDevice { block_size, vocab_size, max_rows, slots, drawn, launched }
    }

    pub(super) fn execute(&mut self, batch: Batch) -> Result<Vec<RowOutput>, DeviceError> {
        self.check_form(&batch)?;
        let batch = batch.resolved(&self.drawn)?;
        self.write(&batch)?;
        let answers = batch.outputs.iter().map(|output| self.answer(&batch, output));
        let answers = answers.collect::<Result<Vec<RowOutput>, DeviceError>>()?;
        self.drawn = answers.iter().map(|answer| answer.token).collect();
        Ok(answers)
    }

    fn check_form(&self, batch: &Batch) -> Result<(), DeviceError> {
        let rows = batch.tokens.len();
        ensure(1 <= rows && rows <= self.max_rows, || format!("{rows} rows"))?;
        batch.check_order()?;
        let generated = |carried: &Carried| carried.row < batch.generated_rows();
        ensure(batch.carried.iter().all(generated), || "a prompt's row is carried".into())?;
        let mut next = 0;
        for span in &batch.spans {
            ensure(span.row == next && span.rows > 0, || format!("{span:?} follows row {next}"))?;
            let held = span.blocks.len() * self.block_size;
            ensure(span.position + span.rows <= held, || format!("{span:?} lacks blocks"))?;
            next += span.rows;
        }
        ensure(next == rows, || format!("spans cover {next} of {rows} rows"))?;
        let sorted = batch.outputs.windows(2).all(|pair| pair[0].row < pair[1].row);
        ensure(sorted, || "outputs are not sorted".into())
    }

    /// All rows enter the cache before any is read, as on a real device.
    fn write(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let mut written = HashSet::new();
        for span in &batch.spans {
            for row in 0..span.rows {
                let position = span.position + row;
                let slot = self.slot(span, position);
                ensure(written.insert(slot), || format!("slot {slot} is written twice"))?;
                self.slots[slot] = Some((position, batch.tokens[span.row + row], span.generated));
            }
        }
        Ok(())
    }

    fn slot(&self, span: &Span, position: usize) -> usize {
        let block = span.blocks[position / self.block_size] as usize;
        block * self.block_size + position % self.block_size
    }

    fn answer(&self, batch: &Batch, output: &OutputRow) -> Result<RowOutput, DeviceError> {
        let covers = |span: &&Span| (span.row..span.row + span.rows).contains(&output.row);
        let span = batch.spans.iter().find(covers).ok_or_else(|| device_error("no span"))?;
        let last = span.position + output.row - span.row;
        // A score is wanted of prompts alone.
        let prompt_len = match &output.want {
            Want::Score(_) => last + 2,
            Want::Sample(draw) => last + 1 - draw.index as usize,
        };
        let mut history = Vec::with_capacity(last + 1);
        for position in 0..=last {
            match self.slots[self.slot(span, position)] {
                Some((found, token, generated))
                    if (found, generated) == (position, position >= prompt_len) =>
                {
                    history.push(token);
                }
                other => {
                    return Err(device_error(&format!("position {position} holds {other:?}")));
                }
            }
        }
        let token = match &output.want {
            Want::Score(token) => *token,
            Want::Sample(draw) => {
                check_draw(&history, draw)?;
                let mask = draw.mask.as_ref().and_then(LateMask::wait);
                next_token(&history, draw.params.seed, draw.index, self.vocab_size, mask)
            }
        };
        Ok(row_output(&history, token, output.logprobs))
    }
}

fn check_draw(history: &[u32], draw: &Draw) -> Result<(), DeviceError> {
    let (prompt, output) = history.split_at(history.len() - draw.index as usize);
    ensure(draw.counts.is_some() == draw.params.needs_counts(), || "counts unasked".into())?;
    let Some(counts) = &draw.counts else { return Ok(()) };
    let prompt: HashSet<u32> = prompt.iter().copied().collect();
    let mut left = counts.output.clone();
    for token in output {
        match left.get_mut(token) {
            Some(count) if *count > 0 => *count -= 1,
            _ => return Err(device_error("an output token is not counted")),
        }
    }
    let exact = *counts.prompt == prompt && left.values().all(|count| *count == 0);
    ensure(exact, || "wrong counts".into())
}

/// What the engine must tell about a request, computed without one.
pub(super) fn expected_events(request: &Request, vocab: usize) -> Vec<Event> {
    let mut tokens = request.prompt.clone();
    let mut events = Vec::new();
    if request.prompt_logprobs.is_some() {
        let score = |i: usize| row_output(&tokens[..i], tokens[i], request.prompt_logprobs);
        events.push(Event::Prompt((1..tokens.len()).map(score).map(TokenInfo::from).collect()));
    }
    for index in 0..request.max_tokens {
        let output = &tokens[request.prompt.len()..];
        let mask = match request.constraint.as_ref().map(|_| fake_mask(output, vocab)) {
            Some(Err(reason)) => {
                events.push(Event::ConstraintFailed(reason));
                return events;
            }
            Some(Ok(mask)) => mask,
            None => None,
        };
        let (seed, mask) = (request.sampling.seed, mask.as_deref());
        let token = next_token(&tokens, seed, index as u64, vocab as u32, mask);
        events.push(Event::Token(row_output(&tokens, token, request.logprobs).into()));
        tokens.push(token);
        if request.stop_ids.contains(&token) {
            events.push(Event::Finished(FinishReason::Stop));
            return events;
        }
    }
    events.push(Event::Finished(FinishReason::Length));
    events
}

/// The first allowed token from a random one on.
fn next_token(history: &[u32], seed: u64, index: u64, vocab: u32, mask: Option<&TokenMask>) -> u32 {
    let first = (mix(hash(history) ^ mix(seed) ^ index) % u64::from(vocab)) as u32;
    let mut tokens = (first..vocab).chain(0..first);
    tokens.find(|id| mask.is_none_or(|mask| mask.allows(*id))).expect("a mask that allows some")
}

/// A constraint of which each mask depends on the whole output before it, and which fails at times.
pub(super) fn fake_constraint(vocab: usize) -> Constraint {
    let mut output = Vec::new();
    Constraint {
        first: fake_mask(&output, vocab).expect("the first mask"),
        next: Box::new(move |token| {
            output.push(token);
            fake_mask(&output, vocab)
        }),
    }
}

fn fake_mask(output: &[u32], vocab: usize) -> Result<Option<Arc<TokenMask>>, String> {
    let hash = mix(hash(output));
    if output.len() > 2 && hash.is_multiple_of(50) {
        return Err(format!("nothing may follow {output:?}"));
    }
    let mut words = vec![0; vocab.div_ceil(32)];
    let some = (0..vocab as u32).filter(|token| mix(hash ^ u64::from(*token)).is_multiple_of(2));
    for token in some.chain([(hash % vocab as u64) as u32]) {
        words[token as usize / 32] |= 1 << (token % 32);
    }
    Ok((!hash.is_multiple_of(4)).then(|| Arc::new(TokenMask::new(words))))
}

/// "Log-probabilities" that depend on the whole history as well.
fn row_output(history: &[u32], token: u32, logprobs: Option<usize>) -> RowOutput {
    let value = |token: u32| -((mix(hash(history) ^ u64::from(token)) >> 40) as f32);
    let top = (0..logprobs.unwrap_or(0) as u32).map(|token| (token, value(token))).collect();
    RowOutput { token, logprob: logprobs.map(|_| value(token)), top }
}

fn hash(history: &[u32]) -> u64 {
    history.iter().fold(0, |state, token| mix(state ^ u64::from(*token)))
}

fn mix(value: u64) -> u64 {
    let product = (value ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    product ^ (product >> 32)
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), DeviceError> {
    if holds { Ok(()) } else { Err(device_error(&message())) }
}

fn device_error(message: &str) -> DeviceError {
    DeviceError(message.into())
}
