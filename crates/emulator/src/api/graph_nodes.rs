//! Graphs built by hand: nodes and their dependencies.

use super::graph::{KernelNodeParams, kernel};
use super::memory::{fill_of, transfer};
use super::{hip, put};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::graph::{self, Node};
use crate::runtime::stream::{Callback, Work};
use crate::runtime::{lock, runtime};

/// `hipMemsetParams` as of HIP 7; sizes in elements, the pitch in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemsetParams {
    dst: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

const _: () = assert!(size_of::<MemsetParams>() == 40);

/// `hipHostNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HostNodeParams {
    function: Option<unsafe extern "C" fn(*mut std::ffi::c_void)>,
    data: *mut std::ffi::c_void,
}

/// Adds a node after those in `after`.
///
/// # Safety
/// `after` must have `count` entries; `out` must be valid for writing.
unsafe fn add(out: *mut u64, h: u64, after: *const u64, count: usize, work: Work) -> HipResult<()> {
    let g = runtime().graph(h)?;
    // SAFETY: passed on from the caller.
    let after = unsafe { super::list(after, count)? };
    let after = after.into_iter().map(|n| index(h, n)).collect::<HipResult<Vec<_>>>()?;
    let k = lock(&g).push(Node { work, after });
    // SAFETY: passed on from the caller.
    unsafe { put(out, graph::handle(&g, k)) }
}

/// The index of node `n` in graph `h`.
fn index(h: u64, n: u64) -> HipResult<usize> {
    let (g, k) = runtime().node(n)?;
    if !std::sync::Arc::ptr_eq(&g, &runtime().graph(h)?) {
        return Err(Error::new(error::INVALID_VALUE, "the node belongs to another graph"));
    }
    Ok(k)
}

/// # Safety
/// `p` must be null or valid.
unsafe fn params<T: Copy>(p: *const T) -> HipResult<T> {
    if p.is_null() {
        return Err(Error::new(error::INVALID_VALUE, "null parameters"));
    }
    // SAFETY: not null, and the caller promises the rest.
    Ok(unsafe { p.read_unaligned() })
}

hip! {
    fn hipGraphAddKernelNode(
        out: *mut u64, g: u64, after: *const u64, count: usize, p: *const KernelNodeParams,
    ) {
        let (l, f) = kernel(p)?;
        add(out, g, after, count, Work::Kernel(l, f))
    }
    fn hipGraphAddMemcpyNode1D(
        out: *mut u64, g: u64, after: *const u64, count: usize,
        dst: u64, src: u64, n: usize, kind: i32,
    ) {
        let t = transfer((dst, src), (n, 1), [n, n], kind)?;
        add(out, g, after, count, Work::Transfer(t))
    }
    fn hipGraphAddMemsetNode(
        out: *mut u64, g: u64, after: *const u64, count: usize, p: *const MemsetParams,
    ) {
        let p = params(p)?;
        let bytes = p.element as usize;
        if !matches!(bytes, 1 | 2 | 4) || p.width == 0 || p.height == 0 {
            return Err(Error::new(error::INVALID_VALUE, "element size, or an empty range"));
        }
        // Rows that touch are one range.
        if p.height > 1 && Some(p.pitch) != p.width.checked_mul(bytes) {
            return Err(Error::new(error::NOT_SUPPORTED, "memset nodes with gaps between rows"));
        }
        let n = p.width.checked_mul(p.height);
        let n = n.ok_or_else(|| Error::new(error::INVALID_VALUE, "size overflows"))?;
        let t = fill_of(p.dst, &p.value.to_le_bytes()[..bytes], n)?;
        add(out, g, after, count, Work::Transfer(t))
    }
    fn hipGraphAddHostNode(
        out: *mut u64, g: u64, after: *const u64, count: usize, p: *const HostNodeParams,
    ) {
        let p = params(p)?;
        let function = p.function
            .ok_or_else(|| Error::new(error::INVALID_VALUE, "null function"))?;
        add(out, g, after, count, Work::Host(Callback { function, data: p.data }))
    }
    fn hipGraphAddEmptyNode(out: *mut u64, g: u64, after: *const u64, count: usize) {
        add(out, g, after, count, Work::Empty)
    }
    fn hipGraphAddDependencies(h: u64, from: *const u64, to: *const u64, count: usize) {
        let g = runtime().graph(h)?;
        let (from, to) = (super::list(from, count)?, super::list(to, count)?);
        for (a, b) in from.into_iter().zip(to) {
            let (a, b) = (index(h, a)?, index(h, b)?);
            lock(&g).depend(a, b)?;
        }
        Ok(())
    }
}
