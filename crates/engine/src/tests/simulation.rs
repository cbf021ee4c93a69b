//! The scheduler driven by seeded random workloads, its invariants checked after every step.
//!
//! `ENGINE_SIM_SEED=n cargo test -p engine simulation` runs world `n` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{SamplingParams, uniform};

use super::fake_device::{FakeDevice, expected_events};
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::{Place, Sequence};
use crate::{EngineConfig, Event, Request};

/// Enough worlds for more than this many steps.
const STEPS: usize = 200_000;

#[test]
fn random_workloads_keep_every_invariant() {
    if let Ok(seed) = std::env::var("ENGINE_SIM_SEED") {
        let seed = seed.parse().expect("ENGINE_SIM_SEED is a number");
        World::new(seed).run().expect("the world of this seed");
        return;
    }
    let mut seen = Seen::default();
    for seed in 0.. {
        match World::new(seed).run() {
            Ok(world) => seen += world,
            Err(broken) => {
                panic!("{broken}\nagain: ENGINE_SIM_SEED={seed} cargo test -p engine simulation")
            }
        }
        if seen.steps > STEPS {
            break;
        }
    }
    println!("{seen:?}");
    // The workloads must reach the interesting states, or the invariants say little.
    assert!(seen.finished > 20_000 && seen.cancelled_running > 1_000, "{seen:?}");
    assert!(seen.cancelled_waiting > 1_000 && seen.mixed_batches > 10_000, "{seen:?}");
    assert!(seen.held_back > 10_000 && seen.split_prompts > 10_000, "{seen:?}");
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
    /// Prompt chunks that left some of the prompt.
    split_prompts: usize,
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
    }
}

/// A caller, and what it may still be told.
struct Caller {
    expected: std::vec::IntoIter<Event>,
}

