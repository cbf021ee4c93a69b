//! What a wave sees besides its own registers: memory, LDS, code, checks and counters.

use std::collections::HashSet;
use std::sync::Arc;

use crate::check::{GroupClock, LdsShadow, Scope, Segments};
use crate::code::Kernel;
use crate::counters::Counters;
use crate::inst::{Inst, MemKind, Operand};
use crate::memory::View;
use crate::wave::{Pending, Wave};

/// Classes of error that the strict machine reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Access outside every allocation, or to freed or inaccessible memory.
    OutOfBounds,
    /// Address not a multiple of what the instruction needs.
    Misaligned,
    /// A value nothing wrote reached memory or control flow.
    Uninitialised,
    /// LDS access beyond the workgroup's allocation.
    LdsRange,
    /// Two waves touch an LDS byte without a barrier between.
    LdsRace,
    /// Two workgroups or launches touch a byte of memory without order between.
    GlobalRace,
    /// A result used before the `s_waitcnt` that covers it.
    MissingWait,
    /// Waves of one workgroup wait at a barrier that others never reach.
    BarrierDivergence,
    /// A NaN scale operand of a matrix instruction.
    NanScale,
    /// Executing something that is not a program.
    Illegal,
    /// No progress.
    Hang,
}

/// An error of a kernel, with everything needed to find it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Class.
    pub kind: FaultKind,
    /// Kernel.
    pub kernel: String,
    /// Source file and line, if the code has debug information.
    pub line: Option<String>,
    /// Disassembly of the instruction.
    pub inst: String,
    /// Its offset in the code.
    pub pc: u32,
    /// Linear workgroup index.
    pub group: u64,
    /// Wave in the workgroup.
    pub wave: u32,
    /// Lane, if one is at fault.
    pub lane: Option<u32>,
    /// Address, if there is one.
    pub addr: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {} in kernel {}", self.kind, self.what, self.kernel)?;
        if let Some(l) = &self.line {
            write!(f, " ({l})")?;
        }
        write!(f, ", `{}` at {:#x}, workgroup {}", self.inst, self.pc, self.group)?;
        write!(f, ", wave {}", self.wave)?;
        if let Some(l) = self.lane {
            write!(f, ", lane {l}")?;
        }
        if let Some(a) = self.addr {
            write!(f, ", address {a:#x}")?;
        }
        Ok(())
    }
}

/// The surroundings of the waves of one workgroup.
pub struct Env {
    /// Device memory.
    pub view: View,
    /// The kernel being run.
    pub kernel: Arc<Kernel>,
    /// LDS contents.
    pub lds: Vec<u8>,
    /// LDS shadow, if checks are on.
    pub lds_shadow: LdsShadow,
    /// Order between the waves.
    pub time: GroupClock,
    /// Checks are on.
    pub strict: bool,
    /// Memory operations happen as late as their waits allow.
    pub late: bool,
    /// NaN scales are errors.
    pub nan_scale: bool,
    /// Linear workgroup index.
    pub group: u64,
    /// Race detection in device memory.
    pub segments: Option<Segments>,
    /// Counters of the launch.
    pub counters: Counters,
    /// Working memory of matrix instructions.
    pub(crate) matrix: Box<crate::exec::mfma::Scratch>,
    /// A clock for `s_memtime`.
    pub clock: u64,
}

