//! One wave's architectural state and the shadows that the strict checks keep beside it.

use std::collections::VecDeque;

use crate::env::Fault;
use crate::inst::{EXEC, VCC};

/// One vector register: 64 lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Row(pub [u32; 64]);

/// What a wave is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Can issue its next instruction.
    Ready,
    /// Waits for the rest of its workgroup.
    Barrier,
    /// Has ended.
    Done,
}

/// An issued memory instruction that `s_waitcnt` has not covered.
#[derive(Clone)]
pub struct Pending {
    /// Index of the instruction.
    pub inst: u32,
    /// Per-lane addresses and execution mask of a deferred access; `None` if already performed.
    pub deferred: Option<Box<Deferred>>,
    /// Registers (index, count) that hold the result only after the wait.
    pub regs: (u16, u8),
    /// LDS bytes a direct-to-LDS load fills: per-lane starts are in `lds`.
    pub lds: Option<Box<LdsFill>>,
}

/// Addresses and data of an access to be performed at its wait.
#[derive(Clone)]
pub struct Deferred {
    /// Lanes.
    pub exec: u64,
    /// Byte addresses (LDS offsets for DS).
    pub addr: [u64; 64],
    /// Data of a store.
    pub data: Vec<[u32; 64]>,
    /// Lanes whose store data was never written, for the shadow.
    pub data_valid: u64,
}

/// The LDS destination of a direct-to-LDS load.
#[derive(Clone, Copy, Debug)]
pub struct LdsFill {
    /// First byte of lane 0.
    pub base: u32,
    /// Bytes per lane.
    pub bytes: u32,
    /// Lanes.
    pub exec: u64,
}

/// Origin of the last value that came from memory nothing wrote.
#[derive(Clone, Copy, Debug)]
pub struct Unwritten {
    /// The load.
    pub inst: u32,
    /// The lane.
    pub lane: u32,
    /// The address.
    pub addr: u64,
}

/// A wave of 64 lanes.
pub struct Wave {
    /// Vector registers v0..v255, a0..a255.
    pub v: Box<[Row]>,
    /// Scalar registers at their encodings (VCC 106, M0 124, EXEC 126).
    pub s: [u32; 128],
    /// Scalar condition code.
    pub scc: bool,
    /// Index of the next instruction.
    pub pc: u32,
    /// MODE register.
    pub mode: u32,
    /// State.
    pub state: State,
    /// Set when the scheduler must look at this wave before its next instruction.
    pub stop: bool,
    /// The error that ended it.
    pub fault: Option<Box<Fault>>,
    /// Index in its workgroup.
    pub index: u32,
    /// Lanes whose register holds a defined value; the last entry stands for none and stays set.
    pub vvalid: Box<[u64; 513]>,
    /// Defined bits of scalar registers; the last entry stands for none and stays set.
    pub svalid: [u32; 129],
    /// SCC is defined.
    pub scc_valid: bool,
    /// Vector registers awaiting a load, one bit each.
    pub vpend: [u64; 8],
    /// Scalar registers awaiting a load.
    pub spend: [u64; 2],
    /// Outstanding vector memory instructions, oldest first.
    pub vm: VecDeque<Pending>,
    /// Outstanding LDS and scalar memory instructions, oldest first.
    pub lgkm: VecDeque<Pending>,
    /// Private memory, `scratch_size` bytes per lane.
    pub scratch: Vec<u8>,
    /// Which bytes of it hold a defined value.
    pub scratch_valid: Vec<bool>,
    /// Bytes of private memory per lane.
    pub scratch_size: u32,
    /// Where the last undefined loaded value came from.
    pub unwritten: Option<Unwritten>,
    /// Base of `s_set_gpr_idx`; the low four bits of `gpr_idx_mode` enable src0, src1, src2, dst.
    pub gpr_idx: u8,
    /// Enables of `s_set_gpr_idx`.
    pub gpr_idx_mode: u8,
    /// Instructions issued.
    pub issued: u64,
}

impl Wave {
    /// A wave with `rows` vector and accumulation registers, poisoned, and nothing defined.
    /// `old` is a finished wave whose storage is reused.
    pub fn new(old: Option<Wave>, rows: (usize, usize), scratch: u32) -> Self {
        let (mut v, mut memory, vvalid) = match old {
            Some(w) => (w.v, w.scratch, w.vvalid),
            None => (vec![Row([0; 64]); 512].into_boxed_slice(), Vec::new(), Box::new([0; 513])),
        };
        let poison = Row([0x7fc0_dead; 64]);
        v[..rows.0.min(256)].fill(poison);
        v[256..256 + rows.1.min(256)].fill(poison);
        memory.clear();
        memory.resize(scratch as usize * 64, 0xa5);
        let mut svalid = [0; 129];
        let mut vvalid = vvalid;
        vvalid.fill(0);
        vvalid[512] = !0;
        svalid[usize::from(EXEC)..].fill(!0);
        Wave {
            v,
            s: [0xdead_beef; 128],
            scc: false,
            pc: 0,
            mode: 0,
            state: State::Ready,
            stop: false,
            fault: None,
            index: 0,
            vvalid,
            svalid,
            scc_valid: false,
            vpend: [0; 8],
            spend: [0; 2],
            vm: VecDeque::new(),
            lgkm: VecDeque::new(),
            scratch_valid: vec![false; memory.len()],
            scratch: memory,
            scratch_size: scratch,
            unwritten: None,
            gpr_idx: 0,
            gpr_idx_mode: 0,
            issued: 0,
        }
    }

    /// The 64 bits of scalar registers `r`, `r + 1`.
    #[inline(always)]
    pub fn s64(&self, r: u8) -> u64 {
        let r = usize::from(r & 127);
        u64::from(self.s[r]) | u64::from(self.s[(r + 1) & 127]) << 32
    }

    /// Sets scalar registers `r`, `r + 1`.
    #[inline(always)]
    pub fn set_s64(&mut self, r: u8, x: u64) {
        let r = usize::from(r & 127);
        self.s[r] = x as u32;
        self.s[(r + 1) & 127] = (x >> 32) as u32;
    }

    /// The execution mask.
    #[inline(always)]
    pub fn exec(&self) -> u64 {
        self.s64(EXEC)
    }

    /// VCC.
    #[inline(always)]
    pub fn vcc(&self) -> u64 {
        self.s64(VCC)
    }

    /// The defined bits of a 64-bit scalar pair.
    pub fn svalid64(&self, r: u8) -> u64 {
        let r = usize::from(r & 127);
        u64::from(self.svalid[r]) | u64::from(self.svalid[(r + 1) & 127]) << 32
    }

    /// Sets the defined bits of a 64-bit scalar pair.
    pub fn set_svalid64(&mut self, r: u8, x: u64) {
        let r = usize::from(r & 127);
        self.svalid[r] = x as u32;
        self.svalid[(r + 1) & 127] = (x >> 32) as u32;
    }
}
