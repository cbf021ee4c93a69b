//! A checkpoint whose routers are not multiplied together with the shared experts, because they
//! are stored in another format.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A copy of a checkpoint with the routers in F32, which have the same values as in BF16.
pub(crate) fn with_routers_in_f32(checkpoint: &Path) -> tempfile::TempDir {
    let (copy, mut changed) = (tempfile::tempdir().unwrap(), 0);
    for entry in std::fs::read_dir(checkpoint).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            bytes = widened(&bytes, &mut changed);
        }
        std::fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    assert!(changed > 0, "no router in BF16");
    copy
}

/// The same of a shard; counts the routers.
fn widened(shard: &[u8], changed: &mut usize) -> Vec<u8> {
    let (size, rest) = shard.split_at(8);
    let size = u64::from_le_bytes(size.try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&rest[..size]).unwrap();
    let mut data = Vec::new();
    for (name, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        let [from, to] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize);
        let (values, begin) = (&rest[size..][from..to], data.len());
        if name.ends_with(".mlp.gate.weight") && tensor["dtype"] == "BF16" {
            tensor["dtype"] = "F32".into();
            data.extend(values.chunks_exact(2).flat_map(|bits| [0, 0, bits[0], bits[1]]));
            *changed += 1;
        } else {
            data.extend(values);
        }
        tensor["data_offsets"] = json!([begin, data.len()]);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], &data[..]].concat()
}
