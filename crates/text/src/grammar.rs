//! Grammars over token ids, compiled by llguidance: JSON schemas, regular expressions, choices, and
//! context-free grammars in Lark's notation.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::{Tokenizer, multiple_of};

/// Why there is no grammar, or none any more. Fit for an API user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub(crate) String);

/// Compiles grammars for one tokenizer.
pub struct GrammarCompiler {
    factory: ParserFactory,
    end_ids: Vec<u32>,
    vocab_size: u32,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").field("end_ids", &self.end_ids).finish_non_exhaustive()
    }
}

/// What text must be like.
#[derive(Debug, Clone, Copy)]
pub enum GrammarSource<'a> {
    /// A JSON text that this schema accepts.
    JsonSchema(&'a Value),
    /// A whole match of a regular expression.
    Regex(&'a str),
    /// One of these strings.
    Choice(&'a [String]),
    /// A grammar in llguidance's variant of Lark's notation, from its rule `start`.
    Lark(&'a str),
}

/// Most bytes in the source of a grammar.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Whitespace between two tokens of JSON: as it is printed in one line or indented, no more. A
/// model may never find an end to it.
const JSON_WHITESPACE: &str = r"\x20|\x0A[\x20\x09]{0,40}";

/// A grammar's bounds: a compilation takes under a second, a mask a few milliseconds, the lexer's
/// states some 100 MB, whatever the grammar is.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

impl GrammarCompiler {
    /// For the vocabulary of `tokenizer`; text ends with one of `end_ids`. Takes a second for a
    /// large vocabulary.
    ///
    /// # Errors
    /// There is no end id, or one that the vocabulary lacks.
    pub fn new(tokenizer: &Tokenizer, end_ids: &[u32]) -> Result<Self, GrammarError> {
        let vocab_size = tokenizer.vocab_size();
        let end = *end_ids.first().ok_or_else(|| GrammarError("the model has no end id".into()))?;
        if let Some(id) = end_ids.iter().find(|id| **id >= vocab_size) {
            return Err(GrammarError(format!("the end id {id} is not in the vocabulary")));
        }
        // A control token's name is marked, so that no text is taken for it.
        let word = |id| match tokenizer.token_bytes(id) {
            Some(name) if tokenizer.is_control(id) => {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat()
            }
            bytes => bytes.unwrap_or_default().to_vec(),
        };
        let words: Vec<Vec<u8>> = (0..vocab_size).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, end), &words).with_eos_tokens(end_ids);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| GrammarError(error.to_string()))?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(Self { factory, end_ids: end_ids.to_vec(), vocab_size })
    }

    /// Compiles a grammar, in bounded time and memory.
    ///
    /// # Errors
    /// A source that is malformed, not supported, too large, or that nothing can match.
    pub fn compile(&self, source: GrammarSource) -> Result<Grammar, GrammarError> {
        let (grammar, size) = match source {
            GrammarSource::JsonSchema(schema) => {
                let schema = with_options(schema)?;
                let size = schema.to_string().len();
                (GrammarWithLexer::from_json_schema(schema), size)
            }
            GrammarSource::Regex(regex) => (GrammarWithLexer::from_regex(regex), regex.len()),
            GrammarSource::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                let lark = format!("start: {}", choices.join(" | "));
                let size = lark.len();
                (GrammarWithLexer::from_lark(lark), size)
            }
            GrammarSource::Lark(lark) => (GrammarWithLexer::from_lark(lark.to_owned()), lark.len()),
        };
        self.compile_checked(grammar, size)
    }

    /// The JSON text that `schema` accepts, then the control token `end`.
    pub(crate) fn compile_until(&self, schema: &Value, end: u32) -> Result<Grammar, GrammarError> {
        let lark = format!("start: %json {} <[{end}]>", with_options(schema)?);
        let size = lark.len();
        self.compile_checked(GrammarWithLexer::from_lark(lark), size)
    }

    /// One of `prefixes`, then `suffix`, then the control token `end`.
    pub(crate) fn compile_header(
        &self,
        prefixes: impl Iterator<Item = String>,
        suffix: &str,
        end: u32,
    ) -> Result<Grammar, GrammarError> {
        let prefixes: Vec<String> = prefixes.map(|prefix| literal(&prefix)).collect();
        let lark = format!("start: ({}) {} <[{end}]>", prefixes.join(" | "), literal(suffix));
        self.compile_checked(GrammarWithLexer::from_lark(lark), 0)
    }

    fn compile_checked(
        &self,
        grammar: GrammarWithLexer,
        size: usize,
    ) -> Result<Grammar, GrammarError> {
        if size > MAX_SOURCE_BYTES {
            return Err(GrammarError(format!("is larger than {MAX_SOURCE_BYTES} bytes")));
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_grammar(grammar));
        let mut grammar = Grammar(Matcher::new(Ok(parser.map_err(reason)?)));
        // One that cannot even begin is found here.
        grammar.mask()?;
        Ok(grammar)
    }

    /// Ids that end a text.
    pub(crate) fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// Ids of the vocabulary.
    pub(crate) fn vocab_size(&self) -> u32 {
        self.vocab_size
    }
}

/// A compiled grammar and how much of it has been seen. A copy goes its own way.
#[derive(Clone)]
pub struct Grammar(Matcher);

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// The ids that may come next, a bit each from the least significant one of each word on. Where
    /// the text may end, the end ids are among them.
    ///
    /// # Errors
    /// Nothing can follow, or to find out took too much.
    pub fn mask(&mut self) -> Result<Vec<u32>, GrammarError> {
        self.0.compute_mask_or_eos().map(Vec::from).map_err(reason)
    }

    /// Takes the next id.
    ///
    /// # Errors
    /// One that may not come next.
    pub fn push(&mut self, id: u32) -> Result<(), GrammarError> {
        self.0.consume_token(id).map_err(reason)
    }
}

/// The first line of an error: others hold parser states and backtraces.
fn reason(error: impl std::fmt::Display) -> GrammarError {
    const MAX_CHARACTERS: usize = 300;
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = match lines.take_while(|line| !line.starts_with('<')).next() {
        Some("NoExtensionBias") => "nothing can match it",
        Some(line) if !line.starts_with("panic: ") => line,
        _ => "is not supported",
    };
    GrammarError(line.chars().take(MAX_CHARACTERS).collect())
}

/// A schema with our options in the place where llguidance looks for them.
fn with_options(schema: &Value) -> Result<Value, GrammarError> {
    const OPTIONS: &str = "x-guidance";
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(GrammarError("accepts nothing".into())),
        other => other.clone(),
    };
    let Some(fields) = schema.as_object_mut() else {
        return Err(GrammarError("is not a JSON schema: expected an object".into()));
    };
    if fields.contains_key(OPTIONS) {
        return Err(GrammarError(format!("{OPTIONS} is not supported")));
    }
    multiple_of::check(fields)?;
    fields.insert(OPTIONS.to_owned(), json!({"whitespace_pattern": JSON_WHITESPACE}));
    Ok(schema)
}

/// A string of Lark's notation, which is JSON's but for one character.
fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
