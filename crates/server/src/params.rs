//! The fields that chat and text completions have in common.

use std::sync::Arc;

use model::SamplingParams;
use serde_json::{Value, json};
use text::AnswerRules;

use crate::App;
use crate::error::ApiError;
use crate::fields::{Fields, integer, number, wrong_type};
use crate::structure::Structure;

/// Most log-probabilities a request may ask for at one place.
pub(crate) const MAX_LOGPROBS: i64 = 20;
/// Most choices for one prompt.
const MAX_N: i64 = 128;
/// Most stop strings in a request, and most bytes in one of them.
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

/// Lower temperatures count as 0: logits divided by them would leave float32's range, and the most
/// likely token would be drawn anyway.
const MIN_TEMPERATURE: f32 = 1e-5;

/// What both kinds of completion are asked to do.
#[derive(Debug)]
pub(crate) struct Params {
    pub(crate) sampling: SamplingParams,
    /// Choices for each prompt.
    pub(crate) n: u64,
    pub(crate) max_tokens: Option<usize>,
    /// Tokens before which nothing ends the answer.
    pub(crate) min_tokens: usize,
    pub(crate) stop: Stop,
    pub(crate) skip_special: bool,
    pub(crate) stream: bool,
    /// Whether a stream ends with a chunk of token counts.
    pub(crate) include_usage: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
}

/// What ends an answer before its length does.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) strings: Vec<String>,
    pub(crate) ids: Vec<u32>,
    /// Whether the string or token that ends the answer is part of it.
    pub(crate) include: bool,
}

impl Params {
    /// Takes its fields out of `fields`, checking each.
    pub(crate) fn take(fields: &mut Fields, app: &App) -> Result<Self, ApiError> {
        check_model(fields, app)?;
        take_neutral(fields)?;
        let n = fields.integer("n", 1..=MAX_N)?.unwrap_or(1).unsigned_abs();
        fields.neutral("best_of", &[json!(n)])?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned);
        let max_tokens = take_max_tokens(fields)?;
        Ok(Self {
            sampling: take_sampling(fields, app, seed.unwrap_or_else(|| app.next_seed(n)))?,
            n,
            max_tokens,
            min_tokens: take_min_tokens(fields, max_tokens)?,
            stop: take_stop(fields, app)?,
            skip_special: fields.boolean("skip_special_tokens")?.unwrap_or(true),
            stream,
            include_usage: take_include_usage(fields, stream)?,
            priority: take_priority(fields)?,
            cache_salt: fields.string("cache_salt")?.map(Arc::from),
        })
    }
}

impl Params {
    /// What is demanded of the answer, tools aside, and the field to name where that fails.
    pub(crate) fn rules(
        &self,
        structure: Option<Structure>,
        app: &App,
    ) -> Result<(AnswerRules, String), ApiError> {
        let ends = self.stop.ids.iter().any(|id| app.config.eos_ids.contains(id));
        let (content, param) = match structure {
            Some(structure) if !ends => {
                let complaint =
                    format!("contradicts {}: such an answer has an end", structure.param);
                return Err(ApiError::field("ignore_eos", complaint));
            }
            Some(structure) => (Some(structure.grammar), structure.param),
            None => (None, "min_tokens".to_owned()),
        };
        let (min_tokens, stop_ids) = (self.min_tokens, self.stop.ids.clone());
        Ok((AnswerRules { content, min_tokens, stop_ids, ..AnswerRules::default() }, param))
    }
}

/// Takes `model`, which may be left out.
pub(crate) fn check_model(fields: &mut Fields, app: &App) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(name) => app.check_model_name(&name),
        None => Ok(()),
    }
}

/// Fields that change nothing here, as long as they ask for what is done anyway.
fn take_neutral(fields: &mut Fields) -> Result<(), ApiError> {
    fields.string("user")?;
    fields.string("safety_identifier")?;
    // A hint for routing. Prefixes are found by their content.
    fields.string("prompt_cache_key")?;
    // Labels for requests that are kept; nothing is kept.
    fields.object("metadata")?;
    fields.neutral("store", &[json!(false)])?;
    fields.neutral("service_tier", &[json!("auto"), json!("default")])?;
    fields.neutral("use_beam_search", &[json!(false)])
}

