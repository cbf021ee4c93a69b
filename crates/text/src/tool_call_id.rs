//! Kimi's tool-call ids, `functions.NAME:INDEX`. The index counts the calls of a conversation from
//! 0. The template prints ids as they are, and the model imitates what it reads, so history must
//! hold well-formed ones.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// The id of a conversation's call number `index`.
pub(crate) fn format_id(name: &str, index: usize) -> String {
    format!("{}{index}", id_prefix(name))
}

/// The ids of the function's calls but for their numbers.
pub(crate) fn id_prefix(name: &str) -> String {
    format!("functions.{name}:")
}

/// The function's name in a header that the model wrote, and whether the header is complete, that
/// is, ends in an index. Names may hold dots, dashes and colons.
pub(crate) fn parse_header(header: &str) -> (&str, bool) {
    let header = header.trim();
    let (name, complete) = match header.rsplit_once(':') {
        Some((name, index)) => {
            (name, !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
        }
        None => (header, false),
    };
    (name.strip_prefix("functions.").unwrap_or(name), complete)
}

/// Gives every tool call in `messages` the id that Kimi would have written, and follows up in the
/// tool messages that answer it. Ids already well formed stay, unless an earlier call has the
/// same. Returns the conversation's next index, for [`crate::ParserOptions::first_tool_index`].
///
/// Messages of another shape than OpenAI's, and answers to unknown calls, are left alone.
pub fn repair_tool_call_ids(messages: &mut [Value]) -> usize {
    let mut next = 0;
    // Clients may reuse an id in a later turn: an answer belongs to the latest call.
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut taken = HashSet::new();
    for message in messages {
        if let Some(id @ Value::String(_)) = message.get_mut("tool_call_id")
            && let Some(new) = id.as_str().and_then(|old| renamed.get(old))
        {
            *id = Value::from(new.as_str());
        }
        let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) else {
            continue;
        };
        for call in calls {
            let Some(name) = call.pointer("/function/name").and_then(Value::as_str) else {
                continue;
            };
            let old = call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let kept = index_of(&old, name).filter(|_| !taken.contains(&old));
            let new = kept.map_or_else(|| format_id(name, next), |_| old.clone());
            next = next.max(kept.unwrap_or(next)) + 1;
            taken.insert(new.clone());
            if let Some(call) = call.as_object_mut() {
                call.insert("id".to_owned(), Value::from(new.as_str()));
            }
            renamed.insert(old, new);
        }
    }
    next
}

/// The index in `id`, if it is well formed for the function `name` and no larger than a
/// conversation's calls can number.
fn index_of(id: &str, name: &str) -> Option<usize> {
    const LIMIT: usize = 1_000_000;
    let index = id.strip_prefix("functions.")?.strip_prefix(name)?.strip_prefix(':')?;
    index.parse().ok().filter(|&parsed: &usize| parsed < LIMIT && parsed.to_string() == index)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_yield_names_with_dots_dashes_and_colons() {
        assert_eq!(parse_header(" functions.get-weather:0\n"), ("get-weather", true));
        assert_eq!(parse_header("functions.a.b_c:12"), ("a.b_c", true));
        assert_eq!(parse_header("mcp:tool:3"), ("mcp:tool", true));
        assert_eq!(parse_header("get_weather"), ("get_weather", false));
        assert_eq!(parse_header("functions.get_weather:"), ("get_weather", false));
    }

    #[test]
    fn ids_are_repaired_and_answers_follow() {
        let call = |id: &str, name: &str| json!({"id": id, "function": {"name": name}});
        let mut messages = vec![
            json!({"role": "assistant", "tool_calls": [call("call_x", "f"), call("call_y", "g")]}),
            json!({"role": "tool", "tool_call_id": "call_y"}),
            json!({"role": "tool", "tool_call_id": "call_x"}),
            json!({"role": "assistant", "tool_calls": [call("call_x", "f")]}),
            json!({"role": "tool", "tool_call_id": "call_x"}),
            json!({"role": "tool", "tool_call_id": "unknown"}),
        ];
        assert_eq!(repair_tool_call_ids(&mut messages), 3);
        let id = |at: usize, pointer: &str| messages[at].pointer(pointer).unwrap().clone();
        assert_eq!(id(0, "/tool_calls/0/id"), "functions.f:0");
        assert_eq!(id(0, "/tool_calls/1/id"), "functions.g:1");
        assert_eq!(id(1, "/tool_call_id"), "functions.g:1");
        assert_eq!(id(2, "/tool_call_id"), "functions.f:0");
        assert_eq!(id(3, "/tool_calls/0/id"), "functions.f:2");
        assert_eq!(id(4, "/tool_call_id"), "functions.f:2");
        assert_eq!(id(5, "/tool_call_id"), "unknown");
        let repaired = messages.clone();
        assert_eq!(repair_tool_call_ids(&mut messages), 3);
        assert_eq!(messages, repaired);
    }

    #[test]
    fn well_formed_ids_stay_and_counting_goes_on_after_them() {
        let mut messages = vec![json!({"role": "assistant", "tool_calls": [
            {"id": "functions.f:7", "function": {"name": "f"}},
            {"id": "functions.f:07", "function": {"name": "f"}},
            {"id": "functions.f:18446744073709551615", "function": {"name": "f"}},
            {"id": "functions.f:7", "function": {"name": "f"}},
        ]})];
        assert_eq!(repair_tool_call_ids(&mut messages), 11);
        let ids: Vec<_> = (0..4).map(|i| messages[0]["tool_calls"][i]["id"].clone()).collect();
        assert_eq!(ids, ["functions.f:7", "functions.f:8", "functions.f:9", "functions.f:10"]);
    }
}
