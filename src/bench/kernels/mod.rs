//! `moonrock bench kernels`: every kernel at a model's shapes, first whether it is right, then how
//! long it takes.
//!
//! A case (`case`) makes its operands with random values that are kept, or that can be looked up
//! (`gpu`). What it writes is poisoned, it runs once, and samples of the result are computed again
//! from the same operands in f64 (`check`); kernels that only move or choose values are compared to
//! the bit. Then it is timed, as part of a graph as decode steps are: weights and caches of keys by
//! turns, so that they come from memory; activations stay where the kernel before left them. On the
//! emulator times mean nothing, and its counters take their place (`counters`).

mod attention;
mod case;
mod ceilings;
mod check;
mod counters;
mod experts;
mod experts_check;
mod gpu;
mod matmul;
mod norm;
mod prompt;
mod quantized;
mod rope;
mod rows;
mod sampling;
mod shapes;
mod table;

use anyhow::{Context, bail};
use hip::{Blas, Platform};
use serde_json::json;

use super::args::{BenchKernelsArgs, GpuDevice};
use case::{Case, Work};
use ceilings::Ceilings;
use counters::CounterFile;
use gpu::{Gpu, Random};
pub(crate) use shapes::BenchModel;
use table::{Row, Table};

/// Defaults of --tokens and --contexts, on hardware and on the emulator.
const TOKENS: [&[usize]; 2] = [&[1, 4, 16, 64, 256, 1024, 4096], &[1, 16, 64, 256]];
const CONTEXTS: [&[usize]; 2] = [&[1024, 4096, 32_768], &[1024, 4096]];
/// A graph that is timed takes about as long.
const GRAPH_S: f64 = 1e-3;
/// Launches in a graph at most, if more are not needed to take all sets in turn.
const MOST_LAUNCHES: usize = 64;

pub(super) fn run(args: &BenchKernelsArgs) -> anyhow::Result<()> {
    let (platform, flag) = match args.device {
        GpuDevice::Hip => (Platform::Hip, "--device hip"),
        GpuDevice::Cuda => (Platform::Cuda, "--device cuda"),
    };
    let gpu = Gpu::open(platform, None).context(flag)?;
    let blas = if gpu.emulated { None } else { library(&gpu) };
    let ceilings = match gpu.emulated {
        true => None,
        false => Some(ceilings::measure(&gpu, blas.as_ref())?),
    };
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let mut random = Random::new(seed);
    println!("{}, seed {seed}", gpu.device.name()?);
    describe(ceilings.as_ref());

    let pick = |given: &[usize], defaults: [&[usize]; 2]| match given {
        [] => defaults[usize::from(gpu.emulated)].to_vec(),
        given => given.to_vec(),
    };
    let (tokens, contexts) = (pick(&args.tokens, TOKENS), pick(&args.contexts, CONTEXTS));
    let wanted = |kernel: &str| {
        args.only.is_empty() || args.only.iter().any(|name| kernel.contains(name.as_str()))
    };
    let mut cases = case::all(args.model.shapes(), &tokens, &contexts);
    cases.retain(|case| wanted(&case.kernel));
    if cases.is_empty() {
        bail!("--only: no kernel at these shapes has such a name");
    }
    let mut counters = CounterFile::from_env().filter(|_| gpu.emulated);
    let names = cases.iter().map(|case| (case.kernel.as_str(), case.shape.as_str()));
    let table = Table::new(names, ceilings.as_ref(), counters.is_some());
    println!("\n{}", table.head());
    let bar = super::progress_bar(cases.len(), "kernels");
    let mut rows = Vec::new();
    for case in cases {
        bar.set_message(format!("{}, {}", case.kernel, case.shape));
        let row = measure(&gpu, &mut random, case, counters.as_mut(), blas.as_ref())?;
        bar.suspend(|| println!("{}", table.line(&row)));
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some(path) = &args.json {
        let device = gpu.device.name()?;
        let report = json!({"device": device, "seed": seed, "ceilings": ceilings, "kernels": rows});
        super::write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    report_wrong(&rows)
}

/// Other values each time: below 2^53, which every JSON reader keeps exactly.
fn fresh_seed() -> u64 {
    fastrand::u64(..1 << 53)
}

fn library(gpu: &Gpu) -> Option<Blas<'_>> {
    match Blas::open(&gpu.stream) {
        Ok(blas) => Some(blas),
        Err(error) => {
            println!("the platform's matrix library is not present: {error}");
            None
        }
    }
}

fn describe(ceilings: Option<&Ceilings>) {
    let Some(ceilings) = ceilings else {
        return println!("on the emulator each kernel runs once, and times say nothing");
    };
    println!("copy on the device: {:.2} TB/s", ceilings.copy_bytes_per_s * 1e-12);
    if let Some(rate) = ceilings.library_flops_per_s {
        println!("BF16 product of the platform's library: {:.0} TFLOP/s", rate * 1e-12);
    }
}

/// Checks a case, and then times it on hardware, or counts what it does on the emulator.
fn measure(
    gpu: &Gpu,
    random: &mut Random,
    case: Case,
    counters: Option<&mut CounterFile>,
    blas: Option<&Blas<'_>>,
) -> anyhow::Result<Row> {
    let (kernel, shape) = (case.kernel.clone(), case.shape.clone());
    let name = || format!("{kernel}, {shape}");
    let work = case.build(gpu, random).with_context(name)?;
    let mut row = Row::new(kernel.clone(), shape.clone(), work.cost());
    let mut counters = counters;
    poison(gpu, work.as_ref()).with_context(name)?;
    if let Some(file) = &mut counters {
        file.skip();
    }
    work.launch(gpu, 0).and_then(|()| gpu.stream.synchronize()).with_context(name)?;
    if let Some(file) = &mut counters {
        row.counters = Some(file.next(work.cost())?);
    }
    if let Err(wrong) = work.check(gpu) {
        row.wrong = Some(format!("{wrong:#}"));
        return Ok(row);
    }
    if !gpu.emulated {
        row.seconds = Some(time(gpu, work.as_ref()).with_context(name)?);
        if let (Some(blas), Some((shape, output))) = (blas, work.product()) {
            drop(work);
            let seconds = ceilings::product(gpu, blas, output, shape).with_context(name)?;
            row.library_s = Some(seconds);
        }
    }
    Ok(row)
}

fn poison(gpu: &Gpu, work: &dyn Work) -> Result<(), hip::Error> {
    for memory in work.outputs() {
        gpu.stream.fill(memory, u32::MAX)?;
    }
    gpu.stream.synchronize()
}

fn time(gpu: &Gpu, work: &dyn Work) -> Result<f64, hip::Error> {
    let sets = work.sets();
    let once = gpu.stream.time(1, |i| work.launch(gpu, i))?;
    let wanted = (GRAPH_S / once.max(1e-7)).ceil() as usize;
    let launches = wanted.clamp(1, MOST_LAUNCHES).max(sets);
    gpu.stream.time(launches, |i| work.launch(gpu, i % sets))
}

/// Fails if any output was wrong, naming all.
fn report_wrong(rows: &[Row]) -> anyhow::Result<()> {
    let wrong = rows.iter().filter_map(|row| Some((row, row.wrong.as_ref()?)));
    let lines: Vec<String> =
        wrong.map(|(row, wrong)| format!("{}, {}: {wrong}", row.kernel, row.shape)).collect();
    match lines.len() {
        0 => Ok(()),
        count => bail!("{count} of {} are wrong:\n{}", rows.len(), lines.join("\n")),
    }
}

#[cfg(test)]
mod tests;
