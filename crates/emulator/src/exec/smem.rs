//! Scalar memory: loads, stores and atomics of one dword or more.

use super::map::{scalar, scalar64};
use super::vmem::{race, rmw};
use crate::env::{Env, FaultKind};
use crate::inst::{AtomicOp, Exec, ExecFn, Inst, Mem, MemKind, Operand, Space};
use crate::wave::{Pending, Wave};

/// Code of scalar memory instructions: `src[0]` is the base or descriptor, `src[1]` the offset.
pub(crate) const CODE: Exec = [run as ExecFn; 3];

unsafe fn run(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Some(m) = i.mem().copied() else { return };
    let offset = u64::from(scalar(w, i.src[1])).wrapping_add(m.offset as i64 as u64);
    let (mut base, mut limit) = (scalar64(w, i.src[0]), u64::MAX);
    if let (Space::Buffer, Operand::S { r, .. }) = (m.space, i.src[0]) {
        base &= 0xffff_ffff_ffff;
        // Records count bytes, or structures of the stride.
        let stride = u64::from(w.s[usize::from((r + 1) & 127)] >> 16 & 0x3fff).max(1);
        limit = u64::from(w.s[usize::from((r + 2) & 127)]) * stride;
    }
    // The hardware ignores the two low bits.
    let addr = base.wrapping_add(offset) & !3;
    env.counters.scalar(m.bytes.into());
    let Operand::S { r, .. } = i.dst else { return };
    if let MemKind::Atomic(op) = m.kind {
        read_modify_write(w, i, (&m, op), r, addr, env);
    } else if !transfer(w, i, &m, (r, addr, offset, limit), env) {
        return;
    }
    let store = matches!(m.kind, MemKind::Store { .. });
    let words = m.bytes / 4;
    if env.strict && (m.ret || !store && !matches!(m.kind, MemKind::Atomic(_))) {
        let regs = (512 + u16::from(r), words);
        env.issued(w, Pending { inst: w.pc - 1, deferred: None, regs, lds: None }, false);
    }
}

/// A load or store, dword by dword; those beyond a buffer's end read zero and are not written.
fn transfer(
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    (r, addr, offset, limit): (u8, u64, u64, u64),
    env: &mut Env,
) -> bool {
    let store = matches!(m.kind, MemKind::Store { .. });
    for k in 0..usize::from(m.bytes) / 4 {
        let at = addr + 4 * k as u64;
        let reg = (usize::from(r) + k) & 127;
        if (offset & !3) + 4 * k as u64 + 4 > limit {
            if !store {
                (w.s[reg], w.svalid[reg]) = (0, !0);
            }
            continue;
        }
        let a = match env.view.find(at, 4) {
            Ok(a) => a,
            Err(miss) => {
                let what = format!("scalar access: {miss}");
                env.fault(w, i, FaultKind::OutOfBounds, None, Some(at), &what);
                return false;
            }
        };
        if store {
            if env.strict && w.svalid[reg] != !0 {
                let what = format!("undefined value in s{reg} reaches memory");
                env.fault(w, i, FaultKind::Uninitialised, None, Some(at), &what);
                return false;
            }
            // SAFETY: `find` returned the allocation containing the dword.
            unsafe { a.store(at, 4, [w.s[reg], 0, 0, 0]) };
            a.mark(at, 4, true);
        } else {
            // SAFETY: as above.
            w.s[reg] = unsafe { a.load(at, 4) }[0];
            w.svalid[reg] = if a.initialised(at, 4) { !0 } else { 0 };
        }
        race(env, w, i, m, (at, 4), 0);
    }
    true
}

fn read_modify_write(
    w: &mut Wave,
    i: &Inst,
    (m, op): (&Mem, AtomicOp),
    r: u8,
    addr: u64,
    env: &mut Env,
) {
    let (len, words) = (u64::from(m.bytes), usize::from(m.bytes) / 4);
    let a = match env.view.find(addr, len) {
        Ok(a) if addr.is_multiple_of(len) => a,
        found => {
            let what = match found {
                Ok(_) => format!("address not {len}-byte aligned"),
                Err(miss) => format!("scalar atomic: {miss}"),
            };
            return env.fault(w, i, FaultKind::OutOfBounds, None, Some(addr), &what);
        }
    };
    let word = |k: usize| w.s[(usize::from(r) + k) & 127];
    // SAFETY: `find` returned the allocation containing the range, which is aligned.
    let old = unsafe { rmw(op, words, a.at(addr), word) };
    let ok = a.initialised(addr, usize::from(m.bytes));
    a.mark(addr, usize::from(m.bytes), true);
    if m.ret {
        for (k, x) in old.iter().enumerate().take(words) {
            let reg = (usize::from(r) + k) & 127;
            (w.s[reg], w.svalid[reg]) = (*x, if ok { !0 } else { 0 });
        }
    }
    race(env, w, i, m, (addr, usize::from(m.bytes)), 0);
}
