//! Where every byte goes: the plan of a server's memory, made before anything is loaded.

use anyhow::{Context, bail};
use checkpoint::Checkpoint;
use hip::Platform;
use model::{CacheFormat, Limits};

/// Sizes a user can set that decide how much memory is needed.
pub(crate) struct Wishes {
    pub(crate) ranks: usize,
    pub(crate) max_model_len: usize,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) block_size: usize,
    pub(crate) cache: CacheFormat,
    /// Bytes that may be used in all.
    pub(crate) budget: usize,
}

impl Wishes {
    /// Limits with these sizes and no KV blocks yet.
    fn limits(&self) -> Limits {
        Limits {
            max_model_len: self.max_model_len,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            num_blocks: 0,
        }
    }
}

/// Bytes that one rank needs.
struct Needs {
    weights: usize,
    /// Activations between verbs, and what verbs use for themselves.
    workspace: usize,
    /// KV cache of one token.
    token: usize,
}

/// The plan; all bytes are of all ranks together.
pub(crate) struct Plan {
    pub(crate) limits: Limits,
    weights: usize,
    workspace: usize,
    cache: usize,
    budget: usize,
}

impl Plan {
    /// For ranks on the CPU, where the KV cache takes F32's room in every format.
    pub(crate) fn for_cpu(checkpoint: &Checkpoint, wishes: &Wishes) -> anyhow::Result<Plan> {
        let (config, ranks) = (checkpoint.config(), wishes.ranks);
        let needs = Needs {
            weights: cpu::weight_bytes(checkpoint, ranks),
            workspace: wishes.limits().workspace_values(config, ranks) * size_of::<f32>(),
            token: config.num_hidden_layers * config.latent_dim() * size_of::<f32>(),
        };
        Plan::new(checkpoint, wishes, &needs)
    }

    /// For ranks on GPUs.
    pub(crate) fn for_gpus(
        checkpoint: &Checkpoint,
        wishes: &Wishes,
        platform: Platform,
    ) -> anyhow::Result<Plan> {
        let (config, ranks) = (checkpoint.config(), wishes.ranks);
        let limits = wishes.limits();
        let needs = Needs {
            weights: hip::weight_bytes(checkpoint, ranks),
            workspace: limits.workspace_values(config, ranks) * size_of::<f32>()
                + hip::scratch_bytes(config, &limits, ranks, wishes.max_num_seqs, platform),
            token: hip::cache_bytes(config, wishes.cache),
        };
        Plan::new(checkpoint, wishes, &needs)
    }

    /// Sizes the KV pool: what is left after weights and workspace, and no more than all sequences
    /// at full length could use.
    fn new(checkpoint: &Checkpoint, wishes: &Wishes, needs: &Needs) -> anyhow::Result<Plan> {
        let (config, ranks) = (checkpoint.config(), wishes.ranks);
        let mut limits = wishes.limits();
        let rope = wishes.max_model_len * config.qk_rope_head_dim * size_of::<f32>();
        let weights = ranks * (needs.weights + rope);
        let workspace = ranks * needs.workspace;
        let block = ranks * needs.token * wishes.block_size;
        let per_sequence = wishes.max_model_len.div_ceil(wishes.block_size);
        let left = wishes.budget.saturating_sub(weights + workspace);
        limits.num_blocks = (left / block).min(per_sequence.saturating_mul(wishes.max_num_seqs));
        let plan = Plan {
            limits,
            weights,
            workspace,
            cache: limits.num_blocks * block,
            budget: wishes.budget,
        };
        if limits.num_blocks < per_sequence {
            bail!(
                "too little memory: {} may be used, weights take {}, workspace {}, and one \
                 sequence of --max-model-len {} needs {} of KV cache; raise \
                 --gpu-memory-utilization or lower --max-model-len",
                gib(plan.budget),
                gib(weights),
                gib(workspace),
                wishes.max_model_len,
                gib(per_sequence * block),
            );
        }
        Ok(plan)
    }

    /// A table for the user.
    pub(crate) fn table(&self) -> String {
        let tokens = self.limits.num_blocks * self.limits.block_size;
        let rows = [
            ("weights", self.weights, String::new()),
            ("workspace", self.workspace, String::new()),
            ("KV cache", self.cache, format!("{} blocks, {tokens} tokens", self.limits.num_blocks)),
            (
                "total",
                self.weights + self.workspace + self.cache,
                format!("of {}", gib(self.budget)),
            ),
        ];
        let lines =
            rows.map(|(name, bytes, note)| format!("  {name:<10} {:>12}  {note}", gib(bytes)));
        format!("memory\n{}", lines.map(|line| line.trim_end().to_owned()).join("\n"))
    }
}

/// Bytes in a unit that suits them.
pub(crate) fn gib(bytes: usize) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GiB", b / (1u64 << 30) as f64),
        b if b >= 1e6 => format!("{:.2} MiB", b / (1u64 << 20) as f64),
        b => format!("{:.2} KiB", b / 1024.0),
    }
}

/// Bytes of host memory that are free or can be freed.
pub(crate) fn host_available() -> anyhow::Result<usize> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok());
    kib.map(|kib| kib * 1024).with_context(|| format!("{path}: no MemAvailable line in kB"))
}
