//! Streams: a queue and a worker thread each.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::capture::Member;
use super::copy::{self, Transfer};
use super::error::{self, HipResult};
use super::event::Mark;
use super::graph::{self, Node};
use super::value::{Condition, Word};
use super::{collective, kernels, lock, runtime};
use crate::check::{Order, join};
use crate::sched::Launch;

/// A C callback with its argument.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*mut std::ffi::c_void),
    pub(crate) data: *mut std::ffi::c_void,
}

// SAFETY: the caller of `hipLaunchHostFunc` promises that the pair may be used by another thread.
unsafe impl Send for Callback {}
// SAFETY: as above.
unsafe impl Sync for Callback {}

/// A callback of `hipStreamAddCallback`: gets the stream and the error it has met.
pub(crate) struct Notice {
    pub(crate) function: unsafe extern "C" fn(u64, i32, *mut std::ffi::c_void),
    pub(crate) stream: u64,
    pub(crate) data: *mut std::ffi::c_void,
}

// SAFETY: as for `Callback`.
unsafe impl Send for Notice {}

/// Work that can be captured into a graph.
#[derive(Clone)]
pub(crate) enum Work {
    /// A launch, and the handle of its function.
    Kernel(Arc<Launch>, u64),
    Transfer(Transfer),
    Host(Callback),
    Collective(collective::Call),
    /// A node that only joins others.
    Empty,
}

/// An entry of a stream's queue.
pub(crate) enum Op {
    Work(Work),
    Graph(Arc<[Node]>),
    /// Wait until `stream` has finished `seq`.
    Join(Arc<Stream>, u64),
    /// Wait for a recorded event.
    WaitMark(Arc<Mark>),
    Mark(Arc<Mark>),
    Free(u64),
    WriteValue(Word, u64),
    /// Word, condition, value and mask.
    WaitValue(Word, Condition, u64, u64),
    Notice(Notice),
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<(u64, Op, Order)>,
    submitted: u64,
    completed: u64,
    closed: bool,
    order: Order,
}

/// A stream.
pub(crate) struct Stream {
    /// Number for the race detector.
    pub(crate) id: u64,
    pub(crate) device: usize,
    /// The device's default stream.
    pub(crate) null: bool,
    pub(crate) flags: u32,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The capture this stream is part of.
    pub(crate) capture: Mutex<Option<Member>>,
    /// The node handles that `hipStreamGetCaptureInfo_v2` last showed.
    pub(crate) shown: Mutex<Vec<u64>>,
}

