//! Every tensor the architecture calls for, with its shape and how ranks share it.

use crate::Config;

/// What a tensor is for; `moonrock inspect` sums by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Token embedding.
    Embedding,
    /// MLA projections.
    Attention,
    /// RMS norms.
    Norm,
    /// FFN of the dense layers.
    DenseMlp,
    /// Router and its bias.
    Router,
    /// Shared experts.
    SharedExperts,
    /// Routed experts.
    Experts,
    /// Output head.
    Head,
}

impl Class {
    /// Name for a table.
    pub fn name(self) -> &'static str {
        match self {
            Class::Embedding => "embedding",
            Class::Attention => "attention",
            Class::Norm => "norms",
            Class::DenseMlp => "dense MLP",
            Class::Router => "router",
            Class::SharedExperts => "shared experts",
            Class::Experts => "routed experts",
            Class::Head => "lm_head",
        }
    }
}

/// A tensor's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A linear layer's weight, `[rows = outputs, cols = inputs]`, in any format.
    Matrix {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
    },
    /// A BF16 or F32 vector.
    Vector {
        /// Elements.
        len: usize,
    },
}

/// How tensor-parallel ranks share a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Every rank holds all of it.
    Replicated,
    /// Equal runs of rows, by rank.
    Rows,
    /// Equal runs of columns, by rank.
    Cols,
}

/// A tensor that the architecture calls for.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// A matrix's module, or a vector's full name, without the checkpoint's prefix.
    pub name: String,
    /// What it is for.
    pub class: Class,
    /// Its shape.
    pub shape: Shape,
    /// How ranks share it.
    pub split: Split,
}

impl Config {
    /// The architecture's tensors in the order the forward pass uses them.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut list = List(Vec::new());
        let (hidden, vocab) = (self.hidden_size, self.vocab_size);
        list.matrix("model.embed_tokens", Class::Embedding, vocab, hidden, Split::Replicated);
        for layer in 0..self.num_hidden_layers {
            self.layer(&mut list, layer);
        }
        list.vector("model.norm.weight", Class::Norm, hidden);
        list.matrix("lm_head", Class::Head, vocab, hidden, Split::Rows);
        list.0
    }

    fn layer(&self, list: &mut List, layer: usize) {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let hidden = self.hidden_size;
        let heads = self.num_attention_heads;
        let (rows, cols, all) = (Split::Rows, Split::Cols, Split::Replicated);
        let attention = [
            ("q_a_proj", self.q_lora_rank, hidden, all),
            ("q_b_proj", heads * self.qk_head_dim(), self.q_lora_rank, rows),
            ("kv_a_proj_with_mqa", self.latent_dim(), hidden, all),
            (
                "kv_b_proj",
                heads * (self.qk_nope_head_dim + self.v_head_dim),
                self.kv_lora_rank,
                rows,
            ),
            ("o_proj", hidden, heads * self.v_head_dim, cols),
        ];
        list.vector(&at("input_layernorm.weight"), Class::Norm, hidden);
        for (name, outputs, inputs, split) in attention {
            let name = at(&format!("self_attn.{name}"));
            list.matrix(&name, Class::Attention, outputs, inputs, split);
        }
        list.vector(&at("self_attn.q_a_layernorm.weight"), Class::Norm, self.q_lora_rank);
        list.vector(&at("self_attn.kv_a_layernorm.weight"), Class::Norm, self.kv_lora_rank);
        list.vector(&at("post_attention_layernorm.weight"), Class::Norm, hidden);
        if !self.is_moe(layer) {
            list.ffn(&at("mlp"), Class::DenseMlp, hidden, self.intermediate_size);
            return;
        }
        list.matrix(&at("mlp.gate"), Class::Router, self.n_routed_experts, hidden, all);
        let bias = at("mlp.gate.e_score_correction_bias");
        list.vector(&bias, Class::Router, self.n_routed_experts);
        let width = self.moe_intermediate_size;
        if self.n_shared_experts > 0 {
            let shared = width * self.n_shared_experts;
            list.ffn(&at("mlp.shared_experts"), Class::SharedExperts, hidden, shared);
        }
        for expert in 0..self.n_routed_experts {
            list.ffn(&at(&format!("mlp.experts.{expert}")), Class::Experts, hidden, width);
        }
    }
}

struct List(Vec<TensorSpec>);

impl List {
    fn matrix(&mut self, name: &str, class: Class, rows: usize, cols: usize, split: Split) {
        let shape = Shape::Matrix { rows, cols };
        self.0.push(TensorSpec { name: name.to_owned(), class, shape, split });
    }

    fn vector(&mut self, name: &str, class: Class, len: usize) {
        let (shape, split) = (Shape::Vector { len }, Split::Replicated);
        self.0.push(TensorSpec { name: name.to_owned(), class, shape, split });
    }

    fn ffn(&mut self, module: &str, class: Class, hidden: usize, width: usize) {
        self.matrix(&format!("{module}.gate_proj"), class, width, hidden, Split::Rows);
        self.matrix(&format!("{module}.up_proj"), class, width, hidden, Split::Rows);
        self.matrix(&format!("{module}.down_proj"), class, hidden, width, Split::Cols);
    }
}
