//! `moonrock quantize`: the plan as a table, then the work with a progress bar.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use checkpoint::{ClassError, DEFAULT_EXCLUDES, Quantization, QuantizeOptions, Row};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mx::ScaleRule;

use crate::memory::gib;

#[derive(Args)]
pub(crate) struct QuantizeArgs {
    /// Directory with config.json and safetensors shards: BF16, F32, FP8 in blocks of 128 x 128, or
    /// INT4 W4A16
    #[arg(long)]
    model_path: PathBuf,

    /// Directory to write the quantized checkpoint to
    #[arg(long)]
    output_dir: PathBuf,

    /// Format of the quantized weights
    #[arg(long, value_enum, default_value_t = Precision::Mxfp4)]
    precision: Precision,

    /// Modules to leave as they are: shell patterns (*, ?, [..]) on their full names, or on their
    /// names within the language model
    #[arg(long, num_args = 0.., default_values = DEFAULT_EXCLUDES)]
    exclude_layers: Vec<String>,

    /// How a block's largest magnitude determines its scale
    #[arg(long, value_enum, default_value_t = Rule::Even)]
    scale_rule: Rule,

    /// Most memory to use, as bytes or with KiB, MiB or GiB
    #[arg(long, default_value = "4GiB", value_parser = bytes)]
    max_memory: usize,

    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,

    /// Replace a checkpoint that is in the output directory
    #[arg(long)]
    force: bool,

    /// Fail where a weight cannot be quantized because its inputs are no multiple of 32
    #[arg(long)]
    strict: bool,

    /// Read input and output again at the end, and compare every value
    #[arg(long)]
    verify: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    Mxfp4,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    /// Quark's default: up from 1.75 times a power of two on
    Even,
    /// The OCP specification's: never up
    Floor,
    /// Up from any power of two on
    Ceil,
}

pub(crate) fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    // There is one, and the layout is written for it.
    let Precision::Mxfp4 = args.precision;
    let plan = Quantization::plan(QuantizeOptions {
        model: args.model_path.clone(),
        output: args.output_dir.clone(),
        exclude: args.exclude_layers.clone(),
        rule: match args.scale_rule {
            Rule::Even => ScaleRule::Even,
            Rule::Floor => ScaleRule::Floor,
            Rule::Ceil => ScaleRule::Ceil,
        },
        max_memory: args.max_memory,
        strict: args.strict,
        force: args.force,
    })?;
    let mut out = std::io::stdout();
    write!(out, "{}", table(&plan))?;
    if args.dry_run {
        return Ok(());
    }
    let start = Instant::now();
    let bar = progress_bar("quantize", plan.input_bytes());
    plan.write(&|bytes| bar.inc(bytes as u64))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    writeln!(out, "{} written in {seconds:.1} s", args.output_dir.display())?;
    if args.verify {
        let bar = progress_bar("verify", plan.input_bytes());
        let errors = plan.verify(&|bytes| bar.inc(bytes as u64))?;
        bar.finish_and_clear();
        write!(out, "{}", verified(&errors))?;
    }
    Ok(())
}

fn table(plan: &Quantization) -> String {
    let line = |class: &str, change: &str, tensors: &str, before: &str, after: &str| {
        format!("{class:<16}{change:<16}{tensors:>9}{before:>14}{after:>14}\n")
    };
    let mut out = line("class", "format", "tensors", "before", "after");
    let tensors: usize = plan.rows().iter().map(|row| row.tensors).sum();
    for Row { class, from, to, tensors, before, after } in plan.rows() {
        let change = if from == to { (*from).to_owned() } else { format!("{from} -> {to}") };
        out += &line(class, &change, &tensors.to_string(), &gib(*before), &gib(*after));
    }
    let (before, after) = (gib(plan.input_bytes()), gib(plan.output_bytes()));
    out += &line("total", "", &tensors.to_string(), &before, &after);
    for (pattern, modules) in plan.patterns() {
        out += &format!("--exclude-layers {pattern:?}: {modules} modules\n");
    }
    for name in plan.skipped() {
        out += &format!("not quantized, inputs are no multiple of 32: {name}\n");
    }
    out
}

fn verified(errors: &[ClassError]) -> String {
    let mut out =
        format!("{:<16}{:>9}{:>12}{:>12}\n", "class", "tensors", "max error", "RMS error");
    for ClassError { class, tensors, max, rms } in errors {
        out += &format!("{class:<16}{tensors:>9}{max:>12.4}{rms:>12.4}\n");
    }
    out + "max: in a block, relative to its largest magnitude; RMS: relative to the input's RMS\n"
}

fn progress_bar(what: &str, bytes: usize) -> ProgressBar {
    let bar = ProgressBar::new(bytes as u64).with_prefix(what.to_owned());
    let style = ProgressStyle::with_template(
        "{prefix} {bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
    );
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A number of bytes, with a unit or without.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("expected a number of bytes, or one with KiB, MiB, GiB or TiB".into()),
    };
    let number: usize = digits.trim().parse().map_err(|e| format!("expected a number: {e}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}
