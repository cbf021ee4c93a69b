//! Which sequences run, and what each step computes: a pure state machine.
//!
//! `add` and `cancel` change who wants to run; `plan` makes the next batch and `apply` takes its
//! results. Nothing here reads a clock, starts a thread or touches a device, so a seeded simulation
//! can run every path (see `tests/simulation.rs`).

use std::collections::BTreeMap;

use model::{Batch, RowOutput};

use crate::EngineConfig;
use crate::block_pool::BlockPool;
use crate::request::Event;
use crate::sequence::{Place, Sequence};

/// All sequences of an engine, and the KV blocks.
///
/// Sequences start in the order of their places: while the first one waiting lacks blocks, no later
/// one overtakes it. A sequence starts only when the blocks for its prompt and all of its answer
/// are free, so what runs can always end, and then the next one fits.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) waiting: BTreeMap<Place, Sequence>,
    pub(crate) running: BTreeMap<Place, Sequence>,
    pub(crate) pool: BlockPool,
    max_running: usize,
    max_rows: usize,
    block_size: usize,
    vocab_size: usize,
}

/// The next step: the batch to execute, and whose rows it holds (for [`Scheduler::apply`]).
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    pub(crate) chunks: Vec<Chunk>,
}

/// One sequence's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) place: Place,
    pub(crate) rows: usize,
    pub(crate) outputs: usize,
}

impl Plan {
    fn push(&mut self, place: Place, sequence: &Sequence, rows: usize, block_size: usize) {
        let outputs = sequence.append_to(&mut self.batch, rows, block_size);
        self.chunks.push(Chunk { place, rows, outputs });
    }
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig) -> Scheduler {
        Scheduler {
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            pool: BlockPool::new(u32::try_from(config.num_blocks).unwrap_or(u32::MAX)),
            // Every running sequence may need a row each step.
            max_running: config.max_num_seqs.min(config.max_num_batched_tokens),
            max_rows: config.max_num_batched_tokens,
            block_size: config.block_size,
            vocab_size: config.vocab_size,
        }
    }

    /// Puts a sequence in line. It must fit the pool when it runs alone.
    pub(crate) fn add(&mut self, place: Place, sequence: Sequence) {
        self.waiting.insert(place, sequence);
    }

    /// Forgets a sequence and frees its blocks; does nothing if it has ended already.
    ///
    /// A batch that was planned before may still write to these blocks. That is harmless: it runs
    /// before any batch in which they belong to another sequence.
    pub(crate) fn cancel(&mut self, place: Place) {
        self.waiting.remove(&place);
        self.end(place);
    }

    fn end(&mut self, place: Place) {
        if let Some(sequence) = self.running.remove(&place) {
            self.pool.release(sequence.blocks);
        }
    }

    /// The next batch: one row for each decoding sequence, then prompt chunks in the order of places
    /// as far as the budget goes, starting waiting sequences as they fit. `None` if no sequence is
    /// left.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        let mut plan = Plan::default();
        for (place, sequence) in &self.running {
            if sequence.is_decoding() {
                plan.push(*place, sequence, 1, self.block_size);
            }
        }
        for (place, sequence) in &self.running {
            let rows = sequence.pending().min(self.max_rows - plan.batch.tokens.len());
            if rows > 0 && !sequence.is_decoding() {
                plan.push(*place, sequence, rows, self.block_size);
            }
        }
        while plan.batch.tokens.len() < self.max_rows
            && let Some((place, sequence)) = self.admit()
        {
            let rows = sequence.pending().min(self.max_rows - plan.batch.tokens.len());
            plan.push(place, &sequence, rows, self.block_size);
            self.running.insert(place, sequence);
        }
        (!plan.chunks.is_empty()).then_some(plan)
    }

    /// Takes the first waiting sequence with its blocks, if it may run.
    fn admit(&mut self) -> Option<(Place, Sequence)> {
        if self.running.len() >= self.max_running {
            return None;
        }
        let first = self.waiting.first_entry()?;
        let blocks = self.pool.allocate(first.get().final_len().div_ceil(self.block_size))?;
        let (place, mut sequence) = first.remove_entry();
        sequence.blocks = blocks;
        Some((place, sequence))
    }

    /// Takes a batch's results, in the order of its outputs. Returns each caller's news; sequences
    /// that ended are forgotten and their blocks free. Results of sequences cancelled since are
    /// dropped.
    ///
    /// # Errors
    /// Results that this batch cannot have: the executor is broken.
    pub(crate) fn apply(
        &mut self,
        chunks: &[Chunk],
        results: Vec<RowOutput>,
    ) -> Result<Vec<(Place, Event)>, String> {
        let wanted: usize = chunks.iter().map(|chunk| chunk.outputs).sum();
        if results.len() != wanted {
            return Err(format!("a batch asked for {wanted} results and got {}", results.len()));
        }
        if let Some(bad) = results.iter().find(|result| result.token as usize >= self.vocab_size) {
            let vocab_size = self.vocab_size;
            return Err(format!(
                "the device drew token {}, but the vocabulary has {vocab_size} tokens",
                bad.token
            ));
        }
        let mut results = results.into_iter();
        let mut news = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let own = results.by_ref().take(chunk.outputs);
            let Some(sequence) = self.running.get_mut(&chunk.place) else {
                own.for_each(drop);
                continue;
            };
            let events = sequence.advance(chunk.rows, own);
            if let Some(Event::Finished(_)) = events.last() {
                self.end(chunk.place);
            }
            news.extend(events.into_iter().map(|event| (chunk.place, event)));
        }
        Ok(news)
    }

    /// Whether there is nothing to plan.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences running.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences waiting.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Blocks in no sequence.
    pub(crate) fn free_blocks(&self) -> usize {
        self.pool.free()
    }
}
