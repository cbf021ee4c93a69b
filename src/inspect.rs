//! `moonrock inspect`: what a checkpoint holds, from its headers alone.

use std::collections::BTreeMap;
use std::io::Write;

use checkpoint::{Checkpoint, Class, Format, Shape, Split};
use model::CacheFormat;

use crate::cli::InspectArgs;
use crate::memory::gib;

#[derive(Default)]
struct Sum {
    tensors: usize,
    elements: usize,
    bytes: usize,
    per_rank: usize,
}

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    checkpoint.config().check_parallel(args.tensor_parallel_size)?;
    write!(std::io::stdout(), "{}", report(&checkpoint, args.tensor_parallel_size))?;
    Ok(())
}

fn report(checkpoint: &Checkpoint, ranks: usize) -> String {
    let config = checkpoint.config();
    let mut out = format!("{}\n", checkpoint.dir().display());
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!(
        "  {} layers ({} dense), hidden {}, {} heads, {} experts top-{} of width {} + {} shared",
        config.num_hidden_layers,
        config.first_k_dense_replace,
        config.hidden_size,
        config.num_attention_heads,
        config.n_routed_experts,
        config.num_experts_per_tok,
        config.moe_intermediate_size,
        config.n_shared_experts,
    ));
    line(format!(
        "  vocabulary {}, context {}, KV cache {} per token (FP8: {}), expert activations {:?}",
        config.vocab_size,
        config.max_position_embeddings,
        gib(hip::cache_bytes(config, CacheFormat::Bf16)),
        gib(hip::cache_bytes(config, CacheFormat::Fp8)),
        config.activations,
    ));
    let files: Vec<_> = checkpoint.files().collect();
    let size = files.iter().map(|(_, bytes)| bytes).sum();
    line(format!("  {} files, {}", files.len(), gib(size)));
    match checkpoint.vision_tensors() {
        0 => {}
        n => line(format!("  {n} tensors of the vision tower are not used: text only")),
    }
    line(String::new());
    let head = ["class", "format", "tensors", "elements", "bytes"];
    let rank = format!("bytes per rank of {ranks}");
    line(row(head.map(str::to_owned), rank));
    let mut total = Sum::default();
    for ((class, format), sum) in sums(checkpoint, ranks) {
        line(row(
            [
                class.name().to_owned(),
                format.name().to_owned(),
                sum.tensors.to_string(),
                sum.elements.to_string(),
                gib(sum.bytes),
            ],
            gib(sum.per_rank),
        ));
        total.tensors += sum.tensors;
        total.elements += sum.elements;
        total.bytes += sum.bytes;
        total.per_rank += sum.per_rank;
    }
    let (tensors, elements) = (total.tensors.to_string(), total.elements.to_string());
    let cells = ["total".to_owned(), String::new(), tensors, elements, gib(total.bytes)];
    line(row(cells, gib(total.per_rank)));
    out
}

fn sums(checkpoint: &Checkpoint, ranks: usize) -> BTreeMap<(Class, Format), Sum> {
    let mut sums: BTreeMap<(Class, Format), Sum> = BTreeMap::new();
    for (spec, format) in checkpoint.tensors() {
        let elements = match spec.shape {
            Shape::Matrix { rows, cols } => rows * cols,
            Shape::Vector { len } => len,
        };
        let own = if spec.split == Split::Replicated { elements } else { elements / ranks };
        let sum = sums.entry((spec.class, *format)).or_default();
        sum.tensors += 1;
        sum.elements += elements;
        sum.bytes += format.bytes(elements);
        sum.per_rank += format.bytes(own);
    }
    sums
}

fn row([class, format, tensors, elements, bytes]: [String; 5], per_rank: String) -> String {
    format!("{class:<16}{format:<8}{tensors:>8}{elements:>16}{bytes:>14}{per_rank:>22}")
}
