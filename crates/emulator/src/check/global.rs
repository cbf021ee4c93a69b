//! Races in device and pinned memory: vector clocks over workgroups and operations.
//!
//! Each dword has a record of its last write and its last read. Where several accesses are not
//! ordered among each other, all are kept, in a table if they do not fit a record. What may be
//! missed: an access to part of a dword forgets ordered accesses to its other bytes; a write by a
//! workgroup that synchronised with some workgroup of its launch, after more than [`KEPT`] of them
//! read (or changed by atomics) the dword; atomic reads are checked against plain writes that came
//! before them, not remembered; what one of the parallel branches of a graph has learnt of another
//! stream counts for all of them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::known::{Channels, Clocks, EVERYBODY, Inherited, Knowledge, Past, Scope, join_clocks};
use super::record::{NUMBERS, Record, Table};
use super::{Access, GroupClock, wave};

/// Position in the order of streams: the last operation of each stream known to have finished.
pub type Order = HashMap<u64, u64>;

/// Joins `from` into `into`.
pub fn join(into: &mut Order, from: &Order) {
    for (k, v) in from {
        let x = into.entry(*k).or_insert(0);
        *x = (*x).max(*v);
    }
}

/// Unordered workgroups of one launch kept apart for each dword, where they can order themselves.
const KEPT: usize = 4;

/// The shadow of one dword: write record low and read record high; then the waves' part.
pub type Shadow = [AtomicU64; 2];

/// Segments of consecutive numbers: workgroups from `group` on, or one workgroup after a release.
#[derive(Clone, Copy)]
struct Range {
    first: u32,
    launch: u32,
    group: u32,
    clock: u32,
    count: u32,
}

struct Launch {
    stream: u64,
    seq: u64,
    name: Arc<str>,
}

#[derive(Default)]
struct Segmented {
    ranges: Vec<Range>,
    /// The next number, less one.
    used: u32,
}

/// An operation's place: sequence number in its stream, first segment, launch.
type Begun = (u64, u32, u32);

/// All segments of execution that the shadows of device memory refer to.
#[derive(Default)]
pub struct Races {
    segments: RwLock<Segmented>,
    launches: RwLock<Vec<Launch>>,
    streams: RwLock<HashMap<u64, Vec<Begun>>>,
    channels: Channels,
    knowledge: Knowledge,
    table: Table,
}

/// One operation on a stream, as seen by the race detector.
pub struct Operation {
    races: Arc<Races>,
    device: u32,
    at: (u64, u64),
    launch: u32,
    /// Its first segment and how many workgroups it has.
    first: u32,
    groups: u32,
    /// Its workgroups may order themselves by atomics.
    atomics: bool,
    past: Arc<Past>,
    inherited: Inherited,
    /// Segments, and launches, below these belong to operations known to have finished before.
    floor: u32,
    launch_floor: u32,
}

/// One workgroup of an operation.
pub struct Segments {
    op: Arc<Operation>,
    group: u32,
    id: u32,
    clock: u32,
    /// Its own numbers since the waves' time last started.
    mine: Vec<u32>,
    several_waves: bool,
    /// Numbers of launches lately found to come before this one, though above its floor.
    settled: Cell<[(u32, u32); 4]>,
    known: Clocks,
    /// Other launches in `known`, and their pasts.
    others: Vec<(u32, Arc<Past>)>,
    /// It has synchronised with another workgroup of its launch.
    knows_peers: bool,
    /// Read from channels and not yet known; to publish. Of its device, and of everybody.
    acquired: [Clocks; 2],
    released: [Clocks; 2],
}

/// The other side of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Kernel or copy.
    pub name: String,
    /// Its workgroup.
    pub group: u32,
    /// Its wave, if it is of the same workgroup.
    pub wave: Option<u32>,
    /// Whether it is another launch.
    pub other_launch: bool,
    /// Whether the rival wrote.
    pub wrote: bool,
    /// Whether its access was atomic.
    pub atomic: bool,
}

fn rd<T>(l: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    l.read().unwrap_or_else(PoisonError::into_inner)
}

fn wr<T>(l: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    l.write().unwrap_or_else(PoisonError::into_inner)
}

