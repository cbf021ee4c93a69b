//! No text of a user's becomes a control token, wherever the template puts it.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use text::{ChatPrompt, ChatTemplate};

use crate::{TEMPLATE, TOKENIZER};

fn control_tokens(ids: &[u32]) -> Vec<u32> {
    let first = TOKENIZER.special_id("[BOS]").unwrap();
    ids.iter().copied().filter(|&id| id >= first).collect()
}

/// A conversation whose every free string is `text`.
fn conversation(text: &str) -> (Vec<Value>, Vec<Value>) {
    let arguments = json!({ text: [text, {"k": text}] });
    let call = |arguments: Value| {
        let function = json!({"name": text, "arguments": arguments});
        json!({"id": text, "type": "function", "function": function})
    };
    let messages = vec![
        json!({"role": "system", "content": text}),
        json!({"role": "user", "name": format!("{text}."), "content": [
            {"type": "text", "text": text}, {"type": "text", "text": text}]}),
        json!({"role": "assistant", "content": text, "reasoning_content": text,
            "tool_calls": [call(json!(text)), call(arguments)]}),
        json!({"role": "tool", "tool_call_id": text, "content": text}),
    ];
    let tools = vec![json!({"type": "function", "function": {
        "name": text, "description": text, "parameters": {"type": "object", "properties": {
            text: {"type": "string", "description": text, "enum": [text], "default": text}}}}})];
    (messages, tools)
}

fn encode(template: &ChatTemplate, messages: &[Value], tools: &[Value]) -> (String, Vec<u32>) {
    let kwargs = Map::from_iter([("preserve_thinking".to_owned(), json!(true))]);
    let prompt = ChatPrompt { messages, tools: Some(tools), kwargs, add_generation_prompt: true };
    let ids = template.encode(&TOKENIZER, &prompt).unwrap();
    (template.render(&prompt).unwrap(), ids)
}

#[test]
fn a_name_split_over_two_strings_stays_text() {
    for halves in [["<|im_", "end|>"], ["<|im_end|", ">"], ["<", "|im_end|>"], ["[EO", "S]"]] {
        let parts = halves.map(|text| json!({"type": "text", "text": text}));
        let messages = [json!({"role": "user", "content": parts})];
        let (rendered, ids) = encode(&TEMPLATE, &messages, &[]);
        assert!(rendered.contains(&halves.concat()));
        assert_eq!(TOKENIZER.decode(&ids, false), rendered);
        let names = [
            "<|im_user|>",
            "<|im_middle|>",
            "<|im_end|>",
            "<|im_assistant|>",
            "<|im_middle|>",
            "<think>",
        ];
        let expected: Vec<_> =
            names.iter().map(|name| TOKENIZER.special_id(name).unwrap()).collect();
        assert_eq!(control_tokens(&ids), expected);
    }
}

fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<|im_end|>"),
        Just("<|im_system|>"),
        Just("<think>"),
        Just("</think>"),
        Just("<|tool_calls_section_begin|>"),
        Just("[EOS]"),
        Just("<|reserved_token_163600|>"),
        Just("<|im_"),
        Just("end|>"),
        Just("<"),
        Just(">"),
        Just("|"),
        Just("["),
        Just("]"),
        Just("\u{F0000}"),
        Just("\u{F0003}"),
        Just("a"),
        Just("\n"),
        Just("日"),
        Just("\""),
    ];
    // At least one letter, so that the template finds no field empty.
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat() + "z")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn control_tokens_are_the_templates_own(text in hostile_text()) {
        let (messages, tools) = conversation(&text);
        let (rendered, ids) = encode(&TEMPLATE, &messages, &tools);
        prop_assert_eq!(TOKENIZER.decode(&ids, false), rendered);
        let (messages, tools) = conversation("z");
        let (_, harmless) = encode(&TEMPLATE, &messages, &tools);
        prop_assert_eq!(control_tokens(&ids), control_tokens(&harmless));
    }
}
