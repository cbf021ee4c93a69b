//! One request: sends it, reads its stream, takes the times.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::sse::Events;
use super::workload::Job;

/// The server under load.
pub(super) struct Target {
    client: reqwest::Client,
    base_url: String,
    api_key: Option<String>,
    model: String,
}

/// How one answer came. Times are from the sending of the request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timing {
    /// When each piece of text came.
    pub(super) pieces: Vec<Duration>,
    /// When the stream ended.
    pub(super) end: Duration,
    pub(super) prompt_tokens: usize,
    pub(super) output_tokens: usize,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
}

impl Target {
    /// Asks the server for its model if none is named; so a wrong address is known at once.
    pub(super) async fn new(
        base_url: &str,
        api_key: Option<String>,
        model: Option<String>,
    ) -> anyhow::Result<Target> {
        let base_url = base_url.trim_end_matches('/').to_owned();
        let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let mut target = Target { client, base_url, api_key, model: String::new() };
        target.model = match model {
            Some(model) => model,
            None => target.first_model().await?,
        };
        Ok(target)
    }

    /// The model's name.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    async fn first_model(&self) -> anyhow::Result<String> {
        let url = format!("{}/v1/models", self.base_url);
        let answer = self.authorized(self.client.get(&url)).send().await.context(url.clone())?;
        let models: Models =
            answer.error_for_status()?.json().await.with_context(|| format!("{url}: no list"))?;
        let first = models.data.into_iter().next();
        first.map(|model| model.id).with_context(|| format!("{url}: the list is empty"))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends one request and reads its answer to the end.
    pub(super) async fn run(&self, job: &Job) -> anyhow::Result<Timing> {
        let body = json!({
            "model": self.model, "prompt": job.prompt, "max_tokens": job.output_len,
            "ignore_eos": true, "temperature": 1.0, "seed": job.seed, "stream": true,
            "stream_options": {"include_usage": true},
        });
        let request = self.client.post(format!("{}/v1/completions", self.base_url)).json(&body);
        let start = Instant::now();
        let answer = self.authorized(request).send().await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{status}: {}", answer.text().await?);
        }
        let (mut bytes, mut events) = (answer.bytes_stream(), Events::default());
        let (mut pieces, mut usage, mut done) = (Vec::new(), None, false);
        while let Some(part) = bytes.next().await {
            let now = start.elapsed();
            for data in events.push(&part?) {
                if data == "[DONE]" {
                    done = true;
                    continue;
                }
                let chunk: Chunk = serde_json::from_str(&data).with_context(|| data.clone())?;
                if let Some(error) = chunk.error {
                    bail!("{error}");
                }
                if chunk.choices.iter().any(|choice| !choice.text.is_empty()) {
                    pieces.push(now);
                }
                usage = chunk.usage.or(usage);
            }
        }
        ensure!(done, "the stream ended without [DONE]");
        // A server that reports no usage: each piece counts as a token.
        let (prompt_tokens, output_tokens) = usage
            .map_or((job.prompt.len(), pieces.len()), |u| (u.prompt_tokens, u.completion_tokens));
        Ok(Timing { pieces, end: start.elapsed(), prompt_tokens, output_tokens })
    }
}
