//! Grammars over token ids, compiled by llguidance: JSON schemas, regular expressions, choices, and
//! context-free grammars in Lark's notation.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::grammar_cache::GrammarCache;
use crate::{Tokenizer, dates, multiple_of};

/// Why there is no grammar, or none any more. Fit for an API user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub(crate) String);

/// Compiles grammars for one tokenizer.
pub struct GrammarCompiler {
    factory: ParserFactory,
    end_ids: Vec<u32>,
    vocab_size: u32,
    cache: GrammarCache,
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
        Ok(Self { factory, end_ids: end_ids.to_vec(), vocab_size, cache: GrammarCache::default() })
    }

    /// Compiles a grammar, in bounded time and memory.
    ///
    /// # Errors
    /// A source that is malformed, not supported, too large, or that nothing can match.
    pub fn compile(&self, source: GrammarSource) -> Result<Grammar, GrammarError> {
        match source {
            GrammarSource::JsonSchema(schema) => {
                let schema = with_options(schema)?;
                let text = schema.to_string();
                check_size(&text)?;
                self.compiled("json", &text, || GrammarWithLexer::from_json_schema(schema))
            }
            GrammarSource::Regex(regex) => {
                check_size(regex)?;
                self.compiled("regex", regex, || GrammarWithLexer::from_regex(regex))
            }
            GrammarSource::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                let lark = format!("start: {}", choices.join(" | "));
                check_size(&lark)?;
                self.compiled_lark(lark)
            }
            GrammarSource::Lark(lark) => {
                check_size(lark)?;
                self.compiled_lark(lark.to_owned())
            }
        }
    }

    /// The JSON text that `schema` accepts, then the control token `end`.
    pub(crate) fn compile_until(&self, schema: &Value, end: u32) -> Result<Grammar, GrammarError> {
        let lark = format!("start: %json {} <[{end}]>", with_options(schema)?);
        check_size(&lark)?;
        self.compiled_lark(lark)
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
        self.compiled_lark(lark)
    }

    fn compiled_lark(&self, lark: String) -> Result<Grammar, GrammarError> {
        self.compiled("lark", &lark, || GrammarWithLexer::from_lark(lark.clone()))
    }

    /// The grammar of `source`, which is of a `kind` of its own for each way to read it.
    fn compiled(
        &self,
        kind: &'static str,
        source: &str,
        grammar: impl FnOnce() -> GrammarWithLexer,
    ) -> Result<Grammar, GrammarError> {
        self.cache.get(kind, source, || {
            let parser = self.factory.create_parser(TopLevelGrammar::from_grammar(grammar()));
            let parser = parser.map_err(reason)?;
            let lexer_bytes = parser.parser.lexer_stats().num_bytes;
            let mut grammar = Grammar { matcher: Matcher::new(Ok(parser)), lexer_bytes };
            // One that cannot even begin is found here.
            grammar.mask()?;
            Ok(grammar)
        })
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
pub struct Grammar {
    matcher: Matcher,
    /// Bytes of the lexer's tables as it was compiled.
    lexer_bytes: usize,
}

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
        self.matcher.compute_mask_or_eos().map(Vec::from).map_err(reason)
    }

    /// A copy that has nothing in common with this one: clones find the lexer's states together, in
    /// turns and within one limit.
    pub(crate) fn copy(&self) -> Grammar {
        Grammar { matcher: self.matcher.deep_clone(), lexer_bytes: self.lexer_bytes }
    }

    pub(crate) fn lexer_bytes(&self) -> usize {
        self.lexer_bytes
    }

    /// Takes the next id.
    ///
    /// # Errors
    /// One that may not come next.
    pub fn push(&mut self, id: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(id).map_err(reason)
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

fn check_size(source: &str) -> Result<(), GrammarError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(GrammarError(format!("is larger than {MAX_SOURCE_BYTES} bytes")));
    }
    Ok(())
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
    dates::constrain(fields);
    fields.insert(OPTIONS.to_owned(), json!({"whitespace_pattern": JSON_WHITESPACE}));
    Ok(schema)
}

/// A string of Lark's notation, which is JSON's but for one character.
fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
