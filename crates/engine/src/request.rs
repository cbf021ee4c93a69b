//! What a caller asks of the engine and what it hears back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;

use model::SamplingParams;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::constraint::Constraint;
use crate::sequence::Place;
use crate::step_loop::Command;

/// One sequence to continue. Token ids only.
#[derive(Debug)]
pub struct Request {
    /// Prompt, at least one token, every id below the vocabulary's size.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; 0 only scores the prompt.
    pub max_tokens: usize,
    /// Ids that end the sequence. The id itself is sent as a token before the end.
    pub stop_ids: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: Arc<SamplingParams>,
    /// What its tokens must be like, if not any.
    pub constraint: Option<Constraint>,
    /// `Some(n)`: each generated token's log-probability and the n most likely ones.
    pub logprobs: Option<usize>,
    /// `Some(n)`: the same for every prompt token but the first.
    pub prompt_logprobs: Option<usize>,
    /// Requests with a lower number are taken up first; 0 if the caller did not say.
    pub priority: i32,
    /// KV blocks are never shared between requests of different salts.
    pub cache_salt: Option<Arc<str>>,
}

/// A token with what was asked to be told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenInfo {
    /// The token's id.
    pub id: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens at its place, best first, as many as asked for.
    pub top: Vec<(u32, f32)>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id was generated.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// What a stream tells, in this order: `Prompt` (if asked for), `Token`s, then one of the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Log-probabilities of prompt tokens 1, 2, … (token 0 has none), once the prompt is computed.
    Prompt(Vec<TokenInfo>),
    /// The next generated token.
    Token(TokenInfo),
    /// The sequence is complete; nothing follows.
    Finished(FinishReason),
    /// The sequence's constraint had no next mask, for this reason; nothing follows.
    ConstraintFailed(String),
    /// The sequence could not be completed; nothing follows.
    Failed(String),
}

impl Event {
    /// Whether nothing follows.
    pub(crate) fn is_last(&self) -> bool {
        !matches!(self, Event::Prompt(_) | Event::Token(_))
    }
}

/// Why a request was not taken. The display text is fit for an API user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The prompt is empty.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt id is not in the vocabulary.
    #[error("token id {id} is out of range: the vocabulary has {vocab_size} tokens")]
    BadToken {
        /// The id at fault.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Prompt and answer do not fit the context.
    #[error(
        "this model's context length is {max_model_len} tokens, but {prompt} in the prompt and \
         {max_tokens} to generate were asked for"
    )]
    TooLong {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens to generate.
        max_tokens: usize,
        /// The context's length.
        max_model_len: usize,
    },
    /// The sequence would not fit the KV pool even alone.
    #[error("the KV pool holds {pool} tokens, but this request needs {needed}")]
    PoolTooSmall {
        /// Tokens needed at the end of the sequence.
        needed: usize,
        /// Tokens the pool can hold.
        pool: usize,
    },
    /// The waiting queue is full; worth another try later.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// Requests in the queue.
        waiting: usize,
    },
    /// The engine has stopped.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// The receiving end of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct Stream {
    pub(crate) place: Place,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) cached_tokens: Arc<AtomicUsize>,
    pub(crate) commands: Sender<Command>,
}

impl Stream {
    /// The next event; `None` after the last one, or if the engine died.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, for callers without a runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// How many prompt tokens were taken from the prefix cache; 0 until the first event is there.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens.load(Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // If the engine's thread has ended, there is nothing to cancel.
        let _ = self.commands.send(Command::Cancel(self.place));
    }
}
