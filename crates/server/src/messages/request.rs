use serde_json::json;

use crate::App;
use crate::chat::encode;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Generation;
use crate::params::{Params, Stop, check_model, take_sampling, take_stop_strings};

use super::conversation;

/// Checks a request for a message.
pub(super) fn convert(mut fields: Fields, app: &App) -> Result<Generation, ApiError> {
    check_model(&mut fields, app)?;
    let max_tokens = fields.integer("max_tokens", 1..=i64::from(u32::MAX))?;
    let max_tokens = fields.required("max_tokens", max_tokens)? as usize;
    if let Some(mut metadata) = fields.object("metadata")? {
        metadata.string("user_id")?;
        metadata.finish()?;
    }
    fields.neutral("service_tier", &[json!("auto"), json!("standard_only")])?;
    let params = Params {
        sampling: take_sampling(&mut fields, app, app.next_seed(1))?,
        n: 1,
        max_tokens: Some(max_tokens),
        min_tokens: 0,
        stop: Stop {
            strings: take_stop_strings(&mut fields, "stop_sequences")?,
            ids: app.config.eos_ids.clone(),
            include: false,
        },
        skip_special: true,
        stream: fields.boolean("stream")?.unwrap_or(false),
        include_usage: false,
        priority: 0,
        cache_salt: None,
    };
    let conversation = conversation::take(&mut fields)?;
    // Before the work of tokenizing.
    fields.finish()?;
    if conversation.thinking_budget().is_some_and(|budget| budget >= max_tokens) {
        let complaint = format!("must be less than max_tokens, {max_tokens}");
        return Err(ApiError::field("thinking.budget_tokens", complaint));
    }
    conversation.generation(params, None, "messages", app)
}

/// Counts the tokens of a prompt.
pub(super) fn count(mut fields: Fields, app: &App) -> Result<usize, ApiError> {
    check_model(&mut fields, app)?;
    let conversation = conversation::take(&mut fields)?;
    fields.finish()?;
    Ok(encode(&conversation, true, app)?.len())
}
