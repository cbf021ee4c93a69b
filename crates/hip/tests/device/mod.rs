//! A GPU for tests: the emulator, strict, or what `MOONROCK_TEST_PLATFORM=cuda` names.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

mod emulator;

use std::process::Command;
use std::sync::Arc;

pub(crate) use emulator::EMULATOR;
use hip::kernels::matmul::{preshuffle, tile_bytes};
use hip::{Device, Kernels, Memory, Platform, Runtime, Staging, Stream};

/// Schedules of the emulator that kernels must be right in, as its environment.
pub const SCHEDULES: [&[(&str, &str)]; 4] = [
    &[("EMU_QUANTUM", "1"), ("EMU_SEED", "0")],
    &[("EMU_QUANTUM", "random"), ("EMU_SEED", "7")],
    &[("EMU_LATE", "0"), ("EMU_SEED", "3")],
    &[("EMU_CHECK", "off")],
];

/// Runs test `name` of this binary again in every schedule, each in a process of its own. Does
/// nothing on hardware.
pub fn in_every_schedule(name: &str) {
    if platform() != Platform::Hip {
        return;
    }
    for schedule in SCHEDULES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .envs(schedule.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "{schedule:?}\n{text}");
    }
}

pub fn platform() -> Platform {
    match std::env::var("MOONROCK_TEST_PLATFORM").as_deref() {
        Ok("cuda") => Platform::Cuda,
        _ => Platform::Hip,
    }
}

/// The runtime: the emulator, or the platform's.
pub fn runtime() -> Arc<Runtime> {
    match platform() {
        Platform::Hip => Runtime::open(Platform::Hip, Some(&EMULATOR)),
        Platform::Cuda => Runtime::open(Platform::Cuda, None),
    }
    .unwrap()
}

/// Whether there are so many devices; says so if not.
pub fn there_are(ranks: usize) -> bool {
    let enough = ranks <= runtime().devices().unwrap();
    if !enough {
        eprintln!("{ranks} devices are needed: not run");
    }
    enough
}

/// A device with its kernels.
pub struct Gpu {
    pub device: Device,
    pub stream: Stream,
    pub kernels: Kernels,
}

pub fn gpu() -> Gpu {
    gpu_of(&runtime(), 0)
}

/// Another than the first device.
pub fn gpu_of(runtime: &Arc<Runtime>, ordinal: usize) -> Gpu {
    let device = Device::open(runtime, ordinal).unwrap();
    let stream = Stream::new(&device).unwrap();
    let kernels = Kernels::load(&device).unwrap();
    Gpu { device, stream, kernels }
}

/// Plain numbers that may be seen as bytes.
pub trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for f32 {}

impl Gpu {
    /// Device memory that holds `values`.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Memory {
        let memory = self.device.allocate(size_of_val(values)).unwrap();
        // SAFETY: `Plain` types have no padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        self.stream.upload(bytes, &memory, 0).unwrap();
        memory
    }

    /// Device memory for `count` values, of which the first are `values`. The rest is never
    /// written, so that the emulator tells who uses it; on hardware, where checks tell who loads
    /// it (which is no fault), all its bits are set.
    pub fn upload_into<T: Plain>(&self, values: &[T], count: usize) -> Memory {
        let memory = self.empty::<T>(count);
        if platform() == Platform::Cuda {
            self.stream.fill(&memory, u32::MAX).unwrap();
        }
        // SAFETY: `Plain` types have no padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        self.stream.upload(bytes, &memory, 0).unwrap();
        memory
    }

    /// Bf16 matrices `[n, k]`, one after another, in the order of the kernel `matmul`, by way of a
    /// staging memory of a few tiles.
    pub fn upload_dense(&self, matrices: &[u16], n: usize, k: usize) -> Memory {
        let (tiles, bytes, count) = (n.div_ceil(16), tile_bytes(k), matrices.len() / (n * k));
        let memory = self.empty::<u8>(count * tiles * bytes);
        let mut staging = Staging::new(&self.device, 3 * bytes).unwrap();
        let platform = self.device.platform();
        let fill = |i: usize, out: &mut [u8]| {
            let matrix = &matrices[i / tiles * n * k..][..n * k];
            preshuffle(matrix, k, i % tiles, platform, out);
        };
        staging.upload(&self.stream, &memory, 0, count * tiles, bytes, fill).unwrap();
        memory
    }

    /// Device memory for `count` values, never written.
    pub fn empty<T: Plain>(&self, count: usize) -> Memory {
        self.device.allocate(count * size_of::<T>()).unwrap()
    }

    /// Device memory for `count` f32, all NaN: what a kernel leaves out shows.
    pub fn poisoned(&self, count: usize) -> Memory {
        let memory = self.device.allocate(count * 4).unwrap();
        self.stream.fill(&memory, u32::MAX).unwrap();
        memory
    }

    /// The values in device memory, after all work before.
    pub fn download<T: Plain>(&self, memory: &Memory) -> Vec<T> {
        let mut values = vec![T::default(); memory.bytes() / size_of::<T>()];
        // SAFETY: `Plain` types have no padding and take any bits.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), memory.bytes())
        };
        self.stream.download(memory, 0, bytes).unwrap();
        values
    }
}
