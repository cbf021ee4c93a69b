//! The `moonrock` command: `serve` a model over HTTP, `inspect` a checkpoint.
//!
//! This package alone knows the backends and picks one; everything else is in the crates.

mod cli;
mod inspect;
mod memory;
mod serve;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let result = match &cli.command {
        cli::Command::Serve(args) => serve::run(args),
        cli::Command::Inspect(args) => inspect::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moonrock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
