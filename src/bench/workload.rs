//! What is sent, and when: fixed by the seed before anything is measured.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use model::uniform;
use serde::Deserialize;

use super::args::BenchServeArgs;

/// One request of a workload.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    /// When to send it, from the start.
    pub(super) at: Duration,
    pub(super) prompt: Vec<u32>,
    pub(super) output_len: usize,
    pub(super) seed: u64,
}

/// Lengths and, in a trace, a time in milliseconds.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Line {
    #[serde(default)]
    timestamp: f64,
    input_length: usize,
    output_length: usize,
}

/// The workload that the flags describe, in the order of its times.
pub(super) fn jobs(args: &BenchServeArgs) -> anyhow::Result<Vec<Job>> {
    let lines = match &args.trace {
        Some(path) => {
            let mut lines = read_trace(path)?;
            lines.truncate(args.num_prompts.unwrap_or(lines.len()));
            lines
        }
        None => {
            let (input_length, output_length) = (args.random_input_len, args.random_output_len);
            let line = Line { timestamp: 0.0, input_length, output_length };
            vec![line; args.num_prompts.unwrap_or(100)]
        }
    };
    let mut poisson = 0.0;
    let mut jobs: Vec<Job> = lines
        .into_iter()
        .zip(0u64..)
        .map(|(line, number)| {
            let at = match args.request_rate {
                Some(rate) => {
                    // Times between the events of a Poisson process are exponential.
                    poisson -= (1.0 - f64::from(uniform(args.seed, number))).ln() / rate;
                    poisson
                }
                None => line.timestamp / 1e3,
            };
            // Below 2^53, which every JSON reader keeps exactly.
            let seed = args.seed.wrapping_mul(1_000_003).wrapping_add(number + 1) & ((1 << 53) - 1);
            let id = |seed, i| (uniform(seed, i) * args.vocab_size as f32) as u32;
            let shared = (0..args.random_prefix_len as u64).map(|i| id(args.seed, i));
            let own = (0..line.input_length as u64).map(|i| id(seed, i));
            let prompt = shared.chain(own).collect();
            Job { at: Duration::from_secs_f64(at), prompt, output_len: line.output_length, seed }
        })
        .collect();
    jobs.sort_by_key(|job| job.at);
    Ok(jobs)
}

fn read_trace(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lines = lines.map(|(number, line)| {
        let name = || format!("{}, line {}", path.display(), number + 1);
        let line: Line = serde_json::from_str(line).with_context(name)?;
        ensure!(line.input_length > 0, "{}: input_length is 0", name());
        ensure!(line.output_length > 0, "{}: output_length is 0", name());
        // Over a year is a mistake, and from some point on no Duration.
        let in_range = (0.0..4e10).contains(&line.timestamp);
        ensure!(in_range, "{}: timestamp {} is out of range", name(), line.timestamp);
        Ok(line)
    });
    let lines = lines.collect::<anyhow::Result<Vec<Line>>>()?;
    ensure!(!lines.is_empty(), "{}: no requests", path.display());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: BenchServeArgs,
    }

    fn workload(flags: &[&str]) -> anyhow::Result<Vec<Job>> {
        jobs(&Flags::try_parse_from([&["bench"], flags].concat())?.args)
    }

    #[test]
    fn a_seed_fixes_distinct_prompts_and_times() {
        let flags = ["--num-prompts", "400", "--random-input-len", "30", "--request-rate", "8"];
        let first = workload(&flags).unwrap();
        assert_eq!(first, workload(&flags).unwrap());
        let other = workload(&[&flags[..], &["--seed", "1"]].concat()).unwrap();
        let prompts = first.iter().chain(&other).map(|job| &job.prompt);
        assert_eq!(prompts.clone().collect::<std::collections::BTreeSet<_>>().len(), 800);
        assert!(prompts.flatten().all(|id| *id < 256));
        // 400 arrivals at 8 a second take 50 s with a standard deviation of sqrt(400) / 8 = 2.5 s.
        let last = first[399].at.as_secs_f64();
        assert!((last - 50.0).abs() < 4.0 * 2.5, "{last}");
    }

    #[test]
    fn a_shared_prefix_comes_before_what_differs() {
        let flags = ["--num-prompts", "3", "--random-input-len", "20", "--random-prefix-len", "9"];
        let prompts: Vec<_> = workload(&flags).unwrap().into_iter().map(|job| job.prompt).collect();
        assert!(prompts.iter().all(|prompt| prompt.len() == 29 && prompt[..9] == prompts[0][..9]));
        assert!(prompts[0][9..] != prompts[1][9..] && prompts[1][9..] != prompts[2][9..]);
        let other = workload(&[&flags[..], &["--seed", "1"]].concat()).unwrap();
        assert_ne!(other[0].prompt[..9], prompts[0][..9]);
    }

    #[test]
    fn a_trace_gives_lengths_and_times() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let trace = |text: &str, flags: &[&str]| {
            std::fs::write(file.path(), text).unwrap();
            workload(&[&["--trace", file.path().to_str().unwrap()], flags].concat())
        };
        let two = "{\"timestamp\": 1500, \"input_length\": 3, \"output_length\": 4}\n\n\
                   {\"timestamp\": 20, \"input_length\": 5, \"output_length\": 6, \"x\": [1]}";
        let jobs = trace(two, &[]).unwrap();
        let seen = |job: &Job| (job.at.as_millis(), job.prompt.len(), job.output_len);
        assert_eq!(jobs.iter().map(seen).collect::<Vec<_>>(), [(20, 5, 6), (1500, 3, 4)]);
        assert_eq!(trace(two, &["--num-prompts", "1"]).unwrap().len(), 1);
        for (bad, message) in [
            ("", "no requests"),
            ("{\"input_length\": 3}", "line 1"),
            ("{\"input_length\": 0, \"output_length\": 1}", "input_length is 0"),
            ("{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", "timestamp -1"),
        ] {
            let error = format!("{:#}", trace(bad, &[]).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }
}
