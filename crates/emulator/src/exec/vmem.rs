//! Global, flat, buffer and scratch memory, and scalar loads.

use super::map::{scalar, scalar64, vdst};
use super::span::Span;
use super::{LDS_APERTURE, SCRATCH_APERTURE, atomic, ds};
use crate::check::Access;
use crate::env::{Env, FaultKind};
use crate::inst::{AtomicOp, Exec, ExecFn, Extra, Inst, Mem, MemKind, Operand, Space};
use crate::wave::{Deferred, LdsFill, Pending, Unwritten, Wave};

/// Code of every vector memory instruction.
pub(crate) const CODE: Exec = [run as ExecFn; 3];

/// Address of an access that a buffer's bounds swallow: loads give zero, stores do nothing.
const NOWHERE: u64 = u64::MAX;

unsafe fn run(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Some(m) = i.mem().copied() else { return };
    let mut d = Deferred { exec: w.exec(), addr: [0; 64], data: vec![], data_valid: !0 };
    addresses(w, i, &m, &mut d);
    if let Operand::V { r, n } = i.src[2] {
        for r in usize::from(r)..usize::from(r) + usize::from(n) {
            d.data.push(w.v[r].0);
            d.data_valid &= w.vvalid[r];
        }
    }
    env.counters.memory(&m, d.exec, &d.addr);
    if m.space == Space::Scratch {
        return scratch(w, i, &m, &d, env);
    }
    let regs = match i.dst {
        Operand::V { r, n } => (r, n),
        _ => (0, 0),
    };
    let lds = (m.kind == MemKind::LoadLds).then(|| Box::new(ds::fill_of(w, &m, d.exec)));
    if !env.strict {
        return perform_at(env, w, i, &m, &d, lds.as_deref());
    }
    if let Some(f) = &lds
        && !start_fill(env, w, i, f)
    {
        return;
    }
    let inst = w.pc - 1;
    if env.late {
        let p = Pending { inst, deferred: Some(Box::new(d)), regs, lds };
        return env.issued(w, p, true);
    }
    perform_at(env, w, i, &m, &d, lds.as_deref());
    env.issued(w, Pending { inst, deferred: None, regs, lds }, true);
    if m.space == Space::Flat {
        env.issued(w, Pending { inst, deferred: None, regs: (0, 0), lds: None }, false);
    }
}

/// Checks the LDS bytes a direct load will write, and marks them as in flight.
fn start_fill(env: &mut Env, w: &mut Wave, i: &Inst, f: &LdsFill) -> bool {
    let wave = Some(w.index);
    parts(env, f).into_iter().all(|(l, at, len)| {
        let ok = ds::check(env, w, i, l, (at, len, 4), Access::Write);
        if ok {
            env.lds_shadow.fill(at, len, wave);
        }
        ok
    })
}

/// The data of a direct-to-LDS load counts as written when its wait is over.
pub(crate) fn arrive(env: &mut Env, w: &mut Wave, inst: u32, f: &LdsFill) {
    let Some(i) = env.kernel.code.insts.get(inst as usize).copied() else { return };
    for (l, at, len) in parts(env, f) {
        ds::check(env, w, &i, l, (at, len, 4), Access::Write);
    }
}

/// The LDS bytes of a direct load: first lane, offset, length; one part if all are inside.
fn parts(env: &Env, f: &LdsFill) -> Vec<(usize, usize, usize)> {
    let (base, len) = (f.base as usize, f.bytes as usize);
    if f.exec == !0 && base + 64 * len <= env.lds.len() {
        return vec![(0, base, 64 * len)];
    }
    (0..64).filter(|l| f.exec >> l & 1 == 1).map(|l| (l, base + l * len, len)).collect()
}

/// Computes per-lane addresses.
fn addresses(w: &Wave, i: &Inst, m: &Mem, d: &mut Deferred) {
    match m.space {
        Space::Buffer => return buffer_addresses(w, i, m, d),
        Space::Global | Space::Flat | Space::Scratch | Space::Lds => {}
    }
    let base = match i.src[1] {
        Operand::None => 0,
        o if m.space == Space::Scratch => scalar(w, o).into(),
        o => scalar64(w, o),
    };
    let base = base.wrapping_add(m.offset as i64 as u64);
    match i.src[0] {
        Operand::V { r, n } => {
            let r = usize::from(r);
            for l in 0..64 {
                let hi = if n >= 2 { u64::from(w.v[r + 1].0[l]) << 32 } else { 0 };
                d.addr[l] = base.wrapping_add(u64::from(w.v[r].0[l]) | hi);
            }
        }
        _ => d.addr = [base; 64],
    }
}

