use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

const MAX_NAME: usize = 64;

/// Checks tool definitions and returns them as the chat template wants them.
pub(super) fn check(items: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let mut names = HashSet::new();
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| tool(Fields::of(item, &format!("tools[{index}]"))?, &mut names))
        .collect()
}

fn tool(mut fields: Fields, names: &mut HashSet<String>) -> Result<Value, ApiError> {
    let kind = fields.string("type")?;
    if fields.required("type", kind)? != "function" {
        return Err(fields.error("type", r#"must be "function""#));
    }
    let function = fields.object("function")?;
    let mut function = fields.required("function", function)?;
    fields.finish()?;
    let definition = definition(&mut function, "parameters", names)?;
    function.finish()?;
    Ok(definition)
}

/// Takes a function's `name`, `description`, `strict` and its schema, which is in the field
/// `schema`, and returns it as the chat template wants it. `names` are those of earlier tools.
pub(crate) fn definition(
    function: &mut Fields,
    schema: &str,
    names: &mut HashSet<String>,
) -> Result<Value, ApiError> {
    let name = function.string("name")?;
    let name = function.required("name", name)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        let complaint = format!("must have 1 to {MAX_NAME} of a-z A-Z 0-9 _ - .");
        return Err(function.error("name", complaint));
    }
    if !names.insert(name.clone()) {
        return Err(function.error("name", format!("is {name:?}, as is an earlier tool's")));
    }
    let mut checked = Map::new();
    checked.insert("name".to_owned(), name.into());
    if let Some(description) = function.string("description")? {
        checked.insert("description".to_owned(), description.into());
    }
    match function.take(schema) {
        None => {}
        Some(value @ Value::Object(_)) => {
            checked.insert("parameters".to_owned(), value);
        }
        Some(other) => {
            return Err(wrong_type(&function.path(schema), "an object", &other));
        }
    }
    function.neutral("strict", &[json!(false)])?;
    Ok(json!({"type": "function", "function": checked}))
}
