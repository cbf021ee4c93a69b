//! Checks around each instruction: pending results, undefined values, and how validity flows.

use crate::env::{Env, FaultKind, register_name};
use crate::inst::{Class, EXEC, Flow, Halves, Inst, M0, MemKind, Operand, Simple, VCC};
use crate::wave::Wave;

/// Before an instruction: nothing it reads or overwrites may still be on its way, and values that
/// reach memory or control flow must be defined.
pub(crate) fn before(env: &mut Env, w: &mut Wave, i: &Inst) {
    if (!w.vm.is_empty() || !w.lgkm.is_empty()) && i.class != Class::Wait {
        for o in i.src.iter().take(usize::from(i.nsrc)).chain([&i.dst, &i.dst2]) {
            env.check_pending(w, i, *o);
        }
    }
    match i.class {
        Class::Branch => branch(env, w, i),
        Class::Vmem | Class::Ds | Class::Smem => memory(env, w, i),
        _ => {}
    }
}

fn invalid_lane(w: &Wave, o: Operand, exec: u64) -> Option<(u32, u32)> {
    let Operand::V { r, n } = o else { return None };
    (r..r + u16::from(n)).find_map(|r| {
        let bad = exec & !w.vvalid[usize::from(r)];
        (bad != 0).then(|| (bad.trailing_zeros(), u32::from(r)))
    })
}

fn undefined(env: &mut Env, w: &mut Wave, i: &Inst, lane: Option<u32>, reg: &str, what: &str) {
    let from = w.unwritten.map_or(String::new(), |u| {
        let code = &env.kernel.code;
        let load = code.insts.get(u.inst as usize).map(|x| code.text(x.pc));
        format!(
            "; the last load of never-written memory was `{}`, lane {}, address {:#x}",
            load.unwrap_or_default(),
            u.lane,
            u.addr
        )
    });
    let what = format!("undefined value in {reg} reaches {what}{from}");
    env.fault(w, i, FaultKind::Uninitialised, lane, None, &what);
}

/// The first undefined scalar register of an operand.
fn undefined_scalar(w: &Wave, o: Operand) -> Option<u32> {
    match o {
        Operand::S { r, n } => {
            (r..r + n).find(|r| w.svalid[usize::from(r & 127)] != !0).map(|r| 512 + u32::from(r))
        }
        Operand::Scc => (!w.scc_valid).then_some(0),
        _ => None,
    }
}

/// Whether the instruction before the current one sets M0 with the scalar ALU. (A branch to the
/// current one would be an instruction between.)
fn has_just_set_m0(env: &Env, w: &Wave) -> bool {
    let before = (w.pc as usize).checked_sub(2).and_then(|k| env.kernel.code.insts.get(k));
    before.is_some_and(|x| x.class == Class::Salu && x.dst == Operand::S { r: M0, n: 1 })
}

fn memory(env: &mut Env, w: &mut Wave, i: &Inst) {
    let exec = w.exec();
    if i.mem().is_some_and(|m| m.kind == MemKind::LoadLds) && has_just_set_m0(env, w) {
        let what = "a direct-to-LDS load may use M0's old value: an instruction, s_nop 0 if no \
                    other, must stand between it and the one that sets M0";
        env.fault(w, i, FaultKind::MissingWait, None, None, what);
    }
    let store = i.mem().is_some_and(|m| !matches!(m.kind, MemKind::Load { .. }));
    if let Some((lane, r)) = invalid_lane(w, i.src[0], exec) {
        undefined(env, w, i, Some(lane), &register_name(r), "an address");
    }
    for o in [i.src[0], i.src[1], i.src[3]] {
        if let Some(r) = undefined_scalar(w, o) {
            undefined(env, w, i, None, &register_name(r), "an address");
        }
    }
    // Data stored to LDS or private memory may be undefined as long as nobody uses it.
    if i.class == Class::Vmem
        && store
        && i.mem().is_some_and(|m| m.space != crate::inst::Space::Scratch)
        && let Some((lane, r)) = invalid_lane(w, i.src[2], exec)
    {
        undefined(env, w, i, Some(lane), &register_name(r), "memory");
    }
}

fn branch(env: &mut Env, w: &mut Wave, i: &Inst) {
    let name = env.name(i);
    let bad = match name {
        "s_cbranch_scc0" | "s_cbranch_scc1" => !w.scc_valid,
        "s_cbranch_vccz" | "s_cbranch_vccnz" => w.svalid64(VCC) != !0,
        "s_cbranch_execz" | "s_cbranch_execnz" => w.svalid64(EXEC) != !0,
        _ => false,
    };
    if bad {
        undefined(env, w, i, None, "the condition", "control flow");
    }
}

/// Lanes in which the sources of a simple instruction are defined.
#[inline(always)]
pub(crate) fn lanes(w: &Wave, s: &Simple) -> u64 {
    let v = s.vector.iter().fold(!0, |v, r| v & w.vvalid[usize::from(*r)]);
    let scalar = s.scalar.iter().fold(!0, |v, r| v & w.svalid[usize::from(*r)]);
    if scalar == !0 { v } else { 0 }
}

/// What an instruction needs to remember about validity from before it runs.
pub(crate) struct Before {
    /// Defined lanes of the first register of the result, and of the others.
    lanes: [u64; 2],
    exec: u64,
    bits: u64,
}

