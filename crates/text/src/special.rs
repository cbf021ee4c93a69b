//! The tokens outside the BPE vocabulary, and where their names occur in a text.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::TextError;

/// Slots behind a tiktoken vocabulary, named or not.
pub(crate) const TIKTOKEN_SLOTS: u32 = 256;

/// One token outside the BPE vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct SpecialToken {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// The file's `special` flag: whether readers leave the token out of plain text.
    pub(crate) special: bool,
}

/// All of a tokenizer's special tokens.
#[derive(Debug)]
pub(crate) struct SpecialTokens {
    tokens: Vec<SpecialToken>,
    by_name: HashMap<String, u32>,
    by_id: HashMap<u32, usize>,
    matcher: AhoCorasick,
}

impl SpecialTokens {
    /// Indexes `tokens`, read from `path`; names and ids must each be unique.
    pub(crate) fn new(path: &Path, tokens: Vec<SpecialToken>) -> Result<Self, TextError> {
        let mut by_name = HashMap::new();
        let mut by_id = HashMap::new();
        for (index, token) in tokens.iter().enumerate() {
            let SpecialToken { id, name, .. } = token;
            if name.is_empty() {
                return Err(TextError::format(path, format!("token {id} has an empty name")));
            }
            if by_name.insert(name.clone(), *id).is_some() || by_id.insert(*id, index).is_some() {
                return Err(TextError::format(path, format!("token {id} {name:?} occurs twice")));
            }
        }
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| &token.name))
            .map_err(|error| TextError::format(path, format!("special token names: {error}")))?;
        Ok(Self { tokens, by_name, by_id, matcher })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SpecialToken> {
        self.tokens.iter()
    }

    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.by_id.get(&id).is_some_and(|&index| self.tokens[index].special)
    }

    /// Where names occur in `text`, leftmost first and the longest at one place, with their ids.
    pub(crate) fn find<'a>(
        &'a self,
        text: &'a str,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        self.matcher
            .find_iter(text)
            .map(|found| (found.range(), self.tokens[found.pattern().as_usize()].id))
    }
}

/// Reads `added_tokens_decoder` of tokenizer_config.json for a vocabulary of `base` tokens. Slots
/// that it leaves unnamed are called `<|reserved_token_ID|>`.
pub(crate) fn from_tokenizer_config(
    path: &Path,
    config: &Value,
    base: u32,
) -> Result<SpecialTokens, TextError> {
    let added = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
        .ok_or_else(|| TextError::format(path, "added_tokens_decoder: expected an object"))?;
    let mut tokens: Vec<_> = (base..base + TIKTOKEN_SLOTS)
        .map(|id| SpecialToken { id, name: format!("<|reserved_token_{id}|>"), special: false })
        .collect();
    for (key, entry) in added {
        let id = key.parse::<u32>().ok().and_then(|id| id.checked_sub(base));
        let slot = id.and_then(|slot| tokens.get_mut(slot as usize)).ok_or_else(|| {
            TextError::format(
                path,
                format!(
                    "added_tokens_decoder.{key}: expected an id in {base}..{}, behind the \
                     vocabulary",
                    base + TIKTOKEN_SLOTS
                ),
            )
        })?;
        let field = format!("added_tokens_decoder.{key}");
        (slot.name, slot.special) = name_and_flag(path, &field, entry)?;
    }
    SpecialTokens::new(path, tokens)
}

/// Reads `added_tokens` of tokenizer.json.
pub(crate) fn from_tokenizer_json(path: &Path, added: &Value) -> Result<SpecialTokens, TextError> {
    let added = match added {
        Value::Null => &[],
        Value::Array(added) => added.as_slice(),
        _ => return Err(TextError::format(path, "added_tokens: expected an array")),
    };
    let read = |(index, entry): (usize, &Value)| {
        let field = format!("added_tokens[{index}]");
        let (name, special) = name_and_flag(path, &field, entry)?;
        let id = entry.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let id =
            id.ok_or_else(|| TextError::format(path, format!("{field}.id: expected a token id")))?;
        Ok(SpecialToken { id, name, special })
    };
    let tokens = added.iter().enumerate().map(read).collect::<Result<_, TextError>>()?;
    SpecialTokens::new(path, tokens)
}

fn name_and_flag(path: &Path, field: &str, entry: &Value) -> Result<(String, bool), TextError> {
    let name = entry
        .get("content")
        .and_then(Value::as_str)
        .ok_or_else(|| TextError::format(path, format!("{field}.content: expected a string")))?;
    let special = match entry.get("special") {
        None => false,
        Some(Value::Bool(special)) => *special,
        Some(_) => {
            return Err(TextError::format(path, format!("{field}.special: expected a bool")));
        }
    };
    Ok((name.to_owned(), special))
}
