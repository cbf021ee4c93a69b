//! `/v1/models`, `/health`, `/load` and `/version`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use engine::Engine;
use serde::Serialize;
use serde_json::{Value, json};

use crate::App;
use crate::app::Phase;
use crate::error::ApiError;

#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: [Model; 1],
}

#[derive(Debug, Serialize)]
pub(crate) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    max_model_len: usize,
}

fn model(app: &App) -> Model {
    Model {
        id: app.config.served_model_name.clone(),
        object: "model",
        created: app.started,
        owned_by: "moonrock",
        max_model_len: app.config.max_model_len,
    }
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: [model(&app)] })
}

/// Names may have slashes in them.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::bad_request("the model's name is not UTF-8"))?;
    app.check_model_name(&id)?;
    Ok(Json(model(&app)))
}

/// `starting`, `ready`, `draining` or `failed`; all but `ready` with 503.
pub(crate) async fn health(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    match app.phase() {
        Phase::Ready => (StatusCode::OK, Json(json!({"status": "ready"}))),
        Phase::Starting => (unavailable, Json(json!({"status": "starting"}))),
        Phase::Draining => (unavailable, Json(json!({"status": "draining"}))),
        Phase::Failed(reason) => (unavailable, Json(json!({"status": "failed", "reason": reason}))),
    }
}

/// What runs and waits at this moment; nothing does while the model is being loaded.
pub(crate) async fn load(State(app): State<Arc<App>>) -> Json<Value> {
    let load = app.engine().map(Engine::load).unwrap_or_default();
    Json(json!({
        "running": load.running,
        "waiting": load.waiting,
        "free_blocks": load.free_blocks,
        "total_blocks": load.total_blocks,
    }))
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}
