//! Missing and malformed files, and templates that refuse.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use text::{ChatPrompt, ChatTemplate, TextError, Tokenizer};

/// A directory holding `files`.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        fs::write(dir.path().join(name), contents).unwrap();
    }
    dir
}

/// A tiktoken vocabulary of the 256 bytes and `more`.
fn vocabulary(more: &[&str]) -> String {
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let tokens = bytes.chain(more.iter().map(|token| token.as_bytes().to_vec()));
    tokens.zip(0..).map(|(token, id)| format!("{} {id}\n", base64::encode(token))).collect()
}

fn assert_fails(files: &[(&str, &str)], parts: &[&str]) {
    let dir = directory(files);
    let message = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

#[test]
fn tokenizer_files_that_are_missing_or_malformed_are_named() {
    let good = vocabulary(&["ab"]);
    let config = r#"{"added_tokens_decoder": {"257": {"content": "[X]", "special": true}}}"#;
    let dir = directory(&[("tiktoken.model", &good), ("tokenizer_config.json", config)]);
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 257 + 256);
    assert_eq!(tokenizer.encode_with_specials("ab[X]"), [256, 257]);

    assert_fails(&[], &["tiktoken.model", "tokenizer.json"]);
    assert_fails(&[("tiktoken.model", &good)], &["tokenizer_config.json"]);
    let with = |vocabulary: &str, parts: &[&str]| {
        assert_fails(&[("tiktoken.model", vocabulary), ("tokenizer_config.json", config)], parts);
    };
    with("IQ==\n", &["tiktoken.model", "line 1"]);
    with("!!! 0\n", &["tiktoken.model", "line 1"]);
    with("IQ== 1\n", &["tiktoken.model", "line 1", "expected id 0"]);
    with(&vocabulary(&["ab", "ab"]), &["tiktoken.model", "line 258", "line 257"]);
    with("IQ== 0\n", &["tokenizer_config.json", "added_tokens_decoder.257", "1..257"]);
    let with = |config: &str, parts: &[&str]| {
        assert_fails(&[("tiktoken.model", &good), ("tokenizer_config.json", config)], parts);
    };
    with("{", &["tokenizer_config.json", "JSON"]);
    with("{}", &["tokenizer_config.json", "added_tokens_decoder"]);
    with(r#"{"added_tokens_decoder": {"257": {}}}"#, &["added_tokens_decoder.257.content"]);
    let twice = r#"{"added_tokens_decoder": {"257": {"content": "x"}, "258": {"content": "x"}}}"#;
    with(twice, &["tokenizer_config.json", "258", "twice"]);
    let config = r#"{"added_tokens_decoder": {}}"#;
    assert_fails(
        &[("tiktoken.model", "IQ== 0\n"), ("tokenizer_config.json", config)],
        &["tiktoken.model", "byte 0x00"],
    );
}

#[test]
fn template_files_that_are_missing_or_malformed_are_named() {
    let fails = |files: &[(&str, &str)], parts: &[&str]| {
        let dir = directory(files);
        let message = ChatTemplate::from_dir(dir.path()).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} does not name {part:?}");
        }
    };
    fails(&[], &["chat_template.jinja", "tokenizer_config.json"]);
    fails(&[("tokenizer_config.json", "{}")], &["chat_template.jinja"]);
    fails(&[("chat_template.jinja", "a\n{% if %}")], &["chat_template.jinja", "line 2"]);
}

fn render(dir: &Path, message: Value) -> Result<String, TextError> {
    ChatTemplate::from_dir(dir)?.render(&ChatPrompt {
        messages: &[message],
        tools: None,
        kwargs: Map::new(),
        add_generation_prompt: false,
    })
}

#[test]
fn a_template_may_refuse_and_may_live_in_the_config() {
    let source = "{% if messages[0].role != 'user' %}\
                  {{ raise_exception('no ' + messages[0].role) }}\
                  {% endif %}{{ messages[0].content | tojson }}";
    let config = json!({"chat_template": source}).to_string();
    let dir = directory(&[("tokenizer_config.json", &config)]);
    let user = json!({"role": "user", "content": {"b": [1, 2.0], "a": "é<"}});
    assert_eq!(render(dir.path(), user).unwrap(), r#"{"b": [1, 2.0], "a": "é<"}"#);
    match render(dir.path(), json!({"role": "bot"})) {
        Err(TextError::Template(message)) => assert_eq!(message, "no bot"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tojson_takes_pythons_options() {
    let source = "{{ messages[0] | tojson(separators=(',', ':'), ensure_ascii=true) }}";
    let dir = directory(&[("chat_template.jinja", source)]);
    let message = json!({"b": "é", "a": [null, true]});
    assert_eq!(render(dir.path(), message).unwrap(), r#"{"b":"\u00e9","a":[null,true]}"#);
    let dir = directory(&[("chat_template.jinja", "\n{{ 1 | tojson(colour='red') }}")]);
    let message = render(dir.path(), json!({})).unwrap_err().to_string();
    assert!(message.contains("colour") && message.contains("line 2"), "{message}");
}
