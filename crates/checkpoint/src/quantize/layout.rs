//! Where each tensor lies in an output shard.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::plan::{ShardPlan, TensorPlan};
use crate::CheckpointError;

/// Lays out a shard for these tensors.
pub(super) fn layout(
    path: &Path,
    mut tensors: Vec<TensorPlan>,
) -> Result<ShardPlan, CheckpointError> {
    let Placed { header, tensors: infos } =
        place(path, tensors.iter().flat_map(TensorPlan::written))?;
    let end = infos.last().map_or(0, |(_, info)| info.data_offsets.1);
    let starts: HashMap<String, usize> =
        infos.into_iter().map(|(name, info)| (name, header.len() + info.data_offsets.0)).collect();
    for plan in &mut tensors {
        for (part, (name, _, _)) in plan.written().iter().enumerate() {
            plan.at[part] = starts[name];
        }
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ShardPlan { file, bytes: header.len() + end, header, tensors })
}

/// A shard's head, and its tensors in order; their offsets count from the head's end.
pub(crate) struct Placed {
    pub(crate) header: Vec<u8>,
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

/// Places tensors as the format's own writer does: widest types first, then by name.
///
/// # Errors
/// What the format does not allow.
pub(crate) fn place(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
) -> Result<Placed, CheckpointError> {
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let (mut infos, mut end) = (Vec::with_capacity(tensors.len()), 0);
    for (name, dtype, shape) in tensors {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        infos.push((name, TensorInfo { dtype, shape, data_offsets: (end, end + bytes) }));
        end += bytes;
    }
    let fault = |problem: String| CheckpointError::File { path: path.to_owned(), problem };
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.clone()).map_err(|e| fault(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| fault(e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    Ok(Placed { header, tensors: infos })
}
