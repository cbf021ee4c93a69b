//! The output parser over token streams.

use proptest::prelude::*;
use text::{Delta, OutputParser, ParserOptions};

use crate::TOKENIZER;

/// An answer with deltas concatenated.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    reasoning: String,
    content: String,
    /// Id, name and arguments of each call.
    calls: Vec<(String, String, String)>,
}

impl Answer {
    fn add(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => self.reasoning += &text,
                Delta::Content(text) => self.content += &text,
                Delta::ToolCallStart { index, id, name } => {
                    assert_eq!(index, self.calls.len());
                    self.calls.push((id, name, String::new()));
                }
                Delta::ToolCallArguments { index, fragment } => {
                    assert_eq!(index + 1, self.calls.len(), "fragments belong to the last call");
                    assert!(!fragment.is_empty());
                    self.calls[index].2 += &fragment;
                }
            }
        }
    }
}

const TOOLS: ParserOptions = ParserOptions { thinking: false, tools: true, first_tool_index: 0 };
const THINKING: ParserOptions = ParserOptions { thinking: true, ..TOOLS };

fn parse_ids(ids: &[u32], options: ParserOptions) -> Answer {
    let mut parser = OutputParser::new(TOKENIZER.clone(), options);
    let mut answer = Answer::default();
    for &id in ids {
        answer.add(parser.push(id));
    }
    answer.add(parser.finish());
    assert_eq!(parser.tool_calls_seen(), answer.calls.len());
    assert_eq!(parser.finish(), []);
    answer
}

/// Parses text in which `{S} {/S} {C} {A} {/C} {T} {/T} {E}` stand for control tokens; a marker
/// that is spelled out stays text.
fn parse(text: &str, options: ParserOptions) -> Answer {
    parse_ids(&stream(text), options)
}

const SHORT: [(&str, &str); 8] = [
    ("{S}", "<|tool_calls_section_begin|>"),
    ("{/S}", "<|tool_calls_section_end|>"),
    ("{C}", "<|tool_call_begin|>"),
    ("{A}", "<|tool_call_argument_begin|>"),
    ("{/C}", "<|tool_call_end|>"),
    ("{T}", "<think>"),
    ("{/T}", "</think>"),
    ("{E}", "<|im_end|>"),
];

fn stream(text: &str) -> Vec<u32> {
    let next = SHORT.iter().filter_map(|pair| Some((text.find(pair.0)?, pair))).min();
    match next {
        None => TOKENIZER.encode(text),
        Some((at, (short, name))) => {
            let mut ids = TOKENIZER.encode(&text[..at]);
            ids.push(TOKENIZER.special_id(name).unwrap());
            ids.extend(stream(&text[at + short.len()..]));
            ids
        }
    }
}

fn answer(reasoning: &str, content: &str, calls: &[(&str, &str, &str)]) -> Answer {
    let own = |call: &(&str, &str, &str)| (call.0.into(), call.1.into(), call.2.into());
    Answer {
        reasoning: reasoning.into(),
        content: content.into(),
        calls: calls.iter().map(own).collect(),
    }
}

#[test]
fn reasoning_content_and_calls_come_apart() {
    assert_eq!(parse("why{/T}because{E}", THINKING), answer("why", "because", &[]));
    assert_eq!(parse("plain", TOOLS), answer("", "plain", &[]));
    assert_eq!(parse("{T}why{/T}because", TOOLS), answer("why", "because", &[]));
    assert_eq!(
        parse(
            "r{/T}a{S}{C}functions.f:0{A}{\"x\": 1}{/C}{C}functions.g:1{A}{}{/C}{/S}b{E}",
            THINKING
        ),
        answer("r", "ab", &[("functions.f:0", "f", "{\"x\": 1}"), ("functions.g:1", "g", "{}"),])
    );
}

#[test]
fn ids_are_counted_over_the_conversation() {
    let options = ParserOptions { first_tool_index: 5, ..TOOLS };
    let calls = &[("functions.f:5", "f", "{}"), ("functions.f:6", "f", "{}")];
    let text = "{S}{C}functions.f:0{A}{}{/C}{C}f{A}{}{/C}{/S}";
    assert_eq!(parse(text, options), answer("", "", calls));
}

