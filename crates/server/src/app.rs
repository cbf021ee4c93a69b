use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use engine::Engine;
use text::{ChatTemplate, Tokenizer};

use crate::error::ApiError;

/// What an operator decides about the HTTP side, and what the checkpoint says about its use.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The model's name in requests and answers.
    pub served_model_name: String,
    /// Most tokens in one sequence, prompt and answer together; the engine's own limit.
    pub max_model_len: usize,
    /// Every route but `/health` asks for this key, if there is one.
    pub api_key: Option<String>,
    /// Requests without a seed take this one and the numbers after it, one for each choice.
    pub seed: u64,
    /// Ids that end an answer.
    pub eos_ids: Vec<u32>,
    /// Whether chats think where the request does not say.
    pub thinking: bool,
    /// Most bytes in a request's body; one of more gets 413.
    pub max_body_bytes: usize,
}

/// All that answering needs.
#[derive(Debug)]
pub struct App {
    pub(crate) config: ServerConfig,
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Arc<ChatTemplate>,
    /// Seconds since 1970 at start.
    pub(crate) started: u64,
    seeds: AtomicU64,
    answers: AtomicU64,
}

impl App {
    /// Puts the parts together. `tokenizer` and `template` are those of the engine's model.
    pub fn new(
        config: ServerConfig,
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
    ) -> Self {
        let seeds = AtomicU64::new(config.seed);
        let answers = AtomicU64::new(0);
        Self { config, engine, tokenizer, template, started: unix_seconds(), seeds, answers }
    }

    /// The first of `n` seeds that no other request was given.
    pub(crate) fn next_seed(&self, n: u64) -> u64 {
        self.seeds.fetch_add(n, Relaxed)
    }

    /// `PREFIX-` and a number that is unique among all answers of this server and its earlier runs.
    pub(crate) fn next_answer_id(&self, prefix: &str) -> String {
        let number = self.answers.fetch_add(1, Relaxed);
        format!("{prefix}-{:010x}{number:010x}", self.started)
    }

    /// Refuses a model that is not served here.
    pub(crate) fn check_model_name(&self, name: &str) -> Result<(), ApiError> {
        let served = &self.config.served_model_name;
        if name == served {
            return Ok(());
        }
        let message = format!("the model {name:?} does not exist; this server has {served:?}");
        Err(ApiError::new(StatusCode::NOT_FOUND, message)
            .with_param("model")
            .with_code("model_not_found"))
    }
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