impl Races {
    /// Starts an operation of `groups` workgroups on a device's `stream`, its `seq`th, ordered
    /// after everything in `order` and the operations numbered in `after`.
    pub fn begin(
        self: &Arc<Self>,
        name: &str,
        device: usize,
        (stream, seq): (u64, u64),
        order: Order,
        after: Vec<u32>,
        (groups, atomics): (u32, bool),
    ) -> Operation {
        let past = Arc::new(Past { order, after: after.into_iter().collect() });
        let mut launches = wr(&self.launches);
        let launch = launches.len() as u32;
        launches.push(Launch { stream, seq, name: name.into() });
        let first = self.numbers(launch, 0, 1, groups);
        drop(launches);
        let mut streams = wr(&self.streams);
        // The first operation of each stream that may run beside this one.
        let loose = streams.iter().filter_map(|(s, ops)| {
            let known = past.order.get(s).copied().unwrap_or(0);
            let mut rest = ops[ops.partition_point(|o| o.0 <= known)..].iter();
            rest.find(|o| !past.after.contains(&o.2)).map(|o| (o.1, o.2))
        });
        let (floor, launch_floor) =
            loose.fold((first, launch), |a, b| (a.0.min(b.0), a.1.min(b.1)));
        streams.entry(stream).or_default().push((seq, first, launch));
        drop(streams);
        let inherited = self
            .knowledge
            .inherit(stream, &past, |launch| self.is_in(launch, std::iter::once(&*past)));
        Operation {
            races: Arc::clone(self),
            device: device as u32,
            at: (stream, seq),
            launch,
            first,
            groups,
            atomics,
            past,
            inherited,
            floor,
            launch_floor,
        }
    }

    /// Whether all of `launch` is in one of the `pasts`.
    fn is_in<'a>(&self, launch: u32, mut pasts: impl Iterator<Item = &'a Past>) -> bool {
        let at = rd(&self.launches).get(launch as usize).map(|l| (l.stream, l.seq));
        at.is_none_or(|at| pasts.any(|past| past.has(launch, at)))
    }

    /// Whether all of `launch` comes before `by`, which has told its past.
    fn came_before(&self, by: u32, launch: u32) -> bool {
        self.knowledge.past(by).is_some_and(|past| self.is_in(launch, std::iter::once(&*past)))
    }

    /// Numbers for `count` segments, the first of which is returned; 0 once they are used up.
    fn numbers(&self, launch: u32, group: u32, clock: u32, count: u32) -> u32 {
        let mut s = wr(&self.segments);
        if s.used + 1 >= NUMBERS - count.min(NUMBERS - 1) {
            if s.used < NUMBERS {
                eprintln!(
                    "emulator: more workgroups than the race detector tells apart: it is off"
                );
                s.used = NUMBERS;
            }
            return 0;
        }
        let first = s.used + 1;
        s.ranges.push(Range { first, launch, group, clock, count });
        s.used += count;
        first
    }

    fn range(&self, number: u32) -> Option<Range> {
        let s = rd(&self.segments);
        let n = s.ranges.partition_point(|r| r.first <= number).checked_sub(1)?;
        s.ranges.get(n).copied()
    }

    fn segment(&self, number: u32) -> Option<Range> {
        let r = self.range(number)?;
        Some(Range { group: r.group + (number - r.first), first: number, ..r })
    }
}

impl Operation {
    /// Its number, for later operations' `after`.
    pub fn number(&self) -> u32 {
        self.launch
    }
}

impl Segments {
    /// The first segment of workgroup `group`, which has `waves` waves.
    pub fn new(op: &Arc<Operation>, group: u32, waves: u32) -> Self {
        let id = if op.first == 0 { 0 } else { op.first + group };
        Segments {
            op: Arc::clone(op),
            group,
            id,
            clock: 1,
            mine: vec![id],
            several_waves: waves > 1,
            settled: Cell::default(),
            known: Clocks::new(),
            others: Vec::new(),
            knows_peers: false,
            acquired: Default::default(),
            released: Default::default(),
        }
    }

