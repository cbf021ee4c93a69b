//! Tools as the TypeScript text that Kimi was trained on.

use serde_json::{Map, Value};

use crate::python::{JsonStyle, deep_sorted, json_dumps, str_of};
use crate::schema::{
    Documented, Field, Object, Reader, SELF_NAME, Shape, Unsupported, description,
};

const INDENT: &str = "  ";

/// Declares `tools` (OpenAI's shape) as TypeScript. `None` where a schema cannot be expressed, or
/// no tool is a function: the template then prints the tools as JSON.
pub fn tools_to_typescript(tools: &[Value]) -> Option<String> {
    let functions: Vec<String> = tools
        .iter()
        .filter(|tool| tool.get("type").is_some_and(|kind| kind == "function"))
        .filter_map(|tool| tool.get("function")?.as_object())
        .filter(|function| !function.is_empty())
        .map(declare_function)
        .collect::<Result<_, _>>()
        .ok()?;
    if functions.is_empty() {
        return None;
    }
    let functions = functions.join("\n");
    Some(format!("# Tools\n\n## functions\nnamespace functions {{\n{functions}\n}}\n"))
}

fn declare_function(function: &Map<String, Value>) -> Result<String, Unsupported> {
    let sorted = deep_sorted(function.get("parameters").unwrap_or(&Value::Null));
    let parameters = match &sorted {
        Value::Object(parameters) => parameters.clone(),
        Value::Null => Map::new(),
        _ => return Err(Unsupported),
    };
    let name = match function.get("name") {
        None => "function",
        Some(name) => name.as_str().ok_or(Unsupported)?,
    };
    let mut reader = Reader::default();
    let root = reader.object(&parameters)?;
    let mut parts = Vec::new();
    if reader.refers_to_self {
        parts.push(format!("interface {SELF_NAME} {}", self_body(&root)));
    }
    let parameters =
        if reader.refers_to_self { SELF_NAME.to_owned() } else { object_type(&root, "") };
    for (name, definition) in reader.definitions.clone() {
        if !definition.is_object() {
            return Err(Unsupported);
        }
        let documented = reader.read(&definition)?;
        let mut interface = comment(&documented.description, "");
        interface += &format!("interface {name} {}", type_of(&documented.shape, ""));
        parts.push(interface);
    }
    let comment = comment(&description(function)?, "");
    parts.push(format!("{comment}type {name} = (_: {parameters}) => any;"));
    Ok(parts.join("\n"))
}

/// The body of the root's own interface. Unlike other objects it lists fields in the schema's
/// order, and says nothing of additional ones.
fn self_body(root: &Object) -> String {
    let fields: Vec<_> = root.fields.iter().map(|field| declare_field(field, INDENT)).collect();
    if fields.is_empty() {
        return "{}".to_owned();
    }
    format!("{{\n{}\n}}", fields.join(",\n"))
}

fn type_of(shape: &Shape, indent: &str) -> String {
    match shape {
        Shape::Literal(text) => text.clone(),
        Shape::Object(object) => object_type(object, indent),
        Shape::AnyOf(choices) => {
            let choices: Vec<_> =
                choices.iter().map(|choice| type_of(&choice.shape, indent)).collect();
            choices.join(" | ")
        }
        Shape::Array(item) => {
            let inner = format!("{indent}{INDENT}");
            let documentation = documentation(item, &inner);
            if documentation.is_empty() {
                format!("Array<{}>", type_of(&item.shape, indent))
            } else {
                let item = type_of(&item.shape, &inner);
                format!("Array<\n{documentation}{inner}{item}\n{indent}>")
            }
        }
    }
}

/// Required fields before optional ones, each sorted by name, then the additional ones.
fn object_type(object: &Object, indent: &str) -> String {
    let inner = format!("{indent}{INDENT}");
    let mut fields: Vec<_> = object.fields.iter().collect();
    fields.sort_by_key(|field| (field.optional, &field.name));
    let mut lines: Vec<_> = fields.iter().map(|field| declare_field(field, &inner)).collect();
    if let Some(additional) = &object.additional {
        lines.push(format!("{inner}[k: string]: {}", type_of(&additional.shape, &inner)));
    }
    if lines.is_empty() {
        return "{}".to_owned();
    }
    format!("{{\n{}\n{indent}}}", lines.join(",\n"))
}

fn declare_field(field: &Field, indent: &str) -> String {
    let Field { name, optional, default, documented } = field;
    let mut text = documentation(documented, indent);
    if let Some(default) = default {
        let printed = match default {
            Value::Bool(_) | Value::Number(_) => str_of(default),
            _ => None,
        };
        let printed = printed.unwrap_or_else(|| json_dumps(default, &JsonStyle::default()));
        text += &format!("{indent}// Default: {printed}\n");
    }
    let mark = if *optional { "?" } else { "" };
    text + &format!("{indent}{name}{mark}: {}", type_of(&documented.shape, indent))
}

/// Description and constraints as comment lines.
fn documentation(documented: &Documented, indent: &str) -> String {
    let mut text = comment(&documented.description, indent);
    if !documented.constraints.is_empty() {
        text += &format!("{indent}// {}\n", documented.constraints.join(", "));
    }
    text
}

/// `text` as comment lines, each ended; empty lines stay empty, an empty text has none.
fn comment(text: &str, indent: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let line = |line: &str| {
        if line.is_empty() { "\n".to_owned() } else { format!("{indent}// {line}\n") }
    };
    text.split('\n').map(line).collect()
}
