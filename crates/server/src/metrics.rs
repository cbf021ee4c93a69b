//! `/metrics`: Prometheus figures under vLLM's names, so that its dashboards show them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderName, header};
use engine::{Engine, FinishReason};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::App;
use crate::error::ApiError;

/// Upper bounds in seconds; all but the smallest are vLLM's.
const FIRST_TOKEN: [f64; 17] = [
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 40.0,
    160.0,
];
const INTER_TOKEN: [f64; 16] =
    [0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];
const END_TO_END: [f64; 18] = [
    0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0,
    1920.0,
];

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted. What the engine counts is copied when somebody asks.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    end_to_end_latency: Histogram,
    generation_tokens: Counter,
    finished: Family<[(&'static str, &'static str); 1], Counter>,
    running: Gauge,
    waiting: Gauge,
    kv_cache_usage: Gauge<f64, AtomicU64>,
    preemptions: Counter,
    prompt_tokens: Counter,
    prefix_cache_queries: Counter,
    prefix_cache_hits: Counter,
}

/// Registers a metric and returns it.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(format!("vllm:{name}"), help, metric.clone());
    metric
}

fn histogram(registry: &mut Registry, name: &str, help: &str, bounds: &[f64]) -> Histogram {
    register(registry, name, help, Histogram::new(bounds.iter().copied()))
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    register(registry, name, help, Counter::default())
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        let label = ("model_name".into(), model.to_owned().into());
        let mut registry = Registry::with_labels([label].into_iter());
        let r = &mut registry;
        let first = histogram(r, "time_to_first_token_seconds", "To the first token", &FIRST_TOKEN);
        let inter = histogram(r, "inter_token_latency_seconds", "Between tokens", &INTER_TOKEN);
        let whole = histogram(r, "e2e_request_latency_seconds", "Whole sequences", &END_TO_END);
        let help = "Sequences that ended, by how";
        let finished = register(r, "request_success", help, Family::default());
        let help = "Share of the KV cache's blocks in use, 0 to 1";
        let kv_cache_usage = register(r, "kv_cache_usage_perc", help, Gauge::default());
        let help = "Prompt tokens looked up in the prefix cache";
        let prefix_cache_queries = counter(r, "prefix_cache_queries", help);
        let help = "Prompt tokens found in the prefix cache";
        let prefix_cache_hits = counter(r, "prefix_cache_hits", help);
        Self {
            time_to_first_token: first,
            inter_token_latency: inter,
            end_to_end_latency: whole,
            generation_tokens: counter(r, "generation_tokens", "Tokens generated"),
            finished,
            running: register(r, "num_requests_running", "Running now", Gauge::default()),
            waiting: register(r, "num_requests_waiting", "Waiting now", Gauge::default()),
            kv_cache_usage,
            preemptions: counter(r, "num_preemptions", "Sequences that gave up their blocks"),
            prompt_tokens: counter(r, "prompt_tokens", "Prompt tokens of sequences begun"),
            prefix_cache_queries,
            prefix_cache_hits,
            registry,
        }
    }

    fn update(&self, engine: &Engine) {
        let load = engine.load();
        self.running.set(load.running as i64);
        self.waiting.set(load.waiting as i64);
        let used = load.total_blocks.saturating_sub(load.free_blocks);
        self.kv_cache_usage.set(used as f64 / load.total_blocks.max(1) as f64);
        // They only grow, as the engine's do.
        self.preemptions.inner().store(load.preemptions, Relaxed);
        self.prompt_tokens.inner().store(load.prompt_tokens, Relaxed);
        self.prefix_cache_queries.inner().store(load.prompt_tokens, Relaxed);
        self.prefix_cache_hits.inner().store(load.cached_prompt_tokens, Relaxed);
    }
}

/// One sequence's times. One that is dropped before its end counts as aborted.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    submitted: Instant,
    last_token: Option<Instant>,
    ended: bool,
}

impl Meter {
    /// Starts the clock.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, submitted: Instant::now(), last_token: None, ended: false }
    }

    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        let (histogram, since) = match self.last_token {
            None => (&self.metrics.time_to_first_token, self.submitted),
            Some(last) => (&self.metrics.inter_token_latency, last),
        };
        histogram.observe((now - since).as_secs_f64());
        self.last_token = Some(now);
        self.metrics.generation_tokens.inc();
    }

    pub(crate) fn finished(&mut self, reason: FinishReason) {
        self.end(match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
        self.metrics.end_to_end_latency.observe(self.submitted.elapsed().as_secs_f64());
    }

    pub(crate) fn failed(&mut self) {
        self.end("error");
    }

    fn end(&mut self, how: &'static str) {
        self.ended = true;
        self.metrics.finished.get_or_create(&[("finished_reason", how)]).inc();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.ended {
            self.end("abort");
        }
    }
}

pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    if let Some(engine) = app.engine() {
        app.metrics.update(engine);
    }
    let mut text = String::new();
    encode(&mut text, &app.metrics.registry).map_err(|error| {
        ApiError::internal(format!("the metrics could not be written: {error}"))
    })?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text))
}
