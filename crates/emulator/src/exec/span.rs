//! Plain accesses to device memory by lanes whose addresses follow each other (or are the same):
//! one look-up and one check for all of them.

use super::ds;
use super::map::vdst;
use super::vmem::{alignment, announce, race};
use crate::env::Env;
use crate::inst::{Inst, Mem, MemKind};
use crate::memory::Alloc;
use crate::wave::{Deferred, LdsFill, Wave};

/// `lanes` lanes from `lane` on, whose addresses start at `addr` and are `step` apart.
pub(super) struct Span {
    pub(super) lane: usize,
    pub(super) lanes: usize,
    pub(super) addr: u64,
    step: usize,
}

impl Span {
    /// The longest span of the lanes in `left` that starts with the first of them.
    pub(super) fn first(d: &Deferred, left: u64, m: &Mem) -> Span {
        let lane = left.trailing_zeros() as usize;
        let (addr, len) = (d.addr[lane], u64::from(m.bytes));
        let mut span = Span { lane, lanes: 1, addr, step: usize::from(m.bytes) };
        // Atomics and accesses that take part in synchronisation go lane by lane.
        if matches!(m.kind, MemKind::Atomic(_)) || m.sc0 || m.sc1 {
            return span;
        }
        let active = (left >> lane).trailing_ones() as usize;
        let load = !matches!(m.kind, MemKind::Store { .. });
        if load && active > 1 && d.addr[lane + 1] == addr {
            span.step = 0;
        }
        let step = span.step as u64;
        let rest = &d.addr[lane..lane + active];
        let runs = rest.windows(2).take_while(|p| p[1] == p[0].wrapping_add(step)).count();
        span.lanes += runs;
        if len == 0 {
            span.lanes = 1;
        }
        span
    }

    /// Its lanes as a mask.
    pub(super) fn mask(&self) -> u64 {
        (!0 >> (64 - self.lanes)) << self.lane
    }

    fn bytes(&self, m: &Mem) -> usize {
        if self.step == 0 { m.bytes.into() } else { self.step * self.lanes }
    }

    /// Performs the access for all lanes; false, with nothing done, if they must be looked at one
    /// by one.
    pub(super) fn perform(
        &self,
        env: &mut Env,
        w: &mut Wave,
        i: &Inst,
        (m, d): (&Mem, &Deferred),
        lds: Option<&LdsFill>,
    ) -> bool {
        let bytes = self.bytes(m);
        if !self.addr.is_multiple_of(alignment(m)) {
            return false;
        }
        announce(env, m, self.addr);
        let strict = env.strict;
        let Env { view, lds: local, lds_shadow, .. } = env;
        let Ok(a) = view.find(self.addr, bytes as u64) else { return false };
        let store = matches!(m.kind, MemKind::Store { .. });
        if strict && !store && !a.initialised(self.addr, bytes) {
            return false;
        }
        match (m.kind, lds) {
            (MemKind::Store { hi }, _) => {
                self.store(a, m, hi, d);
                a.mark(self.addr, bytes, true);
            }
            (MemKind::LoadLds, Some(f)) => {
                let at = f.base as usize + self.lane * f.bytes as usize;
                let Some(to) = local.get_mut(at..at + bytes) else { return false };
                if self.step != f.bytes as usize {
                    return false;
                }
                // SAFETY: `find` returned the allocation containing the whole span.
                unsafe { std::ptr::copy_nonoverlapping(a.at(self.addr), to.as_mut_ptr(), bytes) };
                if strict {
                    lds_shadow.define(at, bytes, true);
                }
            }
            _ => {
                self.load(a, w, i, m);
                for r in 0..usize::from(m.bytes).div_ceil(4) {
                    w.vvalid[vdst(i.dst) + r] |= self.mask();
                }
            }
        }
        race(env, w, i, m, (self.addr, bytes), self.lane);
        true
    }

    /// Loads to registers. Racing host threads may tear values, as on hardware.
    fn load(&self, a: &Alloc, w: &mut Wave, i: &Inst, m: &Mem) {
        let p: *const u8 = a.at(self.addr);
        let words = usize::from(m.bytes) / 4;
        let first = vdst(i.dst);
        if words == 0 {
            for j in 0..self.lanes {
                // SAFETY: `find` returned the allocation containing the whole span.
                let x = unsafe {
                    let q = p.add(j * self.step);
                    if m.bytes == 1 {
                        q.read().into()
                    } else {
                        q.cast::<u16>().read_unaligned().into()
                    }
                };
                let to = &mut w.v[first].0[self.lane + j];
                *to = ds::extend(m, x, *to);
            }
            return;
        }
        if words == 1 && self.step == 4 {
            let row = &mut w.v[first].0[self.lane..self.lane + self.lanes];
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(p, row.as_mut_ptr().cast(), 4 * row.len()) };
            return;
        }
        for k in 0..words {
            let row = &mut w.v[first + k].0[self.lane..self.lane + self.lanes];
            for (j, to) in row.iter_mut().enumerate() {
                // SAFETY: as above.
                *to = unsafe { p.add(j * self.step + 4 * k).cast::<u32>().read_unaligned() };
            }
        }
    }

    fn store(&self, a: &Alloc, m: &Mem, hi: bool, d: &Deferred) {
        let p = a.at(self.addr);
        let lanes = self.lane..self.lane + self.lanes;
        if m.bytes < 4 {
            let Some(row) = d.data.first() else { return };
            for (j, x) in row[lanes].iter().enumerate() {
                let x = if hi { x >> 16 } else { *x };
                // SAFETY: as for loads.
                unsafe {
                    let q = p.add(j * self.step);
                    match m.bytes {
                        1 => q.write(x as u8),
                        _ => q.cast::<u16>().write_unaligned(x as u16),
                    }
                }
            }
            return;
        }
        if let (4, Some(row)) = (m.bytes, d.data.first()) {
            let from = &row[lanes];
            // SAFETY: as for loads.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast(), p, 4 * from.len()) };
            return;
        }
        for (k, row) in d.data.iter().enumerate().take(usize::from(m.bytes) / 4) {
            for (j, x) in row[lanes.clone()].iter().enumerate() {
                // SAFETY: as for loads.
                unsafe { p.add(j * self.step + 4 * k).cast::<u32>().write_unaligned(*x) };
            }
        }
    }
}