#[test]
fn names_may_hold_dots_dashes_and_spaces_around() {
    for name in ["get-weather", "a.b.c", "functions", "mcp__x-y.z", "天気"] {
        let id = format!("functions.{name}:0");
        let text = format!("{{S}}{{C}} {id}\n{{A}}{{\"a\":1}}{{/C}}{{/S}}");
        assert_eq!(parse(&text, TOOLS), answer("", "", &[(&id, name, "{\"a\":1}")]));
    }
}

#[test]
fn a_section_ends_reasoning_by_itself() {
    assert_eq!(
        parse("hm{S}{C}functions.f:0{A}{}{/C}{/S}{/T}done", THINKING),
        answer("hm", "done", &[("functions.f:0", "f", "{}")])
    );
    assert_eq!(parse("only thoughts", THINKING), answer("only thoughts", "", &[]));
}

#[test]
fn spelled_markers_are_text_everywhere() {
    let spelled = "<|tool_call_end|></think><|tool_calls_section_end|>";
    let arguments = format!("{{\"a\": \"{spelled}\"}}");
    let text =
        format!("{spelled}{{/T}}{spelled}{{S}}{{C}}functions.f:0{{A}}{arguments}{{/C}}{{/S}}");
    let expected = answer(spelled, spelled, &[("functions.f:0", "f", &arguments)]);
    assert_eq!(parse(&text, THINKING), expected);
}

#[test]
fn control_tokens_inside_a_json_string_are_text() {
    let parsed = parse(
        "{S}{C}functions.f:0{A}{\"a\": \"x{/C}y\\\"{/S}{T}{A}\", \"b\": 1}{/C}{/S}after",
        TOOLS,
    );
    let arguments = "{\"a\": \"x<|tool_call_end|>y\\\"<|tool_calls_section_end|><think>\
                     <|tool_call_argument_begin|>\", \"b\": 1}";
    assert_eq!(parsed, answer("", "after", &[("functions.f:0", "f", arguments)]));
}

#[test]
fn a_string_left_open_does_not_swallow_what_follows() {
    let calls = &[("functions.f:0", "f", "{\"a\": \"x"), ("functions.g:1", "g", "{}")];
    let text = "{S}{C}functions.f:0{A}{\"a\": \"x{/C}{C}functions.g:1{A}{}{/C}{/S}b";
    assert_eq!(parse(text, TOOLS), answer("", "b", calls));
    for end in ["{/C}{/S}", "{/C}{E}", "{/C}"] {
        let text = format!("{{S}}{{C}}functions.f:0{{A}}{{\"a\": \"x{end}");
        assert_eq!(parse(&text, TOOLS), answer("", "", &calls[..1]), "{end}");
    }
}

#[test]
fn a_call_cut_off_keeps_what_there_is() {
    let calls = &[("functions.f:0", "f", "{\"city\": \"Pa")];
    assert_eq!(parse("{S}{C}functions.f:0{A}{\"city\": \"Pa", TOOLS), answer("", "", calls));
    assert_eq!(
        parse("{S}{C}functions.f:0{A}", TOOLS),
        answer("", "", &[("functions.f:0", "f", "")])
    );
    assert_eq!(parse("{S}{C}functions.f:0", TOOLS), answer("", "", &[("functions.f:0", "f", "")]));
    for text in ["{S}", "{S}{C}", "{S}{C}functions.get_wea", "{S}{C}functions.f:"] {
        assert_eq!(parse(&format!("a{text}"), TOOLS), answer("", "a", &[]), "{text}");
    }
    // Half a character at the end shows as U+FFFD, as in any decoding.
    let mut ids = stream("{S}{C}functions.f:0{A}\"");
    ids.push((0..256).find(|&id| TOKENIZER.token_bytes(id) == Some(&[0xE6])).unwrap());
    assert_eq!(parse_ids(&ids, TOOLS).calls[0].2, "\"\u{FFFD}");
}

#[test]
fn markers_out_of_place_do_no_harm() {
    let call = &[("functions.f:0", "f", "{}")];
    assert_eq!(parse("a{C}functions.f:0{A}{}{/C}{/S}b", TOOLS), answer("", "ab", call));
    assert_eq!(parse("a{/C}{A}{/S}{/T}b", TOOLS), answer("", "ab", &[]));
    assert_eq!(parse("{S} \n{C}functions.f:0{A}{}{/C}\n{/S}", TOOLS), answer("", "", call));
    assert_eq!(
        parse("{S}{C}functions.f:0{/C}{C}{/C}{/S}", TOOLS),
        answer("", "", &[("functions.f:0", "f", "")])
    );
}

