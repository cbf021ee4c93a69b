//! Collectives among the ranks of one process, reduced in rank order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::copy::{Place, touch_range};
use super::{error, lock, runtime};
use crate::check::{Access, Segments};
use crate::formats::{BF8, BF16, F16, FP8};

/// What a collective does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AllReduce,
    AllGather,
    ReduceScatter,
    Broadcast,
    Reduce,
    /// Point to point with this peer.
    Send(usize),
    Recv(usize),
    AllToAll,
}

/// One rank's call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) comm: Arc<Comm>,
    pub(crate) kind: Kind,
    pub(crate) send: u64,
    pub(crate) recv: u64,
    /// Elements, by the rule of the collective (per rank for gather, scatter and all-to-all).
    pub(crate) count: usize,
    /// NCCL type and operation.
    pub(crate) ty: i32,
    pub(crate) op: i32,
    pub(crate) root: usize,
}

/// A communicator's shared part.
pub(crate) struct Group {
    pub(crate) ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
    pub(crate) aborted: AtomicBool,
}

#[derive(Default)]
struct State {
    joined: usize,
    /// Calls by sequence number, then by rank.
    arrived: HashMap<u64, Vec<Option<Call>>>,
    finished: HashMap<u64, usize>,
    /// Sends waiting for their receives, by (from, to).
    mail: HashMap<(usize, usize), Vec<Vec<u8>>>,
}

/// One rank of a communicator.
pub(crate) struct Comm {
    pub(crate) group: Arc<Group>,
    pub(crate) rank: usize,
    pub(crate) device: usize,
    sequence: AtomicUsize,
    pub(crate) failed: AtomicBool,
}

/// Groups by unique id, for ranks that join one by one.
pub(crate) fn group_of(id: &[u8; 128], ranks: usize) -> Arc<Group> {
    static GROUPS: Mutex<Option<HashMap<[u8; 128], Arc<Group>>>> = Mutex::new(None);
    let mut g = lock(&GROUPS);
    let groups = g.get_or_insert_default();
    Arc::clone(groups.entry(*id).or_insert_with(|| Arc::new(Group::new(ranks))))
}

impl Group {
    /// A group of `ranks` with nobody in it.
    pub(crate) fn new(ranks: usize) -> Group {
        Group {
            ranks,
            state: Mutex::default(),
            changed: Condvar::new(),
            aborted: AtomicBool::new(false),
        }
    }

    fn limit() -> Duration {
        Duration::from_secs(runtime().config.hang_seconds)
    }

