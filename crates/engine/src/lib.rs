//! Requests to batches: the continuous-batching scheduler, paged KV blocks and the step loop.
//!
//! Data enters as [`Request`]s through [`Engine::submit`], from any thread, and leaves as
//! [`Event`]s of that request's [`Stream`]. Between them one OS thread (`step_loop`) owns the
//! `scheduler` (a pure state machine: no clock, no I/O, no threads) and the executor, which hands
//! each planned [`model::Batch`] to every rank and reads rank 0's results back. In the overlapped
//! loop ([`Engine::start_overlapped`]) a batch is planned and launched while the one before it
//! runs; the answers are the same. What a sequence may draw ([`Constraint`]) is computed on other
//! threads, while the row in question is. Sequences that begin alike share KV blocks
//! (`block_pool`), which relies on a row's result being the same bits in any batch and for any
//! chunking; so does preemption, which computes a sequence again. Text never appears here: stop
//! strings are the caller's, who drops the stream when one was seen.

mod block_pool;
mod constraint;
mod limits;
mod request;
mod scheduler;
mod sequence;
mod step_loop;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc::unbounded_channel;

use crate::scheduler::Scheduler;
use crate::sequence::{Place, Sequence};
use crate::step_loop::{Caller, Command, Executor, Shared, StepLoop};

pub use constraint::{Constraint, NextMask};
pub use request::{Event, FinishReason, Request, Stream, SubmitError, TokenInfo};

/// Limits the engine keeps. All fixed at start. `max_num_seqs`, `max_num_batched_tokens` and
/// `block_size` are at least 1.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Most tokens in one sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Most sequences that run at once (and never more than rows in a batch).
    pub max_num_seqs: usize,
    /// Most rows in one batch.
    pub max_num_batched_tokens: usize,
    /// Tokens in one KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Most requests that may wait; one more is refused. A request waits until a step takes it up,
    /// even when nothing else is running.
    pub max_waiting: usize,
    /// Whether sequences that begin alike share KV blocks.
    pub prefix_caching: bool,
}

/// A moment's figures, for `/health`, `/metrics` and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences running.
    pub running: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// KV blocks in no sequence.
    pub free_blocks: usize,
    /// KV blocks in the pool.
    pub total_blocks: usize,
    /// How often a running sequence had to give up its blocks, since the start.
    pub preemptions: u64,
    /// Prompt tokens of all sequences that have begun to run, since the start.
    pub prompt_tokens: u64,
    /// Those of them whose KV was in the prefix cache.
    pub cached_prompt_tokens: u64,
}

/// Runs one batch on all ranks and returns rank 0's results, one per `Batch::outputs` entry, in
/// order.
pub type Execute =
    Box<dyn FnMut(model::Batch) -> Result<Vec<model::RowOutput>, model::DeviceError> + Send>;

/// Runs batches in the order in which they are launched.
pub trait Device: Send {
    /// Hands over a batch, to be begun when the one launched before it has ended. Returns at once.
    /// Its carried rows ([`model::Batch::carried`]) take what the one before it draws.
    ///
    /// # Errors
    /// A failed device.
    fn launch(&mut self, batch: model::Batch) -> Result<(), model::DeviceError>;

    /// Waits for the end of the oldest batch that was launched and not waited for. Returns rank 0's
    /// results, one per `Batch::outputs` entry, in order.
    ///
    /// # Errors
    /// A failed device.
    fn wait(&mut self) -> Result<Vec<model::RowOutput>, model::DeviceError>;
}

impl Device for model::Ranks {
    fn launch(&mut self, batch: model::Batch) -> Result<(), model::DeviceError> {
        self.launch(batch)
    }

    fn wait(&mut self) -> Result<Vec<model::RowOutput>, model::DeviceError> {
        self.wait()
    }
}