impl Env {
    /// Ends `w` with an error.
    pub fn fault(
        &mut self,
        w: &mut Wave,
        i: &Inst,
        kind: FaultKind,
        lane: Option<u32>,
        addr: Option<u64>,
        what: &str,
    ) {
        w.stop = true;
        if w.fault.is_some() {
            return;
        }
        let code = &self.kernel.code;
        w.fault = Some(Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            line: code.line(i.pc),
            inst: code.text(i.pc),
            pc: i.pc,
            group: self.group,
            wave: w.index,
            lane,
            addr,
            what: what.to_owned(),
        }));
    }

    /// The mnemonic of an instruction without its encoding suffix.
    pub fn name(&self, i: &Inst) -> &str {
        self.kernel.code.mnemonic(i.pc)
    }

    /// Device address of offset zero of the code.
    pub fn code_base(&self) -> u64 {
        self.kernel.code.base
    }

    /// The instruction at a device address.
    pub fn target_of(&self, address: u64) -> Option<u32> {
        self.kernel.code.index_of(address.checked_sub(self.code_base())?)
    }

    /// Notes a memory instruction whose result needs a wait.
    pub fn issued(&mut self, w: &mut Wave, p: Pending, vector: bool) {
        for r in u32::from(p.regs.0)..u32::from(p.regs.0) + u32::from(p.regs.1) {
            set_pending(w, r, true);
        }
        let queue = if vector { &mut w.vm } else { &mut w.lgkm };
        queue.push_back(p);
        // The counter saturates: the hardware stalls until the oldest one is done.
        if vector && w.vm.len() > 63 {
            self.wait(w, 63, usize::MAX);
        }
    }

    /// `s_waitcnt`: completes all but the newest `vm` vector and `lgkm` LDS or scalar operations.
    pub fn wait(&mut self, w: &mut Wave, vm: usize, lgkm: usize) {
        while w.vm.len() > vm {
            let n = self.unordered(w, 0, w.vm.len() - vm);
            if n == 1 {
                if let Some(p) = w.vm.pop_front() {
                    self.complete(w, &p);
                }
                continue;
            }
            let run: Vec<Pending> = w.vm.drain(..n).collect();
            for k in any_order(n) {
                self.complete(w, &run[k]);
                std::thread::yield_now(); // others may look in between
            }
        }
        if lgkm < 15 && lgkm < w.lgkm.len() {
            self.wait_lgkm(w, lgkm);
        }
    }

    /// How many operations under way from the `first` on, at most `most`, memory may perform in any
    /// order: stores at system scope, each to a place of its own. 1 for every other operation.
    fn unordered(&self, w: &Wave, first: usize, most: usize) -> usize {
        let mut places = HashSet::new();
        let run = w.vm.iter().skip(first).take(most).take_while(|p| {
            let inst = self.kernel.code.insts.get(p.inst as usize);
            let (Some(d), Some(m)) = (&p.deferred, inst.and_then(Inst::mem)) else { return false };
            let store = matches!(m.kind, MemKind::Store { .. });
            store && m.scope() == Some(Scope::System) && {
                let lanes = (0..64).filter(|l| d.exec >> l & 1 == 1);
                let words = |l: usize| d.addr[l] / 4..(d.addr[l] + u64::from(m.bytes)).div_ceil(4);
                let own: Vec<u64> = lanes.flat_map(words).collect();
                let apart = own.iter().all(|word| !places.contains(word));
                places.extend(own);
                apart
            }
        });
        run.count().max(1)
    }

    /// LDS operations finish in order; scalar loads only with a wait for zero.
    fn wait_lgkm(&mut self, w: &mut Wave, n: usize) {
        let queue = std::mem::take(&mut w.lgkm);
        let lds = queue.iter().filter(|p| p.regs.0 < 512).count();
        let mut done = lds.saturating_sub(n);
        for p in queue {
            let scalar = p.regs.0 >= 512;
            if n == 0 || (!scalar && done > 0) {
                done = done.saturating_sub(usize::from(!scalar));
                self.complete(w, &p);
            } else {
                w.lgkm.push_back(p);
            }
        }
    }

    /// Performs accesses to memory that are under way: a workgroup's go through one cache in the
    /// order they were issued (but for those that are `unordered`), so that after a barrier its
    /// waves see them. Registers still need their wait; direct-to-LDS loads stay under way.
    pub fn settle(&mut self, w: &mut Wave) {
        let mut first = 0;
        while first < w.vm.len() {
            let n = self.unordered(w, first, usize::MAX);
            for k in any_order(n) {
                let p = &mut w.vm[first + k];
                let inst = self.kernel.code.insts.get(p.inst as usize).copied();
                if let Some(i) = inst
                    && p.lds.is_none()
                    && i.mem().is_some()
                    && let Some(d) = p.deferred.take()
                {
                    crate::exec::perform(self, w, &i, &d, None);
                }
                if n > 1 {
                    std::thread::yield_now();
                }
            }
            first += n;
        }
    }

    fn complete(&mut self, w: &mut Wave, p: &Pending) {
        if let Some(f) = &p.lds {
            let (base, len) = (f.base as usize, f.bytes as usize);
            if f.exec == !0 {
                self.lds_shadow.fill(base, 64 * len, None);
            } else {
                for l in (0..64).filter(|l| f.exec >> l & 1 == 1) {
                    self.lds_shadow.fill(base + l * len, len, None);
                }
            }
            if p.deferred.is_none() {
                crate::exec::arrive(self, w, p.inst, f);
            }
        }
        if let Some(i) = self.kernel.code.insts.get(p.inst as usize).copied()
            && let Some(d) = &p.deferred
        {
            crate::exec::perform(self, w, &i, d, p.lds.as_deref());
        }
        // A register may be the target of a younger load as well.
        let (r, n) = p.regs;
        for r in u32::from(r)..u32::from(r) + u32::from(n) {
            let again = w.vm.iter().chain(&w.lgkm).any(|q| {
                let (s, m) = q.regs;
                (u32::from(s)..u32::from(s) + u32::from(m)).contains(&r)
            });
            set_pending(w, r, again);
        }
    }

    /// Completes everything outstanding (end of program).
    pub fn drain_all(&mut self, w: &mut Wave) {
        self.wait(w, 0, 0);
    }

    /// Reports a use of a register range that still awaits its load.
    pub fn check_pending(&mut self, w: &mut Wave, i: &Inst, o: Operand) {
        let (first, n) = match o {
            Operand::V { r, n } => (u32::from(r), n),
            Operand::S { r, n } => (512 + u32::from(r), n),
            _ => return,
        };
        for r in first..first + u32::from(n) {
            if !is_pending(w, r) {
                continue;
            }
            let by = w.vm.iter().chain(&w.lgkm).find(|q| {
                (u32::from(q.regs.0)..u32::from(q.regs.0) + u32::from(q.regs.1)).contains(&r)
            });
            let code = &self.kernel.code;
            let load = by.and_then(|q| code.insts.get(q.inst as usize)).map(|x| code.text(x.pc));
            let what = format!(
                "{} used before the s_waitcnt that covers `{}`",
                register_name(r),
                load.unwrap_or_default()
            );
            self.fault(w, i, FaultKind::MissingWait, None, None, &what);
            return;
        }
    }
}

/// The assembler's name of a register number (vector, accumulation, then scalar from 512).
pub fn register_name(r: u32) -> String {
    match r {
        0..=255 => format!("v{r}"),
        256..=511 => format!("a{}", r - 256),
        618 | 619 => "vcc".into(),
        638 | 639 => "exec".into(),
        636 => "m0".into(),
        _ => format!("s{}", r - 512),
    }
}

fn set_pending(w: &mut Wave, r: u32, on: bool) {
    let (set, r) = if r < 512 { (&mut w.vpend[..], r) } else { (&mut w.spend[..], r - 512) };
    if let Some(x) = set.get_mut(r as usize / 64) {
        *x = *x & !(1 << (r % 64)) | u64::from(on) << (r % 64);
    }
}

fn is_pending(w: &Wave, r: u32) -> bool {
    let (set, r) = if r < 512 { (&w.vpend[..], r) } else { (&w.spend[..], r - 512) };
    set.get(r as usize / 64).is_some_and(|x| x >> (r % 64) & 1 == 1)
}

/// An order of `n` stores that lets the later ones come first and parts neighbours.
fn any_order(n: usize) -> impl Iterator<Item = usize> {
    (0..n).rev().step_by(2).chain((0..n - 1).rev().step_by(2))
}
