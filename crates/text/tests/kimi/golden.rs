//! Every line of the golden vectors.

use serde_json::{Map, Value};
use text::{ChatPrompt, tools_to_typescript};

use crate::{TEMPLATE, TOKENIZER, golden};

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn tokenizer() {
    let lines = golden("tokenizer.jsonl");
    assert_eq!(lines.len(), 812);
    for line in &lines {
        let text = line["text"].as_str().unwrap();
        assert_eq!(TOKENIZER.encode(text), ids(&line["ids_special_as_text"]), "{text:?}");
        let with_specials = TOKENIZER.encode_with_specials(text);
        assert_eq!(with_specials, ids(&line["ids_special_allowed"]), "{text:?}");
        assert_eq!(TOKENIZER.decode(&with_specials, false), text);
    }
}

#[test]
fn tool_declarations() {
    let lines = golden("tool_declarations.jsonl");
    assert_eq!(lines.len(), 160);
    for line in &lines {
        let declaration = tools_to_typescript(line["tools"].as_array().unwrap());
        assert_eq!(declaration.as_deref(), line["typescript"].as_str(), "{}", line["tools"]);
    }
}

#[test]
fn chat() {
    let lines = golden("chat.jsonl");
    assert_eq!(lines.len(), 200);
    let mut tokenized = 0;
    for line in &lines {
        let kwargs = ["thinking", "preserve_thinking"].map(|key| (key.into(), line[key].clone()));
        let prompt = ChatPrompt {
            messages: line["messages"].as_array().unwrap(),
            tools: line["tools"].as_array().map(Vec::as_slice),
            kwargs: Map::from_iter(kwargs),
            add_generation_prompt: line["add_generation_prompt"].as_bool().unwrap(),
        };
        let rendered = line["rendered"].as_str().unwrap();
        assert_eq!(TEMPLATE.render(&prompt).unwrap(), rendered);
        let encoded = TEMPLATE.encode(&TOKENIZER, &prompt).unwrap();
        assert_eq!(TOKENIZER.decode(&encoded, false), rendered);
        if line["ids"].is_array() {
            assert_eq!(encoded, ids(&line["ids"]), "{rendered:?}");
            tokenized += 1;
        } else {
            // A user spells a control token. Each turn has exactly one end, its own.
            let ends = |ids: &[u32]| {
                let end = TOKENIZER.special_id("<|im_end|>").unwrap();
                ids.iter().filter(|&&id| id == end).count()
            };
            let turns = prompt.messages.len() + usize::from(prompt.tools.is_some());
            assert_eq!(ends(&encoded), turns, "{rendered:?}");
            assert!(ends(&TOKENIZER.encode_with_specials(rendered)) > turns);
        }
    }
    assert_eq!(tokenized, 115);
}

/// Published ids that the golden files do not hold.
#[test]
fn known_strings() {
    for (text, expected) in [
        ("Answer: A", &[33853, 25, 401][..]),
        (" A", &[401]),
        (" B", &[509]),
        (" C", &[396]),
        (" D", &[522]),
        ("\n\n", &[382]),
        ("<|im_system|>tool_declare<|im_middle|>", &[163594, 20960, 35556, 677, 163601]),
    ] {
        assert_eq!(TOKENIZER.encode_with_specials(text), expected, "{text:?}");
    }
    assert_eq!(TOKENIZER.vocab_size(), 163_840);
    let special = |name| TOKENIZER.special_id(name).map(|id| (id, TOKENIZER.is_special(id)));
    assert_eq!(special("<|im_end|>"), Some((163_586, true)));
    assert_eq!(special("</think>"), Some((163_607, false)));
    assert_eq!(special("<|reserved_token_163589|>"), Some((163_589, false)));
    assert_eq!(special("<|reserved_token_163586|>"), None);
}
