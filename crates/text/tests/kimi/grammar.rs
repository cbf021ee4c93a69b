//! What grammars allow, and what they refuse to be.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};
use text::{
    AnswerRules, Grammar, GrammarCompiler, GrammarError, GrammarSource, Guide, ParserOptions,
    ToolRules,
};

use crate::TOKENIZER;

static COMPILER: LazyLock<Arc<GrammarCompiler>> =
    LazyLock::new(|| Arc::new(GrammarCompiler::new(&TOKENIZER, &[end()]).unwrap()));

fn end() -> u32 {
    TOKENIZER.special_id("<|im_end|>").unwrap()
}

fn compile(source: GrammarSource) -> Result<Grammar, GrammarError> {
    COMPILER.compile(source)
}

fn allows(mask: &[u32], id: u32) -> bool {
    mask[id as usize / 32] >> (id % 32) & 1 == 1
}

/// How many of the tokens of `text` and an end the grammar takes.
fn taken(source: GrammarSource, text: &str) -> (usize, usize) {
    let mut grammar = compile(source).unwrap();
    let ids = TOKENIZER.encode(text);
    for (count, id) in ids.iter().enumerate() {
        if !allows(&grammar.mask().unwrap(), *id) {
            return (count, ids.len() + 1);
        }
        grammar.push(*id).unwrap();
    }
    let ended = allows(&grammar.mask().unwrap(), end());
    (ids.len() + usize::from(ended), ids.len() + 1)
}

#[track_caller]
fn check(source: GrammarSource, text: &str, matches: bool) {
    let (taken, all) = taken(source, text);
    assert_eq!(taken == all, matches, "{text:?}: {taken} of {all} tokens");
}

