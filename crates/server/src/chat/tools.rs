use std::collections::HashSet;

use serde_json::{Map, Value, json};
use text::ToolRules;

use crate::App;
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

const MAX_NAME: usize = 64;
/// Most tools in a request, OpenAI's limit: each may take a second to compile.
pub(crate) const MAX_TOOLS: usize = 128;

/// A declared tool.
#[derive(Debug)]
pub(crate) struct Tool {
    name: String,
    /// As the chat template wants it.
    definition: Value,
    /// What a call's arguments must be.
    schema: Value,
    /// The field with the schema.
    param: String,
}

/// Which of the tools may or must be called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    tools: Vec<Tool>,
    choice: ToolChoice,
    /// Whether an answer may have several calls.
    parallel: bool,
}

impl Tools {
    /// Checks the number of tools, and that the choice, from the field `param`, is one of them.
    pub(crate) fn new(
        mut tools: Vec<Tool>,
        choice: ToolChoice,
        parallel: bool,
        param: &str,
    ) -> Result<Self, ApiError> {
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::field("tools", format!("may hold {MAX_TOOLS} at most")));
        }
        match &choice {
            ToolChoice::Auto => {}
            // A tool that is not declared is not called.
            ToolChoice::None => tools.clear(),
            ToolChoice::Required if tools.is_empty() => {
                return Err(ApiError::field(param, "asks for a call, but there are no tools"));
            }
            ToolChoice::Required => {}
            ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
                return Err(ApiError::field(
                    param,
                    format!("names {name:?}, which is no tool here"),
                ));
            }
            ToolChoice::Named(_) => {}
        }
        Ok(Self { tools, choice, parallel })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// What the chat template is given.
    pub(crate) fn definitions(&self) -> Vec<Value> {
        self.tools.iter().map(|tool| tool.definition.clone()).collect()
    }

    /// Whether the answer must be a call.
    pub(crate) fn required(&self) -> bool {
        matches!(self.choice, ToolChoice::Required | ToolChoice::Named(_))
    }

    /// What holds for calls; `None` without tools.
    pub(crate) fn rules(&self, app: &App) -> Result<Option<ToolRules>, ApiError> {
        if self.tools.is_empty() {
            return Ok(None);
        }
        let compiler = app.grammar_compiler()?;
        let named = |tool: &&Tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let compiled = self.tools.iter().filter(named).map(|tool| {
            let arguments = ToolRules::arguments(&compiler, &app.tokenizer, &tool.schema);
            match arguments {
                Ok(arguments) => Ok((tool.name.clone(), arguments)),
                Err(error) => Err(ApiError::field(&tool.param, error)),
            }
        });
        let tools = compiled.collect::<Result<_, _>>()?;
        let single = !self.parallel || matches!(self.choice, ToolChoice::Named(_));
        let most_calls = if single { 1 } else { usize::MAX };
        Ok(Some(ToolRules { tools, most_calls, required: self.required() }))
    }
}

/// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn take(fields: &mut Fields) -> Result<Tools, ApiError> {
    let mut names = HashSet::new();
    let items = fields.array("tools")?.unwrap_or_default().into_iter().enumerate();
    let tools =
        items.map(|(index, item)| tool(Fields::of(item, &format!("tools[{index}]"))?, &mut names));
    let tools = tools.collect::<Result<_, _>>()?;
    let choice = take_choice(fields, |choice| {
        let function = choice.object("function")?;
        let mut function = choice.required("function", function)?;
        let name = function.string("name")?;
        let name = function.required("name", name)?;
        function.finish()?;
        Ok(name)
    })?;
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    Tools::new(tools, choice, parallel, "tool_choice")
}

/// Takes `tool_choice`; `name` finds the function's in a choice of one.
pub(crate) fn take_choice(
    fields: &mut Fields,
    name: fn(&mut Fields) -> Result<String, ApiError>,
) -> Result<ToolChoice, ApiError> {
    match fields.take("tool_choice") {
        None => Ok(ToolChoice::Auto),
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => Err(fields.error("tool_choice", "must be auto, none, required or a function")),
        },
        Some(value) => {
            let mut choice = Fields::of(value, "tool_choice")?;
            let kind = choice.string("type")?;
            if choice.required("type", kind)? != "function" {
                return Err(choice.error("type", r#"must be "function""#));
            }
            let name = name(&mut choice)?;
            choice.finish()?;
            Ok(ToolChoice::Named(name))
        }
    }
}

fn tool(mut fields: Fields, names: &mut HashSet<String>) -> Result<Tool, ApiError> {
    let kind = fields.string("type")?;
    if fields.required("type", kind)? != "function" {
        return Err(fields.error("type", r#"must be "function""#));
    }
    let function = fields.object("function")?;
    let mut function = fields.required("function", function)?;
    fields.finish()?;
    let tool = definition(&mut function, "parameters", names)?;
    function.finish()?;
    Ok(tool)
}

/// Takes a function's `name`, `description`, `strict` and its schema, which is in the field
/// `schema`. `names` are those of earlier tools.
pub(crate) fn definition(
    function: &mut Fields,
    schema: &str,
    names: &mut HashSet<String>,
) -> Result<Tool, ApiError> {
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
    checked.insert("name".to_owned(), name.as_str().into());
    if let Some(description) = function.string("description")? {
        checked.insert("description".to_owned(), description.into());
    }
    let param = function.path(schema);
    let parameters = match function.take(schema) {
        None => None,
        Some(Value::Object(parameters)) => {
            checked.insert("parameters".to_owned(), parameters.clone().into());
            Some(parameters)
        }
        Some(other) => return Err(wrong_type(&param, "an object", &other)),
    };
    let schema = match function.boolean("strict")? {
        Some(false) => json!({"type": "object"}),
        _ => arguments_schema(parameters, &param)?,
    };
    let definition = json!({"type": "function", "function": checked});
    Ok(Tool { name, definition, schema, param })
}

/// Arguments are always an object; without a schema, an empty one.
fn arguments_schema(
    parameters: Option<Map<String, Value>>,
    param: &str,
) -> Result<Value, ApiError> {
    let Some(mut schema) = parameters else {
        return Ok(json!({"type": "object", "properties": {}, "additionalProperties": false}));
    };
    if schema.entry("type").or_insert("object".into()) != "object" {
        let complaint = r#"must be "object": arguments are passed by name"#;
        return Err(ApiError::field(format!("{param}.type"), complaint));
    }
    Ok(schema.into())
}
