//! Which sequences run, and what each step computes: a pure state machine.
//!
//! `add` and `cancel` change who wants to run; `plan` makes the next batch and `apply` takes its
//! results. Batches are applied in the order of their plans; the next one may be planned before the
//! last one is applied, but not the one after it. Nothing here reads a clock, starts a thread or
//! touches a device, so a seeded simulation can run every path (see `tests/simulation.rs`).

use std::collections::BTreeMap;

use model::{Batch, RowOutput};

use crate::EngineConfig;
use crate::block_pool::BlockPool;
use crate::constraint::MaskWork;
use crate::request::Event;
use crate::sequence::{Place, Sequence};

/// All sequences of an engine, and the KV blocks.
///
/// Sequences start in the order of their places: while the first one waiting lacks blocks, no later
/// one overtakes it. A sequence starts when there are blocks for its tokens so far; when the blocks
/// run out later, the last ones in line are preempted: they give up their blocks, wait in their old
/// place and are computed again. The first one running is never preempted and every step computes
/// some of it, so every sequence ends.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) waiting: BTreeMap<Place, Sequence>,
    pub(crate) running: BTreeMap<Place, Sequence>,
    pub(crate) pool: BlockPool,
    max_running: usize,
    max_rows: usize,
    block_size: usize,
    vocab_size: usize,
    prefix_caching: bool,
    /// Preemptions so far.
    pub(crate) preemptions: u64,
}

/// The next step: the batch to execute, and whose rows it holds (for [`Scheduler::apply`]).
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    pub(crate) chunks: Vec<Chunk>,
    /// Sequences that run for the first time.
    pub(crate) started: Vec<Started>,
}

/// A sequence that runs for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) place: Place,
    pub(crate) prompt_tokens: usize,
    /// Those of them that need not be computed.
    pub(crate) cached_tokens: usize,
}

/// What a batch's results bring.
#[derive(Default)]
pub(crate) struct Landed {
    /// What callers are to be told, in order.
    pub(crate) news: Vec<(Place, Event)>,
    /// Masks to be computed at once: batches that were planned already wait for them.
    pub(crate) masks: Vec<MaskWork>,
}

/// One sequence's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) place: Place,
    pub(crate) rows: usize,
    pub(crate) outputs: usize,
    /// Whether the chunk reaches the end of its sequence.
    pub(crate) last: bool,
}

/// Who gets rows of a batch, and how many.
struct Shares {
    /// Rows that nobody has got.
    left: usize,
    given: Vec<Share>,
}

struct Share {
    place: Place,
    rows: usize,
    generated: bool,
}

