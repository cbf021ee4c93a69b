//! Two devices that read each other's memory: the server's one-shot sum over ranks, and broken
//! variants of it, each of which is caught.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use emulator::check::{Order, Races};
use emulator::config::{Config, Quantum};
use emulator::env::{Fault, FaultKind};
use emulator::loader::{self, Module};
use emulator::memory::{Alloc, Memory};
use emulator::sched::{self, Launch};
use harness::strict;

/// What writes the parts that are summed: another launch of the same stream.
const PRODUCER: &str = "
struct ProduceArgs { float *out; float value; u32 width; };
KERNEL(256) void produce(ProduceArgs args) {
  if (thread() < args.width) args.out[block_x() * args.width + thread()] = args.value + thread();
}
";

const ROWS: usize = 2;
const WIDTH: usize = 64;

/// The kernel with `from` replaced by `to` in `file` of kernels/.
fn compile(file: &str, from: &str, to: &str) -> Vec<u8> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let directory = harness::tempdir();
    std::fs::create_dir_all(directory.join("arch")).unwrap();
    let files = ["device.h", "rms_norm.h", "arch/gfx950.h", "all_reduce.hip"];
    for name in files {
        let mut text = std::fs::read_to_string(kernels.join(name)).unwrap();
        if name == file {
            assert!(text.contains(from), "{name} has no {from:?}");
            text = text.replace(from, to);
        }
        if name == "all_reduce.hip" {
            text += PRODUCER;
        }
        std::fs::write(directory.join(name), text).unwrap();
    }
    let output: PathBuf = directory.join("out.co");
    let clang = std::env::var("EMU_CLANG").unwrap_or_else(|_| "clang-22".into());
    let compiled = Command::new(clang)
        .args(["-x", "hip", "-std=c++17", "--offload-arch=gfx950", "--offload-device-only"])
        .args(["--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-O3", "-g"])
        .arg(directory.join("all_reduce.hip"))
        .arg("-o")
        .arg(&output)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let object = std::fs::read(&output).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    object
}

/// One device's buffers.
struct Buffers {
    part: Arc<Alloc>,
    flags: Arc<Alloc>,
    epochs: Arc<Alloc>,
    residual: Arc<Alloc>,
    out: Arc<Alloc>,
}

struct Node {
    memory: Arc<Memory>,
    races: Arc<Races>,
    config: Config,
    modules: Vec<Module>,
    buffers: Vec<Buffers>,
    rows: Arc<Alloc>,
    weight: Arc<Alloc>,
    stop: Arc<Alloc>,
}

impl Node {
    fn new(object: &[u8], config: Config) -> Node {
        let memory = Arc::new(Memory::new(config.memory, config.strict));
        let filled = |device: usize, values: &[u32]| {
            let a = memory.alloc(device, 4 * values.len() as u64, 0).unwrap();
            // SAFETY: the allocation has so many words.
            unsafe {
                std::ptr::copy_nonoverlapping(values.as_ptr(), a.at(a.base).cast(), values.len());
            }
            a.mark(a.base, 4 * values.len(), true);
            a
        };
        let buffers = |device| Buffers {
            part: memory.alloc(device, (4 * ROWS * WIDTH) as u64, 0).unwrap(),
            flags: filled(device, &[0; 256 * 8]),
            epochs: filled(device, &[0; 256]),
            residual: filled(device, &[0; ROWS * WIDTH]),
            out: memory.alloc(device, (2 * ROWS * WIDTH) as u64, 0).unwrap(),
        };
        let node = Node {
            races: Arc::default(),
            modules: (0..2)
                .map(|d| loader::load(&memory, d, object, config.simd).unwrap())
                .collect(),
            buffers: (0..2).map(buffers).collect(),
            // Both devices reach what the first one has.
            rows: filled(0, &[ROWS as u32]),
            weight: filled(0, &[1f32.to_bits(); WIDTH]),
            stop: memory.alloc_host(4, 0).unwrap(),
            memory: Arc::clone(&memory),
            config,
        };
        assert!(node.memory.set_peer(0, 1, true) && node.memory.set_peer(1, 0, true));
        node
    }

    /// The `seq`th launch of a device's stream.
    fn launch(
        &self,
        device: usize,
        seq: u64,
        name: &str,
        arguments: &[u8],
    ) -> Result<(), Box<Fault>> {
        let kernel = Arc::clone(&self.modules[device].kernels[name]);
        let grid = [ROWS as u32, 1, 1];
        let mut kernarg = vec![0u8; kernel.desc.kernarg as usize];
        kernarg[..arguments.len()].copy_from_slice(arguments);
        sched::fill_hidden(&mut kernarg, &kernel, grid, [256, 1, 1]);
        let stream = device as u64;
        let groups = (ROWS as u32, kernel.atomics);
        let race = self.config.strict.then(|| {
            let order = Order::from([(stream, seq - 1)]);
            self.races.begin(name, device, (stream, seq), order, vec![], groups)
        });
        let launch = Launch {
            kernel,
            grid,
            block: [256, 1, 1],
            dynamic_lds: 0,
            kernarg,
            device,
            cooperative: false,
        };
        sched::run(&self.memory, &launch, &self.config, race).map(drop)
    }

