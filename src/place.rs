//! Where the model runs: the host's cores, or GPUs. The only code that knows both backends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use checkpoint::{Activations, Checkpoint};
use cpu::{Cpu, Group};
use hip::{Gpu, Meeting, Options, Platform, Runtime};
use indicatif::{ProgressBar, ProgressStyle};
use model::{CacheFormat, Limits, Model, Ranks};

use crate::cli::{AllReduce, Device, ServeArgs};
use crate::memory::{Plan, Wishes, host_available};

/// Share of the host's free memory that a server on the CPU takes: others live there too.
const HOST_SHARE: f64 = 0.25;
/// Share of a GPU's free memory.
const GPU_SHARE: f64 = 0.9;
/// Rows per step on the CPU: about a second of work for a small model, so that streams do not
/// stall.
const CPU_BATCHED_TOKENS: usize = 512;
/// Rows per step on GPUs.
const GPU_BATCHED_TOKENS: usize = 8192;

/// What the ranks run on.
pub(crate) enum Place {
    Cpu,
    /// One device for each rank, all checked.
    Gpus(Arc<Runtime>),
}

impl Place {
    /// What `--device` asks for; `auto` takes GPUs if they are there and enough, else the CPU, and
    /// says why.
    pub(crate) fn choose(args: &ServeArgs) -> anyhow::Result<Place> {
        let ranks = args.tensor_parallel_size;
        match args.device {
            Device::Cpu => Ok(Place::Cpu),
            Device::Hip => Place::gpus(Platform::Hip, ranks).context("--device hip"),
            Device::Cuda => Place::gpus(Platform::Cuda, ranks).context("--device cuda"),
            Device::Auto => Ok(Place::gpus(Platform::Hip, ranks).unwrap_or_else(|error| {
                eprintln!("running on the CPU: {error:#}");
                Place::Cpu
            })),
        }
    }

    fn gpus(platform: Platform, ranks: usize) -> anyhow::Result<Place> {
        // A build without kernels says so before any library is looked for.
        hip::code_objects(platform)?;
        let runtime = Runtime::open(platform, None)?;
        let open = |rank| hip::Device::open(&runtime, rank);
        let devices = (0..ranks).map(open).collect::<Result<Vec<_>, _>>()?;
        for (a, b) in devices.iter().flat_map(|a| devices.iter().map(move |b| (a, b))) {
            if !std::ptr::eq(a, b) {
                a.check_peer(b)?;
            }
        }
        Ok(Place::Gpus(runtime))
    }

    /// For the user.
    pub(crate) fn describe(&self, ranks: usize) -> anyhow::Result<String> {
        Ok(match self {
            Place::Cpu => format!("{ranks} rank(s) of the CPU"),
            Place::Gpus(runtime) => {
                format!("{ranks} x {}", hip::Device::open(runtime, 0)?.name()?)
            }
        })
    }

    /// Where every byte will go.
    pub(crate) fn plan(&self, args: &ServeArgs, checkpoint: &Checkpoint) -> anyhow::Result<Plan> {
        let made_for = checkpoint.config().max_position_embeddings;
        let max_model_len = args.max_model_len.unwrap_or(made_for);
        if max_model_len > made_for {
            bail!("--max-model-len {max_model_len}: the model was made for at most {made_for}");
        }
        let (free, share, rows) = match self {
            Place::Cpu => (host_available()?, HOST_SHARE, CPU_BATCHED_TOKENS),
            Place::Gpus(runtime) => {
                (free_on_all(runtime, args.tensor_parallel_size)?, GPU_SHARE, GPU_BATCHED_TOKENS)
            }
        };
        let wishes = Wishes {
            ranks: args.tensor_parallel_size,
            max_model_len,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(rows),
            block_size: args.block_size,
            cache: args.kv_cache_dtype.into(),
            budget: (free as f64 * args.gpu_memory_utilization.unwrap_or(share)) as usize,
        };
        match self {
            Place::Cpu => Plan::for_cpu(checkpoint, &wishes),
            Place::Gpus(runtime) => Plan::for_gpus(checkpoint, &wishes, runtime.platform()),
        }
    }

    /// Reads every rank's weights, with a progress bar; on GPUs, then records the graphs.
    pub(crate) fn load(
        self,
        checkpoint: Checkpoint,
        limits: Limits,
        activations: Activations,
        args: &ServeArgs,
    ) -> anyhow::Result<Ranks> {
        let (ranks, cache) = (args.tensor_parallel_size, CacheFormat::from(args.kv_cache_dtype));
        let bar = progress_bar(ranks * model::weight_bytes(&checkpoint, ranks), BYTES);
        let (checkpoint, progress) = (Arc::new(checkpoint), bar.clone());
        let read = move |bytes: usize| progress.inc(bytes as u64);
        let loaded = match self {
            Place::Cpu => {
                let groups = Group::new(ranks);
                Ranks::start(ranks, move |rank| {
                    let backend = Cpu::new(groups[rank].clone(), activations).with_cache(cache);
                    Model::load(backend, &checkpoint, rank, ranks, &limits, &read)
                })?
            }
            Place::Gpus(runtime) => {
                let options = Options {
                    activations,
                    cache,
                    max_num_seqs: args.max_num_seqs,
                    graphs: !args.enforce_eager,
                    all_reduce: match args.all_reduce {
                        AllReduce::OneShot => hip::AllReduce::OneShot,
                        AllReduce::Ordered => hip::AllReduce::Ordered,
                        AllReduce::Rccl => hip::AllReduce::Library,
                    },
                    watchdog: Duration::from_secs(args.watchdog_timeout),
                };
                let compare = runtime.platform() == Platform::Hip
                    && args.all_reduce != AllReduce::Rccl
                    && !hip::Device::open(&runtime, 0)?.is_emulated()?;
                let meeting = (ranks > 1).then(|| Meeting::new(&runtime, ranks)).transpose()?;
                let mut loaded = Ranks::start(ranks, move |rank| {
                    let device =
                        hip::Device::open(&runtime, rank).map_err(model::DeviceError::from)?;
                    let group = match &meeting {
                        Some(meeting) => {
                            Some(meeting.join(rank, &device).map_err(model::DeviceError::from)?)
                        }
                        None => None,
                    };
                    let config = checkpoint.config();
                    let backend = Gpu::new(&device, group, config, &limits, options)?;
                    Model::load(backend, &checkpoint, rank, ranks, &limits, &read)
                })?;
                warm_up(&mut loaded, &limits, args, compare)?;
                loaded
            }
        };
        bar.finish_and_clear();
        Ok(loaded)
    }
}

/// Runs every kind of step once: collectives get ready, and decode graphs are recorded and, if
/// wanted, compared with what they record.
fn warm_up(
    ranks: &mut Ranks,
    limits: &Limits,
    args: &ServeArgs,
    compare: bool,
) -> anyhow::Result<()> {
    let bar = progress_bar(0, "graphs {bar:40} {pos}/{len}");
    hip::warm_up(ranks, limits, args.max_num_seqs, !args.enforce_eager, compare, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// What the poorest device has free, times the number of ranks.
fn free_on_all(runtime: &Arc<Runtime>, ranks: usize) -> anyhow::Result<usize> {
    let mut least = usize::MAX;
    for rank in 0..ranks {
        least = least.min(hip::Device::open(runtime, rank)?.memory()?.0);
    }
    Ok(least.saturating_mul(ranks))
}

const BYTES: &str = "weights {bar:40} {binary_bytes}/{binary_total_bytes} \
                     {binary_bytes_per_sec} {eta}";

fn progress_bar(length: usize, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
