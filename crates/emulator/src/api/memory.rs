//! Allocation, copies, fills.

use std::ffi::c_void;
use std::sync::Arc;

use super::{hip, put};
use crate::memory::Home;
use crate::runtime::copy::{End, Transfer};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::stream::{Op, Stream, Work, enqueue};
use crate::runtime::{capture, current_device, runtime};

fn invalid<T>(what: &str) -> HipResult<T> {
    Err(Error::new(error::INVALID_VALUE, what))
}

fn allocate(size: usize, flags: u32) -> HipResult<u64> {
    if size == 0 {
        return Ok(0);
    }
    let d = current_device();
    runtime().check(d)?;
    let a = runtime().memory.alloc(d, size as u64, flags);
    let a = a.map_err(|_| Error::new(error::OUT_OF_MEMORY, &format!("{size} bytes")))?;
    Ok(a.base)
}

/// `hipFree` waits for the whole device first.
fn free(p: u64, host: bool) -> HipResult<()> {
    if p == 0 {
        return Ok(());
    }
    let Some(a) = runtime().memory.find(p, 0).filter(|a| a.base == p && !a.internal) else {
        let what =
            format!("{p:#x} is not the start of an allocation: {}", runtime().memory.explain(p));
        return invalid(&what);
    };
    if host != (a.home == Home::Host) {
        return invalid("device and host memory have different functions to free them");
    }
    match a.home {
        Home::Device(d) => runtime().streams(d).iter().for_each(|s| s.synchronize()),
        Home::Host => (0..runtime().devices.len()).for_each(|d| {
            runtime().streams(d).iter().for_each(|s| s.synchronize());
        }),
    }
    runtime().memory.free(p);
    Ok(())
}

/// Which ends of a copy must be device memory: (destination, source).
fn sides(kind: i32) -> HipResult<(bool, bool)> {
    Ok(match kind {
        0 | 4 => (false, false),
        1 => (true, false),
        2 => (false, true),
        3 => (true, true),
        _ => return invalid(&format!("copy kind {kind}")),
    })
}

/// A copy of rows of at least one byte.
pub(super) fn transfer(
    (dst, src): (u64, u64),
    (width, height): (usize, usize),
    pitch: [usize; 2],
    kind: i32,
) -> HipResult<Transfer> {
    if width == 0 || height == 0 {
        return invalid("nothing to copy");
    }
    if pitch.iter().any(|p| *p < width) && height > 1 {
        return invalid("pitch smaller than width");
    }
    let span = |p: usize| (height - 1).checked_mul(p).and_then(|n| n.checked_add(width));
    let (Some(dn), Some(sn)) = (span(pitch[0]), span(pitch[1])) else {
        return invalid("size overflows");
    };
    let (dd, sd) = sides(kind)?;
    let (dst, src) = (runtime().end(dst, dn, dd)?, runtime().end(src, sn, sd)?);
    Ok(Transfer::Copy { dst, src, width, height, pitch })
}

/// Queues a copy of rows. Pageable sources are read now, pageable destinations waited for, unless
/// the stream is capturing.
fn copy(
    ends: (u64, u64),
    (width, height): (usize, usize),
    pitch: [usize; 2],
    kind: i32,
    s: &Arc<Stream>,
) -> HipResult<()> {
    if width == 0 || height == 0 {
        return Ok(());
    }
    let mut t = transfer(ends, (width, height), pitch, kind)?;
    let mut wait = false;
    if let (Transfer::Copy { dst, src, .. }, 0) = (&mut t, capture::status(s).0) {
        if src.pageable() {
            let n = (height - 1) * pitch[1] + width;
            // SAFETY: `end` found the range readable; the caller keeps it for the call.
            let bytes = unsafe { std::slice::from_raw_parts(ends.1 as *const u8, n) }.to_vec();
            *src = End::Staged(bytes.into());
        }
        wait = dst.pageable();
    }
    let seq = enqueue(s, Work::Transfer(t))?;
    if wait {
        runtime().host_waited(&s.wait(seq));
        return runtime().check(s.device);
    }
    Ok(())
}

