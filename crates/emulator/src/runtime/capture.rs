//! Stream capture and its rules.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use super::error::{self, Error, HipResult};
use super::event::{Event, Recorded};
use super::graph::{self, Graph, Node};
use super::stream::{Op, Stream, Work};
use super::{Object, lock, runtime};

/// Which calls a capture forbids: 0 global, 1 thread-local, 2 relaxed.
pub(crate) type Mode = i32;

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(0) };
}

/// Swaps the calling thread's mode.
pub(crate) fn exchange_mode(new: Mode) -> Mode {
    THREAD_MODE.replace(new)
}

/// One capture.
pub(crate) struct Session {
    pub(crate) graph: Arc<Mutex<Graph>>,
    /// The graph's handle.
    pub(crate) handle: u64,
    pub(crate) id: u64,
    origin: u64,
    mode: Mode,
    thread: ThreadId,
    invalid: AtomicBool,
    members: Mutex<Vec<Arc<Stream>>>,
}

/// A stream's part in a capture: the nodes its next node depends on.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) session: Arc<Session>,
    pub(crate) tail: Vec<usize>,
}

/// What an event recorded during capture stands for.
pub(crate) type Captured = Member;

/// Begins a capture on `s`.
pub(crate) fn begin(s: &Arc<Stream>, mode: Mode) -> HipResult<()> {
    if s.null {
        let what = "the default stream cannot be captured";
        return Err(Error::new(error::CAPTURE_UNSUPPORTED, what));
    }
    if !(0..=2).contains(&mode) {
        return Err(Error::new(error::INVALID_VALUE, "capture mode"));
    }
    let mut c = lock(&s.capture);
    if c.is_some() {
        return Err(Error::new(error::INVALID_VALUE, "the stream is capturing already"));
    }
    let graph = Arc::default();
    let session = Arc::new(Session {
        handle: runtime().insert(Object::Graph(Arc::clone(&graph))),
        graph,
        id: s.submitted() << 16 | s.id,
        origin: s.id,
        mode,
        thread: std::thread::current().id(),
        invalid: AtomicBool::new(false),
        members: Mutex::new(vec![Arc::clone(s)]),
    });
    lock(&runtime().captures).push(Arc::clone(&session));
    *c = Some(Member { session, tail: vec![] });
    Ok(())
}

/// Ends the capture that began on `s`; the graph's handle.
pub(crate) fn end(s: &Arc<Stream>) -> HipResult<u64> {
    let member = lock(&s.capture).clone();
    let m =
        member.ok_or_else(|| Error::new(error::INVALID_VALUE, "the stream is not capturing"))?;
    let session = &m.session;
    if session.origin != s.id {
        return Err(Error::new(error::CAPTURE_UNMATCHED, "the capture began on another stream"));
    }
    if session.mode != 2 && session.thread != std::thread::current().id() {
        return Err(Error::new(error::CAPTURE_THREAD, "another thread began the capture"));
    }
    let mut loose = None;
    let reached = graph::ancestors(&lock(&session.graph).nodes, &m.tail);
    for member in lock(&session.members).drain(..) {
        let tail = lock(&member.capture).take().map_or(vec![], |m| m.tail);
        if member.id != s.id && tail.iter().any(|n| !reached.contains(n)) {
            loose = Some(member.id);
        }
    }
    lock(&runtime().captures).retain(|c| !Arc::ptr_eq(c, session));
    if session.invalid.load(Ordering::Acquire) {
        graph::destroy(session.handle)?;
        return Err(Error::new(error::CAPTURE_INVALIDATED, "an earlier call spoiled the capture"));
    }
    if let Some(id) = loose {
        graph::destroy(session.handle)?;
        let what = format!("stream {id} was forked into the capture and never joined again");
        return Err(Error::new(error::CAPTURE_UNJOINED, &what));
    }
    Ok(session.handle)
}

/// The capture's graph and the handles of the nodes that the next node on `s` will come after.
pub(crate) fn dependencies(s: &Arc<Stream>) -> HipResult<Option<(u64, Vec<u64>)>> {
    let m = member(s)?;
    Ok(m.map(|m| {
        let tail = m.tail.iter().map(|k| graph::handle(&m.session.graph, *k)).collect();
        (m.session.handle, tail)
    }))
}

/// Replaces (or adds to) the nodes that the next node on `s` will come after.
pub(crate) fn update(s: &Arc<Stream>, nodes: &[u64], replace: bool) -> HipResult<()> {
    let Some(mut m) = member(s)? else {
        return Err(Error::new(error::INVALID_VALUE, "the stream is not capturing"));
    };
    if replace {
        m.tail.clear();
    }
    for h in nodes {
        let (g, k) = runtime().node(*h)?;
        if !Arc::ptr_eq(&g, &m.session.graph) {
            return Err(Error::new(error::INVALID_VALUE, "the node is not of this capture"));
        }
        m.tail.push(k);
    }
    *lock(&s.capture) = Some(m);
    Ok(())
}

fn member(s: &Arc<Stream>) -> HipResult<Option<Member>> {
    let m = lock(&s.capture).clone();
    match m {
        Some(m) if m.session.invalid.load(Ordering::Acquire) => {
            Err(Error::new(error::CAPTURE_INVALIDATED, "an earlier call spoiled the capture"))
        }
        m => Ok(m),
    }
}

