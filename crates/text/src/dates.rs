//! Days that exist, for the formats `date` and `date-time` of JSON schemas. llguidance takes
//! February 29 of every year; the year 0, which RFC 3339 allows, many readers do not know.

use serde_json::{Map, Value, json};

/// A year that has a day 29 of February: divisible by 4, and if by 100, then by 400.
const LEAP_YEAR: &str = "[0-9]{2}(?:0[48]|[2468][048]|[13579][26])\
                         |(?:0[48]|[2468][048]|[13579][26])00";

/// A year but 0000.
const YEAR: &str = "[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000";

/// Keywords whose values are data, not schemas.
const DATA: [&str; 5] = ["const", "enum", "default", "example", "examples"];

/// Keywords whose values hold a schema under each name, which may be any word.
const NAMED: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Adds to each schema with such a format, in `schema` or anywhere within, that the day exists.
pub(crate) fn constrain(schema: &mut Map<String, Value>) {
    for (name, value) in schema.iter_mut() {
        match value {
            _ if DATA.contains(&name.as_str()) => {}
            Value::Object(schemas) if NAMED.contains(&name.as_str()) => {
                schemas.values_mut().filter_map(Value::as_object_mut).for_each(constrain);
            }
            Value::Object(schema) => constrain(schema),
            Value::Array(schemas) => {
                schemas.iter_mut().filter_map(Value::as_object_mut).for_each(constrain);
            }
            _ => {}
        }
    }
    let format = schema.get("format").and_then(Value::as_str);
    if !matches!(format, Some("date" | "date-time")) {
        return;
    }
    let exists = json!({"pattern": format!("^(?:(?:{LEAP_YEAR})-02-29|(?:{YEAR})-(?:0[13-9]|1[0-2]\
                                            |02-[01]|02-2[0-8]))")});
    match schema.get_mut("allOf") {
        Some(Value::Array(all)) => all.push(exists),
        // Not an array: the grammar has its own words for that.
        Some(_) => {}
        None => {
            schema.insert("allOf".into(), Value::Array(vec![exists]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_change_and_data_does_not() {
        let date = json!({"type": "string", "format": "date"});
        let mut schema = json!({
            "properties": {"const": date, "format": {"type": "string"}},
            "items": {"anyOf": [date, {"type": "null"}]},
            "enum": [date],
            "default": date,
        });
        let before = schema.clone();
        constrain(schema.as_object_mut().expect("an object"));
        for (place, changed) in [
            ("/properties/const", true),
            ("/properties/format", false),
            ("/items/anyOf/0", true),
            ("/enum/0", false),
            ("/default", false),
        ] {
            let found = schema.pointer(place).expect(place);
            assert_eq!(found.get("allOf").is_some(), changed, "{place}");
            assert!(changed || Some(found) == before.pointer(place), "{place}");
        }
    }
}
