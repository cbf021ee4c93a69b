//! Race detection: byte-level epochs in LDS, vector clocks over workgroups in device memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// How an access takes part in races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Plain read.
    Read,
    /// Plain write.
    Write,
    /// Atomic: orders itself against other atomics.
    Atomic,
}

#[derive(Clone, Copy, Default)]
struct LdsByte {
    write_epoch: u32,
    read_epoch: u32,
    readers: u16,
    writer: u8,
    atomic: bool,
    /// Wave (plus one) whose direct-to-LDS load has this byte in flight.
    filling: u8,
}

/// What an LDS access collided with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdsConflict {
    /// A write of this wave since the last barrier.
    Write(u32),
    /// A read of this wave since the last barrier.
    Read(u32),
    /// A direct-to-LDS load of this wave that no `s_waitcnt` has covered.
    Filling(u32),
}

/// Shadow of one workgroup's LDS.
#[derive(Default)]
pub struct LdsShadow {
    bytes: Vec<LdsByte>,
    /// Bytes that hold a defined value.
    valid: Vec<bool>,
}

impl LdsShadow {
    /// A shadow of `size` undefined bytes.
    pub fn new(size: usize) -> Self {
        LdsShadow { bytes: vec![LdsByte::default(); size], valid: vec![false; size] }
    }

    /// Whether `len` bytes at `at` are defined.
    pub fn defined(&self, at: usize, len: usize) -> bool {
        self.valid.get(at..at + len).is_some_and(|v| v.iter().all(|b| *b))
    }

    /// Sets whether `len` bytes at `at` are defined.
    pub fn define(&mut self, at: usize, len: usize, on: bool) {
        if let Some(v) = self.valid.get_mut(at..at + len) {
            v.fill(on);
        }
    }

    /// Records an access by `wave` in barrier epoch `epoch` (from 1), or the conflict it has.
    pub fn access(
        &mut self,
        (at, len): (usize, usize),
        wave: u32,
        epoch: u32,
        kind: Access,
    ) -> Option<LdsConflict> {
        let me = wave as u8;
        for b in self.bytes.get_mut(at..at + len)? {
            if b.filling != 0 {
                return Some(LdsConflict::Filling(u32::from(b.filling) - 1));
            }
            let both_atomic = kind == Access::Atomic && b.atomic;
            if b.write_epoch == epoch && b.writer != me && !both_atomic {
                return Some(LdsConflict::Write(b.writer.into()));
            }
            let bit = 1u16 << (wave & 15);
            if kind == Access::Read {
                if b.read_epoch != epoch {
                    (b.read_epoch, b.readers) = (epoch, 0);
                }
                b.readers |= bit;
                continue;
            }
            if b.read_epoch == epoch && b.readers & !bit != 0 {
                return Some(LdsConflict::Read((b.readers & !bit).trailing_zeros()));
            }
            (b.write_epoch, b.writer, b.atomic) = (epoch, me, kind == Access::Atomic);
        }
        None
    }

    /// Marks bytes as being filled by `wave`'s direct-to-LDS load, or (`None`) as arrived.
    pub fn fill(&mut self, at: usize, len: usize, wave: Option<u32>) {
        if let Some(v) = self.bytes.get_mut(at..at + len) {
            v.iter_mut().for_each(|b| b.filling = wave.map_or(0, |w| w as u8 + 1));
        }
    }
}

/// Position in the order of streams: the last operation of each stream known to have finished.
pub type Order = HashMap<u64, u64>;

/// Joins `from` into `into`.
pub fn join(into: &mut Order, from: &Order) {
    for (k, v) in from {
        let x = into.entry(*k).or_insert(0);
        *x = (*x).max(*v);
    }
}

#[derive(Clone, Copy)]
struct Segment {
    launch: u32,
    group: u32,
    clock: u32,
}

struct Launch {
    stream: u64,
    seq: u64,
    name: Arc<str>,
}

/// Clocks by (launch, group).
type Clocks = HashMap<u64, u32>;

fn key(launch: u32, group: u32) -> u64 {
    u64::from(launch) << 32 | u64::from(group)
}

