//! The decoded form of one machine instruction.

use crate::check::Scope;
use crate::env::Env;
use crate::wave::Wave;

/// Executes one instruction on one wave.
///
/// # Safety
/// The caller must have checked that the CPU has the features of the [`Exec`] variant in use, and
/// that `Inst` came from the decoder, which bounds every register index.
pub type ExecFn = unsafe fn(&mut Wave, &Inst, &mut Env);

/// The variants of one instruction's code: plain, and compiled for AVX2 and FMA.
pub type Exec = [ExecFn; 3];

/// Index of the first accumulation register in the register file.
pub const ACC: u16 = 256;
/// SGPR index of the low half of VCC.
pub const VCC: u8 = 106;
/// SGPR index of M0.
pub const M0: u8 = 124;
/// SGPR index of the low half of EXEC.
pub const EXEC: u8 = 126;
/// SGPR index of the low half of FLAT_SCRATCH.
pub const FLAT_SCRATCH: u8 = 102;

/// One operand; `n` counts 32-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Operand {
    /// Absent, or written `off`.
    #[default]
    None,
    /// Vector registers: v0..v255 are 0..255, a0..a255 are 256..511.
    V {
        /// First register.
        r: u16,
        /// Number of registers.
        n: u8,
    },
    /// Scalar registers, with VCC, M0 and EXEC at their encodings.
    S {
        /// First register.
        r: u8,
        /// Number of registers.
        n: u8,
    },
    /// A constant, already converted to the operand's type.
    Imm(u64),
    /// The scalar condition code.
    Scc,
    /// One if VCC is zero.
    Vccz,
    /// One if EXEC is zero.
    Execz,
    /// High half of the LDS (`true`) or scratch (`false`) aperture as a 64-bit address.
    Aperture(bool),
}

/// How a source of a 64-bit or 16-bit operation turns a written constant into bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstType {
    /// 32-bit integer or float.
    B32,
    /// 64-bit integer.
    B64,
    /// Double precision.
    F64,
    /// Half precision (inline floats become f16 bits).
    F16,
    /// bfloat16 (inline floats become bf16 bits).
    Bf16,
}

/// Sub-dword selection of SDWA operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sel {
    /// One of the four bytes.
    Byte(u8),
    /// One of the two halves.
    Word(u8),
    /// All 32 bits.
    #[default]
    Dword,
}

/// What SDWA writes to the bits of the destination that it does not select.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unused {
    /// Zeros.
    #[default]
    Pad,
    /// Copies of the selected part's sign.
    Sext,
    /// The old bits.
    Preserve,
}

/// SDWA controls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sdwa {
    /// Destination part.
    pub dst: Sel,
    /// Treatment of the other destination bits.
    pub unused: Unused,
    /// Source parts.
    pub src: [Sel; 2],
    /// Sign-extension of the source parts.
    pub sext: [bool; 2],
}

/// DPP controls, as encoded.
#[derive(Clone, Copy, Debug)]
pub struct Dpp {
    /// The nine control bits.
    pub ctrl: u16,
    /// Enabled rows of 16 lanes.
    pub row_mask: u8,
    /// Enabled banks of 4 lanes within each row.
    pub bank_mask: u8,
    /// Lanes without a source read zero (else they keep their destination).
    pub bound_ctrl: bool,
}

/// Modifiers of vector instructions; bit `k` of a mask belongs to source `k`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mods {
    /// Negated sources (`neg_lo` for packed instructions).
    pub neg: u8,
    /// Sources whose absolute value is taken (`neg_hi` for packed instructions).
    pub abs: u8,
    /// `op_sel`; bit 3 is the destination's.
    pub op_sel: u8,
    /// `op_sel_hi`.
    pub op_sel_hi: u8,
    /// Saturate the result.
    pub clamp: bool,
    /// Output multiplier: 0 none, 1 ×2, 2 ×4, 3 ÷2.
    pub omod: u8,
    /// A-matrix format or broadcast of MFMA, or the truth table's low bits of `bitop3`.
    pub cbsz: u8,
    /// B-matrix format or pattern of MFMA.
    pub blgp: u8,
    /// Broadcast block of MFMA.
    pub abid: u8,
    /// Truth table of `v_bitop3`.
    pub bitop3: u8,
}

