//! `/openapi.json`: what the routes take and give, as OpenAPI 3.1. Written by hand beside the code
//! that checks requests; tests/program/fuzz.rs holds the two against each other.

mod answers;
mod chat;
mod requests;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::App;
use crate::chat::MAX_TOOLS;

pub(crate) async fn document(State(app): State<Arc<App>>) -> Json<Value> {
    Json(openapi(&app))
}

fn openapi(app: &App) -> Value {
    let post = |summary: &str, request: Value, answer: Value, streams: bool| {
        let mut ok = json!({"application/json": {"schema": answer}});
        if streams {
            ok["text/event-stream"] = json!({"schema": event()});
        }
        json!({"post": {
            "summary": summary,
            "requestBody": {"required": true,
                "content": {"application/json": {"schema": request}}},
            "responses": responses(ok),
        }})
    };
    let get = |summary: &str, answer: Value| {
        let ok = json!({"application/json": {"schema": answer}});
        json!({"get": {"summary": summary, "responses": responses(ok)}})
    };
    let mut health = get("Where the server is in its life", answers::object(&["status"]));
    let mut model = get("One of the models served", answers::object(&["id", "max_model_len"]));
    model["parameters"] = json!([{"name": "id", "in": "path", "required": true,
            "schema": {"enum": [app.config.served_model_name]}}]);
    let mut components = json!({"schemas": {"Error": answers::error()}});
    let mut security = json!([]);
    if !app.config.api_keys.is_empty() {
        security = json!([{"bearer": []}, {"x-api-key": []}]);
        components["securitySchemes"] = json!({"bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"}});
        health["get"]["security"] = json!([]);
    }
    let metrics = json!({"application/openmetrics-text": {"schema": {"type": "string"}}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Moonrock", "version": env!("CARGO_PKG_VERSION"),
            "description": "A null field counts as absent. Unknown fields are refused."},
        "paths": {
            "/v1/chat/completions": post("The assistant's next message", chat::request(app),
                answers::chat(), true),
            "/v1/completions": post("Text or token ids to text", requests::completion(app),
                answers::completion(), true),
            "/v1/responses": post("OpenAI's newer way to the assistant's next turn",
                requests::response(app), answers::response(), true),
            "/v1/messages": post("Anthropic's way to the assistant's next message",
                requests::message(app), answers::message(), true),
            "/v1/messages/count_tokens": post("Tokens of such a prompt",
                requests::count_tokens(app), answers::object(&["input_tokens"]), false),
            "/tokenize": post("Text or messages to token ids", requests::tokenize(app),
                answers::object(&["count", "max_model_len", "tokens"]), false),
            "/detokenize": post("Token ids to text", requests::detokenize(app),
                answers::object(&["prompt"]), false),
            "/tokenizer_info": get("The tokenizer and its chat template",
                answers::object(&["vocab_size", "model_max_length"])),
            "/v1/models": get("The models served", answers::object(&["object", "data"])),
            "/v1/models/{id}": model,
            "/health": health,
            "/load": get("What runs and waits", answers::object(&["running", "waiting"])),
            "/version": get("The server's version", answers::object(&["version"])),
            "/metrics": {"get": {"summary": "Prometheus metrics",
                "responses": responses(metrics)}},
        },
        "components": components,
        "security": security,
    })
}

/// One of a stream's server-sent events: what stands for the stream before OpenAPI 3.2.
fn event() -> Value {
    let description = "An event of the stream: JSON, or [DONE] at the end of OpenAI's";
    json!({"type": "object", "required": ["data"],
        "properties": {"event": string(), "data": {"type": "string", "description": description}}})
}

/// The answer to a good request, and errors.
fn responses(ok: Value) -> Value {
    let refusals = [
        ("400", "A field is wrong; `param` names it"),
        ("401", "The API key is missing or wrong"),
        ("404", "There is no such model"),
        ("408", "The body took too long"),
        ("413", "The body is too large"),
        ("429", "Too many requests are waiting"),
        ("500", "Something failed on this side"),
        ("503", "The server is starting or stopping"),
        ("504", "The answer took too long"),
    ];
    let mut all = json!({"200": {"description": "Done", "content": ok}});
    for (status, description) in refusals {
        let schema = json!({"$ref": "#/components/schemas/Error"});
        all[status] = json!({"description": description,
            "content": {"application/json": {"schema": schema}}});
    }
    all
}

/// An object of these fields and no others; a `null` counts as absent, whatever its name.
fn record(required: &[&str], fields: Value) -> Value {
    let mut fields = fields;
    for (name, schema) in fields.as_object_mut().into_iter().flatten() {
        if !required.contains(&name.as_str()) {
            *schema = json!({"anyOf": [schema.take(), {"type": "null"}]});
        }
    }
    json!({"type": "object", "properties": fields, "required": required,
        "additionalProperties": {"type": "null"}})
}

/// One object with the fields of both.
fn joined(mut first: Value, second: Value) -> Value {
    if let (Some(first), Value::Object(second)) = (first.as_object_mut(), second) {
        first.extend(second);
    }
    first
}

fn tools(tool: Value) -> Value {
    json!({"type": "array", "items": tool, "maxItems": MAX_TOOLS})
}

fn string() -> Value {
    json!({"type": "string"})
}

fn boolean() -> Value {
    json!({"type": "boolean"})
}

fn integer(minimum: i64, maximum: i64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": maximum})
}

fn number(minimum: f64, maximum: f64) -> Value {
    json!({"type": "number", "minimum": minimum, "maximum": maximum})
}

fn array(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn one_of_these(values: Value) -> Value {
    json!({"enum": values})
}

/// Parts of content, or a string.
fn texts(kinds: &[&str], more: &Value) -> Value {
    let fields =
        joined(json!({"type": one_of_these(json!(kinds)), "text": string()}), more.clone());
    json!({"anyOf": [string(), array(record(&["type", "text"], fields))]})
}
