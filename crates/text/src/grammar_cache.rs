use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::grammar::{Grammar, GrammarError};

/// Most grammars that are kept.
const MAX_GRAMMARS: usize = 64;
/// Most bytes of the kept grammars' lexers; the parsers' tables are some MB at most.
const MAX_LEXER_BYTES: usize = 256 << 20;

type Compiled = Arc<OnceLock<Result<Grammar, GrammarError>>>;

/// What sources were compiled to, or why they cannot be, so that a schema of many requests is
/// compiled once. What was not asked for the longest is let go first.
#[derive(Debug, Default)]
pub(crate) struct GrammarCache {
    /// Kind, source and grammar, the one asked for last at the end.
    entries: Mutex<VecDeque<(&'static str, String, Compiled)>>,
}

impl GrammarCache {
    /// A copy of the grammar of `source` for the caller alone; whoever asks while it is being
    /// compiled waits for it.
    pub(crate) fn get(
        &self,
        kind: &'static str,
        source: &str,
        compile: impl FnOnce() -> Result<Grammar, GrammarError>,
    ) -> Result<Grammar, GrammarError> {
        let compiled = self.entry(kind, source);
        compiled.get_or_init(compile).as_ref().map(Grammar::copy).map_err(Clone::clone)
    }

    fn entry(&self, kind: &'static str, source: &str) -> Compiled {
        // No entry is ever half made.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.iter().position(|(k, s, _)| *k == kind && s == source);
        if let Some(entry) = known.and_then(|index| entries.remove(index)) {
            let compiled = entry.2.clone();
            entries.push_back(entry);
            return compiled;
        }
        let bytes = |compiled: &Compiled| match compiled.get() {
            Some(Ok(grammar)) => grammar.lexer_bytes(),
            _ => 0,
        };
        let mut total: usize = entries.iter().map(|(_, _, compiled)| bytes(compiled)).sum();
        while entries.len() >= MAX_GRAMMARS || total > MAX_LEXER_BYTES {
            let Some((_, _, oldest)) = entries.pop_front() else { break };
            total -= bytes(&oldest);
        }
        let compiled = Compiled::default();
        entries.push_back((kind, source.to_owned(), compiled.clone()));
        compiled
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::{GrammarCompiler, GrammarSource, Tokenizer};

    fn compiler() -> GrammarCompiler {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let tokenizer = Tokenizer::from_dir(&model).unwrap();
        GrammarCompiler::new(&tokenizer, &[tokenizer.special_id("<|im_end|>").unwrap()]).unwrap()
    }

    #[test]
    fn a_source_is_compiled_once_until_it_is_let_go() {
        let (cache, compiler) = (GrammarCache::default(), compiler());
        let compiled = AtomicUsize::new(0);
        let get = |kind, source: &str| {
            cache.get(kind, source, || {
                compiled.fetch_add(1, Ordering::Relaxed);
                compiler.compile(GrammarSource::Regex("a+"))
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| get("regex", "first").unwrap());
            }
        });
        assert_eq!(compiled.load(Ordering::Relaxed), 1);
        get("lark", "first").unwrap();
        assert_eq!(compiled.load(Ordering::Relaxed), 2, "the same text of another kind");
        for i in 0..MAX_GRAMMARS - 2 {
            get("regex", &i.to_string()).unwrap();
        }
        get("regex", "first").unwrap();
        assert_eq!(compiled.load(Ordering::Relaxed), MAX_GRAMMARS);
        get("regex", "one more").unwrap();
        get("regex", "first").unwrap();
        assert_eq!(compiled.load(Ordering::Relaxed), MAX_GRAMMARS + 1, "it was asked for last");
        get("lark", "first").unwrap();
        assert_eq!(compiled.load(Ordering::Relaxed), MAX_GRAMMARS + 2, "it was the oldest");
        assert_eq!(cache.entries.lock().unwrap().len(), MAX_GRAMMARS);

        let refused = |reason: &str| cache.get("regex", "(", || Err(GrammarError(reason.into())));
        assert_eq!(refused("no").unwrap_err(), refused("not asked again").unwrap_err());
    }

    #[test]
    fn copies_have_nothing_in_common() {
        let compiler = compiler();
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let grammar = || compiler.compile(GrammarSource::JsonSchema(&schema)).unwrap();
        let (mut first, mut other) = (grammar(), grammar());
        let begin = first.mask().unwrap();
        let id = |mask: &[u32]| {
            let word = mask.iter().position(|word| *word != 0).unwrap();
            (word * 32) as u32 + mask[word].trailing_zeros()
        };
        for _ in 0..20 {
            let mask = first.mask().unwrap();
            first.push(id(&mask)).unwrap();
        }
        assert_ne!(first.mask().unwrap(), begin);
        assert_eq!(other.mask().unwrap(), begin);
        assert_eq!(grammar().mask().unwrap(), begin);
        other.push(id(&begin)).unwrap();
    }
}
