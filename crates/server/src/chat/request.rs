use serde_json::json;

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Generation;
use crate::params::{MAX_LOGPROBS, Params, take_prompt_logprobs};
use crate::structure;

use super::conversation::Conversation;

/// Checks a request for a chat completion.
pub(super) fn convert(mut fields: Fields, app: &App) -> Result<Generation, ApiError> {
    let params = Params::take(&mut fields, app)?;
    if params.max_tokens == Some(0) {
        return Err(fields.error("max_tokens", "must be at least 1"));
    }
    if !params.skip_special {
        let complaint = "must be true here: control tokens are no part of a message";
        return Err(fields.error("skip_special_tokens", complaint));
    }
    let logprobs = take_logprobs(&mut fields)?;
    let prompt_logprobs = take_prompt_logprobs(&mut fields, params.stream)?;
    let structure = structure::take(&mut fields, app)?;
    take_neutral(&mut fields)?;
    let conversation = Conversation::take(&mut fields, app)?;
    // Before the work of tokenizing.
    fields.finish()?;
    let generation = conversation.generation(params, structure, "messages", app)?;
    Ok(Generation { logprobs, prompt_logprobs, ..generation })
}

fn take_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=MAX_LOGPROBS)?;
    match (wanted, top) {
        (false, Some(1..)) => {
            Err(fields.error("top_logprobs", "is allowed only with logprobs: true"))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as usize)),
    }
}

/// Fields that change nothing here, as long as they ask for what is done anyway.
fn take_neutral(fields: &mut Fields) -> Result<(), ApiError> {
    fields.neutral("modalities", &[json!(["text"])])?;
    fields.neutral("echo", &[json!(false)])?;
    fields.neutral("add_generation_prompt", &[json!(true)])
}
