//! Tokens and their log-probabilities, in the shapes of both kinds of completion.

use engine::TokenInfo;
use serde::Serialize;
use serde_json::{Map, Value, json};
use text::Tokenizer;

use crate::transcript::Token;

/// What a probability of 0 is reported as: JSON has no infinity.
const LOWEST: f64 = -9999.0;

/// Chat: each generated token, the one that ended the answer included.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: Scored,
    top_logprobs: Vec<Scored>,
}

#[derive(Debug, Serialize)]
struct Scored {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(crate) fn add(&mut self, tokens: Vec<Token>, tokenizer: &Tokenizer) {
        let scored = |id, logprob: f32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let token = String::from_utf8_lossy(bytes).into_owned();
            Scored { token, logprob: finite(logprob), bytes: bytes.to_vec() }
        };
        self.content.extend(tokens.into_iter().map(|Token { info, .. }| ChatToken {
            token: scored(info.id, info.logprob.unwrap_or(f32::NEG_INFINITY)),
            top_logprobs: info.top.iter().map(|&(id, logprob)| scored(id, logprob)).collect(),
        }));
    }
}

/// Text completions: parallel lists over the tokens. The first token of an echoed prompt has no
/// log-probability (`null`). `top_logprobs` also holds the token itself.
#[derive(Debug, Default, Serialize)]
pub(crate) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters of text before each token.
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    pub(crate) fn add(&mut self, tokens: Vec<Token>, tokenizer: &Tokenizer) {
        for Token { info, offset } in tokens {
            let name = spelling(info.id, tokenizer);
            let top = info.logprob.map(|logprob| {
                let mut top = Map::new();
                for &(id, logprob) in info.top.iter().chain([&(info.id, logprob)]) {
                    top.entry(spelling(id, tokenizer)).or_insert_with(|| finite(logprob).into());
                }
                top
            });
            self.tokens.push(name);
            self.token_logprobs.push(info.logprob.map(finite));
            self.top_logprobs.push(top);
            self.text_offset.push(offset);
        }
    }
}

/// vLLM's `prompt_logprobs`: for each token of the prompt, it and the most likely ones by their
/// ids; `null` for the first, which nothing comes before. The rank of a token that is not among
/// the most likely ones is `null`, too.
pub(crate) type PromptLogprobs = Vec<Option<Map<String, Value>>>;

pub(crate) fn prompt_logprobs(tokens: Vec<TokenInfo>, tokenizer: &Tokenizer) -> PromptLogprobs {
    let scored = |id: u32, logprob: f32, rank: Option<usize>| {
        let decoded = tokenizer.decode(&[id], false);
        json!({"logprob": finite(logprob), "rank": rank, "decoded_token": decoded})
    };
    let all = |TokenInfo { id, logprob, top }: TokenInfo| {
        let own = logprob?;
        let best = top.iter().zip(1..);
        let mut map: Map<String, Value> = best
            .map(|(&(id, logprob), rank)| (id.to_string(), scored(id, logprob, Some(rank))))
            .collect();
        map.entry(id.to_string()).or_insert_with(|| scored(id, own, None));
        Some(map)
    };
    tokens.into_iter().map(all).collect()
}

/// A token's text. Tokens that are no text by themselves are told apart by their bytes.
fn spelling(id: u32, tokenizer: &Tokenizer) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{escaped}")
        }
    }
}

/// In float64 at once: printed by two ways as float32, one number could look like two.
fn finite(logprob: f32) -> f64 {
    f64::from(logprob).max(LOWEST)
}