#[test]
fn only_texts_that_match_can_end() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7}}, "required": ["city"],
        "additionalProperties": false});
    let json = GrammarSource::JsonSchema(&schema);
    check(json, r#"{"city": "北京", "days": 3}"#, true);
    check(json, r#"{"city":"<|im_end|> is text here"}"#, true);
    check(json, r#"{"city": "x", "days": 8}"#, false);
    check(json, r#"{"days": 3}"#, false);
    check(json, r#"{"city": "x", "#, false);
    check(GrammarSource::Regex("[a-c]+/[0-9]{2}"), "abc/07", true);
    check(GrammarSource::Regex("[a-c]+/[0-9]{2}"), "abc/7", false);
    let choices = ["yes".to_owned(), "no \"\u{7f}\n\\".to_owned(), String::new()];
    for choice in &choices {
        check(GrammarSource::Choice(&choices), choice, true);
    }
    check(GrammarSource::Choice(&choices), "maybe", false);
    let lark = "start: \"a\" sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/";
    check(GrammarSource::Lark(lark), "a1+22+333", true);
    check(GrammarSource::Lark(lark), "a1+", false);
}

#[test]
fn dates_are_days_that_exist() {
    let schema = json!({"type": "string", "format": "date"});
    let time = json!({"anyOf": [{"format": "date-time", "pattern": "Z$", "type": "string"}]});
    for year in [0, 1, 4, 10, 96, 100, 400, 1000, 1900, 2000, 2023, 2024, 2100, 2400, 9999] {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for (day, exists) in [
            ("01-31", true),
            ("02-01", true),
            ("02-28", true),
            ("02-29", leap),
            ("02-30", false),
            ("04-31", false),
            ("10-10", true),
            ("12-31", true),
            ("13-01", false),
        ] {
            let (day, exists) = (format!("{year:04}-{day}"), exists && year > 0);
            check(GrammarSource::JsonSchema(&schema), &format!("\"{day}\""), exists);
            let noon = format!("\"{day}T12:00:00Z\"");
            check(GrammarSource::JsonSchema(&time), &noon, exists);
        }
    }
    let noon = "\"2024-02-29T12:00:00+01:00\"";
    check(GrammarSource::JsonSchema(&time), noon, false);
}

#[test]
fn what_is_no_grammar_is_refused_with_a_reason() {
    let schema =
        |schema: Value| compile(GrammarSource::JsonSchema(&schema)).unwrap_err().to_string();
    for (wrong, reason) in [
        (json!({"type": "strin"}), "Invalid type: strin"),
        (json!({"not": {}}), "Unimplemented keys: [\"not\"]"),
        (json!({"allOf": [{"type": "string"}, {"type": "null"}]}), "Unsatisfiable schema"),
        (json!({"$ref": "#"}), "nothing can match it"),
        (json!({"$ref": "https://example.com/schema"}), "$ref"),
        (json!(false), "accepts nothing"),
        (json!([]), "is not a JSON schema"),
        (json!({"x-guidance": {"lenient": true}}), "x-guidance is not supported"),
        // llguidance cuts this message inside a character, and panics.
        (json!({"required": "a".repeat(98) + "日本"}), "is not supported"),
    ] {
        let found = schema(wrong.clone());
        assert!(found.contains(reason), "{wrong}: {found}");
    }
    let source = |source| compile(source).unwrap_err().to_string();
    assert!(source(GrammarSource::Regex("([")).contains("invalid regex"));
    assert!(source(GrammarSource::Lark("start: a")).contains("unknown name"));
    assert!(source(GrammarSource::Lark("start: start")).contains("nothing can match"));
    let long = "x".repeat(300 << 10);
    assert!(source(GrammarSource::Regex(&long)).contains("larger than"));
}

/// Each of these would take minutes or gigabytes without a bound. Whether one is refused or begins
/// well is the same to us: the test ends.
#[test]
fn grammars_that_explode_are_bounded() {
    let object = |i: usize| json!({"type": "object", "properties": {format!("p{i}"): {}}});
    let any: Vec<Value> = (0..20).map(object).collect();
    let product: Vec<Value> = (0..20).map(|_| json!({"anyOf": any})).collect();
    let many: Map<String, Value> =
        (0..1500).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    for schema in [
        json!({"allOf": product}),
        json!({"type": "object", "properties": many}),
        json!({"type": "integer", "multipleOf": 1_234_567_891}),
        json!({"type": "array", "minItems": 1_000_000}),
        json!({"type": "string", "pattern": "^((a{1,1000}b?){1,1000}){1,1000}$"}),
    ] {
        bounded(GrammarSource::JsonSchema(&schema));
    }
    bounded(GrammarSource::Regex("(.*a.{30}.*b.{30})*"));
    bounded(GrammarSource::Lark("start: start start | \"a\" | \"\""));
    bounded(GrammarSource::Lark("start: (a? a? a?){1000}\na: \"x\" | \"xx\" | a a"));
}

fn bounded(source: GrammarSource) {
    let Ok(mut grammar) = compile(source) else { return };
    for _ in 0..20 {
        let Ok(mask) = grammar.mask() else { return };
        let next = (0..TOKENIZER.vocab_size()).find(|id| allows(&mask, *id)).unwrap();
        if grammar.push(next).is_err() {
            return;
        }
    }
}

/// Whether an answer, in which names of control tokens stand for them, is what the rules allow, up
/// to its end.
fn guided(rules: &AnswerRules, prompt: ParserOptions, answer: &str) -> bool {
    let mut guide = Guide::new(COMPILER.clone(), TOKENIZER.clone(), rules.clone(), prompt).unwrap();
    for id in TOKENIZER.encode_with_specials(answer) {
        if guide.mask().unwrap().is_some_and(|mask| !allows(&mask, id)) {
            return false;
        }
        guide.push(id).unwrap();
    }
    true
}

fn tools(most_calls: usize, required: bool) -> ToolRules {
    let arguments = |name: &str, kind: &str| {
        let schema = json!({"type": "object", "properties": {"x": {"type": kind}},
            "required": ["x"], "additionalProperties": false});
        (name.to_owned(), ToolRules::arguments(&COMPILER, &TOKENIZER, &schema).unwrap())
    };
    let tools = vec![arguments("get-it", "string"), arguments("a.b_c", "integer")];
    ToolRules { tools, most_calls, required }
}

fn section(calls: &[(&str, &str)]) -> String {
    let call = |(header, arguments): &(&str, &str)| {
        format!(
            "<|tool_call_begin|>{header}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
        )
    };
    let calls: String = calls.iter().map(call).collect();
    format!("<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>")
}

const END: &str = "<|im_end|>";

#[test]
fn calls_are_of_declared_tools_with_their_number_and_valid_arguments() {
    let auto = AnswerRules { tools: Some(tools(usize::MAX, false)), ..AnswerRules::default() };
    let prompt = ParserOptions { tools: true, first_tool_index: 9, ..ParserOptions::default() };
    let allowed = |answer: String| guided(&auto, prompt, &answer);
    let (it, abc) = (("functions.get-it:9", r#"{"x": "1"}"#), ("functions.a.b_c:10", r#"{"x":1}"#));
    assert!(allowed(format!("Let me see.{}{END}", section(&[it, abc]))));
    assert!(allowed(format!("{} and text{END}", section(&[it]))));
    assert!(allowed(format!("{}{}{END}", section(&[it]), section(&[abc]))));
    assert!(allowed(format!("no call{END}")));
    for wrong in [
        section(&[("functions.get-it:8", r#"{"x": "1"}"#)]),
        section(&[("functions.other:9", r#"{"x": "1"}"#)]),
        section(&[("get-it:9", r#"{"x": "1"}"#)]),
        section(&[("functions.get-it:9", r#"{"x": 1}"#)]),
        section(&[("functions.get-it:9", r#"{"x": "1""#)]),
        section(&[("functions.get-it:9", "{}")]),
        section(&[it, ("functions.get-it:9", r#"{"x": "1"}"#)]),
        section(&[]),
        "text<|tool_call_begin|>".to_owned(),
        format!("<|tool_calls_section_begin|>{END}"),
    ] {
        assert!(!allowed(wrong.clone()), "{wrong}");
    }
}

#[test]
fn required_calls_come_first_and_as_many_as_allowed() {
    let it = ("functions.get-it:0", r#"{"x": "1"}"#);
    let one = AnswerRules { tools: Some(tools(1, true)), ..AnswerRules::default() };
    let prompt = ParserOptions { tools: true, ..ParserOptions::default() };
    let allowed = |answer: String| guided(&one, prompt, &answer);
    assert!(allowed(format!("{}{END}", section(&[it]))));
    assert!(!allowed("text".into()) && !allowed(END.into()));
    assert!(!allowed(section(&[it, ("functions.get-it:1", r#"{"x": "1"}"#)])));
    assert!(!allowed(format!("{} text", section(&[it]))));
    let thinking = ParserOptions { thinking: true, ..prompt };
    assert!(guided(&one, thinking, &format!("I think</think>{}{END}", section(&[it]))));
    assert!(guided(&one, thinking, &format!("I think{}{END}", section(&[it]))));
    assert!(!guided(&one, thinking, &format!("I think{END}")));
    assert!(!guided(&one, thinking, "I think</think>I"));
}

#[test]
fn content_follows_thinking_and_gives_way_to_calls() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}},
        "required": ["a"], "additionalProperties": false});
    let content = Some(compile(GrammarSource::JsonSchema(&schema)).unwrap());
    let rules = AnswerRules { content, ..AnswerRules::default() };
    let thinking = ParserOptions { thinking: true, ..ParserOptions::default() };
    let allowed = |answer: &str| guided(&rules, thinking, &answer.replace("END", END));
    assert!(allowed(r#"Any { thought</think>{"a": 1}END"#));
    assert!(!allowed("Any thoughtEND") && !allowed("</think>text"));
    assert!(!allowed(r#"</think>{"a": 1} "#) && !allowed(r#"</think>{"a": 1}END{"#));
    let with_tools = AnswerRules { tools: Some(tools(usize::MAX, false)), ..rules.clone() };
    let call = section(&[("functions.get-it:0", r#"{"x": "1"}"#)]);
    assert!(guided(&with_tools, thinking, &format!("</think>{call}{END}")));
    assert!(guided(&with_tools, thinking, &format!("</think>{}{END}", r#"{"a": 1}"#)));
    assert!(!guided(&with_tools, thinking, &format!("</think>{}{call}", r#"{"a": 1}"#)));
    assert!(!guided(&with_tools, thinking, "</think>Let me see."));
}

#[test]
fn thinking_ends_within_its_budget_and_answers_last_as_long_as_they_must() {
    let rules = AnswerRules { thinking_budget: Some(3), ..AnswerRules::default() };
    let thinking = ParserOptions { thinking: true, ..ParserOptions::default() };
    assert!(guided(&rules, thinking, "one two</think>three"));
    assert!(guided(&rules, thinking, "</think>three"));
    assert!(!guided(&rules, thinking, "one two three"));
    let rules = AnswerRules { min_tokens: 2, stop_ids: vec![end()], ..AnswerRules::default() };
    let plain = ParserOptions::default();
    assert!(guided(&rules, plain, &format!("one two{END}")));
    assert!(!guided(&rules, plain, END) && !guided(&rules, plain, &format!("one{END}")));
    // Where a grammar leaves nothing but the end, it ends.
    let content = Some(compile(GrammarSource::Choice(&["yes".into()])).unwrap());
    assert!(guided(&AnswerRules { content, min_tokens: 9, ..rules }, plain, "yes<|im_end|>"));
}
