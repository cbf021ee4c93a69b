//! `config.json`: plain `kimi_k2`, or `kimi_k25` with a `text_config` inside.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::CheckpointError;

/// What 4-bit matrices multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// The backend's own activation precision, unquantized.
    Bf16,
    /// MXFP8 (E4M3), quantized per token in blocks of 32.
    Mxfp8,
    /// MXFP4, quantized per token in blocks of 32.
    Mxfp4,
}

/// YaRN's parameters (`rope_scaling`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Yarn {
    /// Context extension factor.
    pub factor: f64,
    /// Rotations over the original context above which a frequency is kept.
    #[serde(default = "default_beta_fast")]
    pub beta_fast: f64,
    /// Rotations over the original context below which a frequency is divided by `factor`.
    #[serde(default = "default_beta_slow")]
    pub beta_slow: f64,
    /// Attention temperature coefficient; must equal `mscale_all_dim` (rotations stay unscaled).
    pub mscale: f64,
    /// Coefficient of the softmax scale.
    pub mscale_all_dim: f64,
    /// Context length before extension.
    pub original_max_position_embeddings: usize,
}

fn default_beta_fast() -> f64 {
    32.0
}

fn default_beta_slow() -> f64 {
    1.0
}

/// The text model's shape. Field names are `config.json`'s.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the dense layers' FFN.
    pub intermediate_size: usize,
    /// Width of one expert's FFN.
    pub moe_intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Routed experts in a MoE layer.
    pub n_routed_experts: usize,
    /// Routed experts a token goes to.
    pub num_experts_per_tok: usize,
    /// Shared experts; their widths add up.
    #[serde(default)]
    pub n_shared_experts: usize,
    /// Layers at the start whose FFN is dense.
    pub first_k_dense_replace: usize,
    /// Factor on the routed experts' weights.
    pub routed_scaling_factor: f32,
    /// Whether the chosen experts' weights are normalized to 1.
    pub norm_topk_prob: bool,
    /// Query latent width.
    pub q_lora_rank: usize,
    /// Key/value latent width.
    pub kv_lora_rank: usize,
    /// Query/key width of a head without position.
    pub qk_nope_head_dim: usize,
    /// Query/key width of a head with rotary position.
    pub qk_rope_head_dim: usize,
    /// Value width of a head.
    pub v_head_dim: usize,
    /// Epsilon of the layers' norms.
    pub rms_norm_eps: f32,
    /// Context length.
    pub max_position_embeddings: usize,
    /// Rotary base.
    pub rope_theta: f64,
    /// `None`: plain rotary embedding.
    #[serde(default, rename = "rope_scaling")]
    pub yarn: Option<Yarn>,
    /// What the checkpoint declares for its 4-bit matrices' inputs.
    #[serde(skip, default = "unquantized")]
    pub activations: Activations,
}

fn unquantized() -> Activations {
    Activations::Bf16
}

/// Epsilon of `q_a_layernorm` and `kv_a_layernorm`: the default of the model's own code, which does
/// not pass `rms_norm_eps` there.
pub const LATENT_NORM_EPS: f32 = 1e-6;

impl Config {
    /// Reads `config.json` in `dir`.
    ///
    /// # Errors
    /// A missing or malformed file, a field that is missing or has a value this architecture does
    /// not have.
    pub fn read(dir: &Path) -> Result<Config, CheckpointError> {
        let path = dir.join("config.json");
        let bytes = std::fs::read(&path)
            .map_err(|reason| CheckpointError::Io { path: path.clone(), reason })?;
        Config::parse(&bytes).map_err(|problem| CheckpointError::File { path, problem })
    }