/// All segments of execution that the shadows of device memory refer to.
#[derive(Default)]
pub struct Races {
    segments: RwLock<Vec<Segment>>,
    launches: RwLock<Vec<Launch>>,
    /// By stream: sequence number and the number of segments when the operation began.
    streams: RwLock<HashMap<u64, Vec<(u64, u32)>>>,
    published: Mutex<HashMap<u64, Clocks>>,
    overflow: AtomicU64,
}

/// One operation on a stream, as seen by the race detector.
pub struct Operation {
    races: Arc<Races>,
    launch: u32,
    order: Order,
    /// Operations with the same place in the stream (nodes of one graph) that come before.
    after: Vec<u32>,
    /// Segments below this belong to operations known to have finished before this one.
    floor: u32,
}

/// One workgroup of an operation.
pub struct Segments {
    op: Arc<Operation>,
    group: u32,
    id: u32,
    clock: u32,
    known: Clocks,
    acquired: Clocks,
    released: Clocks,
}

/// The other side of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Kernel or copy.
    pub name: String,
    /// Its workgroup.
    pub group: u32,
    /// Whether it is another launch.
    pub other_launch: bool,
    /// Whether the rival wrote.
    pub wrote: bool,
}

fn rd<T>(l: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    l.read().unwrap_or_else(PoisonError::into_inner)
}

fn wr<T>(l: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    l.write().unwrap_or_else(PoisonError::into_inner)
}

impl Races {
    /// Starts an operation on `stream`, its `seq`th, ordered after everything in `order` and the
    /// operations numbered in `after`.
    pub fn begin(
        self: &Arc<Self>,
        name: &str,
        (stream, seq): (u64, u64),
        order: Order,
        after: Vec<u32>,
    ) -> Operation {
        let mut launches = wr(&self.launches);
        let launch = launches.len() as u32;
        launches.push(Launch { stream, seq, name: name.into() });
        drop(launches);
        let now = rd(&self.segments).len() as u32;
        let mut streams = wr(&self.streams);
        // The first operation of each stream that may run beside this one.
        let loose = streams.iter().filter_map(|(s, ops)| {
            let known = order.get(s).copied().unwrap_or(0);
            ops.get(ops.partition_point(|o| o.0 <= known)).map(|o| o.1)
        });
        let floor = loose.min().unwrap_or(now) + 1;
        streams.entry(stream).or_default().push((seq, now));
        drop(streams);
        Operation { races: Arc::clone(self), launch, order, after, floor }
    }

    /// A new segment's id, from 1; 0 once the 28-bit space is used up (no more detection).
    fn segment(&self, launch: u32, group: u32, clock: u32) -> u32 {
        let mut s = wr(&self.segments);
        if s.len() + 1 >= 1 << 28 {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        s.push(Segment { launch, group, clock });
        s.len() as u32
    }
}

impl Operation {
    /// Its number, for later operations' `after`.
    pub fn number(&self) -> u32 {
        self.launch
    }
}

impl Segments {
    /// The first segment of workgroup `group`.
    pub fn new(op: &Arc<Operation>, group: u32) -> Self {
        let id = op.races.segment(op.launch, group, 1);
        Segments {
            op: Arc::clone(op),
            group,
            id,
            clock: 1,
            known: Clocks::new(),
            acquired: Clocks::new(),
            released: Clocks::new(),
        }
    }

    /// A release fence: what happened so far may be published by a later atomic.
    pub fn release(&mut self) {
        self.released = self.known.clone();
        self.released.insert(key(self.op.launch, self.group), self.clock);
        self.clock += 1;
        self.id = self.op.races.segment(self.op.launch, self.group, self.clock);
    }

    /// An acquire fence: what earlier atomics read becomes known.
    pub fn acquire(&mut self) {
        for (k, v) in std::mem::take(&mut self.acquired) {
            let x = self.known.entry(k).or_insert(0);
            *x = (*x).max(v);
        }
    }

    /// An atomic access at `addr`: publishes what was released, collects what others published.
    pub fn synchronise(&mut self, addr: u64, reads: bool, writes: bool) {
        let mut all = self.op.races.published.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.entry(addr).or_default();
        if reads {
            for (k, v) in at.iter() {
                let x = self.acquired.entry(*k).or_insert(0);
                *x = (*x).max(*v);
            }
        }
        if writes {
            for (k, v) in &self.released {
                let x = at.entry(*k).or_insert(0);
                *x = (*x).max(*v);
            }
        }
    }

