//! `tiktoken.model`: a BPE vocabulary in which a token's id is also the rank of the merge that
//! makes it. Converted to the explicit merges that `tokenizers` wants.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::{TextError, byte_level, special};

/// How Kimi's tokenizer cuts a text into the pieces that merges stay inside. It is part of the
/// model's Python code, no file of the model directory holds it.
const PATTERN: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Reads the vocabulary: one line `base64(token) id` each, ids counting from 0.
pub(crate) fn read_vocabulary(path: &Path, contents: &str) -> Result<Vec<Vec<u8>>, TextError> {
    let mut vocabulary = Vec::new();
    for (index, line) in contents.lines().enumerate() {
        let at_line = |what: &str| TextError::format(path, format!("line {}: {what}", index + 1));
        let (token, id) = line.split_once(' ').ok_or_else(|| at_line("expected `base64 id`"))?;
        let token = base64::decode(token).map_err(|error| at_line(&error.to_string()))?;
        if token.is_empty() {
            return Err(at_line("the token is empty"));
        }
        if id.parse() != Ok(index) {
            return Err(at_line(&format!("expected id {index}, found {id:?}")));
        }
        vocabulary.push(token);
    }
    if u32::try_from(vocabulary.len()).is_ok_and(|base| base < u32::MAX - special::TIKTOKEN_SLOTS) {
        Ok(vocabulary)
    } else {
        Err(TextError::format(path, "more tokens than ids"))
    }
}

/// Builds the splitter and BPE model for `vocabulary`, read from `path`.
pub(crate) fn build(
    path: &Path,
    vocabulary: &[Vec<u8>],
) -> Result<tokenizers::Tokenizer, TextError> {
    let mut ranks: HashMap<&[u8], u32> = HashMap::with_capacity(vocabulary.len());
    for (token, id) in vocabulary.iter().zip(0..) {
        if let Some(first) = ranks.insert(token, id) {
            let message = format!("line {}: same token as line {}", id + 1, first + 1);
            return Err(TextError::format(path, message));
        }
    }
    let merges = vocabulary
        .iter()
        .zip(0..)
        .filter_map(|(token, rank)| split_in_two(token, rank, &ranks))
        .map(|(left, right)| (byte_level::spell(left), byte_level::spell(right)))
        .collect();
    let spelled: Vocab = vocabulary.iter().map(|token| byte_level::spell(token)).zip(0..).collect();
    let failed = |error: tokenizers::Error| TextError::format(path, error.to_string());
    let bpe = BPE::builder()
        .vocab_and_merges(spelled, merges)
        .ignore_merges(true)
        .build()
        .map_err(failed)?;
    let pattern = SplitPattern::Regex(PATTERN.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        split.into(),
        ByteLevel::new(false, false, false).into(),
    ])));
    Ok(tokenizer)
}

/// The two parts whose merge makes `token`: what is left of its bytes when every merge of lower
/// rank has been applied, lowest first. `None` for a single byte, and for a token that no merge
/// makes (it is found only as a whole piece).
fn split_in_two<'a>(
    token: &'a [u8],
    rank: u32,
    ranks: &HashMap<&[u8], u32>,
) -> Option<(&'a [u8], &'a [u8])> {
    // Boundaries between parts, with both ends.
    let mut bounds: Vec<usize> = (0..=token.len()).collect();
    loop {
        let lowest = bounds
            .windows(3)
            .enumerate()
            .filter_map(|(at, window)| Some((*ranks.get(&token[window[0]..window[2]])?, at)))
            .filter(|&(merged, _)| merged < rank)
            .min();
        match lowest {
            Some((_, at)) => bounds.remove(at + 1),
            None => break,
        };
    }
    match bounds[..] {
        [_, middle, _] => Some(token.split_at(middle)),
        _ => None,
    }
}
