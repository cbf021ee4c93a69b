//! JSON schema as Kimi's tool declarations understand it.

use serde_json::{Map, Value};

use crate::python::str_of;

/// A schema that a declaration cannot express; the whole tool list falls back to JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsupported;

/// A type with its documentation lines.
#[derive(Debug)]
pub(crate) struct Documented {
    pub(crate) description: String,
    /// Printed constraints, sorted by name: `minimum: 1`.
    pub(crate) constraints: Vec<String>,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// Text that is printed as it is: scalars, enumerations, unions of type names, references.
    Literal(String),
    Object(Object),
    Array(Box<Documented>),
    AnyOf(Vec<Documented>),
}

/// An object's fields, in the schema's order.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) fields: Vec<Field>,
    /// The type of fields that are not listed, if the schema says so.
    pub(crate) additional: Option<Box<Documented>>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) optional: bool,
    /// Never null: a null default counts as none.
    pub(crate) default: Option<Value>,
    pub(crate) documented: Documented,
}

/// Name by which a schema that refers to itself as `#` is declared.
pub(crate) const SELF_NAME: &str = "parameters";

/// Reads the schemas of one function, and keeps what its references name.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// `$defs` met so far, in order; a later definition of a name replaces the earlier.
    pub(crate) definitions: Map<String, Value>,
    /// Whether anything read so far refers to the root.
    pub(crate) refers_to_self: bool,
}

impl Reader {
    /// Reads any schema.
    pub(crate) fn read(&mut self, schema: &Value) -> Result<Documented, Unsupported> {
        let schema = match schema {
            Value::Bool(true) => return Ok(Documented::undocumented("any")),
            Value::Bool(false) => return Ok(Documented::undocumented("null")),
            Value::Object(schema) if schema.is_empty() => {
                return Ok(Documented::undocumented("any"));
            }
            Value::Object(schema) => schema,
            _ => return Err(Unsupported),
        };
        let mut constrained_by: &[&str] = &[];
        let shape = if let Some(reference) = schema.get("$ref") {
            Shape::Literal(self.resolve(reference)?)
        } else if let Some(choices) = schema.get("anyOf") {
            let choices = choices.as_array().ok_or(Unsupported)?;
            Shape::AnyOf(choices.iter().map(|choice| self.read(choice)).collect::<Result<_, _>>()?)
        } else if let Some(values) = schema.get("enum") {
            Shape::Literal(enumeration(values, schema.get("type"))?)
        } else {
            match schema.get("type").ok_or(Unsupported)? {
                Value::Array(names) => Shape::Literal(union(names)?),
                Value::String(name) if name == "object" => Shape::Object(self.object(schema)?),
                Value::String(name) if name == "array" => {
                    constrained_by = &["maxItems", "minItems"];
                    Shape::Array(Box::new(self.items(schema)?))
                }
                Value::String(name) => {
                    constrained_by = match name.as_str() {
                        "string" => &["maxLength", "minLength", "pattern"],
                        "number" | "integer" => &["maximum", "minimum"],
                        _ => &[],
                    };
                    Shape::Literal(if name == "integer" { "number" } else { name }.to_owned())
                }
                _ => return Err(Unsupported),
            }
        };
        let description = description(schema)?;
        let constraints = constrained_by
            .iter()
            .filter_map(|&key| Some((key, schema.get(key)?)))
            .map(|(key, value)| Ok(format!("{key}: {}", str_of(value).ok_or(Unsupported)?)))
            .collect::<Result<_, _>>()?;
        Ok(Documented { description, constraints, shape })
    }

