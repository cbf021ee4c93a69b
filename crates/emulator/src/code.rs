//! Decoded code objects and the kernels in them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::exec::mfma::Shape;
use crate::inst::Inst;
use crate::memory::Alloc;

/// Decoded instructions of one code object.
#[derive(Clone, Default)]
pub struct Code {
    /// Device address of the code object's offset zero.
    pub base: u64,
    /// Instructions in address order.
    pub insts: Vec<Inst>,
    /// Disassembly, one for each instruction.
    pub(crate) texts: Vec<Box<str>>,
    /// Source position, one for each instruction.
    pub(crate) lines: Vec<Option<Arc<str>>>,
    /// Instruction index by byte offset.
    pub(crate) index: HashMap<u32, u32>,
    /// Shapes of matrix instructions.
    pub(crate) mfma: Vec<Shape>,
}

impl Code {
    /// The instruction at a byte offset.
    pub fn index_of(&self, offset: u64) -> Option<u32> {
        self.index.get(&u32::try_from(offset).ok()?).copied()
    }

    /// Instructions with their disassembly.
    pub fn iter(&self) -> impl Iterator<Item = (&Inst, &str)> {
        self.insts.iter().zip(self.texts.iter().map(|t| &**t))
    }

    /// Disassembly of the instruction at `pc`.
    pub fn text(&self, pc: u32) -> String {
        let i = self.index.get(&pc).and_then(|i| self.texts.get(*i as usize));
        i.map_or_else(String::new, |t| t.to_string())
    }

    /// Source file and line of the instruction at `pc`.
    pub fn line(&self, pc: u32) -> Option<String> {
        let i = self.index.get(&pc)?;
        self.lines.get(*i as usize)?.as_ref().map(|l| l.to_string())
    }

    /// Mnemonic of the instruction at `pc` without encoding suffix.
    pub fn mnemonic(&self, pc: u32) -> &str {
        let i = self.index.get(&pc).and_then(|i| self.texts.get(*i as usize));
        i.map_or("", |t| crate::decode::stem(t.split_whitespace().next().unwrap_or("")))
    }
}

/// One argument of a kernel, from the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Byte offset in the argument segment.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// `by_value`, `global_buffer`, `hidden_...`.
    pub kind: String,
}

/// The kernel descriptor's fields that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Static LDS bytes.
    pub lds: u32,
    /// Private bytes per lane.
    pub scratch: u32,
    /// Bytes of the argument segment.
    pub kernarg: u32,
    /// Entry, relative to the descriptor.
    pub entry: i64,
    /// COMPUTE_PGM_RSRC1..3.
    pub rsrc: [u32; 3],
    /// Kernel code properties.
    pub properties: u16,
    /// Kernel argument preload: dwords in the low 7 bits, first dword above.
    pub preload: u16,
}

impl Descriptor {
    /// Architectural and accumulation registers.
    pub fn registers(&self) -> (u32, u32) {
        let total = 8 * ((self.rsrc[0] & 63) + 1);
        let arch = 4 * ((self.rsrc[2] & 63) + 1);
        (arch.min(total), total.saturating_sub(arch))
    }

    /// Waves that fit on one SIMD: 512 registers in steps of 8, at most 8 waves.
    pub fn waves_per_simd(&self) -> u32 {
        let total = 8 * ((self.rsrc[0] & 63) + 1);
        (512 / total.max(1)).clamp(1, 8)
    }

    /// User SGPR count.
    pub fn user_sgprs(&self) -> u32 {
        self.rsrc[1] >> 1 & 31
    }

    /// The initial MODE register: rounding, denormals, clamp and IEEE bits.
    pub fn mode(&self) -> u32 {
        let float = self.rsrc[0] >> 12 & 0xff;
        float
            | (self.rsrc[0] >> 21 & 1) << 8
            | (self.rsrc[0] >> 23 & 1) << 9
            | (self.rsrc[0] >> 26 & 1) << 23
    }
}

/// A kernel ready to launch.
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Its code object's instructions.
    pub code: Arc<Code>,
    /// Index of the first instruction.
    pub entry: u32,
    /// Descriptor.
    pub desc: Descriptor,
    /// Arguments.
    pub args: Vec<Arg>,
    /// Largest workgroup.
    pub max_threads: u32,
    /// Scalar registers.
    pub sgprs: u32,
    /// The device memory that holds the code object's segments.
    pub memory: Arc<Alloc>,
    /// Contains atomics on device memory, so workgroups run in a fixed interleaving.
    pub atomics: bool,
}
