//! What a request says of the form of its answer: `response_format`, and vLLM's fields for guided
//! decoding.

use serde_json::{Value, json};
use text::{Grammar, GrammarSource};

use crate::App;
use crate::error::ApiError;
use crate::fields::{Fields, wrong_type};

/// Most strings to choose from.
const MAX_CHOICES: usize = 10_000;

/// What the answer's content must match, and the field that says so.
#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) grammar: Grammar,
    pub(crate) param: String,
}

/// A field's demand, not yet compiled.
enum Demand {
    Schema(Value),
    Regex(String),
    Choice(Vec<String>),
    Lark(String),
}

/// Takes `response_format`, `guided_json`, `guided_regex`, `guided_choice`, `guided_grammar` and
/// `structured_outputs`, of which one may ask for something.
pub(crate) fn take(fields: &mut Fields, app: &App) -> Result<Option<Structure>, ApiError> {
    let mut demands = Vec::new();
    if let Some(mut format) = fields.object("response_format")? {
        let nested = format.object("json_schema")?;
        demands.extend(take_format(format, nested)?);
    }
    demands.extend(take_kinds(fields, "guided_")?);
    if let Some(mut options) = fields.object("structured_outputs")? {
        demands.extend(take_kinds(&mut options, "")?);
        if options.boolean("json_object")?.unwrap_or(false) {
            demands.push((options.path("json_object"), any_object()));
        }
        options.finish()?;
    }
    let mut demands = demands.into_iter();
    let Some((param, demand)) = demands.next() else { return Ok(None) };
    if let Some((second, _)) = demands.next() {
        return Err(ApiError::field(second, format!("contradicts {param}: give one of them")));
    }
    compile(param, &demand, app).map(Some)
}

/// Takes the field `format` of `/v1/responses`, in which the schema is not nested.
pub(crate) fn take_text_format(
    text: &mut Fields,
    app: &App,
) -> Result<Option<Structure>, ApiError> {
    let Some(format) = text.object("format")? else { return Ok(None) };
    let demand = take_format(format, None)?;
    demand.map(|(param, demand)| compile(param, &demand, app)).transpose()
}

fn any_object() -> Demand {
    Demand::Schema(json!({"type": "object"}))
}

/// Reads a format whose schema is in `nested`, or in itself.
fn take_format(
    mut format: Fields,
    nested: Option<Fields>,
) -> Result<Option<(String, Demand)>, ApiError> {
    let kind = format.string("type")?;
    let demand = match format.required("type", kind)?.as_str() {
        "text" => None,
        "json_object" => Some((format.path("type"), any_object())),
        "json_schema" => Some(match nested {
            Some(mut nested) => {
                let demand = take_schema(&mut nested)?;
                nested.finish()?;
                format.finish()?;
                return Ok(Some(demand));
            }
            None => take_schema(&mut format)?,
        }),
        _ => return Err(format.error("type", "must be text, json_object or json_schema")),
    };
    if let Some(nested) = nested {
        // It belongs to another type.
        return Err(ApiError::field(nested.path(""), "needs the type \"json_schema\""));
    }
    format.finish()?;
    Ok(demand)
}

fn take_schema(fields: &mut Fields) -> Result<(String, Demand), ApiError> {
    fields.string("name")?;
    fields.string("description")?;
    // It is enforced either way.
    fields.boolean("strict")?;
    let schema = fields.take("schema");
    let schema = fields.required("schema", schema)?;
    Ok((fields.path("schema"), Demand::Schema(schema)))
}

/// Takes `json`, `regex`, `choice` and `grammar`, with `prefix` before their names.
fn take_kinds(fields: &mut Fields, prefix: &str) -> Result<Vec<(String, Demand)>, ApiError> {
    let name = |kind: &str| format!("{prefix}{kind}");
    let mut demands = Vec::new();
    if let Some(value) = fields.take(&name("json")) {
        let path = fields.path(&name("json"));
        let schema = match value {
            Value::String(text) => serde_json::from_str(&text)
                .map_err(|error| ApiError::field(&path, format!("is not JSON: {error}")))?,
            other => other,
        };
        demands.push((path, Demand::Schema(schema)));
    }
    if let Some(regex) = fields.string(&name("regex"))? {
        demands.push((fields.path(&name("regex")), Demand::Regex(regex)));
    }
    if let Some(items) = fields.array(&name("choice"))? {
        let path = fields.path(&name("choice"));
        if items.is_empty() || items.len() > MAX_CHOICES {
            let complaint = format!("must have 1 to {MAX_CHOICES} strings");
            return Err(ApiError::field(path, complaint));
        }
        let choices = items.into_iter().map(|item| match item {
            Value::String(choice) => Ok(choice),
            other => Err(wrong_type(&path, "an array of strings", &other)),
        });
        let choices = choices.collect::<Result<_, _>>()?;
        demands.push((path, Demand::Choice(choices)));
    }
    if let Some(grammar) = fields.string(&name("grammar"))? {
        demands.push((fields.path(&name("grammar")), Demand::Lark(grammar)));
    }
    Ok(demands)
}

fn compile(param: String, demand: &Demand, app: &App) -> Result<Structure, ApiError> {
    let source = match demand {
        Demand::Schema(schema) => GrammarSource::JsonSchema(schema),
        Demand::Regex(regex) => GrammarSource::Regex(regex),
        Demand::Choice(choices) => GrammarSource::Choice(choices),
        Demand::Lark(grammar) => GrammarSource::Lark(grammar),
    };
    let grammar = app.grammar_compiler()?.compile(source);
    let grammar = grammar.map_err(|error| ApiError::field(&param, format!("{error}")))?;
    Ok(Structure { grammar, param })
}