fn buffer_addresses(w: &Wave, i: &Inst, m: &Mem, d: &mut Deferred) {
    let Operand::S { r, .. } = i.src[1] else { return };
    let word = |k: u8| w.s[usize::from((r + k) & 127)];
    let base = u64::from(word(0)) | u64::from(word(1) & 0xffff) << 32;
    let (stride, records) = (u64::from(word(1) >> 16 & 0x3fff), u64::from(word(2)));
    let soffset = u64::from(scalar(w, i.src[3]));
    let first = match i.src[0] {
        Operand::V { r, .. } => usize::from(r),
        _ => 0,
    };
    let offset_row = first + usize::from(m.idxen && m.offen);
    for l in 0..64 {
        let index = if m.idxen { u64::from(w.v[first].0[l]) } else { 0 };
        let voffset = if m.offen { u64::from(w.v[offset_row].0[l]) } else { 0 };
        let offset = voffset + m.offset as u64;
        let at = index * stride + offset;
        let inside = match m.idxen && stride != 0 {
            true => index < records,
            // The scalar offset is not part of the range check.
            false => at + u64::from(m.bytes) <= records,
        };
        d.addr[l] = if inside { base.wrapping_add(soffset).wrapping_add(at) } else { NOWHERE };
    }
}

/// Performs an access, at issue or at its wait.
pub(super) fn perform_at(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    d: &Deferred,
    lds: Option<&LdsFill>,
) {
    let mut left = d.exec;
    while left != 0 {
        let span = Span::first(d, left, m);
        left &= !span.mask();
        let high = span.addr >> 32 << 32;
        let special = m.space == Space::Flat && matches!(high, LDS_APERTURE | SCRATCH_APERTURE);
        let atomic = matches!(m.kind, MemKind::Atomic(_));
        if !special && !atomic && span.perform(env, w, i, (m, d), lds) {
            if w.fault.is_some() {
                return;
            }
            continue;
        }
        for l in span.lane..span.lane + span.lanes {
            if special {
                flat_special(env, w, i, m, d, l);
            } else if d.addr[l] == NOWHERE {
                swallowed(env, w, i, m, l, lds);
            } else {
                lane(env, w, i, m, d, l, lds);
            }
            if w.fault.is_some() {
                return;
            }
        }
    }
}

/// Bytes that an address must be a multiple of.
pub(super) fn alignment(m: &Mem) -> u64 {
    let len = u64::from(m.bytes);
    if matches!(m.kind, MemKind::Atomic(_)) { len } else { len.min(4) }
}

/// A flat access that falls into the LDS or scratch aperture.
fn flat_special(env: &mut Env, w: &mut Wave, i: &Inst, m: &Mem, d: &Deferred, l: usize) {
    let mut one = d.clone();
    one.exec = 1 << l;
    one.addr[l] = d.addr[l] & 0xffff_ffff;
    let m = Mem { offset: 0, ..*m };
    if d.addr[l] >> 32 << 32 == LDS_APERTURE {
        ds::perform(env, w, i, &m, &one);
    } else {
        scratch(w, i, &m, &one, env);
    }
}

fn swallowed(env: &mut Env, w: &mut Wave, i: &Inst, m: &Mem, l: usize, lds: Option<&LdsFill>) {
    match (m.kind, lds) {
        (MemKind::LoadLds, Some(f)) => {
            let len = f.bytes as usize;
            ds::put_fill(env, f.base as usize + l * len, len, [0; 4], true);
        }
        (MemKind::Load { .. } | MemKind::LoadD16 { .. }, _) => {
            for k in 0..usize::from(m.bytes).div_ceil(4) {
                let r = vdst(i.dst) + k;
                w.v[r].0[l] = ds::extend(m, 0, w.v[r].0[l]);
                super::set_valid(w, r, l, true);
            }
        }
        _ => {}
    }
}

/// One lane's access to device memory.
fn lane(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    d: &Deferred,
    l: usize,
    lds: Option<&LdsFill>,
) {
    let (addr, len) = (d.addr[l], usize::from(m.bytes));
    let atomic = matches!(m.kind, MemKind::Atomic(_));
    let align = alignment(m);
    let at = Some(l as u32);
    if !addr.is_multiple_of(align) && (env.strict || atomic) {
        let what = format!("address not {align}-byte aligned");
        return env.fault(w, i, FaultKind::Misaligned, at, Some(addr), &what);
    }
    announce(env, m, addr);
    let a = match env.view.find(addr, len as u64) {
        Ok(a) => a,
        Err(miss) => {
            let what = format!("access of {len} bytes: {miss}");
            return env.fault(w, i, FaultKind::OutOfBounds, at, Some(addr), &what);
        }
    };
    match m.kind {
        MemKind::Load { .. } | MemKind::LoadD16 { .. } | MemKind::LoadLds => {
            // SAFETY: `find` returned the allocation containing the whole range.
            let x = unsafe { a.load(addr, len) };
            let ok = !env.strict || a.initialised(addr, len);
            if !ok {
                let inst = env.kernel.code.index_of(i.pc.into()).unwrap_or(0);
                w.unwritten = Some(Unwritten { inst, lane: l as u32, addr });
            }
            deliver(env, w, i, m, l, (x, ok), lds);
        }
        MemKind::Store { hi } => {
            let mut x = [0u32; 4];
            for (k, r) in d.data.iter().enumerate().take(4) {
                x[k] = r[l];
            }
            if hi {
                x[0] >>= 16;
            }
            // SAFETY: as above.
            unsafe { a.store(addr, len, x) };
            a.mark(addr, len, true);
        }
        MemKind::Atomic(op) => read_modify_write(env, w, i, m, op, d, l),
    }
    race(env, w, i, m, (addr, len), l);
}