    /// Three times: a part, then the sum.
    fn steps(&self, device: usize) -> Result<(), Box<Fault>> {
        let own = &self.buffers[device];
        for step in 0..3 {
            let value = (10 * device + step) as f32;
            let mut produce = own.part.base.to_le_bytes().to_vec();
            produce.extend(value.to_le_bytes());
            produce.extend((WIDTH as u32).to_le_bytes());
            self.launch(device, 2 * step as u64 + 1, "produce", &produce)?;

            let mut all = [0u64; 23];
            all[0] = self.rows.base;
            for (rank, buffers) in self.buffers.iter().enumerate() {
                (all[1 + rank], all[9 + rank]) = (buffers.part.base, buffers.flags.base);
            }
            let rest = [&own.flags, &own.epochs, &self.stop, &own.residual, &self.weight, &own.out];
            for (to, a) in all[17..].iter_mut().zip(rest) {
                *to = a.base;
            }
            let mut sum: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
            sum.extend((WIDTH as u32).to_le_bytes());
            sum.extend((device as u32).to_le_bytes());
            sum.extend(1e-5f32.to_le_bytes());
            self.launch(device, 2 * step as u64 + 2, "all_reduce_norm_2", &sum)?;
        }
        Ok(())
    }

    /// Both devices' steps side by side; the first error, and the residuals.
    fn run(&self) -> (Option<Box<Fault>>, Vec<Vec<f32>>) {
        let faults: Vec<_> = std::thread::scope(|scope| {
            let device = |device| {
                let result = self.steps(device);
                if result.is_err() {
                    // The other device waits for this one.
                    let word = self.stop.at(self.stop.base).cast();
                    // SAFETY: a word of host memory that kernels only read.
                    unsafe { AtomicU32::from_ptr(word) }.store(1, Ordering::Release);
                }
                result.err()
            };
            let threads: Vec<_> = (0..2).map(|d| scope.spawn(move || device(d))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let residuals = self.buffers.iter().map(|b| harness::read(&b.residual)).collect();
        (faults.into_iter().flatten().next(), residuals)
    }
}

fn schedules() -> Vec<Config> {
    let each = [
        (true, Quantum::UntilBlocked, 0),
        (false, Quantum::UntilBlocked, 3),
        (true, Quantum::Random, 7),
        (false, Quantum::Fixed(1), 0),
    ];
    each.map(|(late, quantum, seed)| Config { late, quantum, seed, ..strict() }).to_vec()
}

#[test]
fn the_sum_is_right_and_free_of_races() {
    let object = compile("", "", "");
    for config in schedules() {
        let (fault, residuals) = Node::new(&object, config.clone()).run();
        assert!(fault.is_none(), "{config:?}: {}", fault.unwrap());
        // Columns of 0 + 1 + 2 from the first device, 10 + 11 + 12 from the second.
        let expected: Vec<f32> = (0..ROWS * WIDTH).map(|i| (36 + 6 * (i % WIDTH)) as f32).collect();
        assert!(residuals.iter().all(|residual| *residual == expected), "{residuals:?}");
    }
}

/// Each variant: the file, the text, and what stands in its place.
const BROKEN: [(&str, &str, &str, &str); 8] = [
    ("no entry", "all_reduce.hip", "  await<RANKS>(args, row, epoch + 1);\n", ""),
    ("no exit", "all_reduce.hip", "  await<RANKS>(args, row, epoch + 2);\n", ""),
    (
        "an exit before the parts are read",
        "all_reduce.hip",
        "  add_parts<RANKS>(x, args, at);\n",
        "  arrive<RANKS>(args, row, epoch + 2);\n  add_parts<RANKS>(x, args, at);\n",
    ),
    ("no release", "all_reduce.hip", "  release();\n", ""),
    ("no acquire", "all_reduce.hip", "    acquire();\n", ""),
    (
        "a release to the device alone",
        "arch/gfx950.h",
        "__builtin_amdgcn_fence(__ATOMIC_RELEASE, \"\");",
        "__builtin_amdgcn_fence(__ATOMIC_RELEASE, \"agent\");",
    ),
    (
        "an acquire from the device alone",
        "device.h",
        "__scoped_atomic_thread_fence(__ATOMIC_ACQUIRE, __MEMORY_SCOPE_SYSTEM)",
        "__scoped_atomic_thread_fence(__ATOMIC_ACQUIRE, __MEMORY_SCOPE_DEVICE)",
    ),
    (
        "no wait for the write-back",
        "arch/gfx950.h",
        "under way.\n  __builtin_amdgcn_s_waitcnt(0);",
        "under way.",
    ),
];

#[test]
fn broken_sums_are_caught() {
    let mut seen = HashMap::new();
    for (name, file, from, to) in BROKEN {
        let object = compile(file, from, to);
        let mut runs = schedules().into_iter().map(|config| Node::new(&object, config).run().0);
        let fault = runs.find_map(|fault| fault);
        let fault = fault.unwrap_or_else(|| panic!("{name}: not caught"));
        let caught = matches!(fault.kind, FaultKind::GlobalRace | FaultKind::Uninitialised);
        assert!(caught, "{name}: {fault}");
        seen.insert(name, fault.kind);
    }
    assert!(seen.values().filter(|kind| **kind == FaultKind::GlobalRace).count() >= 6, "{seen:?}");
}
