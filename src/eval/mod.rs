//! `moonrock eval`: how often a model is right, and whether two runs differ.
//!
//! Every task asks over OpenAI's routes: a running server's, or those of a server in this process
//! on a free port of the loopback device, so that both go the same way.

mod args;
mod choice;
mod client;
mod compare;
mod generate;
mod perplexity;
mod report;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::{Context, bail};
use clap::{Args, FromArgMatches};
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

pub(crate) use args::EvalCommand;
use args::{ChoiceArgs, GenerateArgs, PerplexityArgs, TargetArgs};
use client::Client;
use report::Report;

use crate::cli::ServeArgs;

pub(crate) fn run(command: &EvalCommand) -> anyhow::Result<()> {
    let (target, output) = match command {
        EvalCommand::Choice(ChoiceArgs { target, .. })
        | EvalCommand::Perplexity(PerplexityArgs { target, .. })
        | EvalCommand::Generate(GenerateArgs { target, .. }) => (target, &target.output),
        EvalCommand::Compare(args) => return compare::run(args),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(with_server(target, command));
    // A model that is still being loaded does not hold up the end.
    runtime.shutdown_background();
    let report = report?;
    println!("{}", report.summary());
    match output {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

/// Runs the task against the server of `--url`, or against one of its own.
async fn with_server(target: &TargetArgs, command: &EvalCommand) -> anyhow::Result<Report> {
    let Some(model) = &target.model else {
        let client = Client::new(&target.url, target).await?;
        return task(command, &client).await;
    };
    let args = serve_args(model, &target.serve)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut server = pin!(crate::serve::on(listener, &args));
    let run = async {
        client::ready(&url).await?;
        let client = Client::new(&url, target).await?;
        task(command, &client).await
    };
    tokio::select! {
        ended = &mut server => {
            ended?;
            bail!("stopped before the end");
        }
        report = run => report,
    }
}

/// The flags of `moonrock serve` with their defaults.
fn serve_args(model: &Path, flags: &[String]) -> anyhow::Result<ServeArgs> {
    let command = ServeArgs::augment_args(clap::Command::new("moonrock serve"));
    let given = ["moonrock serve".into(), model.as_os_str().to_owned()];
    let matches =
        command.try_get_matches_from(given.into_iter().chain(flags.iter().map(Into::into)));
    Ok(ServeArgs::from_arg_matches(&matches.map_err(|error| {
        let text = error.to_string();
        anyhow::anyhow!("behind --: {}", text.lines().next().unwrap_or_default())
    })?)?)
}

async fn task(command: &EvalCommand, client: &Client) -> anyhow::Result<Report> {
    match command {
        EvalCommand::Choice(args) => choice::run(args, client).await,
        EvalCommand::Perplexity(args) => perplexity::run(args, client).await,
        EvalCommand::Generate(args) => generate::run(args, client).await,
        EvalCommand::Compare(_) => bail!("compare asks no server"),
    }
}

/// Rows of JSONL files, each with its place for errors.
fn rows<T: DeserializeOwned>(paths: &[PathBuf]) -> anyhow::Result<Vec<(String, T)>> {
    let mut rows = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = format!("{}:{}", path.display(), number + 1);
            let row = serde_json::from_str(line).with_context(|| place.clone())?;
            rows.push((place, row));
        }
    }
    if rows.is_empty() {
        bail!("--data: there is no row in it");
    }
    Ok(rows)
}

/// Asks about every row, some at a time; results in the rows' order.
async fn ask_all<'a, R, T, F>(
    rows: &'a [(String, R)],
    at_once: usize,
    ask: impl Fn(&'a R) -> F,
) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let bar = ProgressBar::new(rows.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} eta {eta}") {
        bar.set_style(style);
    }
    let answers = rows.iter().map(|(place, row)| {
        let answer = ask(row);
        async {
            let answer = answer.await.with_context(|| place.clone());
            bar.inc(1);
            answer
        }
    });
    let answers = stream::iter(answers).buffered(at_once).try_collect().await;
    bar.finish_and_clear();
    answers
}
