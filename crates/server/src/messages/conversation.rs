use std::collections::HashSet;

use serde_json::{Value, json};

use crate::chat::{Conversation, ToolChoice, Tools, definition};
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

/// Takes `system`, `messages`, `tools`, `tool_choice` and `thinking`.
pub(super) fn take(fields: &mut Fields) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        let mut text = texts(system, "system")?;
        if let Some(parts) = text.as_array_mut() {
            parts.retain(|part| !is_attribution(part));
        }
        if text != json!([]) {
            messages.push(json!({"role": "system", "content": text}));
        }
    }
    let items = fields.array("messages")?;
    let items = fields.required("messages", items)?;
    let mut calls = HashSet::new();
    let mut role = String::new();
    for (index, item) in items.into_iter().enumerate() {
        let fields = Fields::of(item, &format!("messages[{index}]"))?;
        role = message(fields, &mut messages, &mut calls)?;
    }
    if role != "user" {
        return Err(fields.error("messages", "must end with a message of the user"));
    }
    let tools = take_tools(fields)?;
    let (thinking, budget) = take_thinking(fields)?;
    Ok(Conversation::new(messages, tools, thinking).with_thinking_budget(budget))
}

/// Whether a part of the system prompt is a line that Claude Code puts before it for billing. It is
/// another one in each request, so that nothing behind it would be found in the prefix cache.
fn is_attribution(part: &Value) -> bool {
    part["text"].as_str().is_some_and(|text| text.starts_with("x-anthropic-billing-header:"))
}

fn take_choice(fields: &mut Fields) -> Result<(ToolChoice, bool), ApiError> {
    let Some(mut choice) = fields.object("tool_choice")? else {
        return Ok((ToolChoice::Auto, true));
    };
    let kind = choice.string("type")?;
    let chosen = match choice.required("type", kind)?.as_str() {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => ToolChoice::Named(text(&mut choice, "name")?),
        _ => return Err(choice.error("type", "must be auto, any, tool or none")),
    };
    let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    choice.finish()?;
    Ok((chosen, parallel))
}

fn take_tools(fields: &mut Fields) -> Result<Tools, ApiError> {
    let mut names = HashSet::new();
    let items = fields.array("tools")?.unwrap_or_default().into_iter().enumerate();
    let tools = items
        .map(|(index, item)| {
            let mut tool = Fields::of(item, &format!("tools[{index}]"))?;
            tool.neutral("type", &[json!("custom")])?;
            // All prefixes are cached.
            tool.object("cache_control")?;
            let definition = definition(&mut tool, "input_schema", &mut names)?;
            tool.finish()?;
            Ok(definition)
        })
        .collect::<Result<_, _>>()?;
    let (choice, parallel) = take_choice(fields)?;
    Tools::new(tools, choice, parallel, "tool_choice")
}

