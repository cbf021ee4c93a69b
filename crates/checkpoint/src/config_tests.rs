use super::*;
use serde_json::json;

fn tiny() -> Value {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/tiny-k2/mxfp4/config.json");
    serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap()
}

fn parse(value: &Value) -> Result<Config, String> {
    Config::parse(value.to_string().as_bytes())
}

#[test]
fn kimi_k2_6_nested_and_flat() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/kimi-k2.6/config.json");
    let whole: Value = serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap();
    let nested = parse(&whole).unwrap();
    let flat = parse(&whole["text_config"]).unwrap();
    assert_eq!(nested, flat);
    assert_eq!(
        (nested.hidden_size, nested.num_hidden_layers, nested.n_routed_experts, nested.vocab_size),
        (7168, 61, 384, 163840)
    );
    assert_eq!((nested.qk_head_dim(), nested.latent_dim()), (192, 576));
    assert_eq!(nested.activations, Activations::Bf16);
    assert_eq!(nested.yarn.as_ref().unwrap().factor, 64.0);
    assert!(!nested.is_moe(0) && nested.is_moe(1));
}

#[test]
fn quark_declares_mxfp4_inputs_wherever_it_stands() {
    let mut config = tiny();
    assert_eq!(parse(&config).unwrap().activations, Activations::Mxfp4);
    let quantization = config["quantization_config"].take();
    config["text_config"]["quantization_config"] = quantization;
    assert_eq!(parse(&config).unwrap().activations, Activations::Mxfp4);
    config["text_config"]["quantization_config"]["global_quant_config"]["input_tensors"] =
        Value::Null;
    assert_eq!(parse(&config).unwrap().activations, Activations::Bf16);
}

#[test]
fn what_is_not_supported_is_named() {
    let check = |pointer: &str, value: Value, expected: &str| {
        let mut config = tiny();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[field] = value;
        let error = parse(&config).unwrap_err();
        assert!(error.contains(expected), "{pointer}: {error}");
    };
    check("/text_config/hidden_size", json!("x"), "hidden_size");
    check("/text_config/hidden_size", json!(0), "hidden_size is 0");
    check("/text_config/hidden_size", json!(-4), "hidden_size");
    check("/text_config/kv_lora_rank", Value::Null, "kv_lora_rank");
    check("/text_config/scoring_func", json!("softmax"), "scoring_func is \"softmax\"");
    check("/text_config/n_group", json!(8), "n_group is 8");
    check("/text_config/attention_bias", json!(true), "attention_bias is true");
    check("/text_config/num_experts_per_tok", json!(17), "num_experts_per_tok is 17");
    check("/text_config/first_k_dense_replace", json!(4), "first_k_dense_replace is 4");
    check("/text_config/qk_rope_head_dim", json!(63), "qk_rope_head_dim is 63");
    check("/text_config/rope_scaling/type", json!("linear"), "rope_scaling.type is \"linear\"");
    check("/text_config/rope_scaling/mscale", json!(0.5), "rope_scaling.mscale");
    check("/tie_word_embeddings", json!(true), "tie_word_embeddings");
    check("/quantization_config/quant_method", json!("awq"), "quant_method is \"awq\"");
    let dtype = "/quantization_config/global_quant_config/input_tensors/dtype";
    check(dtype, json!("int8"), "input_tensors.dtype is \"int8\"");
    assert!(Config::parse(b"{").unwrap_err().contains("not JSON"));
    assert!(Config::parse(b"{}").unwrap_err().contains("missing field"));
}

#[test]
fn ranks_must_divide_heads_widths_and_vocabulary() {
    let config = parse(&tiny()).unwrap();
    for ranks in [1, 2, 4] {
        config.check_parallel(ranks).unwrap();
    }
    for (ranks, field) in [(0, "num_attention_heads"), (3, "heads"), (8, "num_attention_heads 4")] {
        let error = config.check_parallel(ranks).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("--tensor-parallel-size"), "{error}");
    }
    let narrow = Config { moe_intermediate_size: 64, ..config };
    let error = narrow.check_parallel(4).unwrap_err().to_string();
    assert!(error.contains("moe_intermediate_size 64"), "{error}");
}