/// Adds work to the capture of `s`; false if it is not capturing.
pub(crate) fn add(s: &Arc<Stream>, w: &Work) -> HipResult<bool> {
    let Some(m) = member(s)? else {
        legacy(s)?;
        return Ok(false);
    };
    let node = Node { work: w.clone(), after: m.tail.clone() };
    let k = lock(&m.session.graph).push(node);
    *lock(&s.capture) = Some(Member { session: m.session, tail: vec![k] });
    Ok(true)
}

/// Work on the default stream would depend on a capturing stream that synchronises with it.
fn legacy(s: &Arc<Stream>) -> HipResult<()> {
    if !s.null {
        return Ok(());
    }
    for c in lock(&runtime().captures).iter() {
        let hit = lock(&c.members).iter().any(|m| m.blocking() && m.device == s.device);
        if hit {
            c.invalid.store(true, Ordering::Release);
            let what = "default-stream work while a stream that synchronises with it is capturing";
            return Err(Error::new(error::CAPTURE_IMPLICIT, what));
        }
    }
    Ok(())
}

/// `hipEventRecord`.
pub(crate) fn record(s: &Arc<Stream>, e: &Event) -> HipResult<()> {
    match member(s)? {
        Some(m) => e.set_captured(m),
        None => {
            legacy(s)?;
            e.record(s);
        }
    }
    Ok(())
}

/// `hipStreamWaitEvent`: may draw a stream into a capture.
pub(crate) fn wait(s: &Arc<Stream>, e: &Event) -> HipResult<()> {
    let mine = member(s)?;
    match (mine, e.recorded()) {
        (None, Recorded::Never) | (Some(_), Recorded::Never) => Ok(()),
        (None, Recorded::On(m)) => {
            s.submit(Op::WaitMark(m));
            Ok(())
        }
        (Some(m), Recorded::On(_)) => {
            m.session.invalid.store(true, Ordering::Release);
            let what = "a capturing stream waits for an event recorded outside the capture";
            Err(Error::new(error::CAPTURE_ISOLATION, what))
        }
        (None, Recorded::Captured(c)) => {
            if c.session.invalid.load(Ordering::Acquire) || !live(&c.session) {
                return Err(Error::new(error::CAPTURED_EVENT, "the event's capture has ended"));
            }
            lock(&c.session.members).push(Arc::clone(s));
            *lock(&s.capture) = Some(c);
            Ok(())
        }
        (Some(m), Recorded::Captured(c)) => {
            if !Arc::ptr_eq(&m.session, &c.session) {
                m.session.invalid.store(true, Ordering::Release);
                return Err(Error::new(902, "the event belongs to another capture"));
            }
            let all: HashSet<usize> = m.tail.iter().chain(&c.tail).copied().collect();
            let mut tail: Vec<usize> = all.into_iter().collect();
            tail.sort_unstable();
            *lock(&s.capture) = Some(Member { session: m.session, tail });
            Ok(())
        }
    }
}

fn live(s: &Arc<Session>) -> bool {
    lock(&runtime().captures).iter().any(|c| Arc::ptr_eq(c, s))
}

/// Status for `hipStreamIsCapturing`: 0 none, 1 active, 2 invalidated; and the capture's number.
pub(crate) fn status(s: &Arc<Stream>) -> (i32, u64) {
    match &*lock(&s.capture) {
        None => (0, 0),
        Some(m) if m.session.invalid.load(Ordering::Acquire) => (2, m.session.id),
        Some(m) => (1, m.session.id),
    }
}

/// Calls that synchronise a stream are not allowed while it captures.
pub(crate) fn forbid_sync(s: &Arc<Stream>) -> HipResult<()> {
    if let Some(m) = lock(&s.capture).clone() {
        m.session.invalid.store(true, Ordering::Release);
        let what = "the stream is capturing: it cannot be synchronised or queried";
        return Err(Error::new(error::CAPTURE_UNSUPPORTED, what));
    }
    Ok(())
}

/// Calls that wait for a device on their own are not allowed while any capture is open, of any
/// mode, thread and device; neither does HIP (7.2 to 7.14) look at those.
pub(crate) fn forbid_blocking(call: &str, code: i32) -> HipResult<()> {
    match spoil_all() {
        false => Ok(()),
        true => Err(Error::new(code, &format!("{call} while a stream is capturing"))),
    }
}

/// Spoils every open capture, as the launch of a graph does on HIP (7.2 to 7.14; its own tests call
/// it ROCM-1945); whether there was one.
pub(crate) fn spoil_all() -> bool {
    let captures = lock(&runtime().captures);
    captures.iter().for_each(|c| c.invalid.store(true, Ordering::Release));
    !captures.is_empty()
}

/// Calls that may synchronise the device (allocation, loading of code) are not allowed while a
/// capture of a mode that covers this thread is open.
pub(crate) fn forbid_unsafe(call: &str) -> HipResult<()> {
    let me = std::thread::current().id();
    let mode = THREAD_MODE.get();
    for c in lock(&runtime().captures).iter() {
        let covers = match (mode, c.mode) {
            (2, _) | (_, 2) => false,
            (0, 0) => true,
            _ => c.thread == me,
        };
        if covers {
            c.invalid.store(true, Ordering::Release);
            let what = format!("{call} is not allowed while a stream is capturing");
            return Err(Error::new(error::CAPTURE_UNSUPPORTED, &what));
        }
    }
    Ok(())
}
