use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use engine::Engine;
use text::{ChatTemplate, GrammarCompiler, GrammarError, Tokenizer};
use tokio::sync::watch;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::responses::Store;

/// What an operator decides about the HTTP side, and what the checkpoint says about its use.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The model's name in requests and answers.
    pub served_model_name: String,
    /// Most tokens in one sequence, prompt and answer together; the engine's own limit.
    pub max_model_len: usize,
    /// Every route but `/health` asks for one of these keys, if there are any.
    pub api_keys: Vec<String>,
    /// Origins whose pages may read answers in a browser; `*` stands for all.
    pub allowed_origins: Vec<String>,
    /// Requests without a seed take this one and the numbers after it, one for each choice.
    pub seed: u64,
    /// Ids that end an answer.
    pub eos_ids: Vec<u32>,
    /// Whether chats think where the request does not say.
    pub thinking: bool,
    /// Most bytes in a request's body; one of more gets 413.
    pub max_body_bytes: usize,
    /// Most bytes in a request's line and headers, at least 8192; more get 431.
    pub max_header_bytes: usize,
    /// How long a connection may take none of what is sent to it before it is dropped.
    pub write_timeout: Duration,
    /// How long an answer may take from its request on; a longer one gets 504 or, in a stream, an
    /// error. `None`: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// How long running answers may take once the server was told to stop.
    pub drain_timeout: Duration,
}

/// Where a server is in its life, as `/health` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The model is being loaded.
    Starting,
    Ready,
    /// Told to stop: what runs is finished, new work is refused.
    Draining,
    /// The engine has failed, for this reason.
    Failed(String),
}

/// All that answering needs.
#[derive(Debug)]
pub struct App {
    pub(crate) config: ServerConfig,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Arc<ChatTemplate>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) responses: Store,
    /// Seconds since 1970 at start.
    pub(crate) started: u64,
    engine: OnceLock<Engine>,
    grammars: OnceLock<Result<Arc<GrammarCompiler>, GrammarError>>,
    draining: AtomicBool,
    /// Requests that are being answered by the engine.
    active: watch::Sender<usize>,
    seeds: AtomicU64,
    answers: AtomicU64,
}

/// One request that the engine works on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Work(watch::Sender<usize>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.send_modify(|active| *active -= 1);
    }
}

impl App {
    /// Puts the parts together; until [`App::start`] the server says that it is starting.
    pub fn new(
        config: ServerConfig,
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
    ) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(&config.served_model_name)),
            started: unix_seconds(),
            responses: Store::default(),
            engine: OnceLock::new(),
            grammars: OnceLock::new(),
            draining: AtomicBool::new(false),
            active: watch::Sender::new(0),
            seeds: AtomicU64::new(config.seed),
            answers: AtomicU64::new(0),
            config,
            tokenizer,
            template,
        }
    }

    /// Begins to answer with `engine`, whose model `tokenizer` and `template` belong to. Only the
    /// first call has an effect.
    pub fn start(&self, engine: Engine) {
        let _ = self.engine.set(engine);
    }

    /// Does what would hold up the first request with a grammar. Takes a second.
    pub fn prepare_grammars(&self) {
        // A model that takes none is served all the same.
        let _ = self.grammar_compiler();
    }

    /// What compiles grammars for the model's vocabulary.
    pub(crate) fn grammar_compiler(&self) -> Result<Arc<GrammarCompiler>, ApiError> {
        let compiler = self.grammars.get_or_init(|| {
            GrammarCompiler::new(&self.tokenizer, &self.config.eos_ids).map(Arc::new)
        });
        compiler.clone().map_err(|error| {
            ApiError::bad_request(format!("this model's answers cannot be constrained: {error}"))
        })
    }

    /// The engine, once there is one.
    pub(crate) fn engine(&self) -> Option<&Engine> {
        self.engine.get()
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.engine().map(Engine::health) {
            Some(Err(reason)) => Phase::Failed(reason),
            _ if self.draining.load(SeqCst) => Phase::Draining,
            None => Phase::Starting,
            Some(Ok(())) => Phase::Ready,
        }
    }

    /// Lets a request reach the engine.
    ///
    /// # Errors
    /// 503 while the model is being loaded or the server is stopping.
    pub(crate) fn admit(&self) -> Result<(&Engine, Work), ApiError> {
        // Counted before the look at `draining`: `drained` must not miss it.
        self.active.send_modify(|active| *active += 1);
        let work = Work(self.active.clone());
        let refuse = |message| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
        match self.engine() {
            _ if self.draining.load(SeqCst) => refuse("the server is stopping"),
            None => refuse("the model is still being loaded"),
            Some(engine) => Ok((engine, work)),
        }
    }

    /// Refuses new work from now on, and waits until none is left.
    pub(crate) async fn drained(&self) {
        self.draining.store(true, SeqCst);
        // The sender is in `self`, so the channel stays open.
        let _ = self.active.subscribe().wait_for(|active| *active == 0).await;
    }

    /// The first of `n` seeds that no other request was given.
    pub(crate) fn next_seed(&self, n: u64) -> u64 {
        self.seeds.fetch_add(n, Relaxed)
    }

    /// `PREFIX-` and a number that is unique among all answers of this server and its earlier runs.
    pub(crate) fn next_answer_id(&self, prefix: &str) -> String {
        let number = self.next_answer_number();
        format!("{prefix}-{:010x}{number:010x}", self.started)
    }

    /// A number that no other answer of this process has.
    pub(crate) fn next_answer_number(&self) -> u64 {
        self.answers.fetch_add(1, Relaxed)
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
