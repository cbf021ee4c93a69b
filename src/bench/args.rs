//! Flags of `moonrock bench`. Names are those of vLLM's benchmark where it has them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::kernels::BenchModel;
use crate::cli::at_least_one;

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Send load to a running server (any with OpenAI's /v1/completions) and measure its answers
    Serve(BenchServeArgs),
    /// Check and time every GPU kernel at a model's shapes
    Kernels(BenchKernelsArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GpuDevice {
    /// AMD MI355X, or the emulator in its place
    Hip,
    /// NVIDIA H100 or H200: for development
    Cuda,
}

#[derive(Args)]
pub(crate) struct BenchKernelsArgs {
    /// Whose GPU the kernels run on
    #[arg(long, value_enum, default_value_t = GpuDevice::Hip)]
    pub(crate) device: GpuDevice,

    /// Whose shapes the kernels run at
    #[arg(long, value_enum, default_value_t = BenchModel::KimiK26)]
    pub(crate) model: BenchModel,

    /// Kernels to take: those whose names contain any of these [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Rows of a batch [default: 1,4,16,64,256,1024,4096; on the emulator 1,16,64,256]
    #[arg(long, value_delimiter = ',', value_parser = at_least_one)]
    pub(crate) tokens: Vec<usize>,

    /// Keys that a row attends to [default: 1024,4096,32768; on the emulator 1024,4096]
    #[arg(long, value_delimiter = ',', value_parser = at_least_one)]
    pub(crate) contexts: Vec<usize>,

    /// Fixes all operands [default: other ones each time]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct BenchServeArgs {
    /// Where the server listens, without /v1
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub(crate) base_url: String,

    /// Model to ask for [default: the first that the server lists]
    #[arg(long)]
    pub(crate) model: Option<String>,

    /// Requests to send [default: 100, or all lines of --trace]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) num_prompts: Option<usize>,

    /// Requests per second, at random (Poisson) times [default: all at once, or the trace's times]
    #[arg(long, value_parser = positive)]
    pub(crate) request_rate: Option<f64>,

    /// Most requests under way; the next one is sent when one has ended [default: no limit]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) max_concurrency: Option<usize>,

    /// Tokens in each prompt
    #[arg(long, default_value_t = 512, value_parser = at_least_one, conflicts_with = "trace")]
    pub(crate) random_input_len: usize,

    /// Tokens before them that all prompts share, for the server's prefix cache
    #[arg(long, default_value_t = 0, conflicts_with = "trace")]
    pub(crate) random_prefix_len: usize,

    /// Tokens in each answer
    #[arg(long, default_value_t = 128, value_parser = at_least_one, conflicts_with = "trace")]
    pub(crate) random_output_len: usize,

    /// JSONL file with a request a line: input_length, output_length and, unless --request-rate is
    /// given, timestamp in milliseconds
    #[arg(long)]
    pub(crate) trace: Option<PathBuf>,

    /// Prompts are random token ids below this; every byte-level vocabulary has the first 256
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub(crate) vocab_size: usize,

    /// Fixes prompts, arrival times and the answers' seeds
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Key to send as `Authorization: Bearer KEY`
    #[arg(long, env = "MOONROCK_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    /// Write the figures, and every request's times, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Draw the distributions of the latencies into this SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("expected a number above 0".into()),
    }
}
