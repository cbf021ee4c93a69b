//! Streams and events.

use super::{hip, put};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::event::Event;
use crate::runtime::stream::{Callback, Notice, Op, Work, enqueue};
use crate::runtime::value::{Condition, Word};
use crate::runtime::{Object, capture, current_device, lock, runtime};

fn destroy_stream(h: u64) -> HipResult<()> {
    let Object::Stream(s) = runtime().get(h)? else {
        return Err(Error::new(error::INVALID_HANDLE, "handle is not a stream"));
    };
    capture::forbid_sync(&s)?;
    runtime().remove(h)?;
    runtime().forget(&s);
    // Work already queued still runs; the thread ends after it.
    s.close();
    Ok(())
}

/// Queues a write of, or a wait for, a word in memory.
fn value(stream: u64, op: impl FnOnce() -> HipResult<Op>) -> HipResult<()> {
    let s = runtime().stream(stream)?;
    capture::forbid_sync(&s)?;
    runtime().check(s.device)?;
    s.submit(op()?);
    Ok(())
}

fn write_value(stream: u64, p: u64, bytes: u64, x: u64) -> HipResult<()> {
    value(stream, || Ok(Op::WriteValue(Word::at(p, bytes)?, x)))
}

fn wait_value(stream: u64, p: u64, bytes: u64, x: u64, flags: u32, mask: u64) -> HipResult<()> {
    let c = Condition::from_flags(flags)?;
    value(stream, || Ok(Op::WaitValue(Word::at(p, bytes)?, c, x, mask)))
}