impl Stream {
    /// A stream with its thread.
    pub(crate) fn new(device: usize, null: bool, flags: u32) -> Arc<Stream> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let s = Arc::new(Stream {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            device,
            null,
            flags,
            queue: Mutex::default(),
            changed: Condvar::new(),
            capture: Mutex::default(),
            shown: Mutex::default(),
        });
        let worker = Arc::clone(&s);
        let name = format!("emu-dev{device}-s{}", s.id);
        let made = std::thread::Builder::new().name(name).spawn(move || worker.work());
        if let Err(e) = made {
            runtime().fail(device, error::OUT_OF_MEMORY, &format!("stream thread: {e}"));
            lock(&s.queue).closed = true;
        }
        s
    }

    /// Whether it synchronises with the default stream.
    pub(crate) fn blocking(&self) -> bool {
        self.flags & 1 == 0
    }

    /// Appends work, ordered with the default stream by its rules; returns its number.
    pub(crate) fn submit(self: &Arc<Self>, op: Op) -> u64 {
        let host = runtime().host_order();
        let mut joins = Vec::new();
        if self.null {
            for s in lock(&runtime().devices[self.device].streams).iter() {
                if s.blocking() {
                    joins.push((Arc::clone(s), s.submitted()));
                }
            }
        } else if self.blocking()
            && let Some(n) = runtime().devices[self.device].null.get()
        {
            joins.push((Arc::clone(n), n.submitted()));
        }
        let mut q = lock(&self.queue);
        if q.closed {
            return q.submitted;
        }
        for (s, seq) in joins {
            if seq > 0 {
                q.submitted += 1;
                let n = q.submitted;
                q.ops.push_back((n, Op::Join(s, seq), Order::new()));
            }
        }
        q.submitted += 1;
        let n = q.submitted;
        q.ops.push_back((n, op, host));
        self.changed.notify_all();
        n
    }

    /// The number of the last submitted operation.
    pub(crate) fn submitted(&self) -> u64 {
        lock(&self.queue).submitted
    }

    /// Whether operation `seq` has finished.
    pub(crate) fn finished(&self, seq: u64) -> bool {
        lock(&self.queue).completed >= seq
    }

    /// Waits for operation `seq`; returns the order it establishes.
    pub(crate) fn wait(&self, seq: u64) -> Order {
        let mut q = lock(&self.queue);
        while q.completed < seq && !(q.closed && q.ops.is_empty()) {
            q = self.changed.wait(q).unwrap_or_else(PoisonError::into_inner);
        }
        let mut o = q.order.clone();
        let mine = o.entry(self.id).or_insert(0);
        *mine = (*mine).min(seq);
        o
    }

    /// Waits for everything submitted so far.
    pub(crate) fn synchronize(&self) {
        let o = self.wait(self.submitted());
        runtime().host_waited(&o);
    }

    /// Lets the thread end once the queue is empty.
    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    fn work(self: Arc<Self>) {
        loop {
            let (seq, op, host) = {
                let mut q = lock(&self.queue);
                loop {
                    if let Some(x) = q.ops.pop_front() {
                        break x;
                    }
                    if q.closed {
                        return;
                    }
                    q = self.changed.wait(q).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let mut order = {
                let mut q = lock(&self.queue);
                join(&mut q.order, &host);
                q.order.clone()
            };
            if let Some(more) = self.perform(op, seq, &order) {
                join(&mut order, &more);
            }
            let mut q = lock(&self.queue);
            if runtime().config.strict {
                join(&mut q.order, &order);
                q.order.insert(self.id, seq);
            }
            q.completed = seq;
            drop(q);
            self.changed.notify_all();
        }
    }

    /// Performs one operation; after an error on the device only waits and events still happen.
    fn perform(&self, op: Op, seq: u64, order: &Order) -> Option<Order> {
        let dead = runtime().check(self.device).is_err();
        match op {
            Op::Join(s, n) => return Some(s.wait(n)),
            Op::WaitMark(m) => return Some(m.wait()),
            Op::Mark(m) => {
                let mut o = order.clone();
                o.insert(self.id, seq);
                m.done(o);
            }
            Op::Free(p) => {
                runtime().memory.free(p);
            }
            Op::WriteValue(word, value) if !dead => {
                let mut o = order.clone();
                o.insert(self.id, seq);
                word.write(value, o);
            }
            Op::WaitValue(word, c, value, mask) if !dead => {
                return Some(word.wait(self.device, c, value, mask));
            }
            Op::Notice(n) => {
                let status = runtime().check(self.device).map_or_else(|e| e.code, |()| 0);
                // SAFETY: the function and its argument were given for exactly this call.
                unsafe { (n.function)(n.stream, status, n.data) };
            }
            Op::Work(w) if !dead => {
                self.run(&w, seq, order, vec![]);
            }
            Op::Graph(nodes) if !dead => self.graph(&nodes, seq, order),
            // A rank that has failed must still meet the others, or they would wait for ever.
            Op::Work(Work::Collective(c)) => c.comm.abort("its device has failed"),
            Op::Work(_) | Op::Graph(_) | Op::WriteValue(..) | Op::WaitValue(..) => {}
        }
        None
    }

    fn graph(&self, nodes: &[Node], seq: u64, order: &Order) {
        let mut numbers: Vec<Option<u32>> = vec![None; nodes.len()];
        let before = graph::ancestors_of_all(nodes);
        for k in graph::schedule(nodes, runtime().config.seed) {
            if runtime().check(self.device).is_err() {
                return;
            }
            let Some(n) = nodes.get(k) else { continue };
            let after =
                before[k].iter().filter_map(|a| numbers.get(a).copied().flatten()).collect();
            numbers[k] = self.run(&n.work, seq, order, after);
        }
    }

    fn run(&self, w: &Work, seq: u64, order: &Order, after: Vec<u32>) -> Option<u32> {
        let (device, stream, number) = (self.device, self.id, Cell::new(None));
        let place = copy::Place { device, stream, seq, order, after, number };
        match w {
            Work::Kernel(l, _) => kernels::run(l, &place),
            Work::Transfer(t) => copy::run(t, &place),
            // SAFETY: the function and its argument were given for exactly this call.
            Work::Host(c) => unsafe { (c.function)(c.data) },
            Work::Collective(c) => collective::run(c, &place),
            Work::Empty => {}
        }
        place.number.get()
    }
}

/// Puts work on a stream: into its graph while it captures, else into its queue.
pub(crate) fn enqueue(s: &Arc<Stream>, w: Work) -> HipResult<u64> {
    runtime().check(s.device)?;
    if super::capture::add(s, &w)? {
        return Ok(0);
    }
    Ok(s.submit(Op::Work(w)))
}
