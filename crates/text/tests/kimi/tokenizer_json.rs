//! A small byte-level `tokenizer.json`.

use serde_json::{Map, Value, json};
use text::{TextError, Tokenizer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The 256 bytes and the merge `ab`; then `<|end|>` (special) and `<think>` (not).
fn tokenizer_json(more_vocabulary: &[&str]) -> Value {
    let mut alphabet: Vec<_> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    alphabet.sort();
    alphabet.push("ab".to_owned());
    alphabet.extend(more_vocabulary.iter().copied().map(str::to_owned));
    let vocabulary: Map<_, _> = alphabet.into_iter().zip((0..).map(Value::from)).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [added(300, "<|end|>", true), added(301, "<think>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": false},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]},
    })
}

fn read(json: &Value) -> Result<Tokenizer, TextError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_dir(dir.path())
}

#[test]
fn special_tokens_come_from_the_file_and_never_from_text() {
    let tokenizer = read(&tokenizer_json(&[])).unwrap();
    assert_eq!(tokenizer.vocab_size(), 302);
    let text = "ab<|end|> é\n<think>";
    let plain = tokenizer.encode(text);
    assert!(plain.iter().all(|&id| id <= 256));
    assert_eq!(plain[0], 256);
    let with_specials = tokenizer.encode_with_specials(text);
    assert_eq!(with_specials[..2], [256, 300]);
    assert_eq!(with_specials.last(), Some(&301));
    for ids in [plain, with_specials.clone()] {
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    assert_eq!(tokenizer.decode(&with_specials, true), "ab é\n<think>");
    // Ids between vocabulary and added tokens stand for nothing.
    assert_eq!(tokenizer.token_bytes(280), None);
    assert_eq!(tokenizer.decode(&[280], false), "");
}

#[test]
fn what_is_no_byte_level_bpe_is_refused() {
    let fails = |json: Value, part: &str| {
        let message = read(&json).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json") && message.contains(part), "{message}");
    };
    fails(tokenizer_json(&["▁word"]), "▁word");
    fails(json!({}), "Model");
    let mut json = tokenizer_json(&[]);
    json["added_tokens"][0]["id"] = json!(-1);
    fails(json, "added_tokens[0].id");
    let mut json = tokenizer_json(&[]);
    json["added_tokens"][0]["id"] = json!(u32::MAX);
    fails(json, "4294967295");
    let mut json = tokenizer_json(&[]);
    json["added_tokens"][0]["id"] = json!(256);
    fails(json, "token id 256");
    let mut json = tokenizer_json(&[]);
    json["model"]["vocab"] = json!({"a": 0, "b": 1, "ab": 2});
    fails(json, "byte 0x00");
}
