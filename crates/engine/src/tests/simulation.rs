//! The scheduler driven by seeded random workloads, its invariants checked after every step.
//!
//! `ENGINE_SIM_SEED=n cargo test -p engine simulation` runs world `n` alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use model::{Batch, Draw, SamplingParams, Want, uniform};

use super::fake_device::{FakeDevice, expected_events, fake_constraint};
use crate::constraint::MaskWork;
use crate::scheduler::{Chunk, Plan, Scheduler};
use crate::sequence::{Place, Sequence};
use crate::{EngineConfig, Event, FinishReason, Request};

/// Each test runs worlds until it has made this many steps.
const STEPS: usize = 500_000;

/// Earlier requests that a request may go on from.
const KEPT_TURNS: usize = 4;

#[test]
fn fixed_worlds_keep_every_invariant() {
    run_worlds(0);
}

#[test]
fn fresh_worlds_keep_every_invariant() {
    run_worlds(std::hash::RandomState::new().hash_one("worlds") >> 1);
}

fn run_worlds(first_seed: u64) {
    if let Ok(seed) = std::env::var("ENGINE_SIM_SEED") {
        let seed = seed.parse().expect("ENGINE_SIM_SEED is a number");
        World::new(seed).run().expect("the world of this seed");
        return;
    }
    let mut seen = Seen::default();
    for seed in first_seed.. {
        let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
        match outcome.unwrap_or_else(|_| Err("a panic, see above".into())) {
            Ok(world) => seen += world,
            Err(broken) => {
                panic!("{broken}\nagain: ENGINE_SIM_SEED={seed} cargo test -p engine simulation")
            }
        }
        if seen.steps >= STEPS {
            break;
        }
    }
    println!("{seen:?}");
    // The workloads must reach the interesting states, or the invariants say little.
    let each = [
        seen.finished,
        seen.cancelled_running,
        seen.cancelled_waiting,
        seen.mixed_batches,
        seen.held_back,
        seen.split_prompts,
        seen.preempted,
        seen.recomputed,
        seen.prompts_behind,
        seen.next_turns,
        seen.prefix_hits,
        seen.own_answers,
        seen.shared_blocks,
        seen.carried_rows,
        seen.late_stops,
        seen.preempted_under_way,
        seen.promised_masks,
        seen.failed_constraints,
    ];
    assert!(each.iter().all(|count| *count > 1000), "{seen:?}");
}

/// What happened, summed over worlds.
#[derive(Debug, Default)]
struct Seen {
    steps: usize,
    finished: usize,
    cancelled_running: usize,
    cancelled_waiting: usize,
    /// Steps with decodes and prompt chunks.
    mixed_batches: usize,
    /// Steps in which a sequence waited for blocks though it might have run.
    held_back: usize,
    /// Chunks that left some of the prompt, or of what is computed again.
    split_prompts: usize,
    preempted: usize,
    /// Chunks of generated tokens that were computed again.
    recomputed: usize,
    /// Chunks of prompts behind such ones.
    prompts_behind: usize,
    /// Requests whose prompt holds the answer of an earlier one.
    next_turns: usize,
    /// Sequences that began with cached blocks.
    prefix_hits: usize,
    /// Tokens of their own answers that preempted ones began again with.
    own_answers: usize,
    /// Blocks with several holders, summed over steps.
    shared_blocks: usize,
    /// Rows whose token was being drawn when they were planned.
    carried_rows: usize,
    /// Sequences that ended with a stop id while a row behind it was under way.
    late_stops: usize,
    /// Sequences that were preempted while rows of theirs were under way.
    preempted_under_way: usize,
    /// Draws that were planned before their mask could be known.
    promised_masks: usize,
    /// Sequences that ended because no token could follow.
    failed_constraints: usize,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.steps += other.steps;
        self.finished += other.finished;
        self.cancelled_running += other.cancelled_running;
        self.cancelled_waiting += other.cancelled_waiting;
        self.mixed_batches += other.mixed_batches;
        self.held_back += other.held_back;
        self.split_prompts += other.split_prompts;
        self.preempted += other.preempted;
        self.recomputed += other.recomputed;
        self.prompts_behind += other.prompts_behind;
        self.next_turns += other.next_turns;
        self.prefix_hits += other.prefix_hits;
        self.own_answers += other.own_answers;
        self.shared_blocks += other.shared_blocks;
        self.carried_rows += other.carried_rows;
        self.late_stops += other.late_stops;
        self.preempted_under_way += other.preempted_under_way;
        self.promised_masks += other.promised_masks;
        self.failed_constraints += other.failed_constraints;
    }
}

