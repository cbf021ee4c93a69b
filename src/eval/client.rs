//! What the tasks ask of a server.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::args::TargetArgs;

/// The largest bias that OpenAI's API allows: more than logits differ by.
const FORCE: f64 = 100.0;

/// A server and the model to ask.
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    api_key: Option<String>,
    model: String,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    logprobs: Logprobs,
}

#[derive(Deserialize)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f64>>,
}

#[derive(Deserialize)]
struct Chat {
    choices: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

/// Waits until a server of this process has loaded its model.
pub(super) async fn ready(url: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    while !http.get(format!("{url}/health")).send().await?.status().is_success() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

impl Client {
    /// Asks the server for its model, so that a wrong address is known at once.
    pub(super) async fn new(url: &str, args: &TargetArgs) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let url = url.trim_end_matches('/').to_owned();
        let mut client = Client { http, url, api_key: args.api_key.clone(), model: String::new() };
        let models: Models = client.send("/v1/models", None).await?;
        let first = models.data.into_iter().next();
        client.model = first.context("the server lists no model")?.id;
        Ok(client)
    }

    /// The model's name.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// POSTs `body`, or GETs without one, and reads the answer.
    async fn send<T: DeserializeOwned>(
        &self,
        route: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let url = format!("{}{route}", self.url);
        let request = match body {
            Some(body) => self.http.post(&url).json(&body),
            None => self.http.get(&url),
        };
        let request = match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let answer = request.send().await.with_context(|| url.clone())?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| url.clone())?;
        if !status.is_success() {
            bail!("{url}: {status}: {}", text.replace('\n', " "));
        }
        serde_json::from_str(&text).with_context(|| format!("{url}: not the expected answer"))
    }

    /// A text's token ids; nothing is added.
    pub(super) async fn tokens(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let body = json!({"model": self.model, "prompt": text, "add_special_tokens": false});
        Ok(self.send::<Tokens>("/tokenize", Some(body)).await?.tokens)
    }

    async fn completion(&self, extra: Value, prompt: &[u32]) -> anyhow::Result<Logprobs> {
        let mut body = json!({"model": self.model, "prompt": [prompt], "temperature": 0,
            "max_tokens": 1, "logprobs": 1});
        if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
            body.extend(extra);
        }
        let answer: Completion = self.send("/v1/completions", Some(body)).await?;
        let choice = answer.choices.into_iter().next();
        Ok(choice.context("the server's answer has no choice")?.logprobs)
    }

    /// The log-probability of `token`, whose text is `text`, behind a prompt: it is generated,
    /// forced by a bias. `None` if the server did not generate it.
    pub(super) async fn forced(
        &self,
        prompt: &[u32],
        token: u32,
        text: &str,
    ) -> anyhow::Result<Option<f64>> {
        let bias = json!({"logit_bias": {token.to_string(): FORCE}});
        let found = self.completion(bias, prompt).await?;
        let generated = found.tokens.first().is_some_and(|token| token == text);
        Ok(found.token_logprobs.first().copied().flatten().filter(|_| generated))
    }

    /// Log-probabilities of a prompt's tokens from `from` (at least 1) on, as lm-eval asks for
    /// them.
    pub(super) async fn score(&self, prompt: &[u32], from: usize) -> anyhow::Result<Vec<f64>> {
        let found = self.completion(json!({"echo": true}), prompt).await?.token_logprobs;
        ensure!(found.len() == prompt.len() + 1, "{} log-probabilities came back", found.len());
        let scored = found[from..prompt.len()].iter().copied().collect::<Option<Vec<f64>>>();
        scored.context("a log-probability is null")
    }

    /// The greedy answer to a chat, without its reasoning.
    pub(super) async fn chat(
        &self,
        chat: &serde_json::Map<String, Value>,
        thinking: bool,
        max_tokens: usize,
    ) -> anyhow::Result<String> {
        let mut body = json!({"model": self.model, "temperature": 0, "max_tokens": max_tokens,
            "chat_template_kwargs": {"thinking": thinking}});
        for (field, value) in chat {
            body[field] = value.clone();
        }
        let answer: Chat = self.send("/v1/chat/completions", Some(body)).await?;
        let choice = answer.choices.into_iter().next();
        Ok(choice.context("the server's answer has no choice")?.message.content.unwrap_or_default())
    }
}
