//! From a checked request to the engine, and from its events to [`Piece`]s.

use std::sync::Arc;

use axum::http::StatusCode;
use engine::{Event, Request, Stream, TokenInfo};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::App;
use crate::error::ApiError;
use crate::guidance::Guidance;
use crate::metrics::Meter;
use crate::params::Params;
use crate::transcript::{Form, Piece, Transcript};

/// A checked request of any route.
#[derive(Debug)]
pub(crate) struct Generation {
    /// At least one, each not empty.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The request's field that prompts came from.
    pub(crate) prompt_param: &'static str,
    pub(crate) params: Params,
    /// Most tokens for each choice where the request does not say; `None`: what fits the context.
    pub(crate) default_max_tokens: Option<usize>,
    /// Most likely tokens to report with each token; `None`: report no tokens.
    pub(crate) logprobs: Option<usize>,
    /// Most likely tokens to report with each token of the prompt, apart from the answer.
    pub(crate) prompt_logprobs: Option<usize>,
    /// Answers begin with their prompt.
    pub(crate) echo: bool,
    pub(crate) form: Form,
    pub(crate) guidance: Option<Guidance>,
}

const TOO_SLOW: &str = "the answer was not complete within the server's --request-timeout";

/// Pieces of all choices as they come, or the reason why the answer cannot be completed.
pub(crate) type Pieces = BoxStream<'static, Result<Piece, ApiError>>;

impl Generation {
    /// Tokens in all prompts.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }

    /// Number of choices in the answer.
    pub(crate) fn choices(&self) -> usize {
        self.prompts.len().saturating_mul(self.params.n as usize)
    }

    /// Submits a sequence for each choice: prompt 0's choices first. All are cancelled when the
    /// stream is dropped.
    pub(crate) fn submit(&self, app: &App) -> Result<Pieces, ApiError> {
        let (engine, work) = app.admit()?;
        let mut streams = Vec::new();
        let deadline = app.config.request_timeout.map(|limit| Instant::now() + limit);
        for prompt in &self.prompts {
            let max_tokens = self.max_tokens(prompt.len(), app)?;
            for n in 0..self.params.n {
                let request = self.request(prompt, max_tokens, n);
                let stream = engine
                    .submit(request)
                    .map_err(|error| ApiError::from_submit(&error, self.prompt_param))?;
                let choice = Choice {
                    stream: Some(stream),
                    deadline,
                    first_of_prompt: n == 0,
                    echo: self.echo.then(|| prompt.clone()),
                    logprobs: self.logprobs,
                    prompt_logprobs: self.prompt_logprobs,
                    first: prompt.first().copied(),
                    guided_by: self.guidance.as_ref().map(|guidance| guidance.param.clone()),
                    meter: Meter::new(app.metrics.clone()),
                    transcript: Transcript::new(
                        streams.len(),
                        app.tokenizer.clone(),
                        self.form,
                        self.params.stop.clone(),
                        self.params.min_tokens,
                        self.logprobs.is_some(),
                    ),
                };
                streams.push(choice.pieces());
            }
        }
        let pieces = stream::select_all(streams).map(move |piece| {
            // The request counts as work for as long as its pieces are waited for.
            let _ = &work;
            piece
        });
        Ok(pieces.boxed())
    }

    /// Most tokens to generate behind a prompt.
    fn max_tokens(&self, prompt: usize, app: &App) -> Result<usize, ApiError> {
        let context = app.config.max_model_len;
        let asked = self.params.max_tokens.or(self.default_max_tokens);
        let room = context.saturating_sub(prompt);
        if prompt > context || (room == 0 && asked != Some(0)) {
            return Err(ApiError::too_long(
                self.prompt_param,
                format!(
                    "this model's context length is {context} tokens, but the prompt has {prompt}"
                ),
            ));
        }
        Ok(asked.unwrap_or(room))
    }