    /// Reads an object schema; its `$defs` are registered before its fields are read.
    pub(crate) fn object(&mut self, schema: &Map<String, Value>) -> Result<Object, Unsupported> {
        match schema.get("$defs") {
            Some(Value::Object(definitions)) => self.definitions.extend(definitions.clone()),
            None | Some(Value::Null) => {}
            Some(_) => return Err(Unsupported),
        }
        let additional = match schema.get("additionalProperties") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(false)) => Some(Documented::undocumented("never")),
            Some(additional) => Some(self.read(additional)?),
        };
        let required = match schema.get("required") {
            None => &[],
            Some(Value::Array(required)) => required.as_slice(),
            Some(_) => return Err(Unsupported),
        };
        let fields = match schema.get("properties") {
            None => Vec::new(),
            Some(Value::Object(properties)) => properties
                .iter()
                .map(|(name, property)| {
                    Ok(Field {
                        name: name.clone(),
                        optional: !required.iter().any(|required| required == name),
                        default: property.get("default").filter(|value| !value.is_null()).cloned(),
                        documented: self.read(property)?,
                    })
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(Unsupported),
        };
        Ok(Object { fields, additional: additional.map(Box::new) })
    }

    fn items(&mut self, schema: &Map<String, Value>) -> Result<Documented, Unsupported> {
        match schema.get("items") {
            None | Some(Value::Null | Value::Bool(false)) => Ok(Documented::undocumented("any")),
            Some(items) => self.read(items),
        }
    }

    /// The type name that `$ref` stands for; it must be `#` or name a definition already met.
    fn resolve(&mut self, reference: &Value) -> Result<String, Unsupported> {
        match reference.as_str() {
            Some("#") => {
                self.refers_to_self = true;
                Ok(SELF_NAME.to_owned())
            }
            Some(reference) => {
                let path = reference.strip_prefix("#/$defs/").ok_or(Unsupported)?;
                let name = path.rsplit('/').next().unwrap_or(path);
                let known = self.definitions.contains_key(name);
                known.then(|| name.to_owned()).ok_or(Unsupported)
            }
            None => Err(Unsupported),
        }
    }
}

impl Documented {
    fn undocumented(literal: &str) -> Self {
        Self {
            description: String::new(),
            constraints: Vec::new(),
            shape: Shape::Literal(literal.to_owned()),
        }
    }
}

/// A schema's or function's description; empty without one.
pub(crate) fn description(schema: &Map<String, Value>) -> Result<String, Unsupported> {
    match schema.get("description") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(description)) => Ok(description.clone()),
        Some(_) => Err(Unsupported),
    }
}

/// A list of type names, such as `["string", "null"]`.
fn union(names: &[Value]) -> Result<String, Unsupported> {
    let names = names.iter().map(|name| match name.as_str() {
        Some(name @ ("string" | "number" | "boolean" | "null")) => Ok(name),
        Some("integer") => Ok("number"),
        Some("object") => Ok("{}"),
        Some("array") => Ok("Array<any>"),
        _ => Err(Unsupported),
    });
    Ok(names.collect::<Result<Vec<_>, _>>()?.join(" | "))
}

/// The values of an enumeration, in Python's spelling, strings in quotes but not escaped. They
/// must be scalars of the declared type; null is always allowed.
fn enumeration(values: &Value, declared: Option<&Value>) -> Result<String, Unsupported> {
    let declared = match declared {
        None => None,
        Some(Value::Array(names)) => match names.as_slice() {
            [name] => Some(name),
            [null, name] | [name, null] if null == "null" => Some(name),
            _ => return Err(Unsupported),
        },
        Some(name) => Some(name),
    };
    let values = values.as_array().ok_or(Unsupported)?.iter().map(|value| {
        let fits = match declared.and_then(Value::as_str) {
            // Python counts True and False among the integers.
            Some("string") => value.is_string(),
            Some("number") => value.is_number() || value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64() || value.is_boolean(),
            Some("boolean") => value.is_boolean(),
            _ => true,
        };
        match value {
            _ if !fits && !value.is_null() => Err(Unsupported),
            Value::String(text) => Ok(format!("\"{text}\"")),
            other => str_of(other).ok_or(Unsupported),
        }
    });
    Ok(values.collect::<Result<Vec<_>, _>>()?.join(" | "))
}
