//! Copies and fills, with their shadows.

use std::cell::Cell;
use std::sync::Arc;

use super::error::{self, Error, HipResult};
use super::{Runtime, runtime};
use crate::check::{Access, Operation, Order, Segments};
use crate::memory::{Alloc, Home};

/// Where and when work runs.
pub(crate) struct Place<'a> {
    pub(crate) device: usize,
    pub(crate) stream: u64,
    pub(crate) seq: u64,
    pub(crate) order: &'a Order,
    /// Nodes of the same graph that this one comes after, by number.
    pub(crate) after: Vec<u32>,
    /// This work's number.
    pub(crate) number: Cell<Option<u32>>,
}

impl Place<'_> {
    /// The race detector's view of this work: so many workgroups, which may use atomics.
    pub(crate) fn operation(&self, name: &str, groups: (u32, bool)) -> Option<Operation> {
        let r = runtime();
        if !r.config.strict {
            return None;
        }
        let (at, order) = ((self.stream, self.seq), self.order.clone());
        let after = self.after.clone();
        let o = r.races.begin(name, self.device, at, order, after, groups);
        self.number.set(Some(o.number()));
        Some(o)
    }
}

/// One end of a copy.
#[derive(Clone)]
pub(crate) enum End {
    /// Device or pinned memory.
    Known(Arc<Alloc>, u64),
    /// The caller's own memory.
    Host(u64),
    /// Bytes copied from the caller's memory when the call was made.
    Staged(Arc<[u8]>),
}

/// A copy of rows, or a fill.
#[derive(Clone)]
pub(crate) enum Transfer {
    Copy { dst: End, src: End, width: usize, height: usize, pitch: [usize; 2] },
    Fill { dst: End, pattern: Vec<u8>, count: usize },
}

impl Runtime {
    /// Finds what `[addr, addr + len)` is; `device` says it must be device or pinned memory.
    pub(crate) fn end(&self, addr: u64, len: usize, device: bool) -> HipResult<End> {
        if addr == 0 {
            return Err(Error::new(error::INVALID_VALUE, "null pointer"));
        }
        if let Some(a) = self.memory.find(addr, len as u64) {
            return Ok(End::Known(a, addr));
        }
        if device || self.memory.reserved(addr) {
            let what = format!("{addr:#x} + {len} bytes: {}", self.memory.explain(addr));
            return Err(Error::new(error::INVALID_VALUE, &what));
        }
        if !readable(addr) || !readable(addr.wrapping_add(len.saturating_sub(1) as u64)) {
            let what = format!("{addr:#x} + {len} bytes is not memory of this process");
            return Err(Error::new(error::INVALID_VALUE, &what));
        }
        Ok(End::Host(addr))
    }
}

/// Whether a byte of this process can be read, without a signal if not.
fn readable(addr: u64) -> bool {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: 1 };
    // SAFETY: the kernel checks the remote address; the local one is `byte`.
    unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) == 1 }
}

impl End {
    fn pointer(&self, off: usize) -> *mut u8 {
        match self {
            End::Known(a, at) => a.at(*at + off as u64),
            End::Host(p) => (*p as *mut u8).wrapping_add(off),
            End::Staged(v) => v.as_ptr().wrapping_add(off).cast_mut(),
        }
    }

    /// Whether the host side needs the call to wait or copy (pageable memory).
    pub(crate) fn pageable(&self) -> bool {
        matches!(self, End::Host(_))
    }

    /// The device the memory lives on.
    pub(crate) fn home(&self) -> Option<usize> {
        match self {
            End::Known(a, _) => match a.home {
                Home::Device(d) => Some(d),
                Home::Host => None,
            },
            _ => None,
        }
    }
}

/// Tells the race detector of a range.
fn touch(s: &Option<Segments>, e: &End, off: usize, len: usize, kind: Access) -> Option<String> {
    let (Some(s), End::Known(a, at), 1..) = (s, e, len) else { return None };
    touch_range(s, a, *at + off as u64, len, kind)
}

/// Tells the race detector of `len` ≥ 1 bytes at `addr` in `a`.
pub(crate) fn touch_range(
    s: &Segments,
    a: &Alloc,
    addr: u64,
    len: usize,
    kind: Access,
) -> Option<String> {
    let (shadow, masks) = a.race(addr, len)?;
    let (k, r) = s.touch(shadow, masks, kind, None)?;
    let did = if r.wrote { "written" } else { "read" };
    let at = (addr - (addr - a.base) % 4 + 4 * k as u64).max(addr);
    Some(format!("byte {at:#x} {did} by {} of another stream, unordered", r.name))
}

/// Performs a transfer.
pub(crate) fn run(t: &Transfer, place: &Place<'_>) {
    let segments = place.operation("copy", (1, false));
    let segments = segments.map(|o| Segments::new(&Arc::new(o), 0, 1));
    let race = match t {
        Transfer::Copy { dst, src, width, height, pitch } => {
            let mut race = None;
            for row in 0..*height {
                let (d, s) = (row * pitch[0], row * pitch[1]);
                // SAFETY: `end` found both ranges when the call was made, and the memory lives as
                // long as the `End`s; overlap is allowed.
                unsafe { std::ptr::copy(src.pointer(s), dst.pointer(d), *width) };
                shadow(dst, src, d, s, *width);
                race = race
                    .or_else(|| touch(&segments, src, s, *width, Access::Read))
                    .or_else(|| touch(&segments, dst, d, *width, Access::Write));
            }
            race
        }
        Transfer::Fill { dst, pattern, count } => {
            for k in 0..*count {
                let to = dst.pointer(k * pattern.len());
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(pattern.as_ptr(), to, pattern.len()) };
            }
            let len = count * pattern.len();
            if let End::Known(a, at) = dst {
                a.mark(*at, len, true);
            }
            touch(&segments, dst, 0, len, Access::Write)
        }
    };
    if let Some(what) = race {
        let what = format!("GlobalRace: copy or fill on stream {}: {what}", place.stream);
        runtime().fail(place.device, error::ILLEGAL_ADDRESS, &what);
    }
}

/// A copy of memory nothing wrote is memory nothing wrote.
fn shadow(dst: &End, src: &End, d: usize, s: usize, len: usize) {
    let End::Known(to, at) = dst else { return };
    match src {
        End::Known(from, p) if !from.initialised(*p + s as u64, len) => {
            for k in 0..len {
                let on = from.initialised(*p + (s + k) as u64, 1);
                to.mark(*at + (d + k) as u64, 1, on);
            }
        }
        _ => to.mark(*at + d as u64, len, true),
    }
}
