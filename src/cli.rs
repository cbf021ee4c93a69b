//! Flags. Names are vLLM's where it has them.

use std::path::PathBuf;

use checkpoint::Activations;
use clap::{Args, Parser, Subcommand, ValueEnum};
use model::CacheFormat;

use crate::bench::BenchCommand;
use crate::eval::EvalCommand;
use crate::make_checkpoint::MakeCheckpointArgs;
use crate::quantize::QuantizeArgs;

/// Serves Kimi-K2 models in MXFP4.
#[derive(Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Answer OpenAI's HTTP API with a model
    Serve(Box<ServeArgs>),
    /// Print what a checkpoint holds, without loading it
    Inspect(InspectArgs),
    /// Write a checkpoint's weights as MXFP4, file to file
    Quantize(QuantizeArgs),
    /// Write a checkpoint of random weights in a model's shape: for loads and speeds
    MakeCheckpoint(MakeCheckpointArgs),
    /// Measure how often a model is right
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Measure a running server, or a GPU's kernels
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// Directory with config.json and safetensors shards
    #[arg(default_value = "models/demo")]
    pub(crate) model: PathBuf,

    /// Ranks to compute each one's bytes for
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) tensor_parallel_size: usize,
}

#[derive(Args, Clone)]
pub(crate) struct ServeArgs {
    /// Directory with config.json, safetensors shards, tokenizer and chat template
    #[arg(default_value = "models/demo")]
    pub(crate) model: PathBuf,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,

    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,

    /// Name in the API [default: the directory's name]
    #[arg(long)]
    pub(crate) served_model_name: Option<String>,

    /// Most tokens in one sequence, prompt and answer together [default: what the model was made
    /// for]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) max_model_len: Option<usize>,

    /// Most sequences that run at once
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub(crate) max_num_seqs: usize,

    /// Most tokens computed in one step [default: 512 on the CPU, 8192 on GPUs]
    #[arg(long, value_parser = at_least_one)]
    pub(crate) max_num_batched_tokens: Option<usize>,

    /// Requests that may wait for their turn; one more is answered 429
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
    pub(crate) max_waiting: usize,

    /// Ranks that share the model: GPUs, or threads with --device cpu
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(crate) tensor_parallel_size: usize,

    /// Share of the device's free memory to use, weights and KV cache together [default: 0.9 of a
    /// GPU's, 0.25 of the host's with --device cpu]
    #[arg(long, value_parser = fraction)]
    pub(crate) gpu_memory_utilization: Option<f64>,

    /// Tokens in one KV block
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub(crate) block_size: usize,

    /// How the KV cache holds values
    #[arg(long, value_enum, default_value_t = KvCacheDtype::Auto)]
    pub(crate) kv_cache_dtype: KvCacheDtype,

    /// Do not reuse the KV blocks of earlier requests that began alike
    #[arg(long)]
    pub(crate) no_enable_prefix_caching: bool,

    /// Plan each step when the last one has ended, not while it runs; the answers are the same
    #[arg(long)]
    pub(crate) no_async_scheduling: bool,

    /// Seed of requests that give none
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Key that requests must bring as `Authorization: Bearer KEY` or `x-api-key: KEY`; may be
    /// given several times
    #[arg(long, env = "MOONROCK_API_KEY", hide_env_values = true, value_delimiter = ',')]
    pub(crate) api_key: Vec<String>,

    /// File with more such keys, one a line
    #[arg(long)]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Origin whose pages may use the server from a browser, or `*`; may be given several times
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_origins: Vec<String>,

    /// PEM file with the certificate to answer TLS with, and those between it and the root
    #[arg(long, requires = "ssl_keyfile")]
    pub(crate) ssl_certfile: Option<PathBuf>,

    /// PEM file with that certificate's private key
    #[arg(long, requires = "ssl_certfile")]
    pub(crate) ssl_keyfile: Option<PathBuf>,

