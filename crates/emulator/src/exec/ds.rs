//! LDS instructions.

use super::atomic;
use super::map::vdst;
use crate::check::{Access, LdsConflict};
use crate::env::{Env, FaultKind};
use crate::inst::{AtomicOp, Exec, ExecFn, Inst, M0, Mem, MemKind, Operand, Space};
use crate::wave::{Deferred, LdsFill, Pending, Wave};

/// Code of every DS instruction that touches LDS.
pub(crate) const CODE: Exec = [run as ExecFn; 3];

unsafe fn run(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Some(m) = i.mem().copied() else { return };
    let mut d = Deferred { exec: w.exec(), addr: [0; 64], data: vec![], data_valid: !0 };
    // Transpose reads need every lane; the hardware ignores EXEC for the exchange.
    if m.tr != 0 && env.strict && d.exec != !0 {
        let what = "transpose read with lanes switched off";
        env.fault(w, i, FaultKind::Illegal, Some(d.exec.trailing_ones()), None, what);
        return;
    }
    let base = super::valu_cvt::lanes(w, i, 0, super::map::Ty::Int);
    for l in 0..64 {
        d.addr[l] = base[l].into();
    }
    for o in [i.src[2], i.src[3]] {
        if let Operand::V { r, n } = o {
            for r in usize::from(r)..usize::from(r) + usize::from(n) {
                d.data.push(w.v[r].0);
                d.data_valid &= w.vvalid[r];
            }
        }
    }
    env.counters.lds(&m, d.exec, &d.addr);
    let regs = match i.dst {
        Operand::V { r, n } => (r, n),
        _ => (0, 0),
    };
    if !env.strict {
        perform(env, w, i, &m, &d);
    } else if env.late {
        let p = Pending { inst: w.pc - 1, deferred: Some(Box::new(d)), regs, lds: None };
        env.issued(w, p, false);
    } else {
        perform(env, w, i, &m, &d);
        env.issued(w, Pending { inst: w.pc - 1, deferred: None, regs, lds: None }, false);
    }
}

/// Checks one LDS access; false if the wave now has a fault.
pub(super) fn check(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    lane: usize,
    (at, len, align): (usize, usize, usize),
    kind: Access,
) -> bool {
    let addr = Some(at as u64);
    let lane = Some(lane as u32);
    if at + len > env.lds.len() {
        if env.strict {
            let what = format!("LDS access beyond the {} bytes allocated", env.lds.len());
            env.fault(w, i, FaultKind::LdsRange, lane, addr, &what);
        }
        return false;
    }
    if !env.strict {
        return true;
    }
    if at % align != 0 {
        env.fault(
            w,
            i,
            FaultKind::Misaligned,
            lane,
            addr,
            &format!("LDS address not {align}-aligned"),
        );
        return false;
    }
    let hit = match kind {
        Access::AtomicRead => env.lds_shadow.poll((at, len), w.index, &mut env.time),
        kind => env.lds_shadow.access((at, len), w.index, &env.time, kind),
    };
    let Some(c) = hit else { return true };
    let (fault, what) = match c {
        LdsConflict::Write(by) => {
            (FaultKind::LdsRace, format!("LDS byte written by wave {by} without a barrier between"))
        }
        LdsConflict::Read(by) => {
            (FaultKind::LdsRace, format!("LDS byte read by wave {by} without a barrier between"))
        }
        LdsConflict::Filling(by) => (
            FaultKind::MissingWait,
            format!("LDS byte of a direct-to-LDS load by wave {by} that no s_waitcnt covers"),
        ),
    };
    env.fault(w, i, fault, lane, addr, &what);
    false
}

#[inline]
fn bytes_of(env: &Env, at: usize, len: usize) -> [u32; 4] {
    let mut out = [0u8; 16];
    out[..len].copy_from_slice(&env.lds[at..at + len]);
    std::array::from_fn(|k| {
        u32::from_le_bytes([out[4 * k], out[4 * k + 1], out[4 * k + 2], out[4 * k + 3]])
    })
}

#[inline]
fn put_bytes(env: &mut Env, at: usize, len: usize, x: [u32; 4]) {
    let mut bytes = [0u8; 16];
    for (to, x) in bytes.chunks_exact_mut(4).zip(x) {
        to.copy_from_slice(&x.to_le_bytes());
    }
    env.lds[at..at + len].copy_from_slice(&bytes[..len]);
}

/// Performs a DS access.
pub(super) fn perform(env: &mut Env, w: &mut Wave, i: &Inst, m: &Mem, d: &Deferred) {
    if m.tr != 0 {
        return transpose(env, w, i, m, d);
    }
    let unit = usize::from(m.bytes);
    let count = if m.two { 2 } else { 1 };
    for l in (0..64).filter(|l| d.exec >> l & 1 == 1) {
        for e in 0..count {
            let off = if e == 0 { m.offset } else { m.offset1 };
            let at = (d.addr[l] as u32).wrapping_add(off as u32) as usize;
            element(env, w, i, (m, d), (l, e, at, unit));
            if w.fault.is_some() {
                return;
            }
        }
    }
}

