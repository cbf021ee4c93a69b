//! Encoding and decoding are inverse, whole and in a stream.

use proptest::prelude::*;
use text::Detokenizer;

use crate::TOKENIZER;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ \\n\\r\\t\u{3000}\u{1f}]{0,40}",
        "([a-zA-Z']|[0-9]|[ .,\\n]|<\\|im_end\\|>|\u{301}|\\p{Han}|\\p{Emoji}){0,60}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decoding_undoes_encoding(text in text()) {
        let ids = TOKENIZER.encode(&text);
        prop_assert_eq!(TOKENIZER.decode(&ids, false), text.as_str());
        prop_assert!(ids.iter().all(|&id| id < TOKENIZER.special_id("[BOS]").unwrap()));
        let ids = TOKENIZER.encode_with_specials(&text);
        prop_assert_eq!(TOKENIZER.decode(&ids, false), text.as_str());
    }

    /// Over any ids, unknown ones among them; the bytes of single-byte tokens rarely make UTF-8.
    #[test]
    fn a_stream_decodes_as_the_whole(
        ids in prop::collection::vec(prop_oneof![0u32..256, 0u32..200_000], 0..60),
        skip_special: bool,
    ) {
        let mut stream = Detokenizer::new(skip_special);
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(&TOKENIZER, id)).collect();
        pieces.push(stream.finish());
        prop_assert_eq!(pieces.concat(), TOKENIZER.decode(&ids, skip_special));
    }

    #[test]
    fn a_stream_never_splits_a_character(text: String) {
        let ids: Vec<_> = text.bytes().flat_map(byte_token).collect();
        let mut stream = Detokenizer::new(false);
        let mut streamed = String::new();
        for id in ids {
            streamed += &stream.push(&TOKENIZER, id);
            prop_assert!(text.starts_with(&streamed));
        }
        prop_assert_eq!(stream.finish(), "");
        prop_assert_eq!(streamed, text);
    }
}

/// The token of a single byte.
fn byte_token(byte: u8) -> Option<u32> {
    (0..256).find(|&id| TOKENIZER.token_bytes(id) == Some(&[byte]))
}

#[test]
fn skipping_special_tokens_keeps_the_markers_that_are_not() {
    let ids = TOKENIZER.encode_with_specials("<|im_middle|><think>a</think>b<|im_end|>");
    assert_eq!(TOKENIZER.decode(&ids, true), "<think>a</think>b");
    assert_eq!(TOKENIZER.decode(&[163_840, u32::MAX], false), "");
    assert_eq!(TOKENIZER.token_bytes(163_840), None);
    assert_eq!(TOKENIZER.token_bytes(163_586), Some(&b"<|im_end|>"[..]));
}
