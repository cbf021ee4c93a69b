use std::collections::HashSet;

use serde_json::{Value, json};

use crate::App;
use crate::chat::{Conversation, Tool, Tools, definition, take_choice, thinks};
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

/// What a request says of the conversation.
pub(super) struct Input {
    pub(super) conversation: Conversation,
    /// The messages without the instructions, which do not hold for later requests.
    pub(super) history: Vec<Value>,
    pub(super) instructions: Option<String>,
    pub(super) previous: Option<String>,
    pub(super) effort: Option<String>,
    pub(super) tool_choice: Value,
    /// As the request has them.
    pub(super) declared_tools: Value,
    pub(super) parallel: bool,
}

/// Takes `input`, `instructions`, `previous_response_id`, `reasoning`, and all about tools.
pub(super) fn take(fields: &mut Fields, app: &App) -> Result<Input, ApiError> {
    let previous = fields.string("previous_response_id")?;
    let mut history = match &previous {
        None => Vec::new(),
        Some(id) => match app.responses.get(id) {
            Some(messages) => messages.to_vec(),
            None => {
                let complaint = format!("is {id:?}, which is not kept here (any more)");
                return Err(fields
                    .error("previous_response_id", complaint)
                    .with_code("previous_response_not_found"));
            }
        },
    };
    let input = fields.take("input");
    match fields.required("input", input)? {
        Value::String(text) => history.push(json!({"role": "user", "content": text})),
        Value::Array(items) if !items.is_empty() => take_items(items, &mut history)?,
        Value::Array(_) => return Err(fields.error("input", "is an empty array")),
        other => return Err(wrong_type("input", "a string or an array of items", &other)),
    }
    let (declared_tools, tools) = take_tools(fields)?;
    let tool_choice = fields.get("tool_choice").cloned().unwrap_or_else(|| "auto".into());
    let choice = take_choice(fields, |choice| required(choice, "name"))?;
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let tools = Tools::new(tools, choice, parallel, "tool_choice")?;
    let effort = take_effort(fields)?;
    let thinking = match &effort {
        Some(effort) => thinks(effort).ok_or_else(|| {
            let complaint = "must be none, minimal, low, medium, high or xhigh";
            ApiError::field("reasoning.effort", complaint)
        })?,
        None => app.config.thinking,
    };
    let instructions = fields.string("instructions")?;
    let system = instructions.iter().map(|text| json!({"role": "system", "content": text}));
    let messages = system.chain(history.iter().cloned()).collect();
    let conversation = Conversation::new(messages, tools, thinking);
    Ok(Input {
        conversation,
        history,
        instructions,
        previous,
        effort,
        tool_choice,
        declared_tools,
        parallel,
    })
}

fn take_effort(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else { return Ok(None) };
    let effort = reasoning.string("effort")?;
    reasoning.finish()?;
    Ok(effort)
}

/// The tools as the request has them, and checked.
fn take_tools(fields: &mut Fields) -> Result<(Value, Vec<Tool>), ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    let declared = Value::from(items.clone());
    let mut names = HashSet::new();
    let mut tools = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let mut tool = Fields::of(item, &format!("tools[{index}]"))?;
        let kind = tool.string("type")?;
        if tool.required("type", kind)? != "function" {
            return Err(tool.error("type", r#"must be "function""#));
        }
        tools.push(definition(&mut tool, "parameters", &mut names)?);
        tool.finish()?;
    }
    Ok((declared, tools))
}

/// Appends items to the messages before them.
fn take_items(items: Vec<Value>, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    for (index, item) in items.into_iter().enumerate() {
        let mut fields = Fields::of(item, &format!("input[{index}]"))?;
        // SDKs send back what they were sent.
        fields.string("id")?;
        fields.string("status")?;
        let kind = fields.string("type")?;
        match kind.as_deref() {
            None | Some("message") => message(&mut fields, messages)?,
            Some("reasoning") => reasoning(&mut fields, messages)?,
            Some("function_call") => call(&mut fields, messages)?,
            Some("function_call_output") => messages.push(output(&mut fields, messages)?),
            Some(_) => {
                let complaint = "must be message, reasoning, function_call or function_call_output";
                return Err(fields.error("type", complaint));
            }
        }
        fields.finish()?;
    }
    Ok(())
}

fn message(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let role = required(fields, "role")?;
    let content = take_texts(fields, "content", &["input_text", "output_text"])?;
    match role.as_str() {
        "user" => messages.push(json!({"role": "user", "content": content})),
        "system" | "developer" => messages.push(json!({"role": "system", "content": content})),
        "assistant" => append(turn(messages), "content", &content),
        _ => return Err(fields.error("role", "must be user, system, developer or assistant")),
    }
    Ok(())
}

fn reasoning(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    fields.neutral("summary", &[json!([])])?;
    let text = match fields.take("content") {
        Some(content) => texts(content, &fields.path("content"), &["reasoning_text"])?,
        None => String::new(),
    };
    append(turn(messages), "reasoning_content", &text);
    Ok(())
}

fn call(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let id = required(fields, "call_id")?;
    let function =
        json!({"name": required(fields, "name")?, "arguments": required(fields, "arguments")?});
    let call = json!({"id": id, "type": "function", "function": function});
    let calls = &mut turn(messages)["tool_calls"];
    match calls.as_array_mut() {
        Some(calls) => calls.push(call),
        None => *calls = json!([call]),
    }
    Ok(())
}

fn output(fields: &mut Fields, messages: &[Value]) -> Result<Value, ApiError> {
    let id = required(fields, "call_id")?;
    let mut calls =
        messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
    if !calls.any(|call| call["id"] == *id) {
        let complaint = format!("is {id:?}, which no function_call before it has");
        return Err(fields.error("call_id", complaint));
    }
    let content = take_texts(fields, "output", &["input_text"])?;
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}

/// The assistant's message at the end, which is begun if there is none: its items are one turn.
pub(super) fn turn(messages: &mut Vec<Value>) -> &mut Value {
    if messages.last().is_none_or(|last| last["role"] != "assistant") {
        messages.push(json!({"role": "assistant", "content": ""}));
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

/// Appends to a message's field of text.
pub(super) fn append(message: &mut Value, name: &str, text: &str) {
    let before = message[name].as_str().unwrap_or_default();
    message[name] = [before, text].concat().into();
}

fn required(fields: &mut Fields, name: &str) -> Result<String, ApiError> {
    let text = fields.string(name)?;
    fields.required(name, text)
}

fn take_texts(fields: &mut Fields, name: &str, kinds: &[&str]) -> Result<String, ApiError> {
    let value = fields.take(name);
    let value = fields.required(name, value)?;
    texts(value, &fields.path(name), kinds)
}

/// A string, or the text of parts of these kinds.
fn texts(value: Value, path: &str, kinds: &[&str]) -> Result<String, ApiError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(path, "a string or an array of parts", &other)),
    };
    let mut all = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let mut part = Fields::of(part, &format!("{path}[{index}]"))?;
        let kind = required(&mut part, "type")?;
        if !kinds.contains(&kind.as_str()) {
            let complaint = format!("must be {}: no images, files or audio", kinds.join(" or "));
            return Err(part.error("type", complaint));
        }
        all += &required(&mut part, "text")?;
        part.neutral("annotations", &[json!([])])?;
        part.neutral("logprobs", &[json!([])])?;
        part.finish()?;
    }
    Ok(all)
}
