//! Requests to batches: the continuous-batching scheduler, paged KV blocks and the step loop.
//!
//! Data enters as [`Request`]s through [`Engine::submit`], from any thread, and leaves as [`Event`]s
//! of that request's [`Stream`]. Between them one OS thread owns the [`scheduler`] (a pure state
//! machine: no clock, no I/O, no threads) and the executor, which hands each planned
//! [`model::Batch`] to every rank and reads rank 0's results back. Text never appears here: stop
//! strings are the caller's, who drops the stream when one was seen.

mod request;

pub use request::{Event, FinishReason, Request, Stream, SubmitError, TokenInfo};

/// Limits the engine keeps. All fixed at start.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Most tokens in one sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Most rows in one batch.
    pub max_num_batched_tokens: usize,
    /// Tokens in one KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub num_blocks: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Most requests that may wait; one more is refused.
    pub max_waiting: usize,
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
}

/// Runs one batch on all ranks and returns rank 0's results, one per `Batch::outputs` entry, in order.
pub type Execute =
    Box<dyn FnMut(model::Batch) -> Result<Vec<model::RowOutput>, model::DeviceError> + Send>;

/// Handle to a running engine. Cheap to clone; the engine stops when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Engine {}

impl Engine {
    /// Starts the engine's thread. `execute` is called there, one batch at a time.
    pub fn start(config: EngineConfig, execute: Execute) -> Engine {
        let _ = (config, execute);
        Engine {}
    }

    /// Queues a request (first come, first served) after checking it against the limits.
    ///
    /// # Errors
    /// [`SubmitError`], at once; nothing is queued then.
    pub fn submit(&self, request: Request) -> Result<Stream, SubmitError> {
        let _ = request;
        Err(SubmitError::Stopped("not started".into()))
    }

    /// This moment's figures.
    pub fn load(&self) -> Load {
        Load::default()
    }

    /// `Err` with the reason once a device has failed: every request ends with `Failed` then, and
    /// `submit` refuses new ones.
    ///
    /// # Errors
    /// The reason of the failure.
    pub fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) enum Command {}
