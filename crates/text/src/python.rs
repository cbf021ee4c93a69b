//! JSON values as Python prints them: `json.dumps`, `str`, and the order that `sorted` gives.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

/// The options of `json.dumps` that chat templates use.
#[derive(Debug, Clone)]
pub(crate) struct JsonStyle {
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    /// Escape everything outside ASCII as `\uXXXX`.
    pub(crate) ensure_ascii: bool,
}

impl Default for JsonStyle {
    /// Python's separators; characters printed as they are.
    fn default() -> Self {
        let (item_separator, key_separator) = (", ".to_owned(), ": ".to_owned());
        Self { item_separator, key_separator, ensure_ascii: false }
    }
}

/// `json.dumps(value, ...)`; keys keep their order.
pub(crate) fn json_dumps(value: &Value, style: &JsonStyle) -> String {
    let mut out = String::new();
    write_json(&mut out, value, style);
    out
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_repr(number)),
        Value::String(text) => write_json_string(out, text, style.ensure_ascii),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(&style.item_separator);
                }
                write_json(out, item, style);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(&style.item_separator);
                }
                write_json_string(out, key, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write_json(out, item, style);
            }
            out.push('}');
        }
    }
}

fn write_json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{C}' => out.push_str("\\f"),
            '\0'..='\u{1F}' => escape_utf16(out, c),
            // The private use planes stay as they are: stand-ins for user text (protect.rs) must
            // survive.
            '\u{80}'..'\u{F0000}' if ensure_ascii => escape_utf16(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn escape_utf16(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// `str(value)`; `None` for arrays and objects, whose Python form nothing here needs.
pub(crate) fn str_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("None".to_owned()),
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Number(number) => Some(number_repr(number)),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// `repr` of an int or float. A float has the shortest digits that read back the same, in
/// exponent form below 1e-4 and from 1e16 up.
fn number_repr(number: &Number) -> String {
    let float = match number.as_f64() {
        Some(float) if number.is_f64() => float,
        _ => return number.to_string(),
    };
    let shortest = format!("{float:e}");
    let Some((mantissa, exponent)) = shortest.split_once('e') else { return shortest };
    let Ok(exponent) = exponent.parse::<i32>() else { return shortest };
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A copy of `value` with the keys of every object sorted by code point.
pub(crate) fn deep_sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(deep_sorted).collect()),
        Value::Object(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|&(key, _)| key);
            let sorted: Map<_, _> =
                entries.into_iter().map(|(key, item)| (key.clone(), deep_sorted(item))).collect();
            Value::Object(sorted)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Expected strings are what CPython 3 prints.
    #[test]
    fn numbers_print_as_in_python() {
        let printed = |value: Value| json_dumps(&value, &JsonStyle::default());
        assert_eq!(printed(json!([1, -7, 1.0, 0.1, -0.5])), "[1, -7, 1.0, 0.1, -0.5]");
        assert_eq!(printed(json!([1e16, 1e15, 1.5e300])), "[1e+16, 1000000000000000.0, 1.5e+300]");
        assert_eq!(printed(json!([1e-4, 1e-5, 2.5e-10])), "[0.0001, 1e-05, 2.5e-10]");
        assert_eq!(
            printed(json!([u64::MAX, i64::MIN, -0.0])),
            "[18446744073709551615, -9223372036854775808, -0.0]"
        );
    }

    #[test]
    fn strings_and_separators_print_as_in_python() {
        let value = json!({"b": ["\"\\/\n\u{1}\u{7f}é😀"], "a": null, "c": [{}]});
        assert_eq!(
            json_dumps(&value, &JsonStyle::default()),
            "{\"b\": [\"\\\"\\\\/\\n\\u0001\u{7f}é😀\"], \"a\": null, \"c\": [{}]}"
        );
        let ascii =
            JsonStyle { item_separator: ",".into(), key_separator: ":".into(), ensure_ascii: true };
        assert_eq!(
            json_dumps(&value, &ascii),
            "{\"b\":[\"\\\"\\\\/\\n\\u0001\u{7f}\\u00e9\\ud83d\\ude00\"],\"a\":null,\"c\":[{}]}"
        );
    }
}
