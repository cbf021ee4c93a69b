//! The `moonrock` command: `serve` a model, `inspect` or `quantize` a checkpoint, `bench` a server
//! or a GPU's kernels, `eval` a model's answers.
//!
//! This package alone knows the backends and picks one; everything else is in the crates.

mod bench;
mod cli;
mod eval;
mod inspect;
mod make_checkpoint;
mod memory;
mod place;
mod quantize;
mod serve;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let result = match &cli.command {
        cli::Command::Serve(args) => serve::run(args),
        cli::Command::Inspect(args) => inspect::run(args),
        cli::Command::Quantize(args) => quantize::run(args),
        cli::Command::MakeCheckpoint(args) => make_checkpoint::run(args),
        cli::Command::Eval(command) => eval::run(command),
        cli::Command::Bench(command) => bench::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moonrock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