    /// Joins; returns once all ranks have, or an explanation after the time limit.
    pub(crate) fn join(&self) -> Result<(), String> {
        let mut s = lock(&self.state);
        s.joined += 1;
        self.changed.notify_all();
        let end = Instant::now() + Self::limit();
        while s.joined < self.ranks {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("only {} of {} ranks initialised", s.joined, self.ranks));
            }
            s = self.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Comm {
    pub(crate) fn new(group: Arc<Group>, rank: usize, device: usize) -> Comm {
        let (sequence, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Comm { group, rank, device, sequence, failed }
    }

    /// Ends all waiting of every rank.
    pub(crate) fn abort(&self, why: &str) {
        if !self.group.aborted.swap(true, Ordering::AcqRel) {
            eprintln!("emulator: communicator aborted by rank {}: {why}", self.rank);
        }
        let _state = lock(&self.group.state);
        self.group.changed.notify_all();
    }
}

/// Bytes of an NCCL type.
pub(crate) fn type_size(ty: i32) -> Option<usize> {
    Some(match ty {
        0 | 1 | 10 | 11 => 1,
        6 | 9 => 2,
        2 | 3 | 7 => 4,
        4 | 5 | 8 => 8,
        _ => return None,
    })
}

/// Runs one rank's part on its stream's thread.
pub(crate) fn run(c: &Call, place: &Place<'_>) {
    let segments = place.operation(&format!("{:?}", c.kind), (1, false));
    let outcome = match c.kind {
        Kind::Send(_) | Kind::Recv(_) => point_to_point(c),
        _ => rendezvous(c),
    };
    let outcome = outcome.and_then(|()| match segments {
        Some(o) => races(c, &Segments::new(&Arc::new(o), 0, 1)),
        None => Ok(()),
    });
    if let Err(what) = outcome {
        c.comm.failed.store(true, Ordering::Release);
        let what =
            format!("{:?} on rank {} of {}: {what}", c.kind, c.comm.rank, c.comm.group.ranks);
        if c.comm.group.aborted.load(Ordering::Acquire) {
            eprintln!("emulator: {what}");
        } else {
            runtime().fail(place.device, error::LAUNCH_FAILURE, &what);
        }
    }
}

/// Tells the race detector what this rank's part has read and written.
fn races(c: &Call, s: &Segments) -> Result<(), String> {
    let n = c.comm.group.ranks;
    let bytes = c.count * type_size(c.ty).ok_or("unknown data type")?;
    let root = c.comm.rank == c.root;
    let (read, written) = match c.kind {
        Kind::AllReduce => (bytes, bytes),
        Kind::AllGather => (bytes, bytes * n),
        Kind::ReduceScatter => (bytes * n, bytes),
        Kind::Broadcast => (if root { bytes } else { 0 }, bytes),
        Kind::Reduce => (bytes, if root { bytes } else { 0 }),
        Kind::Send(_) => (bytes, 0),
        Kind::Recv(_) => (0, bytes),
        Kind::AllToAll => (bytes * n, bytes * n),
    };
    for (addr, len, kind) in [(c.send, read, Access::Read), (c.recv, written, Access::Write)] {
        if len > 0
            && let Some(a) = runtime().memory.find(addr, len as u64)
            && let Some(what) = touch_range(s, &a, addr, len, kind)
        {
            return Err(format!("GlobalRace: {what}"));
        }
    }
    Ok(())
}

fn rendezvous(c: &Call) -> Result<(), String> {
    let (group, rank) = (&c.comm.group, c.comm.rank);
    let seq = c.comm.sequence.fetch_add(1, Ordering::AcqRel) as u64;
    let mut s = lock(&group.state);
    let slots = s.arrived.entry(seq).or_insert_with(|| vec![None; group.ranks]);
    slots[rank] = Some(c.clone());
    let all = slots.iter().all(Option::is_some);
    if all {
        let calls: Vec<Call> = slots.iter().flatten().cloned().collect();
        let outcome = agree(&calls).and_then(|()| exchange(&calls));
        s.arrived.remove(&seq);
        s.finished.insert(seq, group.ranks - 1);
        if outcome.is_err() {
            group.aborted.store(true, Ordering::Release);
        }
        group.changed.notify_all();
        return outcome;
    }
    let end = Instant::now() + Group::limit();
    loop {
        if let Some(left) = s.finished.get_mut(&seq) {
            *left -= 1;
            if *left == 0 {
                s.finished.remove(&seq);
            }
            return if group.aborted.load(Ordering::Acquire) { Err(gone()) } else { Ok(()) };
        }
        if group.aborted.load(Ordering::Acquire) {
            return Err(gone());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let here = s.arrived.get(&seq).map(|v| v.iter().map(Option::is_some).collect());
            let missing = missing(&here.unwrap_or_else(Vec::new));
            group.aborted.store(true, Ordering::Release);
            group.changed.notify_all();
            return Err(format!(
                "hang: collective {seq} waited {} s (EMU_HANG_SECONDS) for rank(s) {missing}",
                Group::limit().as_secs()
            ));
        }
        s = group.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn gone() -> String {
    "the communicator was aborted".into()
}

fn missing(here: &[bool]) -> String {
    let m: Vec<String> =
        here.iter().enumerate().filter(|h| !h.1).map(|h| h.0.to_string()).collect();
    m.join(", ")
}

/// All ranks must have called the same thing.
fn agree(calls: &[Call]) -> Result<(), String> {
    let first = &calls[0];
    let key = |c: &Call| (c.kind, c.count, c.ty, c.op, c.root);
    match calls.iter().find(|c| key(c) != key(first)) {
        Some(c) => Err(format!(
            "ranks disagree: rank {} {:?} of {} elements of type {}, rank {} {:?} of {} of type {}",
            first.comm.rank, first.kind, first.count, first.ty, c.comm.rank, c.kind, c.count, c.ty
        )),
        None => Ok(()),
    }
}

fn read(addr: u64, len: usize, rank: usize) -> Result<Vec<u8>, String> {
    if len == 0 {
        return Ok(vec![]);
    }
    let found = runtime().memory.find(addr, len as u64);
    let a =
        found.ok_or_else(|| format!("rank {rank}: {addr:#x} + {len} bytes is not allocated"))?;
    if runtime().config.strict && !a.initialised(addr, len) {
        return Err(format!("rank {rank}: sends memory at {addr:#x} that nothing has written"));
    }
    let mut v = vec![0u8; len];
    // SAFETY: `find` returned the allocation containing the range.
    unsafe { std::ptr::copy_nonoverlapping(a.at(addr), v.as_mut_ptr(), len) };
    Ok(v)
}

fn write(addr: u64, data: &[u8], rank: usize) -> Result<(), String> {
    if data.is_empty() {
        return Ok(());
    }
    let found = runtime().memory.find(addr, data.len() as u64);
    let a = found
        .ok_or_else(|| format!("rank {rank}: {addr:#x} + {} bytes is not allocated", data.len()))?;
    // SAFETY: as in `read`.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), a.at(addr), data.len()) };
    a.mark(addr, data.len(), true);
    Ok(())
}

/// Performs a collective for all ranks at once.
fn exchange(calls: &[Call]) -> Result<(), String> {
    let (c, n) = (&calls[0], calls.len());
    let size = type_size(c.ty).ok_or("unknown data type")?;
    let bytes = c.count * size;
    match c.kind {
        Kind::AllReduce | Kind::Reduce => {
            let all = gather(calls, bytes)?;
            let sum = reduce(&all, c.ty, c.op)?;
            for k in calls {
                if c.kind == Kind::AllReduce || k.comm.rank == c.root {
                    write(k.recv, &sum, k.comm.rank)?;
                }
            }
        }
        Kind::AllGather => {
            let all = gather(calls, bytes)?.concat();
            for k in calls {
                write(k.recv, &all, k.comm.rank)?;
            }
        }
        Kind::ReduceScatter => {
            let all = gather(calls, bytes * n)?;
            let sum = reduce(&all, c.ty, c.op)?;
            for k in calls {
                write(k.recv, &sum[bytes * k.comm.rank..bytes * (k.comm.rank + 1)], k.comm.rank)?;
            }
        }
        Kind::Broadcast => {
            let root = calls.get(c.root).ok_or("root out of range")?;
            let data = read(root.send, bytes, c.root)?;
            for k in calls {
                write(k.recv, &data, k.comm.rank)?;
            }
        }
        Kind::AllToAll => {
            let all = gather(calls, bytes * n)?;
            for k in calls {
                let r = k.comm.rank;
                let mine: Vec<u8> =
                    all.iter().flat_map(|v| v[bytes * r..bytes * (r + 1)].to_vec()).collect();
                write(k.recv, &mine, r)?;
            }
        }
        Kind::Send(_) | Kind::Recv(_) => {}
    }
    Ok(())
}

fn gather(calls: &[Call], bytes: usize) -> Result<Vec<Vec<u8>>, String> {
    calls.iter().map(|k| read(k.send, bytes, k.comm.rank)).collect()
}

fn point_to_point(c: &Call) -> Result<(), String> {
    let size = type_size(c.ty).ok_or("unknown data type")? * c.count;
    let (group, me) = (&c.comm.group, c.comm.rank);
    if let Kind::Send(to) = c.kind {
        let data = read(c.send, size, me)?;
        lock(&group.state).mail.entry((me, to)).or_default().push(data);
        group.changed.notify_all();
        return Ok(());
    }
    let Kind::Recv(from) = c.kind else { return Ok(()) };
    let end = Instant::now() + Group::limit();
    let mut s = lock(&group.state);
    loop {
        if let Some(q) = s.mail.get_mut(&(from, me)).filter(|q| !q.is_empty()) {
            let data = q.remove(0);
            if data.len() != size {
                return Err(format!("receives {size} bytes, rank {from} sent {}", data.len()));
            }
            return write(c.recv, &data, me);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || group.aborted.load(Ordering::Acquire) {
            return Err(format!("hang: rank {from} never sent"));
        }
        s = group.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Reduces element by element, rank 0 first; floats in f32 (f64 for doubles), rounded once.
fn reduce(all: &[Vec<u8>], ty: i32, op: i32) -> Result<Vec<u8>, String> {
    let size = type_size(ty).ok_or("unknown data type")?;
    let mut out = Vec::with_capacity(all[0].len());
    for at in (0..all[0].len()).step_by(size) {
        let item =
            |v: &Vec<u8>| v[at..at + size].iter().rev().fold(0u64, |x, b| x << 8 | u64::from(*b));
        let x = match ty {
            0..=5 => integers(all.iter().map(|v| signed(item(v), ty)), op, all.len(), ty),
            8 => floats64(all.iter().map(|v| f64::from_bits(item(v))), op, all.len()).to_bits(),
            _ => {
                let f = floats(all.iter().map(|v| decode(item(v) as u32, ty)), op, all.len());
                u64::from(encode(f, ty))
            }
        };
        out.extend_from_slice(&x.to_le_bytes()[..size]);
    }
    Ok(out)
}

fn signed(x: u64, ty: i32) -> i128 {
    match ty {
        0 => (x as i8).into(),
        2 => (x as i32).into(),
        4 => (x as i64).into(),
        _ => x.into(),
    }
}

fn integers(v: impl Iterator<Item = i128>, op: i32, n: usize, _ty: i32) -> u64 {
    let r = v.reduce(|a, b| match op {
        1 => a.wrapping_mul(b) & i128::from(u64::MAX),
        2 => a.max(b),
        3 => a.min(b),
        _ => a.wrapping_add(b),
    });
    let r = r.unwrap_or(0);
    (if op == 4 { r / n as i128 } else { r }) as u64
}

fn floats(v: impl Iterator<Item = f32>, op: i32, n: usize) -> f32 {
    let r = v.reduce(|a, b| match op {
        1 => a * b,
        2 => a.max(b),
        3 => a.min(b),
        _ => a + b,
    });
    let r = r.unwrap_or(0.0);
    if op == 4 { r / n as f32 } else { r }
}

fn floats64(v: impl Iterator<Item = f64>, op: i32, n: usize) -> f64 {
    let r = v.reduce(|a, b| match op {
        1 => a * b,
        2 => a.max(b),
        3 => a.min(b),
        _ => a + b,
    });
    let r = r.unwrap_or(0.0);
    if op == 4 { r / n as f64 } else { r }
}

fn decode(x: u32, ty: i32) -> f32 {
    match ty {
        6 => F16.decode(x),
        9 => BF16.decode(x),
        10 => FP8.decode(x),
        11 => BF8.decode(x),
        _ => f32::from_bits(x),
    }
}

fn encode(f: f32, ty: i32) -> u32 {
    match ty {
        6 => F16.encode(f.into(), false),
        9 => BF16.encode(f.into(), false),
        10 => FP8.encode(f.into(), true),
        11 => BF8.encode(f.into(), true),
        _ => f.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_are_in_rank_order() {
        let b = |x: [f32; 2]| x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let all = [b([1e8, 1.0]), b([-1e8, 2.0]), b([1.0, 4.0])];
        // (1e8 − 1e8) + 1, not 1e8 + (−1e8 + 1) = 0.
        assert_eq!(reduce(&all, 7, 0).unwrap(), b([1.0, 7.0]));
        assert_eq!(reduce(&all, 7, 2).unwrap(), b([1e8, 4.0]));
        let i = |x: i32| x.to_le_bytes().to_vec();
        assert_eq!(reduce(&[i(-5), i(3)], 2, 3).unwrap(), i(-5));
        assert_eq!(reduce(&[i(-5), i(3)], 2, 0).unwrap(), i(-2));
    }
}
