//! Compiles small kernels with clang and runs them on the emulator's library interface.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use emulator::config::{Config, Quantum};
use emulator::counters::Counters;
use emulator::env::Fault;
use emulator::loader::{self, Module};
use emulator::memory::{Alloc, Memory};
use emulator::sched::{self, Launch};
use emulator::simd::Simd;

/// Checks on, everything late, waves until they block.
pub fn strict() -> Config {
    Config {
        strict: true,
        late: true,
        quantum: Quantum::UntilBlocked,
        seed: 0,
        threads: 2,
        nan_scale: false,
        counters: false,
        counters_file: None,
        hang_seconds: 60,
        stall: None,
        simd: Simd::best(),
        devices: 8,
        memory: 1 << 32,
    }
}

/// Every schedule that kernels must be right in.
pub fn schedules() -> Vec<Config> {
    let mut all = Vec::new();
    for late in [false, true] {
        for quantum in [Quantum::Fixed(1), Quantum::UntilBlocked, Quantum::Random] {
            for seed in [0, 7] {
                all.push(Config { late, quantum, seed, ..strict() });
            }
        }
    }
    all.push(Config { strict: false, late: false, ..strict() });
    all
}

fn kernels_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

/// Compiles `tests/kernels/<file>` (HIP or assembly) to a gfx950 code object.
pub fn compile(file: &str) -> Vec<u8> {
    compile_source(&std::fs::read_to_string(kernels_dir().join(file)).unwrap(), file)
}

/// Compiles a kernel file at an optimisation level.
pub fn compile_at(file: &str, level: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(kernels_dir().join(file)).unwrap();
    compile_with(&format!("// {level}\n{text}"), file, level)
}

/// Compiles source text; the name's extension tells the language. Results are kept per process.
pub fn compile_source(source: &str, name: &str) -> Vec<u8> {
    compile_with(source, name, "-O3")
}

fn compile_with(source: &str, name: &str, level: &str) -> Vec<u8> {
    static DONE: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done = done.get_or_insert_default();
    if let Some(b) = done.get(source) {
        return b.clone();
    }
    let dir = tempdir();
    let (input, output) = (dir.join(name), dir.join("out.co"));
    std::fs::write(&input, source).unwrap();
    let clang = std::env::var("EMU_CLANG").unwrap_or_else(|_| "clang-22".into());
    let mut c = Command::new(clang);
    if name.ends_with(".s") {
        c.args(["-x", "assembler", "--target=amdgcn-amd-amdhsa", "-mcpu=gfx950"]);
    } else {
        c.args(["-x", "hip", "--offload-arch=gfx950", "--offload-device-only"]);
        c.args(["--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", level, "-g"]);
        c.arg("-I").arg(kernels_dir());
    }
    let out = c.arg(&input).arg("-o").arg(&output).output().expect("clang-22 runs");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    let b = std::fs::read(&output).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    done.insert(source.to_owned(), b.clone());
    b
}

/// A fresh directory.
pub fn tempdir() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static N: AtomicU64 = AtomicU64::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    let d = std::env::temp_dir().join(format!("emu-test-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&d).unwrap();
    d
}

/// One device with one module.
pub struct Machine {
    pub memory: Arc<Memory>,
    pub module: Module,
    pub config: Config,
}

impl Machine {
    pub fn new(image: &[u8], config: Config) -> Self {
        let memory = Arc::new(Memory::new(config.memory, config.strict));
        let module = loader::load(&memory, 0, image, config.simd).expect("module loads");
        Machine { memory, module, config }
    }

    pub fn buffer<T: Copy>(&self, data: &[T]) -> Arc<Alloc> {
        let bytes = std::mem::size_of_val(data);
        let a = self.memory.alloc(0, bytes as u64, 0).unwrap();
        // SAFETY: the allocation has the size of `data`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr().cast(), a.at(a.base), bytes) };
        a.mark(a.base, bytes, true);
        a
    }

    /// Device memory that nothing wrote.
    pub fn raw(&self, bytes: u64) -> Arc<Alloc> {
        self.memory.alloc(0, bytes, 0).unwrap()
    }

    pub fn launch(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        args: &[u64],
    ) -> Result<Counters, Box<Fault>> {
        self.launch_lds(kernel, grid, block, args, 0)
    }

    pub fn launch_lds(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        args: &[u64],
        dynamic_lds: u32,
    ) -> Result<Counters, Box<Fault>> {
        let k = Arc::clone(self.module.kernels.get(kernel).expect("kernel exists"));
        let mut kernarg = vec![0u8; k.desc.kernarg as usize];
        let explicit = k.args.iter().filter(|a| !a.kind.starts_with("hidden_"));
        for (arg, value) in explicit.zip(args) {
            let n = arg.size.min(8);
            kernarg[arg.offset..arg.offset + n].copy_from_slice(&value.to_le_bytes()[..n]);
        }
        sched::fill_hidden(&mut kernarg, &k, [grid, 1, 1], [block, 1, 1]);
        let launch = Launch {
            kernel: k,
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            dynamic_lds,
            kernarg,
            device: 0,
            cooperative: false,
        };
        let race = self.operation(kernel, (grid, launch.kernel.atomics));
        sched::run(&self.memory, &launch, &self.config, race)
    }

    fn operation(&self, name: &str, groups: (u32, bool)) -> Option<emulator::check::Operation> {
        let races = Arc::new(emulator::check::Races::default());
        self.config.strict.then(|| races.begin(name, 0, (0, 1), Default::default(), vec![], groups))
    }
}

/// The contents of a buffer.
pub fn read<T: Copy>(a: &Alloc) -> Vec<T> {
    let n = a.size as usize / std::mem::size_of::<T>();
    // SAFETY: the allocation is `n` values long, page-aligned, and no kernel is running.
    unsafe { std::slice::from_raw_parts(a.at(a.base).cast::<T>(), n).to_vec() }
}

/// A small deterministic generator.
pub struct Random(pub u64);

impl Random {
    pub fn u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    pub fn f32(&mut self) -> f32 {
        self.u32() as f32 / 2f32.powi(31) - 1.0
    }
}