    /// Choice number `n` of a prompt. Its seed does not depend on the other prompts of a request.
    fn request(&self, prompt: &[u32], max_tokens: usize, n: u64) -> Request {
        let mut sampling = self.params.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(n);
        Request {
            prompt: prompt.to_vec(),
            max_tokens,
            stop_ids: self.params.stop.ids.clone(),
            sampling: Arc::new(sampling),
            constraint: self.guidance.as_ref().map(Guidance::constraint),
            logprobs: self.logprobs,
            prompt_logprobs: self.logprobs.filter(|_| self.echo).max(self.prompt_logprobs),
            priority: self.params.priority,
            cache_salt: self.params.cache_salt.clone(),
        }
    }
}

/// One running sequence.
struct Choice {
    /// `None` once the answer is complete: what is dropped is cancelled.
    stream: Option<Stream>,
    /// When the answer must be complete.
    deadline: Option<Instant>,
    first_of_prompt: bool,
    /// The prompt, until it has been echoed.
    echo: Option<Vec<u32>>,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    /// The prompt's first token, which has no log-probability: nothing comes before it.
    first: Option<u32>,
    /// The field that demands something of the answer.
    guided_by: Option<String>,
    meter: Meter,
    transcript: Transcript,
}

impl Choice {
    fn pieces(self) -> Pieces {
        stream::unfold(self, |mut choice| async move {
            let piece = choice.next().await?;
            Some((piece, choice))
        })
        .boxed()
    }

    /// The prompt's scores, told apart from the answer or as its beginning.
    fn prompt(&mut self, scores: Vec<TokenInfo>) -> Piece {
        let mut piece = match (self.echo.take(), self.logprobs) {
            (Some(_), Some(count)) => self.transcript.echo(best(&scores, count)),
            _ => self.transcript.echo(Vec::new()),
        };
        piece.prompt = self.prompt_logprobs.map(|count| best(&scores, count));
        piece
    }

    async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        self.stream.as_ref()?;
        if self.logprobs.is_none()
            && let Some(prompt) = self.echo.take()
        {
            return Some(Ok(self.transcript.echo(prompt.into_iter().map(unscored).collect())));
        }
        let next = self.stream.as_mut()?.next();
        let event = match self.deadline {
            Some(deadline) => timeout_at(deadline, next).await,
            None => Ok(next.await),
        };
        let mut piece = match event {
            Err(_) => Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, TOO_SLOW)),
            Ok(Some(Event::Prompt(scores))) => {
                let first = self.first.take().map(unscored);
                Ok(self.prompt(first.into_iter().chain(scores).collect()))
            }
            Ok(Some(Event::Token(info))) => {
                self.meter.token();
                Ok(self.transcript.token(info))
            }
            Ok(Some(Event::Finished(reason))) => Ok(self.transcript.finish(reason)),
            Ok(Some(Event::ConstraintFailed(reason))) => {
                let param = self.guided_by.take().unwrap_or_default();
                Err(ApiError::field(param, format!("cannot be met any further: {reason}")))
            }
            Ok(Some(Event::Failed(reason))) => Err(ApiError::internal(reason)),
            Ok(None) => Err(ApiError::internal("the engine has ended")),
        };
        if let (Ok(piece), true) = (&mut piece, self.first_of_prompt)
            && piece.end.is_some()
        {
            piece.cached_prompt_tokens = self.stream.as_ref().map_or(0, Stream::cached_tokens);
        }
        if !matches!(&piece, Ok(piece) if piece.end.is_none()) {
            self.stream = None;
            match &piece {
                Ok(Piece { end: Some(end), .. }) => self.meter.finished(end.reason),
                _ => self.meter.failed(),
            }
        }
        Some(piece)
    }
}

/// As many of the most likely tokens as `count`.
fn best(tokens: &[TokenInfo], count: usize) -> Vec<TokenInfo> {
    let mut tokens = tokens.to_vec();
    tokens.iter_mut().for_each(|token| token.top.truncate(count));
    tokens
}

fn unscored(id: u32) -> TokenInfo {
    TokenInfo { id, logprob: None, top: Vec::new() }
}