/// Whether to think, and for how many tokens at most. Off unless it is switched on, as Anthropic
/// has it.
fn take_thinking(fields: &mut Fields) -> Result<(bool, Option<usize>), ApiError> {
    let Some(mut thinking) = fields.object("thinking")? else { return Ok((false, None)) };
    let kind = thinking.string("type")?;
    let kind = thinking.required("type", kind)?;
    let enabled = match kind.as_str() {
        "enabled" | "adaptive" => true,
        "disabled" => false,
        _ => return Err(thinking.error("type", "must be enabled, adaptive or disabled")),
    };
    let budget = thinking.integer("budget_tokens", 1..=i64::from(u32::MAX))?;
    if budget.is_some() && kind != "enabled" {
        return Err(thinking.error("budget_tokens", r#"is allowed only with the type "enabled""#));
    }
    thinking.finish()?;
    Ok((enabled, budget.map(|tokens| tokens as usize)))
}

/// Appends what the chat template makes of one message; returns its role. `calls` are the ids of
/// the tool calls before it.
fn message(
    mut fields: Fields,
    messages: &mut Vec<Value>,
    calls: &mut HashSet<String>,
) -> Result<String, ApiError> {
    let role = fields.string("role")?;
    let role = fields.required("role", role)?;
    let path = fields.path("content");
    let content = fields.take("content");
    let blocks = match fields.required("content", content)? {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(blocks) if !blocks.is_empty() => blocks,
        Value::Array(_) => return Err(ApiError::field(path, "is an empty array")),
        other => return Err(wrong_type(&path, "a string or an array of blocks", &other)),
    };
    let blocks = blocks.into_iter().enumerate();
    let blocks = blocks.map(|(index, block)| Fields::of(block, &format!("{path}[{index}]")));
    match role.as_str() {
        "user" => user(blocks, messages, calls)?,
        "assistant" => messages.push(assistant(blocks, calls)?),
        _ => return Err(fields.error("role", "must be user or assistant")),
    }
    fields.finish()?;
    Ok(role)
}

/// Texts become a user's messages, results of tools each one of their own.
fn user(
    blocks: impl Iterator<Item = Result<Fields, ApiError>>,
    messages: &mut Vec<Value>,
    calls: &HashSet<String>,
) -> Result<(), ApiError> {
    let mut texts = Vec::new();
    for block in blocks {
        let mut block = block?;
        let kind = block.string("type")?;
        match block.required("type", kind)?.as_str() {
            "text" => texts.push(json!({"type": "text", "text": text(&mut block, "text")?})),
            "tool_result" => {
                flush(&mut texts, messages);
                messages.push(tool_result(&mut block, calls)?);
            }
            _ => {
                let complaint = "must be text or tool_result: no images or documents";
                return Err(block.error("type", complaint));
            }
        }
        block.object("cache_control")?;
        block.finish()?;
    }
    flush(&mut texts, messages);
    Ok(())
}

fn flush(texts: &mut Vec<Value>, messages: &mut Vec<Value>) {
    if !texts.is_empty() {
        messages.push(json!({"role": "user", "content": std::mem::take(texts)}));
    }
}

fn tool_result(block: &mut Fields, calls: &HashSet<String>) -> Result<Value, ApiError> {
    let id = text(block, "tool_use_id")?;
    if !calls.contains(&id) {
        let complaint = format!("is {id:?}, which no tool_use before it has");
        return Err(block.error("tool_use_id", complaint));
    }
    let path = block.path("content");
    let content = block.take("content").unwrap_or_else(|| "".into());
    let content = texts(content, &path)?;
    // The template has no place for it: what went wrong is in the content.
    block.boolean("is_error")?;
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}

fn assistant(
    blocks: impl Iterator<Item = Result<Fields, ApiError>>,
    calls: &mut HashSet<String>,
) -> Result<Value, ApiError> {
    let (mut content, mut reasoning, mut tool_calls) = (String::new(), String::new(), Vec::new());
    for block in blocks {
        let mut block = block?;
        let kind = block.string("type")?;
        match block.required("type", kind)?.as_str() {
            "text" => content += &text(&mut block, "text")?,
            "thinking" => {
                reasoning += &text(&mut block, "thinking")?;
                block.string("signature")?;
            }
            "tool_use" => {
                let (id, name) = (text(&mut block, "id")?, text(&mut block, "name")?);
                let input = block.take("input");
                let input = block.required("input", input)?;
                if !input.is_object() {
                    return Err(wrong_type(&block.path("input"), "an object", &input));
                }
                calls.insert(id.clone());
                let function = json!({"name": name, "arguments": input.to_string()});
                tool_calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            _ => return Err(block.error("type", "must be text, thinking or tool_use")),
        }
        block.object("cache_control")?;
        block.neutral("citations", &[json!([])])?;
        block.finish()?;
    }
    let mut message = json!({"role": "assistant", "content": content});
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !tool_calls.is_empty() {
        message["tool_calls"] = tool_calls.into();
    }
    Ok(message)
}

fn text(block: &mut Fields, name: &str) -> Result<String, ApiError> {
    let text = block.string(name)?;
    block.required(name, text)
}

/// A string, or blocks of text as the chat template's parts.
fn texts(value: Value, path: &str) -> Result<Value, ApiError> {
    match value {
        Value::String(_) => Ok(value),
        Value::Array(blocks) => blocks
            .into_iter()
            .enumerate()
            .map(|(index, block)| {
                let mut block = Fields::of(block, &format!("{path}[{index}]"))?;
                block.neutral("type", &[json!("text")])?;
                block.object("cache_control")?;
                let part = json!({"type": "text", "text": text(&mut block, "text")?});
                block.finish()?;
                Ok(part)
            })
            .collect(),
        other => Err(wrong_type(path, "a string or an array of text blocks", &other)),
    }
}