/// Comparison conditions; unordered forms are distinct for floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cond {
    /// Never.
    F,
    /// Less than.
    Lt,
    /// Equal.
    Eq,
    /// Less or equal.
    Le,
    /// Greater than.
    Gt,
    /// Not equal, ordered for floats.
    Lg,
    /// Greater or equal.
    Ge,
    /// Neither is NaN.
    O,
    /// Either is NaN.
    U,
    /// Not greater-or-equal.
    Nge,
    /// Not `Lg`.
    Nlg,
    /// Not greater.
    Ngt,
    /// Not less-or-equal.
    Nle,
    /// Not equal.
    Neq,
    /// Not less.
    Nlt,
    /// Always.
    T,
}

/// Address space of a memory instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// 64-bit addresses of device memory.
    Global,
    /// 64-bit addresses that may fall into the LDS or scratch aperture.
    Flat,
    /// Per-lane private memory.
    Scratch,
    /// Resource descriptor plus offsets.
    Buffer,
    /// The workgroup's LDS.
    Lds,
}

/// What a memory instruction does with each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemKind {
    /// Load, zero- or sign-extended to 32 bits.
    Load {
        /// Sign-extend sub-dword elements.
        signed: bool,
    },
    /// Load 8 or 16 bits into one half of the destination.
    LoadD16 {
        /// Sign-extend a byte to 16 bits.
        signed: bool,
        /// Fill the high half.
        hi: bool,
    },
    /// Load straight into LDS.
    LoadLds,
    /// Store; `hi` stores from the high half.
    Store {
        /// Take the data from bits 16 and up.
        hi: bool,
    },
    /// Read-modify-write.
    Atomic(AtomicOp),
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// Exchange.
    Swap,
    /// Compare and swap (data first, then comparand in VMEM).
    CmpSwap,
    /// Integer addition.
    Add,
    /// Integer subtraction.
    Sub,
    /// Reversed subtraction.
    Rsub,
    /// Signed minimum.
    Smin,
    /// Unsigned minimum.
    Umin,
    /// Signed maximum.
    Smax,
    /// Unsigned maximum.
    Umax,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
    /// Increment, wrapping to zero above the operand.
    Inc,
    /// Decrement, wrapping to the operand.
    Dec,
    /// Float addition.
    Fadd,
    /// Float minimum.
    Fmin,
    /// Float maximum.
    Fmax,
    /// Two halves added as f16.
    PkAddF16,
    /// Two halves added as bf16.
    PkAddBf16,
}

/// A memory instruction's shape.
#[derive(Clone, Copy, Debug)]
pub struct Mem {
    /// Address space.
    pub space: Space,
    /// Operation.
    pub kind: MemKind,
    /// Bytes per lane.
    pub bytes: u8,
    /// Byte offset of the instruction.
    pub offset: i32,
    /// Second DS offset of the two-address forms.
    pub offset1: i32,
    /// Two elements per lane, at `offset` and `offset1`.
    pub two: bool,
    /// Element bits of a transpose read, else zero.
    pub tr: u8,
    /// Buffer access with a per-lane byte offset.
    pub offen: bool,
    /// Buffer access indexed by a register.
    pub idxen: bool,
    /// Cache bits: workgroup scope, or "return the old value" of atomics.
    pub sc0: bool,
    /// Cache bit: agent scope; with `sc0` (or in atomics) system scope.
    pub sc1: bool,
    /// Returns the old value.
    pub ret: bool,
}

impl Mem {
    /// How far an access that takes part in synchronisation between workgroups reaches.
    pub fn scope(&self) -> Option<Scope> {
        let atomic = matches!(self.kind, MemKind::Atomic(_));
        match (atomic, self.sc0, self.sc1) {
            (true, _, true) | (false, true, true) => Some(Scope::System),
            (true, _, false) | (false, false, true) => Some(Scope::Device),
            (false, _, false) => None,
        }
    }
}

/// Instruction classes, for counters and for the checks of register use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Scalar ALU and program control.
    Salu,
    /// Scalar memory.
    Smem,
    /// Vector ALU.
    Valu,
    /// Matrix ALU.
    Mfma,
    /// LDS.
    Ds,
    /// Global, flat, buffer and scratch memory.
    Vmem,
    /// Branches.
    Branch,
    /// `s_waitcnt`.
    Wait,
    /// `s_barrier`.
    Barrier,
}

/// How validity of the sources carries over to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Destination lane depends on the same lane of each source.
    Lane,
    /// The instruction itself tracks validity.
    Own,
    /// A lane mask is produced in scalar registers.
    Compare,
    /// Scalar: any invalid source bit spoils the destination.
    Scalar,
    /// Scalar bitwise: validity is per bit.
    Bitwise,
    /// No register result.
    Nothing,
}

