//! `moonrock bench serve`: an open-loop load generator for any server with OpenAI's completions.
//! `moonrock bench kernels` is in `kernels`.
//!
//! The workload is fixed beforehand (`workload`); each request is sent at its time whether or not
//! earlier ones have been answered (`client`), and the times become figures (`figures`, `plot`).

mod args;
mod client;
mod figures;
mod kernels;
mod plot;
mod sse;
mod workload;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) use args::{BenchCommand, BenchServeArgs};
use client::{Target, Timing};
use figures::{Figures, tpot, ttft};

pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    let args = match command {
        BenchCommand::Serve(args) => args,
        BenchCommand::Kernels(args) => return kernels::run(args),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &BenchServeArgs) -> anyhow::Result<()> {
    let jobs = workload::jobs(args)?;
    let key = args.api_key.clone();
    let target = Arc::new(Target::new(&args.base_url, key, args.model.clone()).await?);
    eprintln!("{} requests to {} at {}", jobs.len(), target.model(), args.base_url);

    let (outcomes, duration) = send(&target, jobs, args.max_concurrency).await?;
    let (mut timings, mut errors) = (Vec::new(), Vec::new());
    for (at, outcome) in outcomes {
        match outcome {
            Ok(timing) => timings.push((at, timing)),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    let answers: Vec<Timing> = timings.iter().map(|(_, timing)| timing.clone()).collect();
    let figures = Figures::new(&answers, errors.len(), duration);
    println!("{}", figures.table());
    if let Some(path) = &args.json {
        let requests: Vec<Value> = timings.iter().map(|(at, timing)| entry(*at, timing)).collect();
        let report = json!({"model": target.model(), "figures": figures, "requests": requests,
            "errors": errors});
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.plot {
        write(path, &plot::svg(&figures))?;
    }
    match errors.first() {
        Some(error) => bail!("{} of the requests failed, one with: {error}", errors.len()),
        None => Ok(()),
    }
}

/// When a request was sent, and how it went.
type Outcome = (Duration, anyhow::Result<Timing>);

/// Sends every request at its time, or as soon after it as `max_concurrency` allows. Returns all
/// outcomes and how long it took to the last one's end.
async fn send(
    target: &Arc<Target>,
    jobs: Vec<workload::Job>,
    max_concurrency: Option<usize>,
) -> anyhow::Result<(Vec<Outcome>, Duration)> {
    let bar = progress_bar(jobs.len(), "requests");
    let seats = max_concurrency.unwrap_or(jobs.len()).min(Semaphore::MAX_PERMITS);
    let seats = Arc::new(Semaphore::new(seats));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for job in jobs {
        tokio::time::sleep_until((start + job.at).into()).await;
        let seat = seats.clone().acquire_owned().await?;
        let (target, bar) = (target.clone(), bar.clone());
        tasks.spawn(async move {
            let at = start.elapsed();
            let outcome = target.run(&job).await;
            bar.inc(1);
            drop(seat);
            (at, outcome)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome?);
    }
    bar.finish_and_clear();
    Ok((outcomes, start.elapsed()))
}

/// One request in the report.
fn entry(at: Duration, timing: &Timing) -> Value {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    json!({"sent_ms": ms(at), "ttft_ms": ttft(timing).map(ms), "tpot_ms": tpot(timing).map(ms),
        "e2e_ms": ms(timing.end), "prompt_tokens": timing.prompt_tokens,
        "output_tokens": timing.output_tokens})
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn progress_bar(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let template = format!("{what} {{bar:40}} {{pos}}/{{len}} {{elapsed}} eta {{eta}} {{msg}}");
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