impl Shares {
    /// Gives a sequence as many of the rows left as it can use.
    fn give(&mut self, place: Place, sequence: &Sequence) {
        let rows = sequence.next_rows().min(self.left);
        if rows > 0 {
            self.left -= rows;
            self.given.push(Share { place, rows, generated: sequence.is_past_prompt() });
        }
    }
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig) -> Scheduler {
        Scheduler {
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            pool: BlockPool::new(
                u32::try_from(config.num_blocks).unwrap_or(u32::MAX),
                config.block_size,
            ),
            // Every running sequence may need a row each step.
            max_running: config.max_num_seqs.min(config.max_num_batched_tokens),
            max_rows: config.max_num_batched_tokens,
            block_size: config.block_size,
            vocab_size: config.vocab_size,
            prefix_caching: config.prefix_caching,
            preemptions: 0,
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
        if let Some(mut sequence) = self.running.remove(&place) {
            sequence.stop(&mut self.pool);
        }
    }

    /// The next batch: one row for each decoding sequence, then chunks of the others in the order
    /// of places as far as the budget goes, starting waiting sequences as they fit. A chunk is of
    /// the prompt or of generated tokens that are computed again. In the batch prompts come last.
    /// `None` if no sequence is left, or if all depends on results under way.
    pub(crate) fn plan(&mut self) -> Option<Plan> {
        let preemptions_before = self.preemptions;
        self.make_room_for_decodes();

        let mut shares = Shares { left: self.max_rows, given: Vec::new() };
        for decoding in [true, false] {
            for (place, sequence) in &self.running {
                if sequence.is_decoding() == decoding {
                    shares.give(*place, sequence);
                }
            }
        }
        let mut plan = Plan::default();
        // Who was just preempted must not take its blocks back at once.
        if self.preemptions == preemptions_before {
            plan.started = self.start_waiting(&mut shares);
        }
        // The sort is stable: decodes stay before what is computed again.
        shares.given.sort_by_key(|share| !share.generated);
        for Share { place, rows, .. } in shares.given {
            if let Some(sequence) = self.running.get_mut(&place) {
                let (outputs, last) = sequence.launch(&mut plan.batch, rows, self.block_size);
                plan.chunks.push(Chunk { place, rows, outputs, last });
            }
        }
        (!plan.chunks.is_empty()).then_some(plan)
    }

    /// Gives each decoding sequence the block its next token needs, preempting from the end of the
    /// line.
    fn make_room_for_decodes(&mut self) {
        let block_size = self.block_size;
        let full = |sequence: &Sequence| sequence.runnable() > sequence.blocks.len() * block_size;
        let grow: Vec<Place> =
            self.running.iter().filter(|(_, s)| full(s)).map(|(place, _)| *place).collect();
        for place in grow {
            // The sequence may itself be the last in line.
            while let Some(sequence) = self.running.get_mut(&place) {
                match self.pool.allocate() {
                    Some(block) => {
                        sequence.blocks.push(block);
                        break;
                    }
                    None => self.preempt_last(),
                }
            }
        }
    }

    /// Puts the last running sequence back in line.
    fn preempt_last(&mut self) {
        if let Some((place, mut sequence)) = self.running.pop_last() {
            sequence.stop(&mut self.pool);
            self.waiting.insert(place, sequence);
            self.preemptions += 1;
        }
    }

    /// Starts waiting sequences while rows are left; returns those that run for the first time.
    fn start_waiting(&mut self, shares: &mut Shares) -> Vec<Started> {
        let mut started = Vec::new();
        while shares.left > 0
            && self.running.len() < self.max_running
            && let Some((place, mut sequence)) = self.admit()
        {
            if let Some(cached_tokens) = sequence.first_start() {
                let prompt_tokens = sequence.prompt_len();
                started.push(Started { place, prompt_tokens, cached_tokens });
            }
            shares.give(place, &sequence);
            self.running.insert(place, sequence);
        }
        started
    }

    /// Takes the first waiting sequence with blocks for its tokens so far, if there are enough. One
    /// block is left for each running sequence: they will need it soon, and to wait now is cheaper
    /// than to be preempted then.
    fn admit(&mut self) -> Option<(Place, Sequence)> {
        let first = self.waiting.first_entry()?;
        let spare = self.pool.free().saturating_sub(self.running.len());
        if spare == 0 {
            return None;
        }
        let mut blocks = match self.prefix_caching {
            true => first.get().find_prefix(&self.pool),
            false => Vec::new(),
        };
        let cached = blocks.len();
        let new = first.get().len().div_ceil(self.block_size) - cached;
        if new + self.pool.idle_among(&blocks) > spare {
            return None;
        }
        blocks.iter().for_each(|block| self.pool.hold(*block));
        blocks.extend((0..new).map_while(|_| self.pool.allocate()));
        let (place, mut sequence) = first.remove_entry();
        sequence.start(blocks, cached, self.block_size);
        Some((place, sequence))
    }

    /// Takes a batch's results, in the order of its outputs. Sequences that ended are forgotten and
    /// their blocks free. Results of sequences that were cancelled or
    /// preempted since, or ended with the batch before, are dropped: nobody heard of them, and what
    /// they wrote is in no published block.
    ///
    /// # Errors
    /// Results that this batch cannot have: the executor is broken.
    pub(crate) fn apply(
        &mut self,
        chunks: &[Chunk],
        results: Vec<RowOutput>,
    ) -> Result<Landed, String> {
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
        let mut landed = Landed::default();
        for chunk in chunks {
            let own = results.by_ref().take(chunk.outputs);
            let Some(sequence) = self.running.get_mut(&chunk.place) else {
                own.for_each(drop);
                continue;
            };
            let (events, mask) = sequence.land(chunk.rows, chunk.last, own);
            landed.masks.extend(mask);
            if self.prefix_caching {
                sequence.publish_full_blocks(&mut self.pool, self.block_size);
            }
            if events.last().is_some_and(Event::is_last) {
                self.end(chunk.place);
            }
            landed.news.extend(events.into_iter().map(|event| (chunk.place, event)));
        }
        Ok(landed)
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