/// One element of one lane.
fn element(
    env: &mut Env,
    w: &mut Wave,
    i: &Inst,
    (m, d): (&Mem, &Deferred),
    (l, e, at, len): (usize, usize, usize, usize),
) {
    let access = match m.kind {
        MemKind::Load { .. } if i.polls => Access::AtomicRead,
        MemKind::Load { .. } | MemKind::LoadD16 { .. } | MemKind::LoadLds => Access::Read,
        MemKind::Store { .. } => Access::Write,
        MemKind::Atomic(_) => Access::Atomic,
    };
    // Multi-dword accesses need the alignment of the whole access, except the two-address forms.
    let align = match (m.space, len) {
        (Space::Lds, 12) => 16,
        (Space::Lds, n) => n,
        (_, n) => n.min(4),
    };
    let ok = check(env, w, i, l, (at, len, align), access);
    let words = len.div_ceil(4);
    let mut data = [0u32; 4];
    for k in 0..words {
        data[k] = d.data.get(e * words + k).map_or(0, |r| r[l]);
    }
    match m.kind {
        MemKind::Store { hi } => {
            if hi {
                data[0] >>= 16;
            }
            if ok {
                put_bytes(env, at, len, data);
                if env.strict {
                    env.lds_shadow.define(at, len, d.data_valid >> l & 1 == 1);
                }
            }
        }
        MemKind::Atomic(op) => {
            if env.strict {
                env.time.atomic(w.index, at as u64, m.ret, true);
            }
            let old = if ok { bytes_of(env, at, len) } else { [0; 4] };
            if ok {
                let (src, cmp) = operands(op, d, l, words);
                let new = atomic::apply(op, len, [old[0], old[1]], src, cmp);
                put_bytes(env, at, len, [new[0], new[1], 0, 0]);
                if env.strict {
                    env.lds_shadow.define(at, len, true);
                }
            }
            if m.ret {
                load(env, w, i, (l, e, words), old, at, len);
            }
        }
        MemKind::Load { .. } | MemKind::LoadD16 { .. } | MemKind::LoadLds => {
            let x = if ok { bytes_of(env, at, len) } else { [0; 4] };
            load(env, w, i, (l, e, words), x, at, len);
        }
    }
}

/// Operand and comparand; DS compare-and-swap has the comparand first, unlike vector memory.
fn operands(op: AtomicOp, d: &Deferred, l: usize, words: usize) -> ([u32; 2], u64) {
    let at = |k: usize| d.data.get(k).map_or(0, |r| r[l]);
    if op != AtomicOp::CmpSwap {
        return ([at(0), at(1)], 0);
    }
    match words {
        1 => ([at(1), 0], at(0).into()),
        _ => ([at(2), at(3)], u64::from(at(0)) | u64::from(at(1)) << 32),
    }
}

/// Writes a loaded element to the destination registers.
fn load(
    env: &Env,
    w: &mut Wave,
    i: &Inst,
    (l, e, words): (usize, usize, usize),
    x: [u32; 4],
    at: usize,
    len: usize,
) {
    let Some(m) = i.mem() else { return };
    let first = vdst(i.dst) + e * words;
    let ok = !env.strict || env.lds_shadow.defined(at, len);
    if !ok {
        let inst = env.kernel.code.index_of(i.pc.into()).unwrap_or(0);
        w.unwritten = Some(crate::wave::Unwritten { inst, lane: l as u32, addr: at as u64 });
    }
    for k in 0..words {
        let old = w.v[first + k].0[l];
        w.v[first + k].0[l] = extend(m, x[k], old);
        super::set_valid(w, first + k, l, ok);
    }
}

/// Sign extension and half-register placement of a loaded element.
pub(super) fn extend(m: &Mem, x: u32, old: u32) -> u32 {
    let sign = |x: u32| match m.bytes {
        1 => x as u8 as i8 as u32,
        2 => x as u16 as i16 as u32,
        _ => x,
    };
    match m.kind {
        MemKind::Load { signed: true } => sign(x),
        MemKind::LoadD16 { signed, hi } => {
            let x = (if signed { sign(x) } else { x }) & 0xffff;
            if hi { (old & 0xffff) | x << 16 } else { (old & 0xffff_0000) | x }
        }
        _ => x,
    }
}

