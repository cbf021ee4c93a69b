//! Modules, functions and launches.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::copy::Place;
use super::error::{self, Error, HipResult};
use super::{lock, runtime};
use crate::code::Kernel;
use crate::counters::Counters;
use crate::decode::DecodeError;
use crate::elf::ElfError;
use crate::env::FaultKind;
use crate::loader::{self, LoadError, Module};
use crate::sched::{self, Launch};

/// LDS of one workgroup.
pub(crate) const LDS_LIMIT: u32 = 163_840;

/// A module on one device.
pub(crate) struct LoadedModule {
    pub(crate) module: Module,
    pub(crate) device: usize,
    /// Function handles given out, to end with the module.
    pub(crate) functions: Mutex<Vec<u64>>,
}

/// A kernel with its settable attributes.
pub(crate) struct Function {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) device: usize,
    pub(crate) dynamic_lds: AtomicU32,
}

/// Loads an image onto the calling thread's device.
pub(crate) fn load(image: &[u8]) -> HipResult<Arc<LoadedModule>> {
    let device = super::current_device();
    let module =
        loader::load(&runtime().memory, device, image, runtime().config.simd).map_err(|e| {
            let code = match &e {
                LoadError::Elf(ElfError::Target(_) | ElfError::NoBundle) => error::NO_BINARY,
                LoadError::Elf(_) | LoadError::Kernel(..) => error::INVALID_IMAGE,
                LoadError::Memory => error::OUT_OF_MEMORY,
                LoadError::Decode(DecodeError::Unsupported { .. }) => error::INVALID_IMAGE,
                LoadError::Decode(_) | LoadError::Simd(..) => error::UNKNOWN,
            };
            Error::new(code, &e.to_string())
        })?;
    Ok(Arc::new(LoadedModule { module, device, functions: Mutex::default() }))
}

/// What a launch call asks for.
pub(crate) struct Request {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_lds: u32,
    pub(crate) cooperative: bool,
}

/// Where a launch call's arguments are.
pub(crate) enum Arguments {
    /// One pointer for each explicit argument.
    Pointers(*const *const u8),
    /// The packed explicit arguments.
    Packed(Vec<u8>),
    /// There are none.
    Nothing,
}

fn invalid<T>(what: &str) -> HipResult<T> {
    Err(Error::new(error::INVALID_VALUE, what))
}

/// Checks a launch against the limits of function and device, and copies its arguments.
///
/// # Safety
/// Argument pointers must be to values of the sizes the kernel declares.
pub(crate) unsafe fn prepare(
    f: &Function,
    r: &Request,
    args: &Arguments,
) -> HipResult<Arc<Launch>> {
    let k = &f.kernel;
    if r.grid.contains(&0) || r.block.contains(&0) {
        return Err(Error::new(error::INVALID_CONFIGURATION, "grid or block of zero size"));
    }
    let threads = r.block.iter().map(|b| u128::from(*b)).product::<u128>();
    let limit = u128::from(if k.max_threads == 0 { 1024 } else { k.max_threads.min(1024) });
    if threads > limit {
        let what = format!("{}: {threads} threads, the kernel allows {limit}", k.name);
        return invalid(&what);
    }
    let lds = u64::from(k.desc.lds) + u64::from(r.dynamic_lds);
    if lds > u64::from(LDS_LIMIT) {
        return invalid(&format!("{}: {lds} bytes of LDS, the limit is {LDS_LIMIT}", k.name));
    }
    // A workgroup must fit one compute unit: four SIMDs with 512 registers for each lane.
    let waves = threads.div_ceil(64) as u32;
    if waves > 4 * k.desc.waves_per_simd() {
        let what =
            format!("{}: {waves} waves with its registers do not fit a compute unit", k.name);
        return Err(Error::new(error::LAUNCH_FAILURE, &what));
    }
    let groups = r.grid.iter().map(|g| u128::from(*g)).product::<u128>();
    if groups > 1 << 31 || (0..3).any(|d| (u64::from(r.grid[d]) * u64::from(r.block[d])) >> 32 != 0)
    {
        return invalid("grid too large");
    }
    if r.cooperative && groups > u128::from(256 * occupancy(k, threads as u32, r.dynamic_lds)) {
        return Err(Error::new(720, "cooperative grid does not fit the device at once"));
    }
    // SAFETY: passed on from the caller.
    let mut kernarg = unsafe { arguments(k, args)? };
    sched::fill_hidden(&mut kernarg, k, r.grid, r.block);
    Ok(Arc::new(Launch {
        kernel: Arc::clone(k),
        grid: r.grid,
        block: r.block,
        dynamic_lds: r.dynamic_lds,
        kernarg,
        device: f.device,
        cooperative: r.cooperative,
    }))
}

