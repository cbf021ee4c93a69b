//! From a checked request to the engine, and from its events to [`Piece`]s.

use std::sync::Arc;

use engine::{Event, Request, Stream, TokenInfo};
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::App;
use crate::error::ApiError;
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
    /// Answers begin with their prompt.
    pub(crate) echo: bool,
    pub(crate) form: Form,
}

/// Pieces of all choices as they come, or the reason why the answer cannot be completed.
pub(crate) type Pieces = BoxStream<'static, Result<Piece, String>>;

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
        for prompt in &self.prompts {
            let max_tokens = self.max_tokens(prompt.len(), app)?;
            for n in 0..self.params.n {
                let request = self.request(prompt, max_tokens, n);
                let stream = engine
                    .submit(request)
                    .map_err(|error| ApiError::from_submit(&error, self.prompt_param))?;
                let choice = Choice {
                    stream: Some(stream),
                    first_of_prompt: n == 0,
                    echo: self.echo.then(|| prompt.clone()),
                    scored: self.logprobs.is_some(),
                    meter: Meter::new(app.metrics.clone()),
                    transcript: Transcript::new(
                        streams.len(),
                        app.tokenizer.clone(),
                        self.form,
                        self.params.stop.clone(),
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
            logprobs: self.logprobs,
            prompt_logprobs: self.logprobs.filter(|_| self.echo),
            priority: self.params.priority,
            cache_salt: self.params.cache_salt.clone(),
        }
    }
}

/// One running sequence.
struct Choice {
    /// `None` once the answer is complete: what is dropped is cancelled.
    stream: Option<Stream>,
    first_of_prompt: bool,
    /// The prompt, until it has been echoed.
    echo: Option<Vec<u32>>,
    /// Whether the engine tells the prompt's log-probabilities.
    scored: bool,
    meter: Meter,
    transcript: Transcript,
}

impl Choice {
    fn pieces(self) -> BoxStream<'static, Result<Piece, String>> {
        stream::unfold(self, |mut choice| async move {
            let piece = choice.next().await?;
            Some((piece, choice))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Piece, String>> {
        let stream = self.stream.as_mut()?;
        if !self.scored
            && let Some(prompt) = self.echo.take()
        {
            return Some(Ok(self.transcript.echo(prompt.into_iter().map(unscored).collect())));
        }
        let mut piece = match stream.next().await {
            Some(Event::Prompt(scores)) => {
                // Nothing comes before the first token, so it has no log-probability.
                let first = self.echo.take().and_then(|prompt| prompt.first().copied());
                let prompt = first.map(unscored).into_iter().chain(scores).collect();
                Ok(self.transcript.echo(prompt))
            }
            Some(Event::Token(info)) => {
                self.meter.token();
                Ok(self.transcript.token(info))
            }
            Some(Event::Finished(reason)) => Ok(self.transcript.finish(reason)),
            Some(Event::Failed(reason)) => Err(reason),
            None => Err("the engine has ended".to_owned()),
        };
        if let (Ok(piece), true) = (&mut piece, self.first_of_prompt)
            && piece.end.is_some()
        {
            piece.cached_prompt_tokens = stream.cached_tokens();
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

fn unscored(id: u32) -> TokenInfo {
    TokenInfo { id, logprob: None, top: Vec::new() }
}
