use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// A JSON object being read field by field. Whatever nobody took is refused by [`Fields::finish`],
/// so that no field is ever ignored silently. A `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    entries: Map<String, Value>,
    /// Where the object is in the request, such as `messages[0].`; empty for the body itself.
    prefix: String,
}

impl Fields {
    /// Reads a request's body.
    pub(crate) fn from_body(body: &[u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not UTF-8: {error}")))?;
        let value: Value = serde_json::from_str(text)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(entries) => Ok(Self::new(entries, String::new())),
            other => Err(ApiError::bad_request(format!(
                "the body must be a JSON object, not {}",
                kind(&other)
            ))),
        }
    }

    fn new(mut entries: Map<String, Value>, prefix: String) -> Self {
        entries.retain(|_, value| !value.is_null());
        Self { entries, prefix }
    }

    /// Reads a value that must be an object; `path` says where it is.
    pub(crate) fn of(value: Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(entries) => Ok(Self::new(entries, format!("{path}."))),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The field's full name, as errors give it in `param`.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A refusal of the field `name`: `{name} {complaint}`.
    pub(crate) fn error(&self, name: &str, complaint: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.path(name), complaint)
    }

    /// A field that will be taken later.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.entries.get(name)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        // Order matters to nobody after this, so the quick removal will do.
        self.entries.swap_remove(name)
    }

    /// `Err` if `value` is absent, else what it holds.
    pub(crate) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| self.error(name, "is required"))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "true or false", &other)),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(name), "a string", &other)),
        }
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path(name), "an array", &other)),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| Fields::of(value, &path)).transpose()
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| integer(&path, &value, range)).transpose()
    }

    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ApiError> {
        let path = self.path(name);
        self.take(name).map(|value| number(&path, &value, range)).transpose()
    }

    /// Takes a field that has no effect here, and refuses every value but those that ask for none.
    pub(crate) fn neutral(&mut self, name: &str, allowed: &[Value]) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !allowed.contains(&value) => {
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let complaint = format!("is not supported yet, except as {}", allowed.join(" or "));
                Err(self.error(name, complaint))
            }
            _ => Ok(()),
        }
    }

    /// What nobody took, unchecked.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.entries
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.entries.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.error(name, "is not a field that this server supports")),
        }
    }
}

/// An integer within `range`; `path` says where it is.
pub(crate) fn integer(
    path: &str,
    value: &Value,
    range: RangeInclusive<i64>,
) -> Result<i64, ApiError> {
    let Value::Number(number) = value else {
        return Err(wrong_type(path, "an integer", value));
    };
    // JSON does not tell 5.0 from 5.
    let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0) else {
        return Err(wrong_type(path, "an integer", value));
    };
    let exact = || (whole.abs() < EXACT_FLOATS).then_some(whole as i64);
    number.as_i64().or_else(exact).filter(|integer| range.contains(integer)).ok_or_else(|| {
        let (low, high) = range.into_inner();
        out_of_range(path, low, high, value)
    })
}

/// Below 2^53 a float64 holds every integer.
const EXACT_FLOATS: f64 = 9_007_199_254_740_992.0;

/// A number within `range`; `path` says where it is.
pub(crate) fn number(
    path: &str,
    value: &Value,
    range: RangeInclusive<f64>,
) -> Result<f32, ApiError> {
    let Some(float) = value.as_f64() else {
        return Err(wrong_type(path, "a number", value));
    };
    if !range.contains(&float) {
        let (low, high) = range.into_inner();
        return Err(out_of_range(path, low, high, value));
    }
    Ok(float as f32)
}

fn out_of_range<T: std::fmt::Display>(path: &str, low: T, high: T, value: &Value) -> ApiError {
    ApiError::field(path, format!("must be between {low} and {high}, but is {value}"))
}

pub(crate) fn wrong_type(path: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::field(path, format!("must be {expected}, not {}", kind(value)))
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