/// What a chunk is of, in a batch's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Decode,
    Recomputed,
    Prompt,
}

/// A caller: what it may still be told, and its salt.
struct Caller {
    expected: std::vec::IntoIter<Event>,
    salt: Option<Arc<str>>,
}

struct World {
    random: Random,
    config: EngineConfig,
    scheduler: Scheduler,
    device: FakeDevice,
    /// Whether a batch is planned before the results of the last one are there.
    overlapped: bool,
    under_way: Option<Plan>,
    /// Masks that nobody has computed yet.
    works: Vec<MaskWork>,
    callers: BTreeMap<Place, Caller>,
    /// The latest requests' prompts, each with the answer that is due.
    turns: VecDeque<Vec<u32>>,
    arrivals: u64,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random { seed, index: 0 };
        let config = EngineConfig {
            max_model_len: 1 + random.below(60),
            max_num_seqs: 1 + random.below(8),
            max_num_batched_tokens: 1 + random.below(24),
            block_size: 1 + random.below(8),
            num_blocks: 1 + random.below(30),
            vocab_size: 1 + random.below(12),
            max_waiting: usize::MAX,
            prefix_caching: random.percent(80),
        };
        let device = FakeDevice::new(
            config.num_blocks,
            config.block_size,
            config.vocab_size,
            config.max_num_batched_tokens,
        );
        let scheduler = Scheduler::new(&config);
        let (callers, seen) = (BTreeMap::new(), Seen::default());
        let (overlapped, under_way, works) = (random.percent(60), None, Vec::new());
        World {
            random,
            config,
            scheduler,
            device,
            overlapped,
            under_way,
            works,
            callers,
            turns: VecDeque::new(),
            arrivals: 0,
            seen,
        }
    }

    /// A few hundred steps with arrivals and cancels, then until all is done.
    fn run(mut self) -> Result<Seen, String> {
        let (busy_steps, rush) = (self.random.below(400), self.random.below(100));
        for _ in 0..busy_steps {
            while self.random.percent(rush.min(90)) && self.callers.len() < 20 {
                self.arrive();
            }
            if self.random.percent(10) {
                self.cancel_someone();
            }
            self.step()?;
        }
        // The first one running gets nearer to its end each step; while it runs, the others may be
        // preempted and begin again. Overlapped, its last results take one more step, and so do
        // those of sequences that have gone already.
        let mut left = 1 + self.callers.len().pow(2) * (self.config.max_model_len + 1);
        while self.step()? {
            left = left.checked_sub(1).ok_or("the rest does not end")?;
        }
        ensure(self.scheduler.is_idle() && self.callers.is_empty(), "someone was forgotten")?;
        ensure(self.scheduler.free_blocks() == self.config.num_blocks, "blocks were lost")?;
        Ok(self.seen)
    }

    fn arrive(&mut self) {
        let turn = self.random.below(8 * KEPT_TURNS);
        let turn = self.turns.get(turn).map_or(&[][..], |turn| turn);
        let request = random_request(&mut self.random, &self.config, turn);
        if self.config.admits(&request).is_err() {
            return;
        }
        let place = Place { priority: request.priority, arrival: self.arrivals };
        self.arrivals += 1;
        let expected = expected_events(&request, self.config.vocab_size);
        self.seen.next_turns += usize::from(!turn.is_empty());
        let answer = expected.iter().filter_map(|event| match event {
            Event::Token(info) => Some(info.id),
            _ => None,
        });
        self.turns.push_front(request.prompt.iter().copied().chain(answer).collect());
        self.turns.truncate(KEPT_TURNS);
        let (expected, salt) = (expected.into_iter(), request.cache_salt.clone());
        self.callers.insert(place, Caller { expected, salt });
        self.scheduler.add(place, Sequence::new(request));
    }

    fn cancel_someone(&mut self) {
        let index = self.random.below(self.callers.len().max(1));
        if let Some(&place) = self.callers.keys().nth(index) {
            match self.scheduler.running.contains_key(&place) {
                true => self.seen.cancelled_running += 1,
                false => self.seen.cancelled_waiting += 1,
            }
            self.scheduler.cancel(place);
            self.callers.remove(&place);
        }
    }

    /// Plans a batch; executes and applies it, or the one before. Returns false if there was
    /// nothing to do.
    fn step(&mut self) -> Result<bool, String> {
        let planned = self.plan()?;
        let had_plan = planned.is_some();
        let due = match self.overlapped {
            true => std::mem::replace(&mut self.under_way, planned),
            false => planned,
        };
        let Some(plan) = due else {
            ensure(had_plan || self.callers.is_empty(), "no plan, though someone waits")?;
            return Ok(had_plan);
        };
        let mut cancelled = None;
        self.works.drain(..).for_each(MaskWork::run);
        let results = self.device.execute(plan.batch).map_err(|error| error.to_string())?;
        if self.random.percent(2) {
            // Someone who goes while the device works.
            let before: BTreeSet<Place> = self.callers.keys().copied().collect();
            self.cancel_someone();
            cancelled = before.into_iter().find(|place| !self.callers.contains_key(place));
        }
        let landed = self.scheduler.apply(&plan.chunks, results)?;
        self.works = landed.masks;
        for (place, event) in landed.news {
            ensure(Some(place) != cancelled, "news of a cancelled sequence")?;
            self.hear(place, event)?;
        }
        self.check_blocks(None)?;
        Ok(true)
    }

    fn plan(&mut self) -> Result<Option<Plan>, String> {
        let running_before: BTreeSet<Place> = self.scheduler.running.keys().copied().collect();
        let decoding: BTreeSet<Place> = self
            .scheduler
            .running
            .iter()
            .filter_map(|(place, sequence)| sequence.is_decoding().then_some(*place))
            .collect();
        let preempted_before = self.scheduler.preemptions;
        let Some(plan) = self.scheduler.plan() else {
            return Ok(None);
        };
        self.seen.steps += 1;
        let preempted = (self.scheduler.preemptions - preempted_before) as usize;
        self.seen.preempted += preempted;
        self.seen.carried_rows += plan.batch.carried.len();
        let carried: BTreeSet<usize> =
            plan.batch.carried.iter().map(|carried| carried.row).collect();
        self.seen.promised_masks += plan
            .batch
            .outputs
            .iter()
            .filter(|output| {
                matches!(output.want, Want::Sample(Draw { mask: Some(_), .. }))
                    && carried.contains(&output.row)
            })
            .count();
        let ours = |chunk: &&Chunk| self.scheduler.waiting.contains_key(&chunk.place);
        let chunks = self.under_way.iter().flat_map(|plan| &plan.chunks);
        self.seen.preempted_under_way += chunks.filter(ours).count();
        self.check_places(&plan, &running_before, preempted)?;
        self.check_plan(&plan, &running_before, &decoding)?;
        self.check_blocks(Some(&plan.batch))?;
        Ok(Some(plan))
    }

    fn hear(&mut self, place: Place, event: Event) -> Result<(), String> {
        let caller = self.callers.get_mut(&place).ok_or("news for nobody")?;
        let expected = caller.expected.next();
        ensure(expected.as_ref() == Some(&event), &format!("{event:?}, not {expected:?}"))?;
        if event.is_last() {
            let ours = |chunk: &Chunk| chunk.place == place;
            let goes_on = self.under_way.iter().any(|plan| plan.chunks.iter().any(ours));
            // Only a stop id and the end of a constraint come unforeseen.
            let foreseen = event == Event::Finished(FinishReason::Length);
            ensure(!goes_on || !foreseen, "ran beyond its length")?;
            self.seen.late_stops += usize::from(goes_on);
            self.seen.failed_constraints += usize::from(!matches!(event, Event::Finished(_)));
            ensure(caller.expected.len() == 0, "ended early")?;
            self.callers.remove(&place);
            self.seen.finished += 1;
        }
        Ok(())
    }

    /// Who started and who was preempted: nobody is overtaken.
    fn check_places(
        &mut self,
        plan: &Plan,
        before: &BTreeSet<Place>,
        preempted: usize,
    ) -> Result<(), String> {
        let now: BTreeSet<Place> = self.scheduler.running.keys().copied().collect();
        let gone: Vec<&Place> = before.difference(&now).collect();
        ensure(gone.len() == preempted, "running sequences vanished")?;
        ensure(gone.iter().all(|place| now.iter().all(|other| other < place)), "not the last")?;
        let started: Vec<&Place> = now.difference(before).collect();
        ensure(preempted == 0 || started.is_empty(), "preempted, and started others")?;
        if let (Some(last), Some(first)) = (started.last(), self.scheduler.waiting.keys().next()) {
            ensure(*last < first, "someone was overtaken")?;
        }
        for (chunk, span) in plan.chunks.iter().zip(&plan.batch.spans) {
            let again = started.contains(&&chunk.place);
            let prompt_len = self.scheduler.running[&chunk.place].prompt_len();
            self.seen.own_answers +=
                if again { span.position.saturating_sub(prompt_len) } else { 0 };
        }
        for start in &plan.started {
            ensure(started.contains(&&start.place), "called started, but was not")?;
            ensure(start.cached_tokens < start.prompt_tokens, "nothing left to compute")?;
            let caching = self.config.prefix_caching;
            ensure(caching || start.cached_tokens == 0, "cached, though the cache is off")?;
            self.seen.prefix_hits += usize::from(start.cached_tokens > 0);
        }
        Ok(())
    }

    /// What is in the batch: all decodes, then chunks in the order of places, within the budget, of
    /// generated tokens before those of prompts.
    fn check_plan(
        &mut self,
        plan: &Plan,
        before: &BTreeSet<Place>,
        decoding: &BTreeSet<Place>,
    ) -> Result<(), String> {
        let rows = plan.batch.tokens.len();
        let running = &self.scheduler.running;
        let in_batch: BTreeSet<Place> = plan.chunks.iter().map(|chunk| chunk.place).collect();
        ensure(rows <= self.config.max_num_batched_tokens, "over the budget")?;
        ensure(running.len() <= self.config.max_num_seqs, "too many run")?;
        ensure(in_batch.len() == plan.chunks.len(), "a sequence twice in a batch")?;
        let served = |place: &Place| in_batch.contains(place) || !running.contains_key(place);
        ensure(decoding.iter().all(served), "a decode was left out")?;
        if let Some((first, sequence)) = running.first_key_value() {
            // Unless all that is left of it is under way.
            ensure(served(first) || sequence.next_rows() == 0, "the first one stands still")?;
        }
        ensure(plan.batch.spans.len() == plan.chunks.len(), "not a span for each chunk")?;
        let (mut order, mut cut_short) = (Vec::new(), 0);
        for (chunk, span) in plan.chunks.iter().zip(&plan.batch.spans) {
            let sequence = running.get(&chunk.place).ok_or("a chunk of nobody")?;
            let (prompt_len, end) = (sequence.prompt_len(), span.position + span.rows);
            ensure(span.rows == chunk.rows, "another's span")?;
            ensure(span.generated == (span.position >= prompt_len), "taken for what it is not")?;
            ensure(span.generated || end <= prompt_len, "a prompt's and generated tokens mixed")?;
            let kind = match (decoding.contains(&chunk.place), span.generated) {
                (true, generated) => {
                    ensure(generated && span.rows == 1, "a decode of many rows, or of a prompt")?;
                    Kind::Decode
                }
                (false, true) => Kind::Recomputed,
                (false, false) => Kind::Prompt,
            };
            cut_short += usize::from(kind != Kind::Decode && !chunk.last && end != prompt_len);
            // Who starts comes behind who ran before.
            order.push((kind, !before.contains(&chunk.place), chunk.place));
        }
        ensure(cut_short <= 1, "two chunks share the budget")?;
        ensure(order.is_sorted(), "not in order")?;
        let count = |kind| order.iter().filter(|(other, ..)| *other == kind).count();
        let counts = [Kind::Decode, Kind::Recomputed, Kind::Prompt].map(count);

        let seats = self.config.max_num_seqs.min(self.config.max_num_batched_tokens);
        let held_back = rows < self.config.max_num_batched_tokens
            && running.len() < seats
            && self.scheduler.waiting() > 0;
        self.seen.held_back += usize::from(held_back);
        self.seen.split_prompts += cut_short;
        self.seen.recomputed += counts[1];
        self.seen.mixed_batches += usize::from(counts[0] > 0 && counts[2] > 0);
        self.seen.prompts_behind += if counts[1] > 0 { counts[2] } else { 0 };
        Ok(())
    }

    /// Blocks are conserved, shared only if they are full and of one salt, never written when they
    /// are shared, and nobody holds more than needed.
    fn check_blocks(&mut self, batch: Option<&Batch>) -> Result<(), String> {
        let Scheduler { pool, running, waiting, .. } = &self.scheduler;
        pool.check(running.values().map(|sequence| &sequence.blocks))?;
        ensure(waiting.values().all(|sequence| sequence.blocks.is_empty()), "waits with blocks")?;
        let mut salts = BTreeMap::new();
        for (place, sequence) in running {
            let needed = sequence.len().div_ceil(self.config.block_size);
            ensure(sequence.blocks.len() <= needed, "a sequence has too many blocks")?;
            let salt = self.callers.get(place).and_then(|caller| caller.salt.clone());
            for block in &sequence.blocks {
                match salts.insert(*block, salt.clone()) {
                    Some(other) if other != salt => return Err("blocks cross salts".into()),
                    other => self.seen.shared_blocks += usize::from(other.is_some()),
                }
            }
        }
        for span in batch.iter().flat_map(|batch| &batch.spans) {
            let mut written = span.blocks.iter().skip(span.position / self.config.block_size);
            ensure(written.all(|block| !pool.is_published(*block)), "writes a published block")?;
        }
        Ok(())
    }
}