/// # Safety
/// As for [`prepare`].
unsafe fn arguments(k: &Kernel, args: &Arguments) -> HipResult<Vec<u8>> {
    let mut out = vec![0u8; k.desc.kernarg as usize];
    let explicit: Vec<_> = k.args.iter().filter(|a| !a.kind.starts_with("hidden_")).collect();
    let need = explicit.iter().map(|a| a.offset + a.size).max().unwrap_or(0);
    if need > out.len() {
        return Err(Error::new(error::INVALID_IMAGE, "arguments exceed the argument segment"));
    }
    match args {
        Arguments::Packed(b) => {
            if b.len() < need {
                let what = format!("{}: {} argument bytes, needs {need}", k.name, b.len());
                return invalid(&what);
            }
            out[..need].copy_from_slice(&b[..need]);
        }
        Arguments::Pointers(p) => {
            for (n, a) in explicit.iter().enumerate() {
                // SAFETY: the caller passes one pointer for each explicit argument.
                let from = unsafe { *p.add(n) };
                if from.is_null() {
                    return invalid(&format!("{}: argument {n} is a null pointer", k.name));
                }
                let to = &mut out[a.offset..a.offset + a.size];
                // SAFETY: the caller's argument has the size the kernel declares.
                unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), a.size) };
            }
        }
        Arguments::Nothing if need > 0 => {
            return invalid(&format!("{}: arguments are missing", k.name));
        }
        Arguments::Nothing => {}
    }
    Ok(out)
}

/// Workgroups of `threads` that fit one compute unit.
pub(crate) fn occupancy(k: &Kernel, threads: u32, dynamic_lds: u32) -> u32 {
    let waves = threads.div_ceil(64).max(1);
    let by_registers = 4 * k.desc.waves_per_simd() / waves;
    let lds = (k.desc.lds + dynamic_lds).next_multiple_of(1280);
    let by_lds = LDS_LIMIT.checked_div(lds).unwrap_or(u32::MAX);
    by_registers.min(by_lds)
}

/// Runs a launch on the calling (worker) thread.
pub(crate) fn run(l: &Launch, place: &Place<'_>) {
    let r = runtime();
    let started = std::time::Instant::now();
    if let Some((device, file)) = &r.config.stall
        && *device == place.device
        && file.exists()
    {
        // As long as other hangs are waited for.
        std::thread::sleep(Duration::from_secs(r.config.hang_seconds));
        let what = format!("Hang: {} was stalled by EMU_STALL", l.kernel.name);
        return r.fail(place.device, error::LAUNCH_FAILURE, &what);
    }
    let groups = l.grid.iter().product::<u32>();
    let race = place.operation(&l.kernel.name, (groups, l.kernel.atomics));
    match sched::run(&r.memory, l, &r.config, race) {
        Ok(c) => {
            if r.config.counters {
                record(l, &c, started.elapsed().as_secs_f64());
            }
        }
        Err(f) => {
            let code = match f.kind {
                FaultKind::OutOfBounds => error::ILLEGAL_ADDRESS,
                _ => error::LAUNCH_FAILURE,
            };
            r.fail(place.device, code, &f.to_string());
        }
    }
}

/// Appends one JSON line for a launch to the counters file.
fn record(l: &Launch, c: &Counters, seconds: f64) {
    static FILE: Mutex<()> = Mutex::new(());
    let Some(path) = &runtime().config.counters_file else { return };
    let threads = l.block.iter().product::<u32>();
    let (vgprs, agprs) = l.kernel.desc.registers();
    let classes: serde_json::Map<String, serde_json::Value> =
        c.instructions.iter().map(|(k, v)| (format!("{k:?}").to_lowercase(), json!(v))).collect();
    let widths = |m: &std::collections::BTreeMap<u8, u64>| -> serde_json::Value {
        m.iter().map(|(k, v)| (k.to_string(), json!(v))).collect::<serde_json::Map<_, _>>().into()
    };
    let line = json!({
        "kernel": l.kernel.name,
        "device": l.device,
        "grid": l.grid,
        "block": l.block,
        "instructions": classes,
        "bytes_read": widths(&c.read),
        "bytes_written": widths(&c.written),
        "scalar_bytes_read": c.scalar_read,
        "distinct_bytes": c.distinct_bytes(),
        "lds_cycles": c.lds_cycles,
        "lds_conflict_cycles": c.lds_conflicts,
        "mfma_cycles": c.mfma_cycles,
        "mfma_macs": c.mfma_macs,
        "vgprs": vgprs,
        "agprs": agprs,
        "sgprs": l.kernel.sgprs,
        "lds": l.kernel.desc.lds + l.dynamic_lds,
        "scratch": l.kernel.desc.scratch,
        "waves_per_simd": l.kernel.desc.waves_per_simd(),
        "workgroups_per_cu": occupancy(&l.kernel, threads, l.dynamic_lds),
        "emulated_seconds": seconds,
    });
    let _one = lock(&FILE);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(e) = file.and_then(|mut f| writeln!(f, "{line}")) {
        eprintln!("emulator: EMU_COUNTERS={path}: {e}");
    }
}

/// The attribute values of `hipFuncGetAttribute` (0 threads, 1 LDS, 3 private, 4 registers, ...).
pub(crate) fn attribute(f: &Function, which: i32) -> HipResult<i32> {
    let k = &f.kernel;
    Ok(match which {
        0 => k.max_threads.min(1024) as i32,
        1 => k.desc.lds as i32,
        2 => 0,
        3 => k.desc.scratch as i32,
        4 => {
            let (v, a) = k.desc.registers();
            (v + a) as i32
        }
        5 | 6 => 950,
        8 => match f.dynamic_lds.load(Ordering::Relaxed) {
            0 => (LDS_LIMIT - k.desc.lds.min(LDS_LIMIT)) as i32,
            n => n as i32,
        },
        _ => return invalid(&format!("function attribute {which}")),
    })
}