    /// A release fence: what happened so far may be published by a later atomic.
    pub fn release(&mut self, scope: Scope) {
        let op = &self.op;
        let mut released = self.known.clone();
        join_clocks(&mut released, &op.inherited.clocks);
        released.insert((op.launch, self.group), self.clock);
        if scope == Scope::System {
            op.races.knowledge.tell(op.launch, &op.past);
            self.released[1].clone_from(&released);
        }
        self.released[0] = released;
        self.clock += 1;
        self.id = op.races.numbers(op.launch, self.group, self.clock, 1);
        self.mine.push(self.id);
    }

    /// The waves' time starts again: what their shadows hold is void.
    pub fn renew(&mut self) {
        self.id = self.op.races.numbers(self.op.launch, self.group, self.clock, 1);
        self.mine = vec![self.id];
    }

    /// An acquire fence: what earlier atomics read becomes known.
    pub fn acquire(&mut self, scope: Scope) {
        let own = self.op.launch;
        let reach = if scope == Scope::System { 2 } else { 1 };
        for clocks in &mut self.acquired[..reach] {
            for ((launch, group), clock) in std::mem::take(clocks) {
                if self.op.races.is_in(launch, std::iter::once(&*self.op.past)) {
                    continue;
                }
                self.knows_peers |= launch == own && group != self.group;
                if launch != own && self.others.iter().all(|(other, _)| *other != launch) {
                    let past = self.op.races.knowledge.past(launch);
                    self.others.extend(past.map(|past| (launch, past)));
                }
                let x = self.known.entry((launch, group)).or_insert(0);
                *x = (*x).max(clock);
            }
        }
    }

    /// An atomic write at `addr`, about to happen: publishes what was released; if the write `adds`
    /// to what is there, beside that.
    pub fn publish(&self, addr: u64, scope: Scope, adds: bool) {
        self.channels(addr, scope, |reach, at| {
            if !adds {
                at.clear();
            }
            join_clocks(at, &self.released[reach]);
        });
    }

    /// An atomic read at `addr` that has happened: collects what others published.
    pub fn collect(&mut self, addr: u64, scope: Scope) {
        let mut acquired = std::mem::take(&mut self.acquired);
        self.channels(addr, scope, |reach, at| join_clocks(&mut acquired[reach], at));
        self.acquired = acquired;
    }

    /// The device's own channel at `addr`, and everybody's if the scope is so wide.
    fn channels(&self, addr: u64, scope: Scope, mut f: impl FnMut(usize, &mut Clocks)) {
        let op = &self.op;
        let all = [op.device, EVERYBODY];
        let reach = if scope == Scope::System { 2 } else { 1 };
        for (k, device) in all.into_iter().take(reach).enumerate() {
            // Launches that have finished before this one need no clocks.
            let for_launch = (op.launch, op.launch_floor);
            op.races.channels.with((device, addr), for_launch, |at| f(k, &mut at.clocks));
        }
    }

    #[inline]
    fn is_mine(&self, r: Record) -> bool {
        let number = r.number();
        let one = !r.is_groups() && !r.in_table() && number != 0;
        one && (number == self.id || self.mine.len() > 1 && self.mine.contains(&number))
    }

    /// Whether the accesses of `r` come before this workgroup's next one.
    fn ordered(&self, r: Record) -> bool {
        let number = r.number();
        if number < self.op.floor || self.is_mine(r) {
            return true;
        }
        if r.is_groups() && number == self.op.first {
            return self.knows_peers;
        }
        let Some(s) = self.op.races.segment(number) else { return true };
        if s.launch == self.op.launch && s.group == self.group && !r.is_groups() {
            return true;
        }
        let knows = |clocks: &Clocks| {
            clocks.get(&(s.launch, s.group)).is_some_and(|clock| *clock >= s.clock)
        };
        if knows(&self.known) || knows(&self.op.inherited.clocks) {
            return true;
        }
        s.launch != self.op.launch && self.launch_before(s.launch)
    }

    /// Whether segment `number` is of another operation, known to come before this one.
    #[inline]
    fn settled(&self, number: u32) -> bool {
        let found = |r: &(u32, u32)| (r.0..r.1).contains(&number);
        number < self.op.floor || self.settled.get().iter().any(found) || self.settle(number)
    }

