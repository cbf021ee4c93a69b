//! `config.json` of the output: Quark 0.11.1's record in place of any other.

use mx::ScaleRule;
use serde_json::{Map, Value, json};

/// The rule's name in Quark's configurations.
pub(super) fn rule_name(rule: ScaleRule) -> &'static str {
    match rule {
        ScaleRule::Floor => "floor",
        ScaleRule::Ceil => "ceil",
        _ => "even",
    }
}

/// `config`, read from `config.json`, with the record of this quantization. `exclude` names the
/// linear modules that were not quantized, exactly and sorted: readers match no patterns.
pub(super) fn quantized(mut config: Value, rule: ScaleRule, exclude: &[String]) -> Value {
    remove(&mut config);
    if let Value::Object(fields) = &mut config {
        fields.insert("quantization_config".into(), record(rule, exclude));
    }
    config
}

/// Removes every `quantization_config`, at whatever depth.
fn remove(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.shift_remove("quantization_config");
        fields.values_mut().for_each(remove);
    }
}

fn record(rule: ScaleRule, exclude: &[String]) -> Value {
    let spec = |dynamic: bool| {
        json!({
            "dtype": "fp4", "is_dynamic": dynamic, "qscheme": "per_group", "ch_axis": -1,
            "group_size": mx::BLOCK, "symmetric": null, "round_method": "half_even",
            "scale_type": "float", "scale_format": "e8m0",
            "scale_calculation_mode": rule_name(rule), "mx_element_dtype": null,
            "observer_cls": "PerBlockMXObserver", "is_scale_quant": false,
        })
    };
    let nothing = Value::Object(Map::new());
    json!({
        "global_quant_config": {
            "input_tensors": spec(true), "output_tensors": null, "weight": spec(false),
            "bias": null, "target_device": null,
        },
        "exclude": exclude, "algo_config": null, "softmax_quant_spec": null,
        "quant_method": "quark", "layer_type_quant_config": nothing,
        "layer_quant_config": nothing, "kv_cache_quant_config": nothing,
        "kv_cache_post_rope": false, "quant_mode": "eager_mode", "version": "0.11.1",
        "export": {
            "kv_cache_group": [], "min_kv_scale": 0.0, "pack_method": "reorder",
            "weight_format": "real_quantized", "weight_merge_groups": null,
        },
    })
}
