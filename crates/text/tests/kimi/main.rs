//! The text crate over Kimi-K2.6's own files.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has failed")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use text::{ChatTemplate, Tokenizer};

mod errors;
mod golden;
mod grammar;
mod injection;
mod parser;
mod speed;
mod streaming;
mod template;
mod tokenizer_json;

/// The directory with Kimi-K2.6's tokenizer files.
fn kimi_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kimi-k2.6")
}

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tokenizer::from_dir(&kimi_dir()).unwrap()));

static TEMPLATE: LazyLock<ChatTemplate> =
    LazyLock::new(|| ChatTemplate::from_dir(&kimi_dir()).unwrap());

/// The lines of a golden file.
fn golden(name: &str) -> Vec<Value> {
    let contents = std::fs::read_to_string(kimi_dir().join("golden").join(name)).unwrap();
    contents.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
