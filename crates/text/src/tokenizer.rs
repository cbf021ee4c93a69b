use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::error::{read_json, read_text};
use crate::special::{self, SpecialTokens};
use crate::{TextError, byte_level, slices, tiktoken};

const TIKTOKEN_MODEL: &str = "tiktoken.model";
const TOKENIZER_JSON: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Text to token ids and back: byte-level BPE, with special tokens kept apart from it.
///
/// Immutable once read; share it as `Arc<Tokenizer>`.
pub struct Tokenizer {
    /// Splitter and BPE, knowing no special tokens.
    bpe: tokenizers::Tokenizer,
    specials: SpecialTokens,
    /// Raw bytes by id; empty where an id is not assigned.
    tokens: Vec<Box<[u8]>>,
    /// The id of each single byte.
    byte_ids: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tiktoken.model` with `tokenizer_config.json`, or else `tokenizer.json` alone.
    ///
    /// # Errors
    /// Names the file that is missing or malformed, and the line or field. A `tokenizer.json` must
    /// hold a byte-level BPE.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        if dir.join(TIKTOKEN_MODEL).exists() {
            Self::from_tiktoken(&dir.join(TIKTOKEN_MODEL), &dir.join(TOKENIZER_CONFIG))
        } else if dir.join(TOKENIZER_JSON).exists() {
            Self::from_tokenizer_json(&dir.join(TOKENIZER_JSON))
        } else {
            let expected = &[TIKTOKEN_MODEL, TOKENIZER_JSON];
            Err(TextError::Missing { dir: dir.to_owned(), expected })
        }
    }

    fn from_tiktoken(model: &Path, config: &Path) -> Result<Self, TextError> {
        let vocabulary = tiktoken::read_vocabulary(model, &read_text(model)?)?;
        let bpe = tiktoken::build(model, &vocabulary)?;
        let base = vocabulary.len() as u32; // read_vocabulary has checked that it fits
        let specials = special::from_tokenizer_config(config, &read_json(config)?, base)?;
        let tokens = vocabulary.into_iter().map(Vec::into_boxed_slice).collect();
        Self::new(model, bpe, specials, tokens)
    }

    fn from_tokenizer_json(path: &Path) -> Result<Self, TextError> {
        let mut json = read_json(path)?;
        let added = json.get_mut("added_tokens").map(Value::take).unwrap_or_default();
        let specials = special::from_tokenizer_json(path, &added)?;
        // Without added tokens, `tokenizers` itself never turns text into a control token.
        if let Some(added) = json.get_mut("added_tokens") {
            *added = Value::Array(Vec::new());
        }
        let bpe: tokenizers::Tokenizer = serde_json::from_value(json)
            .map_err(|error| TextError::format(path, error.to_string()))?;
        let mut tokens = Vec::new();
        for (spelling, id) in bpe.get_vocab(false) {
            if specials.id(&spelling) == Some(id) {
                continue;
            }
            let bytes = byte_level::unspell(&spelling).ok_or_else(|| {
                let message = format!("model.vocab: {spelling:?} is not a byte-level token");
                TextError::format(path, message)
            })?;
            place(path, &mut tokens, id, bytes.into())?;
        }
        Self::new(path, bpe, specials, tokens)
    }

    fn new(
        path: &Path,
        bpe: tokenizers::Tokenizer,
        specials: SpecialTokens,
        mut tokens: Vec<Box<[u8]>>,
    ) -> Result<Self, TextError> {
        let mut byte_ids = vec![None; 256];
        for (token, id) in tokens.iter().zip(0..) {
            if let [byte] = token[..] {
                byte_ids[usize::from(byte)] = Some(id);
            }
        }
        let missing = |byte| TextError::format(path, format!("no token for byte 0x{byte:02X}"));
        let byte_ids =
            (0..).zip(byte_ids).map(|(byte, id): (u32, _)| id.ok_or_else(|| missing(byte)));
        let byte_ids = byte_ids.collect::<Result<_, _>>()?;
        for token in specials.iter() {
            place(path, &mut tokens, token.id, token.name.as_bytes().into())?;
        }
        Ok(Self { bpe, specials, tokens, byte_ids })
    }

    /// Number of ids, special slots included: all ids are below it.
    pub fn vocab_size(&self) -> u32 {
        self.tokens.len() as u32 // `place` keeps ids within u32
    }

    /// Encodes user text: the name of a special token is text like any other, so that no text
    /// becomes a control token.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_where(text, |_| false)
    }

    /// Encodes a template's own output: the names of special tokens become their ids.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        self.encode_where(text, |_| true)
    }

    /// Encodes `text`; the name of a special token becomes its id where `is_control` accepts the
    /// bytes of `text` that it covers.
    pub(crate) fn encode_where(
        &self,
        text: &str,
        is_control: impl Fn(Range<usize>) -> bool,
    ) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut start = 0;
        for slice in slices::slices(text) {
            let mut plain = 0;
            for (found, id) in self.specials.find(slice) {
                if is_control(start + found.start..start + found.end) {
                    self.encode_plain(&slice[plain..found.start], &mut ids);
                    ids.push(id);
                    plain = found.end;
                }
            }
            self.encode_plain(&slice[plain..], &mut ids);
            start += slice.len();
        }
        ids
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        match self.bpe.encode_fast(text, false) {
            Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
            // The splitter's backtracking limit is the only cause. One token a byte still stands
            // for exactly this text.
            Err(_) => ids.extend(text.bytes().map(|byte| self.byte_ids[usize::from(byte)])),
        }
    }

    /// Decodes `ids`, reading invalid UTF-8 as U+FFFD. Unknown ids are left out, and so are those
    /// that [`Tokenizer::is_special`] names if `skip_special`; tool and thinking markers stay.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|&&id| !(skip_special && self.is_special(id)))
            .filter_map(|&id| self.token_bytes(id))
            .flatten()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for; a special token's are its name.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id as usize).map(|bytes| &bytes[..]).filter(|bytes| !bytes.is_empty())
    }

    /// The id of the special token called `name`, such as `<|im_end|>`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.specials.id(name)
    }

    /// Whether the model's files flag the token `"special": true`: it structures the conversation
    /// and is no part of an answer's text. Tool and thinking markers are flagged false.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.is_special(id)
    }

    /// Whether the token is outside the BPE vocabulary: no text encodes to it.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.specials.contains(id)
    }

    /// The first and last characters of special tokens' names.
    pub(crate) fn delimiters(&self) -> HashSet<char> {
        self.specials
            .iter()
            .flat_map(|token| {
                token.name.chars().next().into_iter().chain(token.name.chars().last())
            })
            .collect()
    }
}

/// Puts `bytes` at `id`, growing the table. Ids far behind the others are an error: the table is
/// dense, and a stray id must not make it huge.
fn place(
    path: &Path,
    tokens: &mut Vec<Box<[u8]>>,
    id: u32,
    bytes: Box<[u8]>,
) -> Result<(), TextError> {
    const MAX_VOCABULARY: usize = 1 << 22;
    let index = id as usize;
    if index >= MAX_VOCABULARY {
        let message = format!("token id {id}: expected less than {MAX_VOCABULARY}");
        return Err(TextError::format(path, message));
    }
    if index >= tokens.len() {
        tokens.resize_with(index + 1, Box::default);
    }
    if !tokens[index].is_empty() {
        return Err(TextError::format(path, format!("token id {id}: stands for two tokens")));
    }
    tokens[index] = bytes;
    Ok(())
}