#[test]
fn without_tools_their_markers_are_text() {
    let options = ParserOptions { tools: false, ..THINKING };
    assert_eq!(
        parse("a{S}b{/T}{C}c{E}", options),
        answer("a<|tool_calls_section_begin|>b", "<|tool_call_begin|>c", &[])
    );
}

#[test]
fn reasoning_tokens_are_counted() {
    let mut parser = OutputParser::new(TOKENIZER.clone(), THINKING);
    let thoughts = stream("one two three{/T}");
    for id in thoughts.iter().copied().chain(stream("answer")) {
        parser.push(id);
    }
    assert_eq!(parser.reasoning_tokens(), thoughts.len());
}

/// Well-formed answers, and noise of markers, texts and ids.
fn pieces() -> impl Strategy<Value = Vec<u32>> {
    let text = prop_oneof![any::<String>(), Just("{\"a\": \"b".to_owned()), Just("\"}".into())];
    let marker = prop::sample::select(SHORT.map(|(short, _)| stream(short)[0]).to_vec());
    prop::collection::vec(
        prop_oneof![
            3 => text.prop_map(|text| TOKENIZER.encode(&text)),
            4 => marker.prop_map(|id| vec![id]),
            1 => (0u32..200_000).prop_map(|id| vec![id]),
            1 => (0u32..256).prop_map(|id| vec![id]),
        ],
        0..24,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    /// What has been emitted is never taken back: an answer cut anywhere is a prefix of the whole
    /// one, but for half a character, a name without its index, and the end of a call whose
    /// meaning the next token decides.
    #[test]
    fn every_split_of_a_stream_adds_up_to_the_same(ids in pieces(), thinking: bool, cut: usize) {
        let options = ParserOptions { thinking, ..TOOLS };
        let whole = parse_ids(&ids, options);
        let (head, tail) = ids.split_at(cut % (ids.len() + 1));
        let mut parser = OutputParser::new(TOKENIZER.clone(), options);
        let mut answer = Answer::default();
        head.iter().for_each(|&id| answer.add(parser.push(id)));
        prop_assert!(whole.reasoning.starts_with(&answer.reasoning));
        prop_assert!(whole.content.starts_with(&answer.content));
        prop_assert!(answer.calls.len() <= whole.calls.len());
        for (part, whole) in answer.calls.iter().zip(&whole.calls) {
            prop_assert_eq!((&part.0, &part.1), (&whole.0, &whole.1));
            prop_assert!(whole.2.starts_with(&part.2));
        }
        tail.iter().for_each(|&id| answer.add(parser.push(id)));
        answer.add(parser.finish());
        prop_assert_eq!(answer, whole);
    }

    /// A well-formed answer comes back as the parts it was made of.
    #[test]
    fn parts_come_back(
        reasoning: String,
        content in any::<[String; 2]>(),
        calls in prop::collection::vec(("[a-zA-Z0-9_.-]{1,20}", any::<String>()), 0..4),
    ) {
        let mark = |short| stream(short)[0];
        let mut ids = TOKENIZER.encode(&reasoning);
        ids.push(mark("{/T}"));
        ids.extend(TOKENIZER.encode(&content[0]));
        ids.push(mark("{S}"));
        let mut expected = Vec::new();
        for (index, (name, value)) in calls.iter().enumerate() {
            let id = format!("functions.{name}:{index}");
            let arguments = serde_json::json!({ "value": value }).to_string();
            ids.push(mark("{C}"));
            ids.extend(TOKENIZER.encode(&id));
            ids.push(mark("{A}"));
            ids.extend(TOKENIZER.encode(&arguments));
            ids.push(mark("{/C}"));
            let plain = name.strip_prefix("functions.").unwrap_or(name);
            prop_assume!(plain == name);
            expected.push((id, name.clone(), arguments));
        }
        ids.push(mark("{/S}"));
        ids.extend(TOKENIZER.encode(&content[1]));
        let expected = Answer { reasoning, content: content.concat(), calls: expected };
        prop_assert_eq!(parse_ids(&ids, THINKING), expected);
    }
}
