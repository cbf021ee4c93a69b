//! Flags of `moonrock eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::at_least_one;

#[derive(Subcommand)]
pub(crate) enum EvalCommand {
    /// Multiple choice by log-likelihood, in the form of lm-eval's MMLU
    Choice(ChoiceArgs),
    /// Perplexity of texts
    Perplexity(PerplexityArgs),
    /// Chats whose greedy answer must be the expected one
    Generate(GenerateArgs),
    /// Two runs of the same task: their difference, and whether it is one
    Compare(CompareArgs),
}

#[derive(Args)]
pub(crate) struct TargetArgs {
    /// JSONL files with the task's rows
    #[arg(long, required = true, num_args = 1..)]
    pub(super) data: Vec<PathBuf>,

    /// Where a server listens, without /v1
    #[arg(long, default_value = "http://127.0.0.1:8000", conflicts_with = "model")]
    pub(super) url: String,

    /// Model to run in this process instead; flags of `moonrock serve` may follow behind --
    #[arg(long)]
    pub(super) model: Option<PathBuf>,

    /// Requests under way at a time
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    pub(super) num_concurrent: usize,

    /// Rows to take from the beginning [default: all]
    #[arg(long, value_parser = at_least_one)]
    pub(super) limit: Option<usize>,

    /// File to write every row's result to, for `moonrock eval compare`
    #[arg(long)]
    pub(super) output: Option<PathBuf>,

    /// Key to send as `Authorization: Bearer KEY`
    #[arg(long, env = "MOONROCK_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,

    /// Flags of `moonrock serve`
    #[arg(last = true, requires = "model")]
    pub(super) serve: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ChoiceArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// JSONL file with solved questions of each subject
    #[arg(long)]
    pub(super) shots: Option<PathBuf>,

    /// Solved questions to put before each question: the subject's first ones
    #[arg(long, default_value_t = 0, requires = "shots")]
    pub(super) num_fewshot: usize,
}

#[derive(Args)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// Tokens in a request; longer texts are cut, and each part begins with the last one's end
    #[arg(long, default_value_t = 2048, value_parser = at_least_two)]
    pub(super) max_length: usize,
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// Most tokens in an answer
    #[arg(long, default_value_t = 512, value_parser = at_least_one)]
    pub(super) max_tokens: usize,
}

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Output of one run
    pub(super) first: PathBuf,

    /// Output of another run on the same rows
    pub(super) second: PathBuf,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        1 => Err("expected at least 2".into()),
        n => Ok(n),
    }
}