/// `ds_read_b64_tr_b{4,8,16}`, `ds_read_b96_tr_b6`: within 16 lanes, element `n` of lane `q` is
/// element `q` mod `per` of the row formed by the lanes that hold row `n`, as gfx950 lays them out.
fn transpose(env: &mut Env, w: &mut Wave, i: &Inst, m: &Mem, d: &Deferred) {
    let (len, bits) = (usize::from(m.bytes), u32::from(m.tr));
    // Elements each lane reads; 16/per lanes make one row of 16 elements.
    let per = len * 8 / usize::from(m.tr);
    let lanes_per_row = 16 / per;
    let mut rows = [[0u32; 4]; 64];
    let mut defined = [true; 64];
    for l in 0..64 {
        let at = (d.addr[l] as u32).wrapping_add(m.offset as u32) as usize;
        let align = if len == 12 { 4 } else { len };
        if check(env, w, i, l, (at, len, align), Access::Read) {
            rows[l] = bytes_of(env, at, len);
            defined[l] = !env.strict || env.lds_shadow.defined(at, len);
        } else if w.fault.is_some() {
            return;
        }
    }
    let first = vdst(i.dst);
    for l in 0..64 {
        let (group, q) = (l & !15, l & 15);
        let mut out = [0u32; 4];
        let mut ok = true;
        for n in 0..per {
            let from = group + q / per + lanes_per_row * n;
            let code = crate::formats::unpack(&rows[from], bits, q % per);
            crate::formats::pack(&mut out, bits, n, code);
            ok &= defined[from];
        }
        for (k, x) in out.iter().enumerate().take(len / 4) {
            w.v[first + k].0[l] = *x;
            super::set_valid(w, first + k, l, ok);
        }
    }
}

/// The destination of a direct-to-LDS load: M0 plus the instruction's offset.
pub(super) fn fill_of(w: &Wave, m: &Mem, exec: u64) -> LdsFill {
    let base = w.s[usize::from(M0)].wrapping_add(m.offset as u32);
    // Bytes and halves fill a dword each.
    LdsFill { base, bytes: u32::from(m.bytes).max(4), exec }
}

/// Writes the data of one lane of a direct-to-LDS load.
pub(super) fn put_fill(env: &mut Env, at: usize, len: usize, x: [u32; 4], defined: bool) {
    if at + len <= env.lds.len() {
        put_bytes(env, at, len, x);
        if env.strict {
            env.lds_shadow.define(at, len, defined);
        }
    }
}

/// Register exchange through the LDS hardware: no memory is touched.
pub(crate) const EXCHANGE: Exec = [exchange as ExecFn; 3];

unsafe fn exchange(w: &mut Wave, i: &Inst, env: &mut Env) {
    let Some(m) = i.mem() else { return };
    let exec = w.exec();
    let lanes = |w: &Wave, k: usize| super::valu_cvt::lanes(w, i, k, super::map::Ty::Int);
    let (a, d) = (lanes(w, 0), vdst(i.dst));
    let row = |o: Operand| match o {
        Operand::V { r, .. } => usize::from(r),
        _ => 0,
    };
    let mut source = [None::<usize>; 64];
    let (data, from) = match (m.space, m.two) {
        // ds_swizzle_b32: the pattern is in the offset.
        (Space::Scratch, _) => {
            for (l, s) in source.iter_mut().enumerate() {
                *s = Some(swizzle(m.offset as u32, l));
            }
            (a, row(i.src[0]))
        }
        // ds_bpermute_b32: pull.
        (_, false) => {
            for (l, s) in source.iter_mut().enumerate() {
                *s = Some((a[l].wrapping_add(m.offset as u32) / 4) as usize & 63);
            }
            (lanes(w, 2), row(i.src[2]))
        }
        // ds_permute_b32: push; the highest lane wins.
        (_, true) => {
            for l in (0..64).filter(|l| exec >> l & 1 == 1) {
                source[(a[l].wrapping_add(m.offset as u32) / 4) as usize & 63] = Some(l);
            }
            (lanes(w, 2), row(i.src[2]))
        }
    };
    let valid = w.vvalid[from];
    for l in (0..64).filter(|l| exec >> l & 1 == 1) {
        let s = source[l].filter(|s| exec >> s & 1 == 1);
        w.v[d].0[l] = s.map_or(0, |s| data[s]);
        super::set_valid(w, d, l, s.is_none_or(|s| valid >> s & 1 == 1));
    }
    if env.strict {
        let regs = (d as u16, 1);
        env.issued(w, Pending { inst: w.pc - 1, deferred: None, regs, lds: None }, false);
    }
}

fn swizzle(offset: u32, l: usize) -> usize {
    let x = offset as usize & 0xffff;
    if x & 0x8000 != 0 && x & 0xe000 != 0xc000 {
        return (l & !3) | (x >> (2 * (l & 3)) & 3);
    }
    if x & 0xe000 == 0xc000 {
        // Rotate within 32 lanes; the mask keeps lane bits in place.
        let (right, n, mask) = (x >> 10 & 1 == 0, x >> 5 & 31, x & 31);
        let q = l & 31;
        let r = if right { (q + n) & 31 } else { (q + 32 - n) & 31 };
        return (l & 32) | (q & mask) | (r & !mask & 31);
    }
    let (and, or, xor) = (x & 31, x >> 5 & 31, x >> 10 & 31);
    (l & 32) | ((((l & 31) & and) | or) ^ xor)
}