/// Handle to a running engine. Cheap to clone. When the last handle is gone the engine's thread
/// ends after the step it is in, and streams that are still open end with [`Event::Failed`].
#[derive(Debug, Clone)]
pub struct Engine(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    config: EngineConfig,
    commands: Sender<Command>,
    shared: Arc<Shared>,
    arrivals: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the engine's thread with the normal loop. `execute` is called there, one batch at a
    /// time; if it fails or panics, so does the engine (see [`Engine::health`]). So it does from
    /// the start if the configuration has a zero where it needs a number.
    pub fn start(config: EngineConfig, execute: Execute) -> Engine {
        Engine::start_with(config, Executor::Normal(execute))
    }

    /// Starts the engine's thread with the overlapped loop: while `device` runs a batch, the next
    /// one is planned and launched, so that the device never waits for the host. Otherwise like
    /// [`Engine::start`].
    pub fn start_overlapped(config: EngineConfig, device: Box<dyn Device>) -> Engine {
        Engine::start_with(config, Executor::Overlapped(device))
    }

    fn start_with(config: EngineConfig, executor: Executor) -> Engine {
        let (commands, received) = channel();
        let shared = Arc::new(Shared {
            free_blocks: AtomicUsize::new(config.num_blocks),
            ..Shared::default()
        });
        let started = config.check().and_then(|()| {
            let scheduler = Scheduler::new(&config);
            let name_failure = |error| format!("the engine's threads did not start: {error}");
            let masks = constraint::start_threads().map_err(name_failure)?;
            let step_loop = StepLoop::new(received, scheduler, executor, masks, shared.clone());
            let thread = std::thread::Builder::new().name("engine".into());
            thread.spawn(|| step_loop.run()).map_err(name_failure)
        });
        let thread = match started {
            Ok(thread) => Some(thread),
            Err(reason) => {
                // Nobody else holds it yet, so it is not set.
                let _ = shared.failure.set(reason);
                None
            }
        };
        let (arrivals, thread) = (AtomicU64::new(0), Mutex::new(thread));
        Engine(Arc::new(Handle { config, commands, shared, arrivals, thread }))
    }

    /// Ends the engine's thread after the step it is in, and waits until it has given its device
    /// back: a process that ends meanwhile takes the runtime's libraries away under its threads.
    /// Streams that are still open end with [`Event::Failed`].
    pub fn stop(&self) {
        // The thread may have ended already.
        let _ = self.0.commands.send(Command::Stop);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }

    /// Queues a request (first come, first served within a priority) after checking it against the
    /// limits.
    ///
    /// # Errors
    /// [`SubmitError`], at once; nothing is queued then.
    pub fn submit(&self, request: Request) -> Result<Stream, SubmitError> {
        let handle = &*self.0;
        self.health().map_err(SubmitError::Stopped)?;
        handle.config.admits(&request)?;
        let max_waiting = handle.config.max_waiting;
        handle
            .shared
            .waiting
            .try_update(Relaxed, Relaxed, |waiting| (waiting < max_waiting).then_some(waiting + 1))
            .map_err(|waiting| SubmitError::QueueFull { waiting })?;

        let arrival = handle.arrivals.fetch_add(1, Relaxed);
        let place = Place { priority: request.priority, arrival };
        let sequence = Box::new(Sequence::new(request));
        let (events, receiver) = unbounded_channel();
        let cached_tokens = Arc::new(AtomicUsize::new(0));
        let caller = Caller { events, cached_tokens: cached_tokens.clone() };
        handle
            .commands
            .send(Command::Submit { place, sequence, caller })
            .map_err(|_| SubmitError::Stopped("its thread has ended".into()))?;
        Ok(Stream { place, events: receiver, cached_tokens, commands: handle.commands.clone() })
    }

    /// This moment's figures.
    pub fn load(&self) -> Load {
        let Handle { config, shared, .. } = &*self.0;
        Load {
            running: shared.running.load(Relaxed),
            waiting: shared.waiting.load(Relaxed),
            free_blocks: shared.free_blocks.load(Relaxed),
            total_blocks: config.num_blocks,
            preemptions: shared.preemptions.load(Relaxed),
            prompt_tokens: shared.prompt_tokens.load(Relaxed),
            cached_prompt_tokens: shared.cached_prompt_tokens.load(Relaxed),
        }
    }

    /// `Err` with the reason once a device has failed: every request ends with `Failed` then, and
    /// `submit` refuses new ones.
    ///
    /// # Errors
    /// The reason of the failure.
    pub fn health(&self) -> Result<(), String> {
        self.0.shared.failure.get().cloned().map_or(Ok(()), Err)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The thread may have ended already.
        let _ = self.commands.send(Command::Stop);
    }
}
