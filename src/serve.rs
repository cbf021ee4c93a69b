//! `moonrock serve`: from a directory to a listening server.

use std::io::IsTerminal as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use checkpoint::{Activations, Checkpoint};
use engine::{Engine, EngineConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::{App, ServerConfig, Tls};
use text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{LogFormat, ServeArgs};
use crate::place::Place;

pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let levels = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(levels.from_env_lossy())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().with_span_list(false).init(),
    }
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(args));
    // A model that is still being loaded does not hold up the end.
    runtime.shutdown_background();
    result
}

/// A connection is an open file: as many as the system allows, not the 1024 that are usual.
fn allow_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        eprintln!("the limit of open files was not raised: {error}");
    }
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    // First, so that a port in use is known before weights are read.
    let address = format!("{}:{}", args.host, args.port);
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("--host {} --port {}", args.host, args.port))?;
    on(listener, args).await
}

/// Answers on `listener` with the model of `args`, until a signal asks for the end.
pub(crate) async fn on(listener: TcpListener, args: &ServeArgs) -> anyhow::Result<()> {
    let tls = match (&args.ssl_certfile, &args.ssl_keyfile) {
        (Some(certificates), Some(key)) => Some(Tls::from_files(certificates, key)?),
        _ => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
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
    let place = Place::choose(args)?;
    eprintln!("{name}: {} on {}", args.model.display(), place.describe(args.tensor_parallel_size)?);
    let plan = place.plan(args, &checkpoint)?;
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
    let grammars = app.clone();
    drop(tokio::task::spawn_blocking(move || grammars.prepare_grammars()));
    let (limits, owned) = (plan.limits, args.clone());
    let loaded =
        tokio::task::spawn_blocking(move || place.load(checkpoint, limits, activations, &owned));
    let address = listener.local_addr()?;
    let mut server = pin!(server::serve(listener, tls, app.clone(), stop_signal()));
    let engine = tokio::select! {
        loaded = loaded => {
            let mut ranks = loaded??;
            match args.no_async_scheduling {
                false => Engine::start_overlapped(engine_config, Box::new(ranks)),
                true => Engine::start(engine_config, Box::new(move |batch| ranks.run(batch))),
            }
        }
        ended = &mut server => return Ok(ended?),
    };
    app.start(engine.clone());
    eprintln!("listening on {scheme}://{address}");
    tokio::select! {
        ended = &mut server => {
            ended?;
            Ok(tokio::task::spawn_blocking(move || engine.stop()).await?)
        }
        reason = failure(&engine) => {
            eprintln!("stopping: {reason}");
            // Until then open answers get their error, and /health says why.
            tokio::time::sleep(LAST_WORDS).await;
            bail!("{reason}")
        }
    }
}

/// How long a server whose device has failed stays, so that everybody hears of it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Ends when the engine has failed, with the reason.
async fn failure(engine: &Engine) -> String {
    loop {
        if let Err(reason) = engine.health() {
            return reason;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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
