//! The demo model's shipped MXFP4 checkpoint, made again from its INT4 export.

use checkpoint::{Checkpoint, Format, Quantization};
use safetensors::tensor::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::{options, quantize, read_all, read_file, repository, write_file};

/// The INT4 W4A16 checkpoint as `tools/demo-model/restore_int4.py` rebuilds it, in two shards.
pub(crate) fn int4() -> TempDir {
    let dir = TempDir::new().unwrap();
    let demo = repository("models/demo");
    let mut experts = read_file(&repository("tools/demo-model/int4-experts.safetensors"));
    let packed: Vec<_> = experts.keys().filter(|n| n.ends_with("packed")).cloned().collect();
    for name in packed {
        let shape = [experts[&name].1[0] as i32, experts[&name].1[1] as i32 * 8];
        let bytes = shape.into_iter().flat_map(i32::to_le_bytes).collect();
        experts.insert(name.replace("_packed", "_shape"), (Dtype::I32, vec![2], bytes));
    }
    let mut plain = read_all(&demo);
    plain.retain(|name, _| !name.contains(".mlp.experts."));
    let mut map = serde_json::Map::new();
    for (file, tensors) in [("a.safetensors", &plain), ("b.safetensors", &experts)] {
        write_file(&dir.path().join(file), tensors);
        map.extend(tensors.keys().map(|name| (name.clone(), Value::from(file))));
    }
    let index = serde_json::json!({"weight_map": map}).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let mut config = config(&demo);
    let quark = config.as_object_mut().unwrap().remove("quantization_config");
    assert!(quark.is_some());
    config["text_config"]["quantization_config"] =
        serde_json::json!({"quant_method": "compressed-tensors"});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for name in ["tiktoken.model", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(demo.join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn config(dir: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn the_shipped_weights_are_reproduced_byte_for_byte() {
    let (input, output) = (int4(), TempDir::new().unwrap());
    let mut options = options(input.path(), output.path());
    // The demo's dense layer is BF16, which the card's list leaves to be quantized.
    options.exclude.push("*layers.0.mlp*".to_owned());
    let plan = quantize(options).unwrap();

    let (found, shipped) = (read_all(output.path()), read_all(&repository("models/demo")));
    assert!(found.keys().eq(shipped.keys()));
    for (name, tensor) in &shipped {
        assert!(found[name] == *tensor, "{name}");
    }
    assert_eq!(config(output.path()), config(&repository("models/demo")));
    let checkpoint = Checkpoint::open(output.path()).unwrap();
    assert!(checkpoint.tensors().iter().any(|(_, format)| *format == Format::Mxfp4));
    assert!(output.path().join("tiktoken.model").exists());

    let errors = plan.verify(&|_| ()).unwrap();
    let experts = errors.iter().find(|e| e.class == "routed experts").unwrap();
    assert_eq!(experts.tensors, 3 * 24 * 3);
    // Uniform INT4 values in E2M1: some are exact, none is off by more than the bound in `verify`.
    assert!(experts.rms > 0.01 && experts.rms < 0.15 && experts.max <= 0.25, "{experts:?}");
    assert!(errors.iter().all(|e| e.class == "routed experts" || e.max == 0.0));
}

#[test]
fn the_plan_says_what_becomes_of_what() {
    let (input, output) = (int4(), TempDir::new().unwrap());
    let plan = Quantization::plan(options(input.path(), output.path())).unwrap();
    let row = |class: &str, to: &str| {
        plan.rows().iter().find(|row| row.class == class && row.to == to).cloned().unwrap()
    };
    let experts = row("routed experts", "MXFP4");
    let elements = 3 * 24 * 3 * 128 * 384;
    assert_eq!((experts.from, experts.tensors), ("INT4", 216));
    assert_eq!((experts.before, experts.after), (elements * 9 / 16, elements * 17 / 32));
    // The card's list taken literally: the dense layer too.
    assert_eq!(row("dense MLP", "MXFP4").tensors, 3);
    assert_eq!((row("lm_head", "BF16").tensors, row("router", "BF16").tensors), (1, 3));
    let count = |pattern| plan.patterns().iter().find(|(p, _)| p == pattern).unwrap().1;
    assert_eq!((count("lm_head"), count("*.gate"), count("*self_attn*")), (1, 3, 28));
    assert!(std::fs::read_dir(output.path()).unwrap().next().is_none(), "a plan writes nothing");
}
