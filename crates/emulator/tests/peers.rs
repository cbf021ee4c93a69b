//! Two devices that read and write each other's memory: the two forms of the server's one-shot sum
//! over ranks, and broken variants of them, each of which is caught.

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
  for (u32 i = thread(); i < args.width; i += 256)
    args.out[block_x() * args.width + i] = args.value + i;
}
";

const ROWS: usize = 2;
const WIDTH: usize = 1028;

/// A text in a file of kernels/, and what stands in its place.
type Change = (&'static str, &'static str, &'static str);

/// The kernels with changes.
fn compile(changes: &[Change]) -> Vec<u8> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let directory = harness::tempdir();
    std::fs::create_dir_all(directory.join("arch")).unwrap();
    let files = ["device.h", "rms_norm.h", "arch/gfx950.h", "all_reduce.hip"];
    for name in files {
        let mut text = std::fs::read_to_string(kernels.join(name)).unwrap();
        for (_, from, to) in changes.iter().filter(|(file, ..)| *file == name) {
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
    slots: Arc<Alloc>,
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
            slots: filled(device, &vec![0; 2 * 16 * 2 * 8192 * 2]),
            epochs: filled(device, &[0; 256 + 16 * 8]),
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

    /// The `seq`th launch of a device's stream, of so many workgroups for each row.
    fn launch(
        &self,
        device: usize,
        seq: u64,
        (name, groups): (&str, u32),
        arguments: &[u8],
    ) -> Result<(), Box<Fault>> {
        let kernel = Arc::clone(&self.modules[device].kernels[name]);
        let grid = [ROWS as u32, groups, 1];
        let mut kernarg = vec![0u8; kernel.desc.kernarg as usize];
        kernarg[..arguments.len()].copy_from_slice(arguments);
        sched::fill_hidden(&mut kernarg, &kernel, grid, [256, 1, 1]);
        let stream = device as u64;
        let groups = (ROWS as u32 * groups, kernel.atomics);
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

    /// Three times: a part, then the sum by kernel `sum`.
    fn steps(&self, device: usize, sum: (&str, u32)) -> Result<(), Box<Fault>> {
        let own = &self.buffers[device];
        for step in 0..3 {
            let value = (10 * device + step) as f32;
            let mut produce = own.part.base.to_le_bytes().to_vec();
            produce.extend(value.to_le_bytes());
            produce.extend((WIDTH as u32).to_le_bytes());
            self.launch(device, 2 * step as u64 + 1, ("produce", 1), &produce)?;

            let mut all = [0u64; 33];
            all[0] = self.rows.base;
            for (rank, buffers) in self.buffers.iter().enumerate() {
                (all[1 + rank], all[9 + rank]) = (buffers.part.base, buffers.flags.base);
                all[17 + rank] = buffers.slots.base;
            }
            let rest = [&own.part, &own.flags, &own.slots, &own.epochs, &self.stop, &own.residual];
            for (to, a) in
                all[25..].iter_mut().zip(rest.into_iter().chain([&self.weight, &own.out]))
            {
                *to = a.base;
            }
            let mut arguments: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
            arguments.extend((WIDTH as u32).to_le_bytes());
            arguments.extend((device as u32).to_le_bytes());
            arguments.extend(1e-5f32.to_le_bytes());
            self.launch(device, 2 * step as u64 + 2, sum, &arguments)?;
        }
        Ok(())
    }

    /// Both devices' steps side by side; the first error, and the residuals.
    fn run(&self, sum: (&str, u32)) -> (Option<Box<Fault>>, Vec<Vec<f32>>) {
        let faults: Vec<_> = std::thread::scope(|scope| {
            let device = |device| {
                let result = self.steps(device, sum);
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

/// Each form's kernel, and its workgroups for a row.
const PULL: (&str, u32) = ("all_reduce_norm_pull_2", 1);
const PUSH: (&str, u32) = ("all_reduce_norm_push_2", 2);

/// Columns of 0 + 1 + 2 from the first device, 10 + 11 + 12 from the second.
fn expected() -> Vec<f32> {
    (0..ROWS * WIDTH).map(|i| (36 + 6 * (i % WIDTH)) as f32).collect()
}

fn is_right(changes: &[Change], sum: (&str, u32)) {
    let object = compile(changes);
    for config in schedules() {
        let (fault, residuals) = Node::new(&object, config.clone()).run(sum);
        assert!(fault.is_none(), "{sum:?} {config:?}: {}", fault.unwrap());
        assert!(residuals.iter().all(|residual| *residual == expected()), "{sum:?} {config:?}");
    }
}

#[test]
fn the_sum_is_right_and_free_of_races() {
    is_right(&[], PULL);
    is_right(&[], PUSH);
    is_right(&[SLOW_READER], PUSH);
    is_right(&[SLOW_WRITER], PUSH);
    // Two stores do if the first has arrived before the second begins.
    is_right(&[WAITING_STORES, SLOW_WRITER], PUSH);
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
        "arch/gfx950.h",
        "__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, \"\");",
        "__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, \"agent\");",
    ),
    (
        "no wait for the write-back",
        "arch/gfx950.h",
        "under way.\n  __builtin_amdgcn_s_waitcnt(0);",
        "under way.",
    ),
];

/// How often a broken variant runs in all schedules until it is caught.
const CHANCES: usize = 8;

#[test]
fn broken_sums_are_caught() {
    let mut seen = HashMap::new();
    for (name, file, from, to) in BROKEN {
        let object = compile(&[(file, from, to)]);
        // The host decides which device is first. Where one only hears of the other when that has
        // gone on, what it hears also orders what came too early: hence several chances.
        let mut configs = std::iter::repeat_n(schedules(), CHANCES).flatten();
        let fault = configs.find_map(|config| Node::new(&object, config).run(PULL).0);
        let fault = fault.unwrap_or_else(|| panic!("{name}: not caught"));
        let caught = matches!(fault.kind, FaultKind::GlobalRace | FaultKind::Uninitialised);
        assert!(caught, "{name}: {fault}");
        seen.insert(name, fault.kind);
    }
    assert!(seen.values().filter(|kind| **kind == FaultKind::GlobalRace).count() >= 6, "{seen:?}");
}

/// The second device has written all its words long before it looks for the first one's.
const SLOW_READER: Change = (
    "all_reduce.hip",
    "    add_words<RANKS>(x",
    "    for (u32 i = 0; i < 1000 * args.rank; ++i) pause();\n    add_words<RANKS>(x",
);
/// The first device has long looked for the second one's words when they are written.
const SLOW_WRITER: Change = (
    "all_reduce.hip",
    "    send<RANKS>(",
    "    for (u32 i = 0; i < 300 * args.rank; ++i) pause();\n    send<RANKS>(",
);

const POST: &str = "post(to + place(s, j), (u64)epoch << 32 | bits(part.v[s][j]));";

const WAITING_STORES: Change = (
    "all_reduce.hip",
    POST,
    "{ u32 *word = (u32 *)(to + place(s, j));
      post(word, bits(part.v[s][j]));
      __builtin_amdgcn_s_waitcnt(0);
      post(word + 1, epoch); }",
);

/// Broken variants of the form that writes to peers, and the slowness that shows them.
const BROKEN_PUSHES: [(&str, &[Change]); 6] = [
    (
        "value and epoch in two stores",
        &[
            (
                "all_reduce.hip",
                POST,
                "{ u32 *word = (u32 *)(to + place(s, j));
                  post(word, bits(part.v[s][j]));
                  post(word + 1, epoch); }",
            ),
            SLOW_WRITER,
        ],
    ),
    (
        "plain stores",
        &[("all_reduce.hip", POST, "to[place(s, j)] = (u64)epoch << 32 | bits(part.v[s][j]);")],
    ),
    ("one slot", &[("all_reduce.hip", "(epoch % 2 * PUSH_ROWS + row)", "row"), SLOW_READER]),
    (
        "any epoch",
        &[("all_reduce.hip", "words[s][r][j] >> 32 == epoch", "words[s][r][j] != 0"), SLOW_WRITER],
    ),
    ("no wait", &[("all_reduce.hip", "words[s][r][j] >> 32 == epoch", "true"), SLOW_WRITER]),
    (
        "one epoch for ever",
        &[("all_reduce.hip", "*own_epoch = epoch;", "*own_epoch = 0;"), SLOW_WRITER],
    ),
];

#[test]
fn broken_pushes_are_caught() {
    for (name, changes) in BROKEN_PUSHES {
        let object = compile(changes);
        let caught = schedules().into_iter().any(|config| {
            let node = Node::new(&object, Config { hang_seconds: 10, ..config });
            let (fault, residuals) = node.run(PUSH);
            fault.is_some() || residuals.iter().any(|residual| *residual != expected())
        });
        assert!(caught, "{name}: not caught");
    }
}