    fn parse(bytes: &[u8]) -> Result<Config, String> {
        let whole: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
        let text = whole.get("text_config").unwrap_or(&whole);
        let mut config: Config =
            serde_path_to_error::deserialize(text).map_err(|e| e.to_string())?;
        check_variant(text)?;
        if whole.get("tie_word_embeddings").or(text.get("tie_word_embeddings"))
            == Some(&Value::Bool(true))
        {
            return Err("tie_word_embeddings is true, but only false is supported".into());
        }
        let quantization = [&whole, text]
            .into_iter()
            .find_map(|v| v.get("quantization_config").filter(|found| !found.is_null()));
        config.activations = declared_activations(quantization)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("n_routed_experts", self.n_routed_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("q_lora_rank", self.q_lora_rank),
            ("kv_lora_rank", self.kv_lora_rank),
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
            ("v_head_dim", self.v_head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in positive {
            // 2^24 is far above any real value and keeps every product of three within 64 bits.
            if value == 0 || value > 1 << 24 {
                return Err(format!("{field} is {value}, expected 1..=16777216"));
            }
        }
        if self.num_experts_per_tok > self.n_routed_experts {
            return Err(format!(
                "num_experts_per_tok is {} but n_routed_experts only {}",
                self.num_experts_per_tok, self.n_routed_experts
            ));
        }
        if self.first_k_dense_replace > self.num_hidden_layers {
            return Err(format!(
                "first_k_dense_replace is {} but num_hidden_layers only {}",
                self.first_k_dense_replace, self.num_hidden_layers
            ));
        }
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            return Err(format!("qk_rope_head_dim is {}, expected even", self.qk_rope_head_dim));
        }
        match &self.yarn {
            Some(yarn) if yarn.mscale != yarn.mscale_all_dim => Err(format!(
                "rope_scaling.mscale {} differs from mscale_all_dim {}; only equal ones are \
                 supported",
                yarn.mscale, yarn.mscale_all_dim
            )),
            _ => Ok(()),
        }
    }

    /// Checks that the model splits over `ranks` tensor-parallel ranks.
    ///
    /// # Errors
    /// [`CheckpointError::Parallel`] naming what does not divide.
    pub fn check_parallel(&self, ranks: usize) -> Result<(), CheckpointError> {
        let units = [
            ("num_attention_heads", self.num_attention_heads, 1),
            ("vocab_size", self.vocab_size, 1),
            ("moe_intermediate_size", self.moe_intermediate_size, mx::BLOCK),
            ("intermediate_size", self.intermediate_size, mx::BLOCK),
        ];
        for (field, value, unit) in units {
            if ranks == 0 || value % (ranks * unit) != 0 {
                let unit = if unit == 1 { String::new() } else { format!(" groups of {unit}") };
                let problem =
                    format!("{field} {value} does not divide into {ranks} equal parts{unit}");
                return Err(CheckpointError::Parallel { ranks, problem });
            }
        }
        Ok(())
    }

    /// Query/key width of a head.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Values the KV cache holds per token and layer: the latent and the rotary key.
    pub fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Whether layer `layer` has routed experts.
    pub fn is_moe(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace
    }
}

/// Refuses what other members of the DeepSeek family have and this code does not compute.
fn check_variant(text: &Value) -> Result<(), String> {
    let required = [
        ("scoring_func", Value::from("sigmoid")),
        ("topk_method", Value::from("noaux_tc")),
        ("hidden_act", Value::from("silu")),
        ("attention_bias", Value::from(false)),
        ("n_group", Value::from(1)),
        ("topk_group", Value::from(1)),
        ("moe_layer_freq", Value::from(1)),
    ];
    for (field, expected) in required {
        if let Some(found) = text.get(field).filter(|found| **found != expected) {
            return Err(format!("{field} is {found}, but only {expected} is supported"));
        }
    }
    let scaling = text.get("rope_scaling").filter(|v| !v.is_null());
    if let Some(scaling) = scaling {
        let kind = scaling.get("type").or(scaling.get("rope_type"));
        if kind.and_then(Value::as_str) != Some("yarn") {
            let kind = kind.unwrap_or(&Value::Null);
            return Err(format!("rope_scaling.type is {kind}, but only \"yarn\" is supported"));
        }
    }
    Ok(())
}

/// The one thing that `quantization_config` decides: the inputs' precision. Weights are told from
/// the files' headers.
fn declared_activations(quantization: Option<&Value>) -> Result<Activations, String> {
    let Some(quantization) = quantization else { return Ok(Activations::Bf16) };
    let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("(none)");
    match method {
        "compressed-tensors" => Ok(Activations::Bf16),
        "quark" => {
            let inputs = quantization.pointer("/global_quant_config/input_tensors");
            match inputs.filter(|v| !v.is_null()) {
                None => Ok(Activations::Bf16),
                Some(spec) if spec.get("dtype").and_then(Value::as_str) == Some("fp4") => {
                    Ok(Activations::Mxfp4)
                }
                Some(spec) => Err(format!(
                    "quantization_config.global_quant_config.input_tensors.dtype is {}, \
                     expected \"fp4\" or no input_tensors",
                    spec.get("dtype").unwrap_or(&Value::Null)
                )),
            }
        }
        _ => Err(format!(
            "quantization_config.quant_method is {method:?}, expected \"quark\" or \
             \"compressed-tensors\""
        )),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
