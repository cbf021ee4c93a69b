use serde_json::{Value, json};

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Generation;
use crate::params::{Params, Stop, check_model, take_sampling};
use crate::structure::{self, Structure};

use super::conversation;

/// A checked request.
pub(super) struct Request {
    pub(super) generation: Generation,
    /// What is kept for later requests: all messages but the instructions. `None`: nothing is.
    pub(super) history: Option<Vec<Value>>,
    /// Fields of the answer that repeat the request's.
    pub(super) echo: Value,
}

pub(super) fn convert(mut fields: Fields, app: &App) -> Result<Request, ApiError> {
    check_model(&mut fields, app)?;
    take_neutral(&mut fields)?;
    let max_tokens = fields.integer("max_output_tokens", 1..=i64::from(u32::MAX))?;
    let metadata = fields.object("metadata")?.map(Fields::rest).unwrap_or_default();
    let params = Params {
        sampling: take_sampling(&mut fields, app, app.next_seed(1))?,
        n: 1,
        max_tokens: max_tokens.map(|tokens| tokens as usize),
        min_tokens: 0,
        stop: Stop { strings: Vec::new(), ids: app.config.eos_ids.clone(), include: false },
        skip_special: true,
        stream: fields.boolean("stream")?.unwrap_or(false),
        include_usage: false,
        priority: 0,
        cache_salt: None,
    };
    if let Some(mut options) = fields.object("stream_options")? {
        options.neutral("include_obfuscation", &[json!(false)])?;
        options.finish()?;
    }
    let (format, structure) = take_text(&mut fields, app)?;
    let store = fields.boolean("store")?.unwrap_or(true);
    let input = conversation::take(&mut fields, app)?;
    // Before the work of tokenizing.
    fields.finish()?;
    let echo = json!({
        "instructions": input.instructions,
        "max_output_tokens": max_tokens,
        "metadata": metadata,
        "parallel_tool_calls": input.parallel,
        "previous_response_id": input.previous,
        "reasoning": {"effort": input.effort, "summary": null},
        "store": store,
        "text": {"format": format},
        "temperature": params.sampling.temperature,
        "tool_choice": input.tool_choice,
        "tools": input.declared_tools,
        "top_p": params.sampling.top_p,
    });
    let generation = input.conversation.generation(params, structure, "input", app)?;
    Ok(Request { generation, history: store.then_some(input.history), echo })
}

/// Fields that change nothing here, as long as they ask for what is done anyway.
fn take_neutral(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["user", "safety_identifier", "prompt_cache_key"] {
        fields.string(name)?;
    }
    fields.neutral("include", &[json!([])])?;
    fields.neutral("background", &[json!(false)])?;
    fields.neutral("service_tier", &[json!("auto"), json!("default")])?;
    fields.neutral("top_logprobs", &[json!(0)])?;
    fields.neutral("truncation", &[json!("disabled")])?;
    Ok(())
}

/// Takes `text`: the format as the request has it, and what it demands.
fn take_text(fields: &mut Fields, app: &App) -> Result<(Value, Option<Structure>), ApiError> {
    let plain = json!({"type": "text"});
    let Some(mut text) = fields.object("text")? else { return Ok((plain, None)) };
    let format = text.get("format").cloned().unwrap_or(plain);
    let structure = structure::take_text_format(&mut text, app)?;
    text.neutral("verbosity", &[json!("medium")])?;
    text.finish()?;
    Ok((format, structure))
}