struct World {
    random: Random,
    config: EngineConfig,
    scheduler: Scheduler,
    device: FakeDevice,
    callers: BTreeMap<Place, Caller>,
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
        };
        let device = FakeDevice::new(
            config.num_blocks,
            config.block_size,
            config.vocab_size,
            config.max_num_batched_tokens,
        );
        let scheduler = Scheduler::new(&config);
        let (callers, seen) = (BTreeMap::new(), Seen::default());
        World { random, config, scheduler, device, callers, arrivals: 0, seen }
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
        // What is left needs at most a step for each of its tokens: no step is empty.
        let mut left = self.callers.len() * self.config.max_model_len;
        while self.step()? {
            left = left.checked_sub(1).ok_or("the rest does not end")?;
        }
        ensure(self.scheduler.is_idle() && self.callers.is_empty(), "someone was forgotten")?;
        ensure(self.scheduler.free_blocks() == self.config.num_blocks, "blocks were lost")?;
        Ok(self.seen)
    }

    fn arrive(&mut self) {
        let request = random_request(&mut self.random, &self.config);
        if self.config.admits(&request).is_err() {
            return;
        }
        let place = Place { priority: request.priority, arrival: self.arrivals };
        self.arrivals += 1;
        let expected = expected_events(&request, self.config.vocab_size).into_iter();
        self.callers.insert(place, Caller { expected });
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

    /// Plans, executes, applies. Returns false if there was nothing to do.
    fn step(&mut self) -> Result<bool, String> {
        let running_before: BTreeSet<Place> = self.scheduler.running.keys().copied().collect();
        let decoding: BTreeSet<Place> = self
            .scheduler
            .running
            .iter()
            .filter_map(|(place, sequence)| sequence.is_decoding().then_some(*place))
            .collect();
        let Some(plan) = self.scheduler.plan() else {
            ensure(self.callers.is_empty(), "no plan, though someone waits")?;
            return Ok(false);
        };
        self.seen.steps += 1;
        self.check_plan(&plan, &running_before, &decoding)?;
        self.check_blocks()?;

        let mut cancelled = None;
        let results = self.device.execute(plan.batch).map_err(|error| error.to_string())?;
        if self.random.percent(2) {
            // Someone who goes while the device works.
            let before: BTreeSet<Place> = self.callers.keys().copied().collect();
            self.cancel_someone();
            cancelled = before.into_iter().find(|place| !self.callers.contains_key(place));
        }
        for (place, event) in self.scheduler.apply(&plan.chunks, results)? {
            ensure(Some(place) != cancelled, "news of a cancelled sequence")?;
            self.hear(place, event)?;
        }
        self.check_blocks()?;
        Ok(true)
    }

    fn hear(&mut self, place: Place, event: Event) -> Result<(), String> {
        let caller = self.callers.get_mut(&place).ok_or("news for nobody")?;
        let expected = caller.expected.next();
        ensure(expected.as_ref() == Some(&event), &format!("{event:?}, not {expected:?}"))?;
        if let Event::Finished(_) = event {
            ensure(caller.expected.len() == 0, "ended early")?;
            self.callers.remove(&place);
            self.seen.finished += 1;
        }
        Ok(())
    }

    fn check_plan(
        &mut self,
        plan: &Plan,
        running_before: &BTreeSet<Place>,
        decoding: &BTreeSet<Place>,
    ) -> Result<(), String> {
        let rows = plan.batch.tokens.len();
        let in_batch: BTreeSet<Place> = plan.chunks.iter().map(|chunk| chunk.place).collect();
        ensure(rows <= self.config.max_num_batched_tokens, "over the budget")?;
        ensure(self.scheduler.running() <= self.config.max_num_seqs, "too many run")?;
        ensure(in_batch.len() == plan.chunks.len(), "a sequence twice in a batch")?;
        ensure(decoding.is_subset(&in_batch), "a decode was left out")?;
        let started = self.scheduler.running.keys().filter(|place| !running_before.contains(place));
        if let (Some(last), Some(first)) = (started.max(), self.scheduler.waiting.keys().next()) {
            ensure(last < first, "someone was overtaken")?;
        }
        // Prompts are served in the order of places too: only the last one is cut short.
        let prompts: Vec<_> =
            plan.chunks.iter().filter(|chunk| !decoding.contains(&chunk.place)).collect();
        let cut = |chunk: &&&crate::scheduler::Chunk| {
            self.scheduler.running[&chunk.place].pending() > chunk.rows
        };
        let cut_short = prompts.iter().filter(cut).count();
        ensure(cut_short <= 1, "two prompts share the budget")?;

        self.seen.split_prompts += cut_short;
        self.seen.mixed_batches += usize::from(!decoding.is_empty() && !prompts.is_empty());
        let seats = self.config.max_num_seqs.min(self.config.max_num_batched_tokens);
        self.seen.held_back += usize::from(
            rows < self.config.max_num_batched_tokens
                && self.scheduler.running() < seats
                && self.scheduler.waiting() > 0,
        );
        Ok(())
    }

    /// Every block is free or in exactly one sequence, and running sequences hold all they need.
    fn check_blocks(&self) -> Result<(), String> {
        let mut owners = vec![0; self.config.num_blocks];
        for &block in self.scheduler.pool.free_blocks() {
            owners[block as usize] += 1;
        }
        for sequence in self.scheduler.running.values() {
            let needed = sequence.final_len().div_ceil(self.config.block_size);
            ensure(sequence.blocks.len() == needed, "a sequence lacks blocks")?;
            for &block in &sequence.blocks {
                owners[block as usize] += 1;
            }
        }
        ensure(owners.iter().all(|count| *count == 1), "a block without or with two owners")
    }
}

fn random_request(random: &mut Random, config: &EngineConfig) -> Request {
    let vocab = config.vocab_size;
    let prompt_len = 1 + random.below(config.max_model_len);
    let max_tokens = random.below(config.max_model_len - prompt_len + 1);
    let stop_ids = (0..random.below(2)).map(|_| random.below(vocab) as u32).collect();
    let logprobs = |random: &mut Random| random.percent(20).then(|| random.below(4));
    Request {
        prompt: (0..prompt_len).map(|_| random.below(vocab) as u32).collect(),
        max_tokens,
        stop_ids,
        sampling: Arc::new(SamplingParams {
            presence_penalty: if random.percent(30) { 1.0 } else { 0.0 },
            seed: random.below(1000) as u64,
            ..SamplingParams::default()
        }),
        logprobs: logprobs(random),
        prompt_logprobs: logprobs(random),
        priority: if random.percent(20) { random.below(5) as i32 - 2 } else { 0 },
        cache_salt: None,
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