hip! {
    fn hipStreamCreate(s: *mut u64) { put(s, runtime().create_stream(current_device(), 0)) }
    fn hipStreamCreateWithFlags(s: *mut u64, flags: u32) {
        if flags > 1 {
            return Err(Error::new(error::INVALID_VALUE, &format!("flags {flags:#x}")));
        }
        put(s, runtime().create_stream(current_device(), flags))
    }
    fn hipStreamCreateWithPriority(s: *mut u64, flags: u32, _priority: i32) {
        put(s, runtime().create_stream(current_device(), flags & 1))
    }
    fn hipExtStreamCreateWithCUMask(s: *mut u64, _size: u32, _mask: *const u32) {
        put(s, runtime().create_stream(current_device(), 0))
    }
    fn hipStreamDestroy(s: u64) { destroy_stream(s) }
    fn hipStreamSynchronize(stream: u64) {
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        s.synchronize();
        runtime().check(s.device)
    }
    fn hipStreamQuery(stream: u64) {
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        runtime().check(s.device)?;
        let n = s.submitted();
        if s.finished(n) { Ok(()) } else { Err(Error::quiet(error::NOT_READY)) }
    }
    fn hipStreamWaitEvent(stream: u64, event: u64, _flags: u32) {
        let s = runtime().stream(stream)?;
        let e = runtime().event(event)?;
        capture::wait(&s, &e)
    }
    fn hipStreamGetFlags(stream: u64, flags: *mut u32) {
        put(flags, runtime().stream(stream)?.flags)
    }
    fn hipStreamGetDevice(stream: u64, device: *mut i32) {
        put(device, runtime().stream(stream)?.device as i32)
    }
    fn hipLaunchHostFunc(
        stream: u64,
        function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>,
        data: *mut std::ffi::c_void,
    ) {
        let function = function
            .ok_or_else(|| Error::new(error::INVALID_VALUE, "null function"))?;
        let s = runtime().stream(stream)?;
        enqueue(&s, Work::Host(Callback { function, data })).map(|_| ())
    }
    fn hipStreamAddCallback(
        stream: u64,
        function: Option<unsafe extern "C" fn(u64, i32, *mut std::ffi::c_void)>,
        data: *mut std::ffi::c_void,
        flags: u32,
    ) {
        let function = function
            .filter(|_| flags == 0)
            .ok_or_else(|| Error::new(error::INVALID_VALUE, "null function, or flags"))?;
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        s.submit(Op::Notice(Notice { function, stream, data }));
        Ok(())
    }
    fn hipStreamWriteValue32(stream: u64, p: u64, x: u32, _flags: u32) {
        write_value(stream, p, 4, x.into())
    }
    fn hipStreamWriteValue64(stream: u64, p: u64, x: u64, _flags: u32) {
        write_value(stream, p, 8, x)
    }
    fn hipStreamWaitValue32(stream: u64, p: u64, x: u32, flags: u32, mask: u32) {
        wait_value(stream, p, 4, x.into(), flags, mask.into())
    }
    fn hipStreamWaitValue64(stream: u64, p: u64, x: u64, flags: u32, mask: u64) {
        wait_value(stream, p, 8, x, flags, mask)
    }
    fn hipEventCreate(e: *mut u64) { put(e, runtime().insert(Object::Event(Event::new(0).into()))) }
    fn hipEventCreateWithFlags(e: *mut u64, flags: u32) {
        put(e, runtime().insert(Object::Event(Event::new(flags).into())))
    }
    fn hipEventDestroy(e: u64) {
        runtime().event(e)?;
        runtime().remove(e).map(|_| ())
    }
    fn hipEventRecord(e: u64, stream: u64) {
        let (e, s) = (runtime().event(e)?, runtime().stream(stream)?);
        capture::record(&s, &e)
    }
    fn hipEventRecordWithFlags(e: u64, stream: u64, _flags: u32) {
        let (e, s) = (runtime().event(e)?, runtime().stream(stream)?);
        capture::record(&s, &e)
    }
    fn hipEventSynchronize(e: u64) {
        runtime().event(e)?.synchronize()?;
        runtime().check(current_device())
    }
    fn hipEventQuery(e: u64) {
        let done = runtime().event(e)?.query()?;
        if done { Ok(()) } else { Err(Error::quiet(error::NOT_READY)) }
    }
    fn hipEventElapsedTime(ms: *mut f32, start: u64, stop: u64) {
        let (a, b) = (runtime().event(start)?, runtime().event(stop)?);
        put(ms, b.since(&a)?)
    }
    fn hipStreamBeginCapture(stream: u64, mode: i32) {
        capture::begin(&runtime().stream(stream)?, mode)
    }
    fn hipStreamIsCapturing(stream: u64, status: *mut i32) {
        put(status, capture::status(&runtime().stream(stream)?).0)
    }
    fn hipStreamGetCaptureInfo(stream: u64, status: *mut i32, id: *mut u64) {
        let (st, n) = capture::status(&runtime().stream(stream)?);
        put(status, st)?;
        put(id, n)
    }
    fn hipStreamGetCaptureInfo_v2(
        stream: u64,
        status: *mut i32,
        id: *mut u64,
        graph: *mut u64,
        dependencies: *mut *const u64,
        count: *mut usize,
    ) {
        let s = runtime().stream(stream)?;
        let (st, n) = capture::status(&s);
        put(status, st)?;
        if st != 1 {
            return Ok(());
        }
        let Some((handle, nodes)) = capture::dependencies(&s)? else { return Ok(()) };
        if !id.is_null() {
            put(id, n)?;
        }
        if !graph.is_null() {
            put(graph, handle)?;
        }
        if !count.is_null() {
            put(count, nodes.len())?;
        }
        // The array stays valid until this call comes again for the stream.
        let mut shown = lock(&s.shown);
        *shown = nodes;
        if dependencies.is_null() { Ok(()) } else { put(dependencies, shown.as_ptr()) }
    }
    fn hipStreamUpdateCaptureDependencies(
        stream: u64,
        nodes: *const u64,
        count: usize,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(Error::new(error::INVALID_VALUE, &format!("flags {flags:#x}")));
        }
        let nodes = super::list(nodes, count)?;
        capture::update(&runtime().stream(stream)?, &nodes, flags == 1)
    }
    fn hipThreadExchangeStreamCaptureMode(mode: *mut i32) {
        if mode.is_null() || !(0..=2).contains(&*mode) {
            return Err(Error::new(error::INVALID_VALUE, "capture mode"));
        }
        *mode = capture::exchange_mode(*mode);
        Ok(())
    }
}