    /// Most bytes in a request's body; more are answered 413 [default: room for the longest prompt
    /// as token ids]
    #[arg(long, default_value_t = MAX_BODY_BYTES, hide_default_value = true,
        value_parser = at_least_one)]
    pub(crate) max_body_bytes: usize,

    /// Most bytes in a request's headers; more are answered 431
    #[arg(long, default_value_t = 65536, value_parser = header_bytes)]
    pub(crate) max_header_bytes: usize,

    /// Seconds after which a client that takes nothing of its answer is dropped
    #[arg(long, default_value_t = 60, value_parser = seconds)]
    pub(crate) write_timeout: u64,

    /// Seconds after which an answer that is not complete is broken off [default: no limit]
    #[arg(long, value_parser = seconds)]
    pub(crate) request_timeout: Option<u64>,

    /// Seconds that running answers have after SIGTERM or SIGINT
    #[arg(long, default_value_t = 30)]
    pub(crate) drain_timeout: u64,

    /// Form of the log on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Where the model runs; auto takes the GPUs if this build and machine have them
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub(crate) device: Device,

    /// Run every decode step kernel by kernel, not as a recorded graph: for debugging
    #[arg(long)]
    pub(crate) enforce_eager: bool,

    /// How GPUs add up their parts
    #[arg(long, value_enum, default_value_t = AllReduce::OneShot)]
    pub(crate) all_reduce: AllReduce,

    /// Seconds after which a step that has not ended means that a GPU hangs
    #[arg(long, default_value_t = 120, value_parser = seconds)]
    pub(crate) watchdog_timeout: u64,

    /// Precision of what 4-bit weights multiply with [default: what the checkpoint declares]
    #[arg(long, value_enum)]
    pub(crate) expert_activations: Option<Precision>,
}

/// Room for the longest prompt as token ids in JSON, 262,144 of them, and then some.
const MAX_BODY_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    /// An object a line
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Auto,
    Cpu,
    /// AMD MI355X
    Hip,
    /// NVIDIA H100 or H200: for development
    Cuda,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AllReduce {
    /// As `ordered`, but for up to 256 rows (2, 4 or 8 ranks) by one kernel that reads or writes
    /// the other ranks' memory: the same answers, sooner
    OneShot,
    /// Ranks' parts are moved and added in rank order: answers do not depend on the batch
    Ordered,
    /// The library's own sum, whose order depends on the batch: answers may too
    Rccl,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    /// As the device computes: BF16 on GPUs, F32 on the CPU
    Auto,
    /// BF16
    #[value(name = "bfloat16", alias = "bf16")]
    Bf16,
    /// The latent in FP8 (E4M3) with a power of two for each 32 values: 57 % of the bytes of BF16
    #[value(alias = "fp8_e4m3")]
    Fp8,
}

impl From<KvCacheDtype> for CacheFormat {
    fn from(dtype: KvCacheDtype) -> CacheFormat {
        match dtype {
            KvCacheDtype::Auto => CacheFormat::Native,
            KvCacheDtype::Bf16 => CacheFormat::Bf16,
            KvCacheDtype::Fp8 => CacheFormat::Fp8,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Precision {
    Mxfp4,
    Mxfp8,
    Bf16,
}

impl From<Precision> for Activations {
    fn from(precision: Precision) -> Activations {
        match precision {
            Precision::Mxfp4 => Activations::Mxfp4,
            Precision::Mxfp8 => Activations::Mxfp8,
            Precision::Bf16 => Activations::Bf16,
        }
    }
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("expected a whole number: {error}")),
    }
}

/// The HTTP library needs 8 KiB to read anything.
fn header_bytes(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        n @ 8192.. => Ok(n),
        _ => Err("expected at least 8192".into()),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    at_least_one(text).map(|n| n as u64)
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(f) if f > 0.0 && f <= 1.0 => Ok(f),
        _ => Err("expected a number above 0 and at most 1".into()),
    }
}