/// Which source registers each register of a two-register vector result depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// Both on all.
    Joint,
    /// The low one on the low registers only (addition, multiplication, left shift).
    LowAlone,
    /// Each on its own.
    Separate,
    /// As `op_sel` and `op_sel_hi` say.
    Packed,
    /// The low one on source 0, the high one on source 1, as `op_sel` says.
    Move,
}

/// Extra decoded data for some classes.
#[derive(Clone, Copy, Debug)]
pub enum Extra {
    /// Nothing.
    None,
    /// Vector or scalar compare.
    Cmp(Cond),
    /// Memory access.
    Mem(Mem),
    /// Write-back or invalidation of caches, as far as this.
    Fence(Scope),
    /// Matrix operation: index into the table of `exec::mfma`.
    Mfma(u8),
    /// 16-bit immediate (waits, branches, `s_movk`, hardware registers).
    Simm(u16),
    /// Index of the instruction branched to.
    Target(u32),
}

/// The registers that a one-register vector result depends on, lane by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simple {
    /// Destination.
    pub dst: u16,
    /// Vector sources; [`Simple::NO_VECTOR`] where there is none.
    pub vector: [u16; 3],
    /// Scalar sources; [`Simple::NO_SCALAR`] where there is none.
    pub scalar: [u8; 3],
}

impl Simple {
    /// Index of a vector register that is always defined.
    pub const NO_VECTOR: u16 = 512;
    /// Index of a scalar register that is always defined.
    pub const NO_SCALAR: u8 = 128;

    /// What `i` depends on, if it is of this kind.
    pub fn of(i: &Inst) -> Option<Simple> {
        let plain = i.flow == Flow::Lane && i.halves == Halves::Joint && i.dpp.is_none();
        let Operand::V { r: dst, n: 1 } = i.dst else { return None };
        if !plain || i.dst2 != Operand::None || i.reads_vcc || i.nsrc > 3 {
            return None;
        }
        let (mut vector, mut scalar) = ([Self::NO_VECTOR; 3], [Self::NO_SCALAR; 3]);
        for k in 0..usize::from(i.nsrc) {
            match i.src[k] {
                Operand::V { r, n: 1 } => vector[k] = r,
                Operand::S { r, n: 1 } => scalar[k] = r,
                Operand::Imm(_) => {}
                _ => return None,
            }
        }
        Some(Simple { dst, vector, scalar })
    }
}

/// A decoded instruction.
#[derive(Clone, Copy)]
pub struct Inst {
    /// Code to run.
    pub exec: ExecFn,
    /// Class.
    pub class: Class,
    /// Validity rule.
    pub flow: Flow,
    /// Destination.
    pub dst: Operand,
    /// Second destination (carry or scale mask).
    pub dst2: Operand,
    /// Sources.
    pub src: [Operand; 5],
    /// Number of sources.
    pub nsrc: u8,
    /// Modifiers.
    pub mods: Mods,
    /// SDWA, if any.
    pub sdwa: Option<Sdwa>,
    /// DPP, if any.
    pub dpp: Option<Dpp>,
    /// Class-specific data.
    pub extra: Extra,
    /// Reads VCC implicitly.
    pub reads_vcc: bool,
    /// The destination is also a source (`v_fmac`, partial writes).
    pub reads_dst: bool,
    /// Byte offset in the code object's address space.
    pub pc: u32,
    /// Encoded size in bytes.
    pub size: u8,
    /// Has source or output modifiers, SDWA or DPP.
    pub modified: bool,
    /// A float instruction whose result is a double or a half: MODE has fields of its own for them.
    pub wide_float: bool,
    /// For vector instructions of single registers: what their definedness depends on, as
    /// vector and scalar registers (511 + 1 and 128 stand for none). `None` for all others.
    pub simple: Option<Simple>,
    /// Dependence of the registers of a two-register result.
    pub halves: Halves,
    /// An LDS read in a loop that does nothing but wait for what it reads.
    pub polls: bool,
}

impl Inst {
    /// The memory shape; decoder-made memory instructions always have one.
    pub fn mem(&self) -> Option<&Mem> {
        match &self.extra {
            Extra::Mem(m) => Some(m),
            _ => None,
        }
    }

    /// The 16-bit immediate, zero if there is none.
    pub fn simm(&self) -> u16 {
        match self.extra {
            Extra::Simm(x) => x,
            _ => 0,
        }
    }
}