pub(crate) fn take_sampling(
    fields: &mut Fields,
    app: &App,
    seed: u64,
) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    let vocab_size = i64::from(app.tokenizer.vocab_size());
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p);
    if top_p == 0.0 {
        return Err(fields.error("top_p", "must be more than 0"));
    }
    let temperature = fields.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature);
    let repetition_penalty = fields.number("repetition_penalty", 0.01..=10.0)?;
    // Both -1 and 0 keep all tokens.
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?.unwrap_or(0);
    Ok(SamplingParams {
        temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
        top_p,
        top_k: top_k.clamp(0, vocab_size) as u32,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repetition_penalty: repetition_penalty.unwrap_or(default.repetition_penalty),
        logit_bias: take_logit_bias(fields, vocab_size)?,
        seed,
    })
}

fn take_logit_bias(fields: &mut Fields, vocab_size: i64) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (token, bias) in biases.rest() {
        let path = format!("logit_bias.{token}");
        match token.parse::<u32>() {
            Ok(id) if i64::from(id) < vocab_size => {
                all.push((id, number(&path, &bias, -100.0..=100.0)?));
            }
            _ => {
                let complaint = format!("is not a token id below {vocab_size}");
                return Err(ApiError::field(path, complaint));
            }
        }
    }
    Ok(all)
}

fn take_max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let limits = 0..=i64::from(u32::MAX);
    let old = fields.integer("max_tokens", limits.clone())?;
    let new = fields.integer("max_completion_tokens", limits)?;
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let complaint = format!("is {new}, but max_tokens is {old}: give one of them");
        return Err(fields.error("max_completion_tokens", complaint));
    }
    Ok(new.or(old).map(|tokens| tokens as usize))
}

/// Takes `prompt_logprobs`, which a stream has no place for.
pub(crate) fn take_prompt_logprobs(
    fields: &mut Fields,
    stream: bool,
) -> Result<Option<usize>, ApiError> {
    let count = fields.integer("prompt_logprobs", 0..=MAX_LOGPROBS)?;
    if count.is_some() && stream {
        return Err(fields.error("prompt_logprobs", "is not available with stream: true"));
    }
    Ok(count.map(|count| count as usize))
}

fn take_min_tokens(fields: &mut Fields, max_tokens: Option<usize>) -> Result<usize, ApiError> {
    let min_tokens = fields.integer("min_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(0) as usize;
    match max_tokens {
        Some(max_tokens) if min_tokens > max_tokens => {
            let complaint = format!("is {min_tokens}, but max_tokens is {max_tokens}");
            Err(fields.error("min_tokens", complaint))
        }
        _ => Ok(min_tokens),
    }
}

fn take_stop(fields: &mut Fields, app: &App) -> Result<Stop, ApiError> {
    let strings = take_stop_strings(fields, "stop")?;
    let mut ids = Vec::new();
    for item in fields.array("stop_token_ids")?.unwrap_or_default() {
        ids.push(token_id("stop_token_ids", &item, app)?);
    }
    if !fields.boolean("ignore_eos")?.unwrap_or(false) {
        ids.extend_from_slice(&app.config.eos_ids);
    }
    let include = fields.boolean("include_stop_str_in_output")?.unwrap_or(false);
    Ok(Stop { strings, ids, include })
}

/// The stop strings in the field `name`.
pub(crate) fn take_stop_strings(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    const EXPECTED: &str = "a string or an array of strings";
    let strings = match fields.take(name) {
        None => Vec::new(),
        Some(Value::String(string)) => vec![string],
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(string) => Ok(string),
                other => Err(wrong_type(name, EXPECTED, &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type(name, EXPECTED, &other)),
    };
    if strings.len() > MAX_STOP_STRINGS {
        return Err(fields.error(name, format!("may hold {MAX_STOP_STRINGS} strings at most")));
    }
    if strings.iter().any(|string| string.is_empty() || string.len() > MAX_STOP_BYTES) {
        let complaint = format!("strings must have 1 to {MAX_STOP_BYTES} bytes");
        return Err(fields.error(name, complaint));
    }
    Ok(strings)
}

/// A token id of this model's vocabulary.
pub(crate) fn token_id(path: &str, value: &Value, app: &App) -> Result<u32, ApiError> {
    let largest = i64::from(app.tokenizer.vocab_size()) - 1;
    Ok(integer(path, value, 0..=largest)? as u32)
}

fn take_include_usage(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(fields.error("stream_options", "is allowed only with stream: true"));
    }
    let include = options.boolean("include_usage")?.unwrap_or(false);
    options.neutral("include_obfuscation", &[json!(false)])?;
    options.neutral("continuous_usage_stats", &[json!(false)])?;
    options.finish()?;
    Ok(include)
}

fn take_priority(fields: &mut Fields) -> Result<i32, ApiError> {
    let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    Ok(fields.integer("priority", range)?.unwrap_or(0) as i32)
}