/// A request whose prompt begins with `turn`, as far as there is room.
fn random_request(random: &mut Random, config: &EngineConfig, turn: &[u32]) -> Request {
    let vocab = config.vocab_size;
    let longest = 1 + random.below(config.max_model_len);
    let prompt_len = (turn.len() + 1 + random.below(longest)).min(config.max_model_len);
    let max_tokens = random.below(config.max_model_len - prompt_len + 1);
    let stop_ids = (0..random.below(2)).map(|_| random.below(vocab) as u32).collect();
    // Prompts begin like one of a few documents, so that prefixes are shared.
    let document = random.below(3) as u64;
    let same = random.below(prompt_len + 1);
    let prompt = (0..prompt_len).map(|position| {
        let random_token = random.below(vocab) as u32;
        let document_token = (uniform(document, position as u64) * vocab as f32) as u32;
        let other = if position < same { document_token } else { random_token };
        turn.get(position).copied().unwrap_or(other)
    });
    let prompt = prompt.collect();
    let logprobs = |random: &mut Random| random.percent(20).then(|| random.below(4));
    Request {
        prompt,
        max_tokens,
        stop_ids,
        sampling: Arc::new(SamplingParams {
            presence_penalty: if random.percent(30) { 1.0 } else { 0.0 },
            seed: random.below(1000) as u64,
            ..SamplingParams::default()
        }),
        constraint: random.percent(40).then(|| fake_constraint(vocab)),
        logprobs: logprobs(random),
        prompt_logprobs: logprobs(random),
        priority: if random.percent(20) { random.below(5) as i32 - 2 } else { 0 },
        cache_salt: random.percent(20).then(|| "salt".into()),
    }
}

/// Random numbers that a seed fixes.
struct Random {
    seed: u64,
    index: u64,
}

impl Random {
    /// A number in `0..limit`; `limit` is at least 1.
    fn below(&mut self, limit: usize) -> usize {
        self.index += 1;
        (uniform(self.seed, self.index) * limit as f32) as usize
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}

fn ensure(holds: bool, message: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message.into()) }
}
