//! `moonrock make-checkpoint`: random weights in a real model's shape.

use std::path::PathBuf;

use checkpoint::{RandomOptions, write_random};
use clap::Args;

use crate::memory::gib;

#[derive(Args)]
pub(crate) struct MakeCheckpointArgs {
    /// Directory with config.json, tokenizer and chat template of the model to be like
    #[arg(long)]
    like: PathBuf,

    /// Layers to have, not the model's number: of Kimi-K2.6, the first takes 5 GiB together with
    /// embedding and head, each other 8.6 GiB
    #[arg(long)]
    num_hidden_layers: usize,

    /// Directory to write to
    #[arg(long)]
    output_dir: PathBuf,

    /// What the weights depend on
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(args: &MakeCheckpointArgs) -> anyhow::Result<()> {
    let options = RandomOptions {
        like: args.like.clone(),
        output: args.output_dir.clone(),
        layers: args.num_hidden_layers,
        seed: args.seed,
    };
    let bar = indicatif::ProgressBar::no_length();
    let bytes = write_random(&options, &|bytes, all| {
        bar.set_length(all as u64);
        bar.inc(bytes as u64);
    })?;
    bar.finish_and_clear();
    println!("{}: {} of random weights", args.output_dir.display(), gib(bytes));
    Ok(())
}
