//! Settings, from environment variables.

use std::path::PathBuf;

use crate::simd::Simd;

/// How long a wave runs before another gets its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantum {
    /// This many instructions.
    Fixed(u32),
    /// Until it waits at a barrier, sleeps or ends.
    UntilBlocked,
    /// A random number of instructions up to 64, by the seed.
    Random,
}

/// Settings of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `EMU_CHECK`: `on` (default) or `off`.
    pub strict: bool,
    /// `EMU_LATE`: memory operations happen at their waits (default 1 with checks).
    pub late: bool,
    /// `EMU_QUANTUM`: a number, `block` (default) or `random`.
    pub quantum: Quantum,
    /// `EMU_SEED`: order of waves and workgroups; 0 is ascending.
    pub seed: u64,
    /// `EMU_THREADS`: threads for workgroups without checks.
    pub threads: usize,
    /// `EMU_NAN_SCALE=1`: NaN scales are errors.
    pub nan_scale: bool,
    /// `EMU_COUNTERS`: file for counters, one JSON line for each launch.
    pub counters: bool,
    /// The file's path.
    pub counters_file: Option<String>,
    /// `EMU_HANG_SECONDS`: when a kernel or collective counts as hung.
    pub hang_seconds: u64,
    /// `EMU_SIMD`: the variant of the loops over lanes; the widest that the processor runs.
    pub simd: Simd,
    /// `EMU_STALL=DEVICE:FILE`: once the file exists, kernels of the device hang.
    pub stall: Option<(usize, PathBuf)>,
    /// `EMU_DEVICES`: number of devices.
    pub devices: usize,
    /// `EMU_MEMORY_GB`: memory of each device.
    pub memory: u64,
}

impl Config {
    /// Reads the environment; malformed values are reported and ignored.
    pub fn from_env() -> Self {
        Self::from(|k| std::env::var(k).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Self {
        let number = |k: &str, default: u64| match get(k) {
            None => default,
            Some(v) => v.parse().unwrap_or_else(|_| {
                eprintln!("emulator: {k}={v} is not a number, using {default}");
                default
            }),
        };
        let strict = get("EMU_CHECK").as_deref() != Some("off");
        let quantum = match get("EMU_QUANTUM").as_deref() {
            None | Some("block") => Quantum::UntilBlocked,
            Some("random") => Quantum::Random,
            Some(_) => Quantum::Fixed(number("EMU_QUANTUM", 1) as u32),
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()) as u64;
        let counters_file = get("EMU_COUNTERS");
        Config {
            strict,
            late: strict && number("EMU_LATE", 1) != 0,
            quantum,
            seed: number("EMU_SEED", 0),
            threads: number("EMU_THREADS", cpus).clamp(1, 1024) as usize,
            nan_scale: number("EMU_NAN_SCALE", 0) != 0,
            counters: counters_file.is_some(),
            counters_file,
            hang_seconds: number("EMU_HANG_SECONDS", 600),
            simd: get("EMU_SIMD").map_or_else(Simd::best, |name| simd(&name)),
            stall: get("EMU_STALL").and_then(|text| stall(&text)),
            devices: number("EMU_DEVICES", 8).clamp(1, crate::MAX_DEVICES as u64) as usize,
            memory: number("EMU_MEMORY_GB", 288).saturating_mul(1 << 30),
        }
    }
}

fn stall(text: &str) -> Option<(usize, PathBuf)> {
    let parts = text.split_once(':');
    let stall = parts.and_then(|(device, file)| Some((device.parse().ok()?, file.into())));
    if stall.is_none() {
        eprintln!("emulator: EMU_STALL={text} is not DEVICE:FILE, ignored");
    }
    stall
}

fn simd(name: &str) -> Simd {
    Simd::named(name).unwrap_or_else(|| {
        let best = Simd::best();
        eprintln!("emulator: EMU_SIMD={name} is none of portable, avx2, avx512, using {best}");
        best
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let c = Config::from(|_| None);
        assert!(c.strict && c.late && c.quantum == Quantum::UntilBlocked && c.devices == 8);
        let set = |k: &str| {
            let v = match k {
                "EMU_CHECK" => "off",
                "EMU_QUANTUM" => "3",
                "EMU_SEED" => "x",
                "EMU_SIMD" => "portable",
                "EMU_STALL" => "1:/there",
                _ => return None,
            };
            Some(v.to_owned())
        };
        let c = Config::from(set);
        assert_eq!((c.strict, c.late, c.quantum, c.seed), (false, false, Quantum::Fixed(3), 0));
        assert_eq!((c.simd, c.stall), (Simd::Portable, Some((1, "/there".into()))));
    }
}