/// Gathers the validity of the sources.
pub(crate) fn gather(w: &Wave, i: &Inst) -> Before {
    let mut lanes = [!0u64; 2];
    let mut scalar = !0u64;
    match i.flow {
        Flow::Lane | Flow::Compare => {
            lanes = match i.halves {
                Halves::Joint => [sources(w, i, |_| None); 2],
                Halves::LowAlone => [sources(w, i, |_| Some(0)), sources(w, i, |_| None)],
                Halves::Separate => [sources(w, i, |_| Some(0)), sources(w, i, |_| Some(1))],
                Halves::Packed => {
                    let m = i.mods;
                    let word = |sel: u8| move |k: usize| Some(sel >> k & 1);
                    [sources(w, i, word(m.op_sel)), sources(w, i, word(m.op_sel_hi))]
                }
                Halves::Move => {
                    let word = |k: usize| one(w, i, k, Some(i.mods.op_sel >> k & 1));
                    [word(0), word(1)]
                }
            };
            if i.reads_vcc {
                let vcc = w.svalid64(VCC);
                lanes = lanes.map(|l| l & vcc);
            }
        }
        Flow::Scalar | Flow::Bitwise => scalar = scalar_bits(w, i),
        Flow::Own | Flow::Nothing => {}
    }
    Before { lanes, exec: w.exec(), bits: scalar }
}

/// Lanes in which every source is defined: all of its registers, or the one that `word` picks.
#[inline(always)]
fn sources(w: &Wave, i: &Inst, word: impl Fn(usize) -> Option<u8>) -> u64 {
    (0..usize::from(i.nsrc)).fold(!0, |v, k| v & one(w, i, k, word(k)))
}

#[inline(always)]
fn one(w: &Wave, i: &Inst, k: usize, word: Option<u8>) -> u64 {
    let pick = |n: u8| word.map_or((0, n), |x| (x.min(n - 1), 1));
    match i.src[k] {
        Operand::V { r, n } => {
            let (skip, n) = pick(n);
            let first = usize::from(r) + usize::from(skip);
            let v = w.vvalid[first..first + usize::from(n)].iter().fold(!0, |v, x| v & x);
            match i.dpp {
                Some(d) if k == 0 => through_dpp(d, v, w.exec()),
                _ => v,
            }
        }
        // Lane masks are read lane by lane.
        Operand::S { r, n: 2 } if k == 2 && i.halves == Halves::Joint => w.svalid64(r),
        Operand::S { r, n } => {
            let (skip, n) = pick(n);
            if undefined_scalar(w, Operand::S { r: r + skip, n }).is_some() { 0 } else { !0 }
        }
        o if undefined_scalar(w, o).is_some() => 0,
        _ => !0,
    }
}

fn through_dpp(d: crate::inst::Dpp, v: u64, exec: u64) -> u64 {
    (0..64).fold(0, |m, l| {
        let s = crate::exec::modifiers::dpp_source(d.ctrl, l).filter(|s| exec >> s & 1 == 1);
        m | u64::from(s.is_none_or(|s| v >> s & 1 == 1)) << l
    })
}

fn scalar_bits(w: &Wave, i: &Inst) -> u64 {
    let bits = |o: Operand| match o {
        Operand::S { r, n: 1 } => u64::from(w.svalid[usize::from(r)]) | !0 << 32,
        Operand::S { r, .. } => w.svalid64(r),
        Operand::Scc => {
            if w.scc_valid {
                !0
            } else {
                0
            }
        }
        _ => !0,
    };
    if i.flow == Flow::Bitwise {
        let value = |o: Operand| crate::exec::map::scalar64(w, o);
        let (a, b) = (i.src[0], i.src[1]);
        let (va, vb) = (bits(a), bits(b));
        // A defined zero (for and) or one (for or) decides a bit alone; which of the two an
        // instruction does is in `mods.bitop3`: 1 and, 2 or, 3 and-not.
        let (known_a, known_b) = match i.mods.bitop3 {
            1 => (va & !value(a), vb & !value(b)),
            2 => (va & value(a), vb & value(b)),
            3 => (va & !value(a), vb & value(b)),
            _ => (0, 0),
        };
        return (va & vb) | known_a | known_b;
    }
    let all = i.src.iter().take(usize::from(i.nsrc)).all(|o| bits(*o) == !0);
    let scc = !i.reads_vcc || w.scc_valid;
    if all && scc { !0 } else { 0 }
}

/// After an instruction: what it wrote is as defined as what it read.
pub(crate) fn after(w: &mut Wave, i: &Inst, b: &Before) {
    match i.flow {
        Flow::Lane => {
            if let Operand::V { r, n } = i.dst {
                let exec = match i.dpp {
                    Some(d) => crate::exec::modifiers::dpp_writes(d, b.exec),
                    None => b.exec,
                };
                // Writing part of an undefined register counts as defining it.
                for k in 0..usize::from(n) {
                    let r = usize::from(r) + k;
                    w.vvalid[r] = (b.lanes[k.min(1)] & exec) | (w.vvalid[r] & !exec);
                }
            }
            if let Operand::S { r, .. } = i.dst2 {
                w.set_svalid64(r, b.lanes[1] | !b.exec);
            }
        }
        Flow::Compare => {
            if let Operand::S { r, .. } = i.dst {
                w.set_svalid64(r, b.lanes[0] | !b.exec);
                if i.dst2 != Operand::None {
                    w.set_svalid64(EXEC, b.lanes[0] | !b.exec);
                }
            }
        }
        Flow::Scalar | Flow::Bitwise => {
            match i.dst {
                Operand::S { r, n: 1 } => w.svalid[usize::from(r)] = b.bits as u32,
                Operand::S { r, .. } => w.set_svalid64(r, b.bits),
                _ => {}
            }
            if i.mods.cbsz & 1 == 1 {
                w.scc_valid = b.bits == !0;
            }
            if i.mods.cbsz & 2 == 2 {
                let old = if i.flow == Flow::Bitwise { b.bits } else { 0 };
                w.set_svalid64(EXEC, b.bits | old);
            }
        }
        Flow::Own | Flow::Nothing => {}
    }
}
