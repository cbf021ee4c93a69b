//! `moonrock serve`: from a directory to a listening server.

use std::sync::Arc;

use anyhow::{Context, bail};
use checkpoint::{Activations, Checkpoint};
use cpu::{Cpu, Group};
use engine::{Engine, EngineConfig};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Limits, Model, Ranks};
use server::{App, ServerConfig};
use text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;

use crate::cli::{Device, ServeArgs};
use crate::memory::{Plan, Wishes, host_available};

/// Share of the host's free memory that a server on the CPU takes: others live there too.
const HOST_SHARE: f64 = 0.25;
/// Rows per step on the CPU: about a second of work for a small model, so that streams do not
/// stall.
const CPU_BATCHED_TOKENS: usize = 512;
/// Room for the longest prompt as token ids in JSON, 262,144 of them, and then some.
const MAX_BODY_BYTES: usize = 16 << 20;

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    if args.device == Device::Hip {
        bail!("--device hip: this build has no GPU backend; use --device cpu");
    }
    // First, so that a port in use is known before weights are read.
    let address = format!("{}:{}", args.host, args.port);
    let listener = TcpListener::bind(&address).await.with_context(|| address.clone())?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = Tokenizer::from_dir(&args.model)?;
    let template = ChatTemplate::from_dir(&args.model)?;
    let eos_ids = checkpoint::end_ids(&args.model)?;
    let config = checkpoint.config();
    config.check_parallel(args.tensor_parallel_size)?;
    if tokenizer.vocab_size() as usize > config.vocab_size {
        bail!(
            "{}: the tokenizer has {} ids but the model only {}",
            args.model.display(),
            tokenizer.vocab_size(),
            config.vocab_size
        );
    }
    let name = served_name(args);
    eprintln!(
        "{name}: {} on {} rank(s) of the CPU",
        args.model.display(),
        args.tensor_parallel_size
    );
    let plan = plan(args, &checkpoint)?;
    eprintln!("{}", plan.table());
    let engine_config = EngineConfig {
        max_model_len: plan.limits.max_model_len,
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: plan.limits.max_num_batched_tokens,
        block_size: plan.limits.block_size,
        num_blocks: plan.limits.num_blocks,
        prefix_caching: !args.no_enable_prefix_caching,
        vocab_size: config.vocab_size,
        max_waiting: args.max_waiting,
    };
    let activations = args.expert_activations.map_or(config.activations, Activations::from);
    let mut ranks = load(checkpoint, plan.limits, args.tensor_parallel_size, activations)?;
    let engine = Engine::start(engine_config, Box::new(move |batch| ranks.run(batch)));
    let config = ServerConfig {
        served_model_name: name,
        max_model_len: plan.limits.max_model_len,
        api_key: args.api_key.clone(),
        seed: args.seed,
        eos_ids,
        thinking: true,
        max_body_bytes: MAX_BODY_BYTES,
    };
    let app = App::new(config, engine, Arc::new(tokenizer), Arc::new(template));
    eprintln!("listening on http://{}", listener.local_addr()?);
    server::serve(listener, Arc::new(app), stop_signal()).await?;
    Ok(())
}

fn served_name(args: &ServeArgs) -> String {
    let directory = || {
        let absolute = std::path::absolute(&args.model).ok()?;
        Some(absolute.file_name()?.to_string_lossy().into_owned())
    };
    args.served_model_name.clone().or_else(directory).unwrap_or_else(|| "model".to_owned())
}

fn plan(args: &ServeArgs, checkpoint: &Checkpoint) -> anyhow::Result<Plan> {
    let made_for = checkpoint.config().max_position_embeddings;
    let max_model_len = args.max_model_len.unwrap_or(made_for);
    if max_model_len > made_for {
        bail!("--max-model-len {max_model_len}: the model was made for at most {made_for}");
    }
    let share = args.gpu_memory_utilization.unwrap_or(HOST_SHARE);
    let wishes = Wishes {
        ranks: args.tensor_parallel_size,
        max_model_len,
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(CPU_BATCHED_TOKENS),
        block_size: args.block_size,
        budget: (host_available()? as f64 * share) as usize,
    };
    Plan::for_cpu(checkpoint, &wishes)
}

/// Reads every rank's weights, with a progress bar.
fn load(
    checkpoint: Checkpoint,
    limits: Limits,
    ranks: usize,
    activations: Activations,
) -> anyhow::Result<Ranks> {
    let bar = progress_bar(ranks * model::weight_bytes(&checkpoint, ranks));
    let (groups, checkpoint) = (Group::new(ranks), Arc::new(checkpoint));
    let progress = bar.clone();
    let loaded = Ranks::start(ranks, move |rank| {
        let backend = Cpu::new(groups[rank].clone(), activations);
        let read = |bytes: usize| progress.inc(bytes as u64);
        Model::load(backend, &checkpoint, rank, ranks, &limits, &read)
    });
    bar.finish_and_clear();
    Ok(loaded?)
}

fn progress_bar(bytes: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "weights {bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    );
    let bar = ProgressBar::new(bytes as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Ends at SIGINT or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