    #[cold]
    fn settle(&self, number: u32) -> bool {
        // Those of this launch are for the slow path.
        if number.wrapping_sub(self.op.first) < self.op.groups {
            return false;
        }
        let Some(r) = self.op.races.range(number) else { return false };
        let before = r.launch != self.op.launch && self.launch_before(r.launch);
        if before {
            let [a, b, c, _] = self.settled.get();
            self.settled.set([(r.first, r.first + r.count), a, b, c]);
        }
        before
    }

    fn launch_before(&self, launch: u32) -> bool {
        let told = self.others.iter().map(|(_, past)| past).chain(&self.op.inherited.pasts);
        let pasts = std::iter::once(&self.op.past).chain(told);
        self.op.races.is_in(launch, pasts.map(|past| &**past))
    }

    fn rival(&self, r: Record, wrote: bool) -> Option<Rival> {
        let s = self.op.races.segment(r.number())?;
        let launches = rd(&self.op.races.launches);
        let name = launches.get(s.launch as usize)?.name.to_string();
        let other_launch = s.launch != self.op.launch;
        Some(Rival { name, group: s.group, wave: None, other_launch, wrote, atomic: r.atomic() })
    }

    /// The records of `set` with this access added: what it supersedes is dropped.
    fn add(&self, set: &[Record], mask: u32, atomic: bool) -> Vec<Record> {
        let mut out = Vec::with_capacity(set.len() + 1);
        let mut mine = Record::one(self.id, mask, atomic);
        for r in set {
            if r.number() == self.id && !r.is_groups() && r.atomic() == atomic {
                mine = mine.with_mask(mine.mask() | r.mask());
            } else if r.is_groups() && r.number() == self.op.first || !self.ordered(*r) {
                out.push(*r);
            }
        }
        let (first, end) = (self.op.first, self.op.first + self.op.groups);
        let covers = |r: &Record| {
            r.is_groups() && r.number() == first && r.mask() & mask == mask && r.atomic() == atomic
        };
        if out.iter().any(covers) {
            return out;
        }
        out.push(mine);
        // Workgroups of this launch become one record.
        let limit = if self.op.atomics && !atomic { KEPT } else { 1 };
        let peer = |r: &Record| {
            let one = !r.is_groups() && (first..end).contains(&r.number());
            (one || r.number() == self.id) && r.mask() == mine.mask() && r.atomic() == atomic
        };
        if out.iter().filter(|r| peer(r)).count() > limit {
            out.retain(|r| !peer(r));
            out.push(Record::groups(first, mine.mask(), atomic));
        }
        out
    }

    /// Checks and records an access to the dwords of `shadow`; `masks` are the bytes of the first
    /// and the last one. The index of the dword at fault comes with its rival.
    pub fn touch(
        &self,
        shadow: &[Shadow],
        masks: (u32, u32),
        kind: Access,
        at: Option<(&GroupClock, u32, Access)>,
    ) -> Option<(usize, Rival)> {
        if self.id == 0 {
            return None;
        }
        let last = shadow.len() - 1;
        let waves = at.filter(|_| self.several_waves);
        for (k, cell) in shadow.iter().enumerate() {
            let mut mask = 15;
            if k == 0 {
                mask &= masks.0;
            }
            if k == last {
                mask &= masks.1;
            }
            let old = cell[0].load(Ordering::Relaxed);
            let (w, r) = (Record(old as u32), Record((old >> 32) as u32));
            if let Some((clock, index, kind)) = waves
                && let Some((by, wrote)) =
                    self.between_waves(&cell[1], (w, r), mask, kind, (clock, index))
            {
                let (name, group, wave) = (String::new(), self.group, Some(by));
                let rival = Rival { name, group, wave, other_launch: false, wrote, atomic: false };
                return Some((k, rival));
            }
            match self.quick((w, r), mask, kind) {
                Some((w, r)) => {
                    let new = u64::from(r.0) << 32 | u64::from(w.0);
                    if new != old {
                        cell[0].store(new, Ordering::Relaxed);
                    }
                }
                None => {
                    if let Some(rival) = self.slow(&cell[0], (w, r), mask, kind) {
                        return Some((k, rival));
                    }
                }
            }
        }
        None
    }

