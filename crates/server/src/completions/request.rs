use serde_json::{Value, json};
use text::ParserOptions;

use crate::App;
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};
use crate::generation::Generation;
use crate::guidance::Guidance;
use crate::params::{MAX_LOGPROBS, Params, take_prompt_logprobs, token_id};
use crate::structure;
use crate::transcript::Form;

/// OpenAI's default length of a text completion.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most prompts in one request.
const MAX_PROMPTS: usize = 1024;

/// Checks a request for a text completion. Names of control tokens in a prompt are text; a prompt
/// that needs control tokens is given as ids.
pub(super) fn convert(mut fields: Fields, app: &App) -> Result<Generation, ApiError> {
    let params = Params::take(&mut fields, app)?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|count| count as usize);
    let prompt_logprobs = take_prompt_logprobs(&mut fields, params.stream)?;
    fields.neutral("suffix", &[json!("")])?;
    let structure = structure::take(&mut fields, app)?;
    let prompt = fields.take("prompt");
    let prompt = fields.required("prompt", prompt)?;
    // Before the work of tokenizing.
    fields.finish()?;
    let (rules, param) = params.rules(structure, app)?;
    Ok(Generation {
        guidance: Guidance::new(rules, ParserOptions::default(), param, app)?,
        prompts: prompts(prompt, app)?,
        prompt_param: "prompt",
        form: Form::Text { skip_special: params.skip_special },
        params,
        default_max_tokens: Some(DEFAULT_MAX_TOKENS),
        logprobs,
        prompt_logprobs,
        echo,
    })
}

/// A string, strings, token ids, or lists of token ids; which one, the first item tells.
fn prompts(prompt: Value, app: &App) -> Result<Vec<Vec<u32>>, ApiError> {
    let prompts = match prompt {
        Value::String(text) => vec![app.tokenizer.encode(&text)],
        Value::Array(items) => match items.first() {
            None => return Err(ApiError::field("prompt", "is empty")),
            Some(Value::Number(_)) => vec![ids(&items, app)?],
            Some(_) if items.len() > MAX_PROMPTS => {
                let complaint = format!("may hold {MAX_PROMPTS} prompts at most");
                return Err(ApiError::field("prompt", complaint));
            }
            Some(_) => items.iter().map(|item| one(item, app)).collect::<Result<_, _>>()?,
        },
        other => return Err(wrong_type("prompt", EXPECTED, &other)),
    };
    if prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::field("prompt", "is empty: at least one token is needed"));
    }
    Ok(prompts)
}

const EXPECTED: &str = "a string, an array of strings, token ids, or an array of token-id arrays";

fn one(item: &Value, app: &App) -> Result<Vec<u32>, ApiError> {
    match item {
        Value::String(text) => Ok(app.tokenizer.encode(text)),
        Value::Array(items) => ids(items, app),
        other => Err(wrong_type("prompt", EXPECTED, other)),
    }
}

fn ids(items: &[Value], app: &App) -> Result<Vec<u32>, ApiError> {
    items.iter().map(|item| token_id("prompt", item, app)).collect()
}
