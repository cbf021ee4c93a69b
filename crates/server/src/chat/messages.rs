use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

/// Checks messages by their role and returns them as the chat template wants them: only known
/// fields, `developer` as `system`.
pub(super) fn check(items: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::field("messages", "is empty: at least one message is needed"));
    }
    let mut calls = HashSet::new();
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let fields = Fields::of(item, &format!("messages[{index}]"))?;
            message(fields, &mut calls).map(Value::Object)
        })
        .collect()
}

/// Checks one message. `calls` are the ids of the tool calls before it.
fn message(
    mut fields: Fields,
    calls: &mut HashSet<String>,
) -> Result<Map<String, Value>, ApiError> {
    let role = fields.string("role")?;
    let role = fields.required("role", role)?;
    let mut message = Map::new();
    let known = if role == "developer" { "system" } else { &role };
    message.insert("role".to_owned(), known.into());
    if let Some(name) = fields.string("name")? {
        message.insert("name".to_owned(), name.into());
    }
    let content = content(&mut fields)?;
    match role.as_str() {
        "system" | "developer" | "user" => {
            message.insert("content".to_owned(), fields.required("content", content)?);
        }
        "tool" => {
            let id = fields.string("tool_call_id")?;
            let id = fields.required("tool_call_id", id)?;
            if !calls.contains(&id) {
                let complaint = format!("is {id:?}, which no tool call before it has");
                return Err(fields.error("tool_call_id", complaint));
            }
            message.insert("tool_call_id".to_owned(), id.into());
            message.insert("content".to_owned(), fields.required("content", content)?);
        }
        "assistant" => assistant(&mut fields, &mut message, content, calls)?,
        _ => {
            let complaint = "must be system, developer, user, assistant or tool";
            return Err(fields.error("role", complaint));
        }
    }
    fields.finish()?;
    Ok(message)
}

fn assistant(
    fields: &mut Fields,
    message: &mut Map<String, Value>,
    content: Option<Value>,
    calls: &mut HashSet<String>,
) -> Result<(), ApiError> {
    for name in ["reasoning", "reasoning_content"] {
        if let Some(reasoning) = fields.string(name)? {
            message.insert(name.to_owned(), reasoning.into());
        }
    }
    // SDKs send back what an answer of theirs could have had.
    fields.neutral("annotations", &[json!([])])?;
    let items = fields.array("tool_calls")?.unwrap_or_default();
    let has_calls = !items.is_empty();
    if has_calls {
        let path = fields.path("tool_calls");
        let items = items.into_iter().enumerate();
        let checked = items
            .map(|(index, item)| tool_call(Fields::of(item, &format!("{path}[{index}]"))?, calls));
        message.insert("tool_calls".to_owned(), checked.collect::<Result<_, _>>()?);
    }
    if content.is_none() && !has_calls && message.keys().all(|name| !name.starts_with("reasoning"))
    {
        return Err(fields.error("content", "is required where there are no tool_calls"));
    }
    message.insert("content".to_owned(), content.unwrap_or_default());
    Ok(())
}

fn tool_call(mut fields: Fields, calls: &mut HashSet<String>) -> Result<Value, ApiError> {
    let id = fields.string("id")?;
    let id = fields.required("id", id)?;
    fields.neutral("type", &[json!("function")])?;
    // Its place in a streamed answer, which clients may keep.
    fields.integer("index", 0..=i64::MAX)?;
    let function = fields.object("function")?;
    let mut function = fields.required("function", function)?;
    fields.finish()?;
    let name = function.string("name")?;
    let name = function.required("name", name)?;
    if name.is_empty() {
        return Err(function.error("name", "is empty"));
    }
    let arguments = function.string("arguments")?;
    let arguments = function.required("arguments", arguments)?;
    function.finish()?;
    calls.insert(id.clone());
    Ok(json!({
        "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
    }))
}

/// Content: a string or text parts.
fn content(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let path = fields.path("content");
    match fields.take("content") {
        None => Ok(None),
        Some(text @ Value::String(_)) => Ok(Some(text)),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let parts = parts.into_iter().enumerate();
            let parts = parts.map(|(index, part)| text_part(part, &format!("{path}[{index}]")));
            parts.collect::<Result<Value, _>>().map(Some)
        }
        Some(Value::Array(_)) => Err(ApiError::field(path, "is an empty array")),
        Some(other) => Err(wrong_type(&path, "a string or an array of parts", &other)),
    }
}

fn text_part(part: Value, path: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::of(part, path)?;
    let kind = fields.string("type")?;
    let kind = fields.required("type", kind)?;
    if kind != "text" {
        let complaint = format!("is {kind:?}, but only \"text\" is supported: no images or audio");
        return Err(fields.error("type", complaint));
    }
    let text = fields.string("text")?;
    let text = fields.required("text", text)?;
    fields.finish()?;
    Ok(json!({"type": "text", "text": text}))
}
