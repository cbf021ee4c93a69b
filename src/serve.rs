//! `moonrock serve`: from a directory to a listening server.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use checkpoint::{Activations, Checkpoint};
use cpu::{Cpu, Group};
use engine::{Engine, EngineConfig};
use indicatif::{ProgressBar, ProgressStyle};
use model::{Limits, Model, Ranks};
use server::{App, ServerConfig};
use text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;

use crate::cli::{Device, LogFormat, ServeArgs};
use crate::memory::{Plan, Wishes, host_available};

/// Share of the host's free memory that a server on the CPU takes: others live there too.
const HOST_SHARE: f64 = 0.25;
/// Rows per step on the CPU: about a second of work for a small model, so that streams do not
/// stall.
const CPU_BATCHED_TOKENS: usize = 512;

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().with_span_list(false).init(),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(args));
    // A model that is still being loaded does not hold up the end.
    runtime.shutdown_background();
    result
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    if args.device == Device::Hip {
        bail!("--device hip: this build has no GPU backend; use --device cpu");
    }
    // First, so that a port in use is known before weights are read.
    let address = format!("{}:{}", args.host, args.port);
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("--host {} --port {}", args.host, args.port))?;
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
    let config = server_config(args, name, plan.limits.max_model_len, eos_ids)?;
    let app = Arc::new(App::new(config, Arc::new(tokenizer), Arc::new(template)));
    let (limits, ranks) = (plan.limits, args.tensor_parallel_size);
    let loaded = tokio::task::spawn_blocking(move || load(checkpoint, limits, ranks, activations));
    let address = listener.local_addr()?;
    let mut server = pin!(server::serve(listener, app.clone(), stop_signal()));
    tokio::select! {
        loaded = loaded => {
            let mut ranks = loaded??;
            app.start(match args.no_async_scheduling {
                false => Engine::start_overlapped(engine_config, Box::new(ranks)),
                true => Engine::start(engine_config, Box::new(move |batch| ranks.run(batch))),
            });
            eprintln!("listening on http://{address}");
        }
        ended = &mut server => return Ok(ended?),
    }
    Ok(server.await?)
}

fn server_config(
    args: &ServeArgs,
    served_model_name: String,
    max_model_len: usize,
    eos_ids: Vec<u32>,
) -> anyhow::Result<ServerConfig> {
    Ok(ServerConfig {
        served_model_name,
        max_model_len,
        api_keys: api_keys(args)?,
        allowed_origins: args.allowed_origins.clone(),
        seed: args.seed,
        eos_ids,
        thinking: true,
        max_body_bytes: args.max_body_bytes,
        max_header_bytes: args.max_header_bytes,
        write_timeout: Duration::from_secs(args.write_timeout),
        request_timeout: args.request_timeout.map(Duration::from_secs),
        drain_timeout: Duration::from_secs(args.drain_timeout),
    })
}

/// The keys of the flag and of the file.
fn api_keys(args: &ServeArgs) -> anyhow::Result<Vec<String>> {
    let mut keys = args.api_key.clone();
    if let Some(path) = &args.api_key_file {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            bail!("--api-key-file {}: there is no key in it", path.display());
        }
    }
    if keys.iter().any(String::is_empty) {
        bail!("--api-key: a key is empty");
    }
    Ok(keys)
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
