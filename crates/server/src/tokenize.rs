//! `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;

use crate::App;
use crate::body::{Body, convert};
use crate::chat::{self, Conversation};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::params::{check_model, token_id};

#[derive(Debug, Serialize)]
pub(crate) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Detokenized {
    prompt: String,
}

/// The control tokens that evaluation harnesses ask for, by name. What the model does not have is
/// `null`.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizerInfo {
    /// What ends an answer.
    eos_token: Option<String>,
    bos_token: Option<&'static str>,
    pad_token: Option<&'static str>,
    vocab_size: u32,
    model_max_length: usize,
    /// The template's source.
    chat_template: String,
}

pub(crate) async fn info(State(app): State<Arc<App>>) -> Json<TokenizerInfo> {
    let known = |name| app.tokenizer.special_id(name).map(|_| name);
    Json(TokenizerInfo {
        eos_token: app.config.eos_ids.first().map(|&id| app.tokenizer.decode(&[id], false)),
        bos_token: known("[BOS]"),
        pad_token: known("[PAD]"),
        vocab_size: app.tokenizer.vocab_size(),
        model_max_length: app.config.max_model_len,
        chat_template: app.template.source(),
    })
}

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Tokenized>, ApiError> {
    Ok(Json(convert(&app, body, tokenized).await?))
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Detokenized>, ApiError> {
    Ok(Json(convert(&app, body, detokenized).await?))
}

/// Either `prompt`, read as `/v1/completions` reads it, or `messages`, read as a chat's. A prompt
/// that is nothing but a control token's name is that token: so harnesses learn its id.
fn tokenized(mut fields: Fields, app: &App) -> Result<Tokenized, ApiError> {
    check_model(&mut fields, app)?;
    // The model's tokenizer adds none to a text, and the chat template writes its own.
    fields.boolean("add_special_tokens")?;
    let with_text = fields.boolean("return_token_strs")?.unwrap_or(false);
    let tokens = match fields.string("prompt")? {
        Some(prompt) => {
            fields.finish()?;
            match app.tokenizer.special_id(&prompt) {
                Some(id) => vec![id],
                None => app.tokenizer.encode(&prompt),
            }
        }
        None => {
            let generation_prompt = fields.boolean("add_generation_prompt")?.unwrap_or(true);
            fields.neutral("continue_final_message", &[json!(false)])?;
            let conversation = Conversation::take(&mut fields, app)?;
            fields.finish()?;
            chat::encode(&conversation, generation_prompt, app)?
        }
    };
    let token_strs =
        with_text.then(|| tokens.iter().map(|&id| app.tokenizer.decode(&[id], false)).collect());
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: app.config.max_model_len,
        tokens,
        token_strs,
    })
}

fn detokenized(mut fields: Fields, app: &App) -> Result<Detokenized, ApiError> {
    check_model(&mut fields, app)?;
    let items = fields.array("tokens")?;
    let items = fields.required("tokens", items)?;
    fields.finish()?;
    let ids =
        items.iter().map(|item| token_id("tokens", item, app)).collect::<Result<Vec<_>, _>>()?;
    Ok(Detokenized { prompt: app.tokenizer.decode(&ids, false) })
}