fn copy_and_wait(dst: u64, src: u64, n: usize, kind: i32) -> HipResult<()> {
    capture::forbid_blocking("a blocking copy", error::CAPTURE_IMPLICIT)?;
    let s = runtime().null_stream(current_device());
    copy((dst, src), (n, 1), [n, n], kind, &s)?;
    s.synchronize();
    runtime().check(s.device)
}

fn fill(dst: u64, pattern: &[u8], count: usize, s: &Arc<Stream>) -> HipResult<()> {
    if count == 0 {
        return Ok(());
    }
    enqueue(s, Work::Transfer(fill_of(dst, pattern, count)?))?;
    Ok(())
}

/// A fill with `count` repetitions of `pattern`.
pub(super) fn fill_of(dst: u64, pattern: &[u8], count: usize) -> HipResult<Transfer> {
    let Some(n) = count.checked_mul(pattern.len()) else { return invalid("size overflows") };
    let dst = runtime().end(dst, n, true)?;
    Ok(Transfer::Fill { dst, pattern: pattern.to_vec(), count })
}

hip! {
    fn hipMalloc(p: *mut u64, size: usize) {
        capture::forbid_unsafe("hipMalloc")?;
        put(p, allocate(size, 0)?)
    }
    fn hipExtMallocWithFlags(p: *mut u64, size: usize, flags: u32) {
        capture::forbid_unsafe("hipExtMallocWithFlags")?;
        if flags > 3 {
            return invalid(&format!("flags {flags:#x}"));
        }
        put(p, allocate(size, flags)?)
    }
    fn hipMallocManaged(p: *mut u64, size: usize, _flags: u32) {
        // Managed memory is reachable from host and devices: pinned memory serves.
        capture::forbid_unsafe("hipMallocManaged")?;
        put(p, host_memory(size, 0)?)
    }
    fn hipMallocAsync(p: *mut u64, size: usize, stream: u64) {
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        put(p, allocate(size, 0)?)
    }
    fn hipFreeAsync(p: u64, stream: u64) {
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        if !runtime().memory.find(p, 0).is_some_and(|a| a.base == p && !a.internal) {
            return invalid(&format!("{p:#x} is not the start of an allocation"));
        }
        s.submit(Op::Free(p));
        Ok(())
    }
    fn hipFree(p: u64) {
        capture::forbid_unsafe("hipFree")?;
        free(p, false)
    }
    fn hipMemGetInfo(left: *mut usize, total: *mut usize) {
        let (used, all) = runtime().memory.usage(current_device());
        put(left, (all - used.min(all)) as usize)?;
        put(total, all as usize)
    }
    fn hipHostMalloc(p: *mut u64, size: usize, flags: u32) {
        capture::forbid_unsafe("hipHostMalloc")?;
        put(p, host_memory(size, flags)?)
    }
    fn hipHostFree(p: u64) {
        capture::forbid_unsafe("hipHostFree")?;
        free(p, true)
    }
    fn hipHostRegister(p: u64, size: usize, flags: u32) {
        if size == 0 {
            return invalid("size zero");
        }
        if runtime().memory.find(p, 0).is_some() {
            return Err(Error::new(error::REGISTERED, "the range is registered already"));
        }
        runtime().end(p, size, false)?;
        runtime().memory.register_host(p as *mut u8, size as u64, flags);
        Ok(())
    }
    fn hipHostUnregister(p: u64) {
        let known = runtime().memory.find(p, 0).is_some_and(|a| {
            a.base == p && a.home == Home::Host
        });
        if !known {
            return Err(Error::new(error::NOT_REGISTERED, "the range is not registered"));
        }
        free(p, true)
    }
    fn hipHostGetDevicePointer(out: *mut u64, p: u64, _flags: u32) {
        match runtime().memory.find(p, 0) {
            Some(a) if a.home == Home::Host => put(out, p),
            _ => invalid("not pinned host memory"),
        }
    }
    fn hipPointerGetAttributes(out: *mut [u64; 4], p: u64) {
        let Some(a) = runtime().memory.find(p, 0) else {
            return Err(Error::new(error::INVALID_VALUE, "not memory of this runtime"));
        };
        // type, device; devicePointer; hostPointer; isManaged, allocationFlags.
        let (kind, device, host) = match a.home {
            Home::Host => (1u64, 0, p),
            Home::Device(d) => (2, d as u64, 0),
        };
        put(out, [kind | device << 32, p, host, u64::from(a.flags) << 32])
    }
    fn hipMemcpy(dst: u64, src: u64, n: usize, kind: i32) { copy_and_wait(dst, src, n, kind) }
    fn hipMemcpyHtoD(dst: u64, src: u64, n: usize) { copy_and_wait(dst, src, n, 1) }
    fn hipMemcpyDtoH(dst: u64, src: u64, n: usize) { copy_and_wait(dst, src, n, 2) }
    fn hipMemcpyDtoD(dst: u64, src: u64, n: usize) { copy_and_wait(dst, src, n, 3) }
    fn hipMemcpyAsync(dst: u64, src: u64, n: usize, kind: i32, stream: u64) {
        copy((dst, src), (n, 1), [n, n], kind, &runtime().stream(stream)?)
    }
    fn hipMemcpyWithStream(dst: u64, src: u64, n: usize, kind: i32, stream: u64) {
        let s = runtime().stream(stream)?;
        capture::forbid_sync(&s)?;
        copy((dst, src), (n, 1), [n, n], kind, &s)?;
        s.synchronize();
        runtime().check(s.device)
    }
    fn hipMemcpyDtoHAsync(dst: u64, src: u64, n: usize, stream: u64) {
        copy((dst, src), (n, 1), [n, n], 2, &runtime().stream(stream)?)
    }
    fn hipMemcpyHtoDAsync(dst: u64, src: u64, n: usize, stream: u64) {
        copy((dst, src), (n, 1), [n, n], 1, &runtime().stream(stream)?)
    }
    fn hipMemcpyDtoDAsync(dst: u64, src: u64, n: usize, stream: u64) {
        copy((dst, src), (n, 1), [n, n], 3, &runtime().stream(stream)?)
    }
    fn hipMemcpyPeerAsync(dst: u64, to: i32, src: u64, from: i32, n: usize, stream: u64) {
        let (to, from) = (runtime().device_index(to)?, runtime().device_index(from)?);
        let ends = (runtime().end(dst, n, true)?, runtime().end(src, n, true)?);
        if ends.0.home() != Some(to) || ends.1.home() != Some(from) {
            return invalid("a pointer is not on the device given for it");
        }
        copy((dst, src), (n, 1), [n, n], 3, &runtime().stream(stream)?)
    }
    fn hipMemcpy2DAsync(
        dst: u64,
        dpitch: usize,
        src: u64,
        spitch: usize,
        width: usize,
        height: usize,
        kind: i32,
        stream: u64,
    ) {
        copy((dst, src), (width, height), [dpitch, spitch], kind, &runtime().stream(stream)?)
    }
    fn hipMemset(dst: u64, value: i32, n: usize) {
        capture::forbid_blocking("hipMemset", error::CAPTURE_IMPLICIT)?;
        let s = runtime().null_stream(current_device());
        fill(dst, &[value as u8], n, &s)?;
        s.synchronize();
        runtime().check(s.device)
    }
    fn hipMemsetAsync(dst: u64, value: i32, n: usize, stream: u64) {
        fill(dst, &[value as u8], n, &runtime().stream(stream)?)
    }
    fn hipMemsetD8Async(dst: u64, value: u8, n: usize, stream: u64) {
        fill(dst, &[value], n, &runtime().stream(stream)?)
    }
    fn hipMemsetD16Async(dst: u64, value: u16, n: usize, stream: u64) {
        fill(dst, &value.to_le_bytes(), n, &runtime().stream(stream)?)
    }
    fn hipMemsetD32Async(dst: u64, value: i32, n: usize, stream: u64) {
        fill(dst, &value.to_le_bytes(), n, &runtime().stream(stream)?)
    }
}

fn host_memory(size: usize, flags: u32) -> HipResult<u64> {
    if size == 0 {
        return Ok(0);
    }
    let a = runtime().memory.alloc_host(size as u64, flags);
    let a = a.map_err(|_| Error::new(error::OUT_OF_MEMORY, &format!("{size} bytes")))?;
    Ok(a.base)
}

/// The type the C functions use for addresses.
const _: () = assert!(size_of::<*mut c_void>() == size_of::<u64>());
