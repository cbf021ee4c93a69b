//! A bound on `multipleOf` in JSON schemas. A number's text is followed by its remainder, so there
//! is a state for each remainder, and llguidance visits all of them when it compiles.

use serde_json::{Map, Value};

use crate::GrammarError;

/// Most remainders, of all values of a schema together: one text may have to be a multiple of all.
const MAX_REMAINDERS: u64 = 10_000;

/// Refuses schemas with values whose least common multiple is large, counted in units of their last
/// decimal place. Other places of the word are taken for the keyword, too.
pub(crate) fn check(schema: &Map<String, Value>) -> Result<(), GrammarError> {
    let mut values = Vec::new();
    collect(schema, &mut values);
    let places = values.iter().map(|value| decimal_places(*value)).max().unwrap_or(0);
    let mut multiple = 1u64;
    for value in values {
        let units = (value * 10f64.powi(places)).round();
        // Not a number, or none that the grammar takes: it has its own words for that.
        let within = (1.0..=MAX_REMAINDERS as f64).contains(&units);
        multiple = if within { lcm(multiple, units as u64) } else { u64::MAX };
        if multiple > MAX_REMAINDERS {
            return Err(GrammarError(format!(
                "multipleOf: values whose least common multiple is over {MAX_REMAINDERS} (in \
                 units of their last decimal place) are not supported"
            )));
        }
    }
    Ok(())
}

fn collect(fields: &Map<String, Value>, values: &mut Vec<f64>) {
    for (name, value) in fields {
        match value {
            Value::Number(number) if name == "multipleOf" => values.extend(number.as_f64()),
            Value::Object(fields) => collect(fields, values),
            Value::Array(items) => {
                items.iter().filter_map(Value::as_object).for_each(|f| collect(f, values));
            }
            _ => {}
        }
    }
}

/// How many digits `value` has behind the point, 15 at most.
fn decimal_places(value: f64) -> i32 {
    let whole = |places: &i32| {
        let units = value * 10f64.powi(*places);
        (units - units.round()).abs() <= units.abs() * 1e-12
    };
    (0..15).find(whole).unwrap_or(15)
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut gcd, mut rest) = (a, b);
    while rest != 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    // Both are at most `MAX_REMAINDERS`.
    a / gcd * b
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_least_common_multiple_counts() {
        let passes = |schema: Value| check(schema.as_object().expect("an object")).is_ok();
        let items = |a: f64, b: f64| json!({"allOf": [{"multipleOf": a}, {"multipleOf": b}]});
        assert!(passes(json!({"properties": {"a": {"multipleOf": 0.01}}})));
        assert!(passes(items(0.01, 5.0)) && passes(items(60.0, 1000.0)));
        assert!(passes(items(0.00001, 0.00001)));
        assert!(!passes(json!({"items": {"multipleOf": 1_234_567}})));
        assert!(!passes(items(9973.0, 9967.0)) && !passes(items(9973.0, 0.0001)));
        assert!(!passes(json!({"multipleOf": 0})), "the grammar refuses it anyway");
    }
}
