//! The device under test, and random operands in its memory.

use std::path::Path;
use std::rc::Rc;

use fastrand::Rng;
use hip::kernels::Rows;
use hip::{Device, Error, Kernels, Memory, Platform, Runtime, Stream};

/// What is random in a buffer repeats after so many pieces of 16 bytes: a prime, so that no tile,
/// row or expert meets its own values again.
const PERIOD: usize = 262_147;
/// Copies of what a kernel reads once are together larger than any cache: MI355X's last level has
/// 256 MiB.
const ROTATED: usize = 512 << 20;
/// Most copies.
const MAX_SETS: usize = 256;

/// A device with its kernels.
pub(super) struct Gpu {
    pub(super) device: Device,
    pub(super) stream: Stream,
    pub(super) kernels: Kernels,
    pub(super) emulated: bool,
}

/// A number of rows in device memory.
pub(super) struct Count {
    memory: Memory,
    bound: usize,
}

impl Count {
    pub(super) fn rows(&self) -> Rows {
        Rows { count: self.memory.ptr(), bound: self.bound }
    }
}

impl Gpu {
    pub(super) fn open(platform: Platform, directory: Option<&Path>) -> anyhow::Result<Gpu> {
        // A build without kernels says so before any library is looked for.
        hip::code_objects(platform)?;
        let device = Device::open(&Runtime::open(platform, directory)?, 0)?;
        let stream = Stream::new(&device)?;
        let kernels = Kernels::load(&device)?;
        let emulated = device.is_emulated()?;
        Ok(Gpu { device, stream, kernels, emulated })
    }

    /// How many copies of `bytes` no cache holds.
    pub(super) fn sets(&self, bytes: usize) -> usize {
        if self.emulated { 1 } else { ROTATED.div_ceil(bytes.max(1)).clamp(1, MAX_SETS) }
    }

    pub(super) fn empty(&self, bytes: usize) -> Result<Memory, Error> {
        self.device.allocate(bytes)
    }

    pub(super) fn numbers(&self, values: &[u32]) -> Result<Memory, Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.filled(&bytes)
    }

    pub(super) fn filled(&self, bytes: &[u8]) -> Result<Memory, Error> {
        let memory = self.empty(bytes.len())?;
        self.stream.upload(bytes, &memory, 0)?;
        Ok(memory)
    }

    pub(super) fn count(&self, rows: usize) -> Result<Count, Error> {
        Ok(Count { memory: self.numbers(&[rows as u32])?, bound: rows })
    }

    /// What is in `memory`, after all work before.
    pub(super) fn download(&self, memory: &Memory) -> Result<Bytes, Error> {
        let mut bytes = vec![0; memory.bytes()];
        self.stream.download(memory, 0, &mut bytes)?;
        Ok(Bytes(bytes))
    }
}

/// Values that came from device memory, or go there.
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn u16(&self, i: usize) -> u16 {
        u16::from_ne_bytes([self.0[2 * i], self.0[2 * i + 1]])
    }

    pub(super) fn u32(&self, i: usize) -> u32 {
        u32::from_ne_bytes([0, 1, 2, 3].map(|byte| self.0[4 * i + byte]))
    }

    pub(super) fn f32(&self, i: usize) -> f32 {
        f32::from_bits(self.u32(i))
    }

    pub(super) fn bf16(&self, i: usize) -> f32 {
        mx::bf16::to_f32(self.u16(i))
    }

    pub(super) fn u32s(&self) -> Vec<u32> {
        (0..self.0.len() / 4).map(|i| self.u32(i)).collect()
    }
}

/// Device memory with random contents, which are kept.
pub(super) struct Operand {
    pub(super) memory: Memory,
    contents: Rc<Bytes>,
}

impl Operand {
    /// `bytes` of what `piece` appends, `size` bytes (a multiple of 4) each time.
    pub(super) fn new(
        gpu: &Gpu,
        bytes: usize,
        size: usize,
        mut piece: impl FnMut(&mut Vec<u8>),
    ) -> Result<Operand, Error> {
        let pieces = bytes.div_ceil(size).min(PERIOD * 16 / size);
        let mut contents = Vec::with_capacity(pieces * size);
        (0..pieces).for_each(|_| piece(&mut contents));
        Operand::of(gpu, bytes, Rc::new(Bytes(contents)))
    }

    fn of(gpu: &Gpu, bytes: usize, contents: Rc<Bytes>) -> Result<Operand, Error> {
        let memory = gpu.empty(bytes)?;
        for at in (0..bytes).step_by(contents.0.len().max(1)) {
            let length = contents.0.len().min(bytes - at);
            gpu.stream.upload(&contents.0[..length], &memory, at)?;
        }
        Ok(Operand { memory, contents })
    }

    /// The same again in other memory.
    pub(super) fn copy(&self, gpu: &Gpu) -> Result<Operand, Error> {
        Operand::of(gpu, self.memory.bytes(), Rc::clone(&self.contents))
    }

    /// bf16 in -size..size.
    pub(super) fn bf16s(
        gpu: &Gpu,
        random: &mut Random,
        count: usize,
        size: f32,
    ) -> Result<Operand, Error> {
        Operand::new(gpu, 2 * count, 16, |out| {
            let codes = [(); 8].map(|()| mx::bf16::from_f32(random.unit() * size));
            out.extend(codes.iter().flat_map(|code| code.to_ne_bytes()));
        })
    }

    /// f32 in -size..size.
    pub(super) fn f32s(
        gpu: &Gpu,
        random: &mut Random,
        count: usize,
        size: f32,
    ) -> Result<Operand, Error> {
        Operand::new(gpu, 4 * count, 16, |out| {
            let values = [(); 4].map(|()| random.unit() * size);
            out.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        })
    }

    pub(super) fn u8(&self, i: usize) -> u8 {
        self.contents.0[i % self.contents.0.len()]
    }

    pub(super) fn bf16(&self, i: usize) -> f32 {
        self.contents.bf16(i % (self.contents.0.len() / 2))
    }

    pub(super) fn f32(&self, i: usize) -> f32 {
        self.contents.f32(i % (self.contents.0.len() / 4))
    }
}

/// A generator of random numbers.
pub(super) struct Random(Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(Rng::with_seed(seed))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0.usize(..limit.max(1))
    }

    /// Uniform in -1..1.
    pub(super) fn unit(&mut self) -> f32 {
        2.0 * self.0.f32() - 1.0
    }

    /// `0..count` in random order.
    pub(super) fn permutation(&mut self, count: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        self.0.shuffle(&mut order);
        order
    }
}
