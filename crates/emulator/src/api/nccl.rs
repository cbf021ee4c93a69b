//! RCCL.

use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::collective::{self, Call, Comm, Group, Kind, type_size};
use crate::runtime::error::Error;
use crate::runtime::stream::{Stream, Work, enqueue};
use crate::runtime::{Object, current_device, last_error, runtime, set_device};

const SUCCESS: i32 = 0;
const UNHANDLED: i32 = 1;
const INTERNAL: i32 = 3;
const INVALID: i32 = 4;
const USAGE: i32 = 5;
const REMOTE: i32 = 6;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; 128]);

/// A `ncclCommInitRank` or a collective held back until the group ends.
enum Held {
    Init { out: usize, group: Arc<Group>, rank: usize, device: usize },
    Call(Arc<Stream>, Call),
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

type Outcome = Result<(), (i32, String)>;

fn fail<T>(code: i32, what: impl Into<String>) -> Result<T, (i32, String)> {
    Err((code, what.into()))
}

fn guard(name: &str, body: impl FnOnce() -> Outcome) -> i32 {
    let r = catch_unwind(AssertUnwindSafe(body));
    match r.unwrap_or_else(|_| fail(INTERNAL, "internal error in the emulator")) {
        Ok(()) => SUCCESS,
        Err((code, what)) => {
            eprintln!("emulator: {name}: {what}");
            code
        }
    }
}

fn hip(e: Error) -> (i32, String) {
    (UNHANDLED, e.what.unwrap_or_else(|| format!("HIP error {}", e.code)))
}

fn comm(h: u64) -> Result<Arc<Comm>, (i32, String)> {
    match runtime().get(h) {
        Ok(Object::Comm(c)) => Ok(c),
        _ => fail(INVALID, format!("{h:#x} is not a communicator")),
    }
}

/// Joins the ranks of `held` that belong here, each on a thread so that they can meet.
fn init(held: Vec<(usize, Arc<Group>, usize, usize)>) -> Outcome {
    let results: Vec<Result<(), String>> = std::thread::scope(|s| {
        let joins: Vec<_> = held.iter().map(|h| s.spawn(|| h.1.join())).collect();
        joins.into_iter().map(|j| j.join().unwrap_or_else(|_| Err("thread".into()))).collect()
    });
    for ((out, group, rank, device), r) in held.into_iter().zip(results) {
        if let Err(e) = r {
            return fail(REMOTE, format!("hang: {e}"));
        }
        let c = runtime().insert(Object::Comm(Comm::new(group, rank, device).into()));
        // SAFETY: the pointer was given by the C caller for this result and checked for null.
        unsafe { (out as *mut u64).write_unaligned(c) };
    }
    Ok(())
}

fn submit(s: &Arc<Stream>, c: Call) -> Outcome {
    enqueue(s, Work::Collective(c)).map(|_| ()).map_err(hip)
}

/// One rank's collective call.
struct Ask {
    kind: Kind,
    send: u64,
    recv: u64,
    count: usize,
    ty: i32,
    op: i32,
    root: i32,
}

fn collect(a: &Ask, h: u64, stream: u64) -> Outcome {
    let c = comm(h)?;
    // Some of RCCL's ways ask for the thread's last error after a launch, and get any that is left.
    if let error @ 1.. = last_error(true) {
        return fail(UNHANDLED, format!("HIP error {error} was left behind by a call before this"));
    }
    let Some(size) = type_size(a.ty) else { return fail(INVALID, format!("type {}", a.ty)) };
    if !(0..=4).contains(&a.op) {
        return fail(INVALID, format!("operation {}", a.op));
    }
    let root = usize::try_from(a.root).ok().filter(|r| *r < c.group.ranks);
    let Some(root) = root else { return fail(INVALID, format!("root {}", a.root)) };
    if a.count.checked_mul(size).and_then(|n| n.checked_mul(c.group.ranks)).is_none() {
        return fail(INVALID, "size overflows");
    }
    if c.group.aborted.load(Ordering::Acquire) {
        return fail(REMOTE, "the communicator was aborted");
    }
    let s = runtime().stream(stream).map_err(hip)?;
    let s = if stream == 0 { runtime().null_stream(c.device) } else { s };
    if s.device != c.device {
        return fail(INVALID, "the stream is on another device than the communicator");
    }
    let (kind, send, recv) = (a.kind, a.send, a.recv);
    let call = Call { comm: c, kind, send, recv, count: a.count, ty: a.ty, op: a.op, root };
    if DEPTH.get() > 0 {
        HELD.with_borrow_mut(|h| h.push(Held::Call(s, call)));
        return Ok(());
    }
    submit(&s, call)
}

fn end_group() -> Outcome {
    let depth = DEPTH.get();
    if depth == 0 {
        return fail(USAGE, "no group was started");
    }
    DEPTH.set(depth - 1);
    if depth > 1 {
        return Ok(());
    }
    let held = HELD.take();
    let mut inits = Vec::new();
    let mut calls = Vec::new();
    for h in held {
        match h {
            Held::Init { out, group, rank, device } => inits.push((out, group, rank, device)),
            // Sends first, so that a rank's receive never waits for its own later send.
            Held::Call(s, c) => calls.push((s, c)),
        }
    }
    if !inits.is_empty() {
        init(inits)?;
    }
    calls.sort_by_key(|(_, c)| !matches!(c.kind, Kind::Send(_)));
    calls.into_iter().try_for_each(|(s, c)| submit(&s, c))
}

fn init_rank(out: *mut u64, n: i32, id: UniqueId, rank: i32) -> Outcome {
    let (Ok(n), Ok(r)) = (usize::try_from(n), usize::try_from(rank)) else {
        return fail(INVALID, "negative rank");
    };
    if out.is_null() || n == 0 || r >= n {
        return fail(INVALID, format!("rank {rank} of {n}"));
    }
    let group = collective::group_of(&id.0, n);
    if group.ranks != n {
        return fail(INVALID, format!("{n} ranks, others said {}", group.ranks));
    }
    let held = (out as usize, group, r, current_device());
    if DEPTH.get() > 0 {
        let (out, group, rank, device) = held;
        HELD.with_borrow_mut(|h| h.push(Held::Init { out, group, rank, device }));
        return Ok(());
    }
    init(vec![held])
}

/// Defines C functions that return an NCCL code.
macro_rules! nccl {
    ($(fn $name:ident($($a:ident: $t:ty),* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($a: $t),*) -> i32 {
                guard(stringify!($name), || $body)
            }
        )*
    };
}

/// # Safety
/// `p` must be null or valid for writing.
unsafe fn give<T>(p: *mut T, v: T) -> Outcome {
    if p.is_null() {
        return fail(INVALID, "null pointer for a result");
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { p.write_unaligned(v) };
    Ok(())
}

nccl! {
    fn ncclGetVersion(v: *mut i32) {
        // SAFETY: the C caller's pointer.
        unsafe { give(v, 22_105) }
    }
    fn ncclGetUniqueId(id: *mut UniqueId) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut b = [0u8; 128];
        b[..8].copy_from_slice(b"emulated");
        b[8..16].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        b[16..20].copy_from_slice(&std::process::id().to_le_bytes());
        // SAFETY: the C caller's pointer.
        unsafe { give(id, UniqueId(b)) }
    }
    fn ncclCommInitRank(out: *mut u64, n: i32, id: UniqueId, rank: i32) {
        init_rank(out, n, id, rank)
    }
    fn ncclCommInitRankConfig(
        out: *mut u64,
        n: i32,
        id: UniqueId,
        rank: i32,
        _config: *const u8,
    ) {
        init_rank(out, n, id, rank)
    }
    fn ncclCommInitAll(out: *mut u64, n: i32, devices: *const i32) {
        let Ok(count) = usize::try_from(n) else { return fail(INVALID, "negative count") };
        if out.is_null() || count == 0 {
            return fail(INVALID, "no communicators");
        }
        let group = Arc::new(Group::new(count));
        let mut held = Vec::new();
        for k in 0..count {
            // SAFETY: the caller's arrays have `n` entries.
            let (d, p) = unsafe {
                (if devices.is_null() { k as i32 } else { *devices.add(k) }, out.add(k))
            };
            let d = runtime().device_index(d).map_err(hip)?;
            held.push((p as usize, Arc::clone(&group), k, d));
        }
        init(held)
    }
    fn ncclCommFinalize(h: u64) { comm(h).map(|_| ()) }
    fn ncclCommDestroy(h: u64) {
        let c = comm(h)?;
        runtime().streams(c.device).iter().for_each(|s| s.synchronize());
        runtime().remove(h).map(|_| ()).map_err(hip)
    }
    fn ncclCommAbort(h: u64) {
        comm(h)?.abort("ncclCommAbort");
        runtime().remove(h).map(|_| ()).map_err(hip)
    }
    fn ncclCommGetAsyncError(h: u64, out: *mut i32) {
        let c = comm(h)?;
        let bad = c.failed.load(Ordering::Acquire) || c.group.aborted.load(Ordering::Acquire);
        // SAFETY: the C caller's pointer.
        unsafe { give(out, if bad { REMOTE } else { SUCCESS }) }
    }
    fn ncclCommCount(h: u64, out: *mut i32) {
        // SAFETY: the C caller's pointer.
        unsafe { give(out, comm(h)?.group.ranks as i32) }
    }
    fn ncclCommCuDevice(h: u64, out: *mut i32) {
        // SAFETY: the C caller's pointer.
        unsafe { give(out, comm(h)?.device as i32) }
    }
    fn ncclCommUserRank(h: u64, out: *mut i32) {
        // SAFETY: the C caller's pointer.
        unsafe { give(out, comm(h)?.rank as i32) }
    }
    fn ncclGroupStart() {
        DEPTH.set(DEPTH.get() + 1);
        Ok(())
    }
    fn ncclGroupEnd() { end_group() }
    fn ncclAllReduce(
        send: u64, recv: u64, count: usize, ty: i32, op: i32, h: u64, stream: u64,
    ) {
        collect(&Ask { kind: Kind::AllReduce, send, recv, count, ty, op, root: 0 }, h, stream)
    }
    fn ncclReduce(
        send: u64, recv: u64, count: usize, ty: i32, op: i32, root: i32, h: u64, stream: u64,
    ) {
        collect(&Ask { kind: Kind::Reduce, send, recv, count, ty, op, root }, h, stream)
    }
    fn ncclBroadcast(
        send: u64, recv: u64, count: usize, ty: i32, root: i32, h: u64, stream: u64,
    ) {
        collect(&Ask { kind: Kind::Broadcast, send, recv, count, ty, op: 0, root }, h, stream)
    }
    fn ncclBcast(buffer: u64, count: usize, ty: i32, root: i32, h: u64, stream: u64) {
        let (kind, send, recv) = (Kind::Broadcast, buffer, buffer);
        collect(&Ask { kind, send, recv, count, ty, op: 0, root }, h, stream)
    }
    fn ncclAllGather(send: u64, recv: u64, count: usize, ty: i32, h: u64, stream: u64) {
        collect(&Ask { kind: Kind::AllGather, send, recv, count, ty, op: 0, root: 0 }, h, stream)
    }
    fn ncclReduceScatter(
        send: u64, recv: u64, count: usize, ty: i32, op: i32, h: u64, stream: u64,
    ) {
        collect(&Ask { kind: Kind::ReduceScatter, send, recv, count, ty, op, root: 0 }, h, stream)
    }
    fn ncclAllToAll(send: u64, recv: u64, count: usize, ty: i32, h: u64, stream: u64) {
        collect(&Ask { kind: Kind::AllToAll, send, recv, count, ty, op: 0, root: 0 }, h, stream)
    }
    fn ncclSend(buffer: u64, count: usize, ty: i32, peer: i32, h: u64, stream: u64) {
        let to = usize::try_from(peer).unwrap_or(usize::MAX);
        let kind = Kind::Send(to);
        collect(&Ask { kind, send: buffer, recv: 0, count, ty, op: 0, root: peer }, h, stream)
    }
    fn ncclRecv(buffer: u64, count: usize, ty: i32, peer: i32, h: u64, stream: u64) {
        let kind = Kind::Recv(usize::try_from(peer).unwrap_or(usize::MAX));
        collect(&Ask { kind, send: 0, recv: buffer, count, ty, op: 0, root: peer }, h, stream)
    }
    fn ncclMemAlloc(out: *mut u64, size: usize) {
        let a = runtime().memory.alloc(current_device(), size as u64, 0);
        let a = a.map_err(|_| (UNHANDLED, "out of memory".to_owned()))?;
        // SAFETY: the C caller's pointer.
        unsafe { give(out, a.base) }
    }
    fn ncclMemFree(p: u64) {
        let device = current_device();
        set_device(device as i32).map_err(hip)?;
        runtime().streams(device).iter().for_each(|s| s.synchronize());
        match runtime().memory.free(p) {
            Some(_) => Ok(()),
            None => fail(INVALID, format!("{p:#x} is not an allocation")),
        }
    }
    fn ncclCommRegister(h: u64, _buffer: u64, _size: usize, handle: *mut u64) {
        comm(h)?;
        // SAFETY: the C caller's pointer.
        unsafe { give(handle, 1) }
    }
    fn ncclCommDeregister(h: u64, _handle: u64) { comm(h).map(|_| ()) }
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(code: i32) -> *const c_char {
    let s: &[u8] = match code {
        0 => b"no error\0",
        1 => b"unhandled HIP error\0",
        2 => b"unhandled system error\0",
        3 => b"internal error\0",
        4 => b"invalid argument\0",
        5 => b"invalid usage\0",
        6 => b"remote process exited or there was a network error\0",
        7 => b"operation in progress\0",
        _ => b"unknown result code\0",
    };
    s.as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_comm: u64) -> *const c_char {
    c"see the emulator's lines on stderr".as_ptr()
}
