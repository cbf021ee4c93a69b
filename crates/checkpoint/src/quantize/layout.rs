//! Where each tensor lies in an output shard.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use super::plan::{ShardPlan, TensorPlan};
use crate::CheckpointError;

/// Places the tensors as the format's own writer does: widest types first, then by name.
pub(super) fn layout(
    path: &Path,
    mut tensors: Vec<TensorPlan>,
) -> Result<ShardPlan, CheckpointError> {
    let mut parts: Vec<_> = tensors
        .iter()
        .enumerate()
        .flat_map(|(i, plan)| plan.written().into_iter().enumerate().map(move |p| (i, p)))
        .collect();
    parts.sort_by(|(_, (_, a)), (_, (_, b))| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let (mut infos, mut end) = (Vec::with_capacity(parts.len()), 0);
    for (i, (part, (name, dtype, shape))) in parts {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        tensors[i].at[part] = end;
        let info = TensorInfo { dtype, shape, data_offsets: (end, end + bytes) };
        end += bytes;
        infos.push((name, info));
    }
    let header = header(path, infos)?;
    for plan in &mut tensors {
        plan.at = plan.at.map(|at| at + header.len());
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ShardPlan { file, bytes: header.len() + end, header, tensors })
}

/// The head of a shard: its length, and the tensors' types, shapes and places. `infos` are in order
/// of places.
///
/// # Errors
/// Places that leave gaps or overlap.
pub(crate) fn header(
    path: &Path,
    infos: Vec<(String, TensorInfo)>,
) -> Result<Vec<u8>, CheckpointError> {
    let fault = |problem: String| CheckpointError::File { path: path.to_owned(), problem };
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| fault(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| fault(e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}