/// Gives a lane's loaded data to its registers or LDS bytes.
fn deliver(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    l: usize,
    (x, ok): ([u32; 4], bool),
    lds: Option<&LdsFill>,
) {
    if let (MemKind::LoadLds, Some(f)) = (m.kind, lds) {
        let len = f.bytes as usize;
        ds::put_fill(env, f.base as usize + l * len, len, x, ok);
        return;
    }
    for (k, x) in x.iter().enumerate().take(usize::from(m.bytes).div_ceil(4)) {
        let r = vdst(i.dst) + k;
        w.v[r].0[l] = ds::extend(m, *x, w.v[r].0[l]);
        super::set_valid(w, r, l, ok);
    }
}

fn read_modify_write(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    op: AtomicOp,
    d: &Deferred,
    l: usize,
) {
    let (addr, len) = (d.addr[l], usize::from(m.bytes));
    let Ok(a) = env.view.find(addr, len as u64) else { return };
    let words = len / 4;
    let at = |k: usize| d.data.get(k).map_or(0, |r| r[l]);
    // SAFETY: `find` returned the allocation containing the range, and `lane` checked alignment.
    let old = unsafe { rmw(op, words, a.at(addr), at) };
    let ok = !env.strict || a.initialised(addr, len);
    a.mark(addr, len, true);
    if !ok {
        let inst = env.kernel.code.index_of(i.pc.into()).unwrap_or(0);
        w.unwritten = Some(Unwritten { inst, lane: l as u32, addr });
    }
    if m.ret {
        for k in 0..words {
            w.v[vdst(i.dst) + k].0[l] = old[k];
            super::set_valid(w, vdst(i.dst) + k, l, ok);
        }
    }
}

/// Performs an atomic operation on `words` words, of which `operand` has the new ones and then, of
/// a comparison, those that are compared with. Returns the old ones.
///
/// # Safety
/// `p` must be valid for so many and aligned.
pub(super) unsafe fn rmw(
    op: AtomicOp,
    words: usize,
    p: *mut u8,
    operand: impl Fn(usize) -> u32,
) -> [u32; 2] {
    let src = [operand(0), if words == 2 { operand(1) } else { 0 }];
    let cmp = match (op, words) {
        (AtomicOp::CmpSwap, 1) => operand(1).into(),
        (AtomicOp::CmpSwap, _) => u64::from(operand(2)) | u64::from(operand(3)) << 32,
        _ => 0,
    };
    // SAFETY: passed on from the caller.
    unsafe {
        match words {
            1 => rmw32(p.cast(), |o| atomic::apply(op, 4, [o, 0], src, cmp)[0]),
            _ => rmw64(p.cast(), |o| atomic::apply(op, 8, o, src, cmp)),
        }
    }
}

/// # Safety
/// `p` must be valid and aligned.
unsafe fn rmw32(p: *mut u32, f: impl Fn(u32) -> u32) -> [u32; 2] {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    // SAFETY: passed on from the caller.
    let a = unsafe { AtomicU32::from_ptr(p) };
    let r = a.fetch_update(SeqCst, SeqCst, |o| Some(f(o)));
    [r.unwrap_or_else(|o| o), 0]
}

/// # Safety
/// `p` must be valid and aligned.
unsafe fn rmw64(p: *mut u64, f: impl Fn([u32; 2]) -> [u32; 2]) -> [u32; 2] {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: passed on from the caller.
    let a = unsafe { AtomicU64::from_ptr(p) };
    let split = |x: u64| [x as u32, (x >> 32) as u32];
    let r = a.fetch_update(SeqCst, SeqCst, |o| {
        let n = f(split(o));
        Some(u64::from(n[0]) | u64::from(n[1]) << 32)
    });
    split(r.unwrap_or_else(|o| o))
}

/// Tells the race detector of an access that publishes, before others can see its value.
pub(super) fn announce(env: &Env, m: &Mem, addr: u64) {
    let atomic = matches!(m.kind, MemKind::Atomic(_));
    let changes = atomic || matches!(m.kind, MemKind::Store { .. });
    if let (true, Some(scope), Some(s)) = (changes, m.scope(), &env.segments) {
        s.publish(addr, scope, atomic);
    }
}