    /// The new records where nothing needs a look at the table or at other segments: the old ones
    /// are settled or this segment's own, or of reads of the same launch.
    #[inline]
    fn quick(&self, (w, r): (Record, Record), mask: u32, kind: Access) -> Option<(Record, Record)> {
        let own = |x: Record| x.number() == self.id && !x.is_groups();
        let easy = |x: Record| !x.in_table() && (own(x) || self.settled(x.number()));
        if !easy(w) {
            return None;
        }
        let mine = |x: Record| {
            let before = if own(x) && !x.atomic() { x.mask() } else { 0 };
            Record::one(self.id, mask | before, false)
        };
        match kind {
            Access::Read if easy(r) => Some((w, mine(r))),
            Access::Read => {
                if r == Record::groups(self.op.first, 15, false) {
                    return Some((w, r));
                }
                // Its own first number is not a peer's, though the waves' time has started again.
                let group = r.number().wrapping_sub(self.op.first);
                let peer = group < self.op.groups && group != self.group;
                let plain = r == Record::one(r.number(), mask, false);
                let joins = peer && plain && !self.op.atomics;
                joins.then(|| (w, Record::groups(self.op.first, mask, false)))
            }
            Access::Write if easy(r) => {
                let rest = own(r) && r.mask() & !mask != 0;
                Some((mine(w), if rest { r } else { Record::default() }))
            }
            _ => None,
        }
    }

    #[cold]
    fn slow(
        &self,
        cell: &AtomicU64,
        (w, r): (Record, Record),
        mask: u32,
        kind: Access,
    ) -> Option<Rival> {
        let at = std::ptr::from_ref(cell) as usize;
        let table = &self.op.races.table;
        let (writes, reads) = (table.get(at, w), table.get(at | 1, r));
        let atomic = matches!(kind, Access::Atomic | Access::AtomicRead);
        let clash = |set: &[Record]| {
            let hit =
                |x: &&Record| x.mask() & mask != 0 && !(atomic && x.atomic()) && !self.ordered(**x);
            set.iter().find(hit).copied()
        };
        if let Some(x) = clash(&writes) {
            return self.rival(x, true);
        }
        if matches!(kind, Access::Write | Access::Atomic)
            && let Some(x) = clash(&reads)
        {
            return self.rival(x, false);
        }
        let (mut w, mut r) = (w, r);
        match kind {
            Access::AtomicRead => return None,
            Access::Read => r = table.put(at | 1, r, self.add(&reads, mask, false)),
            Access::Write | Access::Atomic => {
                w = table.put(at, w, self.add(&writes, mask, atomic));
                // Reads of these bytes come before this write: who is after it is after them.
                let rest: Vec<Record> =
                    reads.into_iter().filter(|x| x.mask() & mask == 0).collect();
                r = table.put(at | 1, r, rest);
            }
        }
        cell.store(u64::from(r.0) << 32 | u64::from(w.0), Ordering::Relaxed);
        None
    }

    /// Checks and records an access among the waves of this workgroup: the other wave, and
    /// whether it wrote.
    #[inline]
    fn between_waves(
        &self,
        cell: &AtomicU64,
        (w, r): (Record, Record),
        mask: u32,
        kind: Access,
        (clock, index): (&GroupClock, u32),
    ) -> Option<(u32, bool)> {
        let old = wave::Touch(cell.load(Ordering::Relaxed));
        // The waves' part is about this workgroup if the last access was its own.
        let (w, r) = (self.is_mine(w), self.is_mine(r));
        match old.keep(w, r).access(clock, index, mask, kind) {
            Ok(new) => {
                if new.0 != old.0 {
                    cell.store(new.0, Ordering::Relaxed);
                }
                None
            }
            Err(conflict) => Some(conflict),
        }
    }
}

impl Drop for Segments {
    /// Later operations of the stream know what this workgroup has learnt.
    fn drop(&mut self) {
        if self.others.is_empty() {
            return;
        }
        let races = &self.op.races;
        let own = self.op.launch;
        self.known.retain(|(launch, _), _| *launch != own);
        let before = |by, launch| races.came_before(by, launch);
        races.knowledge.learn(self.op.at, &self.known, before);
    }
}

#[cfg(test)]
#[path = "global_tests.rs"]
mod tests;