    fn rival(&self, record: u32, mask: u32, wrote: bool) -> Option<Rival> {
        let id = record >> 4;
        if record & mask == 0 || id < self.op.floor || id == self.id {
            return None;
        }
        let s = *rd(&self.op.races.segments).get(id as usize - 1)?;
        let same = s.launch == self.op.launch;
        if same && s.group == self.group {
            return None;
        }
        if self.known.get(&key(s.launch, s.group)).is_some_and(|c| *c >= s.clock) {
            return None;
        }
        let launches = rd(&self.op.races.launches);
        let l = launches.get(s.launch as usize)?;
        let before = self.op.order.get(&l.stream).is_some_and(|q| *q >= l.seq);
        if !same && (before || self.op.after.contains(&s.launch)) {
            return None;
        }
        Some(Rival { name: l.name.to_string(), group: s.group, other_launch: !same, wrote })
    }

    /// Checks and records an access to the bytes `mask` of one dword with shadow `shadow`.
    pub fn touch(&self, shadow: &AtomicU64, mask: u32, kind: Access) -> Option<Rival> {
        if self.id == 0 {
            return None;
        }
        let old = shadow.load(Ordering::Relaxed);
        let (write, read) = (old as u32, (old >> 32) as u32);
        let mine = |r: u32| if r >> 4 == self.id { r | mask } else { self.id << 4 | mask };
        match kind {
            // Atomics are outside the detector: they never race with each other, and a plain
            // access to the same bytes is caught by neither side.
            Access::Atomic => None,
            Access::Read => {
                let r = mine(read);
                if r != read {
                    shadow.store(u64::from(r) << 32 | u64::from(write), Ordering::Relaxed);
                }
                self.rival(write, mask, true)
            }
            Access::Write => {
                let w = mine(write);
                shadow.store(u64::from(read) << 32 | u64::from(w), Ordering::Relaxed);
                self.rival(write, mask, true).or_else(|| self.rival(read, mask, false))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lds_conflicts_need_the_same_epoch_and_another_wave() {
        let mut s = LdsShadow::new(64);
        assert_eq!(s.access((0, 4), 0, 1, Access::Write), None);
        assert_eq!(s.access((0, 4), 0, 1, Access::Read), None);
        assert_eq!(s.access((3, 4), 1, 1, Access::Read), Some(LdsConflict::Write(0)));
        assert_eq!(s.access((0, 4), 1, 2, Access::Read), None);
        assert_eq!(s.access((0, 4), 0, 2, Access::Write), Some(LdsConflict::Read(1)));
        s.fill(32, 16, Some(3));
        assert_eq!(s.access((40, 4), 3, 9, Access::Read), Some(LdsConflict::Filling(3)));
        s.fill(32, 16, None);
        assert_eq!(s.access((40, 4), 0, 9, Access::Atomic), None);
        assert_eq!(s.access((40, 4), 1, 9, Access::Atomic), None);
    }

    #[test]
    fn groups_race_unless_released_and_acquired() {
        let races = Arc::new(Races::default());
        let op = Arc::new(races.begin("k", (1, 1), Order::new(), vec![]));
        let (mut a, mut b) = (Segments::new(&op, 0), Segments::new(&op, 1));
        let cell = AtomicU64::new(0);
        assert_eq!(a.touch(&cell, 0b0011, Access::Write), None);
        assert_eq!(b.touch(&cell, 0b1100, Access::Read), None);
        assert!(b.touch(&cell, 0b0001, Access::Read).is_some_and(|r| !r.other_launch));
        a.release();
        a.synchronise(64, true, true);
        b.synchronise(64, true, true);
        assert!(b.touch(&cell, 1, Access::Read).is_some(), "no acquire yet");
        b.acquire();
        assert_eq!(b.touch(&cell, 1, Access::Read), None);
        // A later launch of the same stream is ordered, one of another stream is not.
        let same = Arc::new(races.begin("k2", (1, 2), Order::from([(1, 1)]), vec![]));
        assert_eq!(Segments::new(&same, 0).touch(&cell, 1, Access::Read), None);
        let other = Arc::new(races.begin("k3", (2, 1), Order::new(), vec![]));
        let r = Segments::new(&other, 0).touch(&cell, 1, Access::Read);
        assert!(r.is_some_and(|r| r.other_launch && r.name == "k"));
    }
}