/// Tells the race detector of an access to `len` bytes by lanes from `first` on.
pub(super) fn race(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    m: &Mem,
    (addr, len): (u64, usize),
    first: usize,
) {
    let (store, atomic) =
        (matches!(m.kind, MemKind::Store { .. }), matches!(m.kind, MemKind::Atomic(_)));
    let Env { view, segments, time, .. } = env;
    let Some(s) = segments else { return };
    let plain = if store { Access::Write } else { Access::Read };
    let strong = if store || atomic { Access::Atomic } else { Access::AtomicRead };
    if let (false, Some(scope)) = (store, m.scope()) {
        s.collect(addr, scope);
    }
    // Scope bits and atomics order the waves of a workgroup as well.
    let waves = if m.sc0 || m.sc1 || atomic {
        time.atomic(w.index, addr, !store && (m.ret || !atomic), store || atomic);
        strong
    } else {
        plain
    };
    let kind = if m.sc1 || atomic { strong } else { plain };
    let Ok(a) = view.find(addr, len as u64) else { return };
    let Some((shadow, masks)) = a.race(addr, len) else { return };
    let Some((k, r)) = s.touch(shadow, masks, kind, Some((time, w.index, waves))) else { return };
    let start = addr - (addr - a.base) % 4;
    let at = (start + 4 * k as u64).max(addr);
    let lane = first + (at - addr) as usize / usize::from(m.bytes).max(1);
    let did = match (r.wrote, r.atomic) {
        (true, true) => "changed by an atomic",
        (true, false) => "written",
        _ => "read",
    };
    let what = match (r.other_launch, r.wave) {
        (true, _) => format!(
            "byte {did} by {} of another stream, with no event or synchronisation between",
            r.name
        ),
        (false, Some(wave)) => {
            format!("byte {did} by wave {wave} of the same workgroup, without a barrier between")
        }
        (false, None) => format!(
            "byte {did} by workgroup {} of the same launch, with no atomic and fence between",
            r.group
        ),
    };
    env.fault(w, i, FaultKind::GlobalRace, Some(lane as u32), Some(at), &what);
}

/// Private memory: bytes of one lane.
fn scratch(w: &mut Wave, i: &Inst, m: &Mem, d: &Deferred, env: &mut Env) {
    let (len, size) = (usize::from(m.bytes), w.scratch_size as usize);
    for l in (0..64).filter(|l| d.exec >> l & 1 == 1) {
        let off = (d.addr[l] & 0xffff_ffff) as usize;
        if off + len > size {
            let what = format!("private memory is {size} bytes per lane");
            let at = Some(off as u64);
            return env.fault(w, i, FaultKind::OutOfBounds, Some(l as u32), at, &what);
        }
        let at = l * size + off;
        match m.kind {
            MemKind::Store { hi } => {
                for k in 0..len {
                    let word = d.data.get(k / 4).map_or(0, |r| r[l]) >> if hi { 16 } else { 0 };
                    w.scratch[at + k] = (word >> (8 * (k % 4))) as u8;
                    w.scratch_valid[at + k] = d.data_valid >> l & 1 == 1;
                }
            }
            _ => {
                let mut x = [0u32; 4];
                for k in 0..len {
                    x[k / 4] |= u32::from(w.scratch[at + k]) << (8 * (k % 4));
                }
                let ok = w.scratch_valid[at..at + len].iter().all(|v| *v);
                deliver(env, w, i, m, l, (x, ok), None);
            }
        }
    }
    if env.strict && m.space == Space::Scratch {
        let regs = match i.dst {
            Operand::V { r, n } => (r, n),
            _ => (0, 0),
        };
        env.issued(w, Pending { inst: w.pc - 1, deferred: None, regs, lds: None }, true);
    }
}

/// Code of the cache instructions: fences, as far as this model has caches.
pub(crate) const RELEASE: Exec = [release as ExecFn; 3];
/// See [`RELEASE`].
pub(crate) const ACQUIRE: Exec = [acquire as ExecFn; 3];

unsafe fn release(w: &mut Wave, _: &Inst, env: &mut Env) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    if env.strict {
        // The write-back is done when its wait is over, after the stores before it.
        let d = Deferred { exec: 0, addr: [0; 64], data: vec![], data_valid: 0 };
        let (inst, deferred) = (w.pc - 1, Some(Box::new(d)));
        env.issued(w, Pending { inst, deferred, regs: (0, 0), lds: None }, true);
    }
}

unsafe fn acquire(_: &mut Wave, i: &Inst, env: &mut Env) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    if let (Extra::Fence(scope), Some(s)) = (i.extra, &mut env.segments) {
        s.acquire(scope);
    }
}
