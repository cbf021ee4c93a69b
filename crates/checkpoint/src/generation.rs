//! `generation_config.json`: which ids end an answer.

use std::path::Path;

use serde::Deserialize;

use crate::CheckpointError;

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Ids,
}

/// The ids that end an answer, from `generation_config.json` in `dir`.
///
/// # Errors
/// A missing or malformed file, or one without `eos_token_id`.
pub fn end_ids(dir: &Path) -> Result<Vec<u32>, CheckpointError> {
    let path = dir.join("generation_config.json");
    let bytes = std::fs::read(&path)
        .map_err(|reason| CheckpointError::Io { path: path.clone(), reason })?;
    let config: GenerationConfig = serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::File { path, problem: error.to_string() })?;
    Ok(match config.eos_token_id {
        Ids::One(id) => vec![id],
        Ids::Many(ids) => ids,
    })
}
