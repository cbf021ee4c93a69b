//! Graphs.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex};

use super::module::function;
use super::{hip, put};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::graph::{Executable, Graph, alike};
use crate::runtime::kernels::{self, Request};
use crate::runtime::stream::{Op, Work};
use crate::runtime::{Object, capture, lock, runtime};

fn executable(h: u64) -> HipResult<Arc<Executable>> {
    match runtime().get(h)? {
        Object::Executable(e) => Ok(e),
        _ => Err(Error::new(error::INVALID_HANDLE, "handle is not an executable graph")),
    }
}

fn node(h: u64) -> HipResult<(Arc<Mutex<Graph>>, usize)> {
    match runtime().get(h)? {
        Object::Node(g, k) => Ok((g, k)),
        _ => Err(Error::new(error::INVALID_HANDLE, "handle is not a graph node")),
    }
}

/// # Safety
/// `out` must be null or valid for writing.
unsafe fn instantiate(out: *mut u64, h: u64) -> HipResult<()> {
    let nodes = lock(&*runtime().graph(h)?).nodes.clone();
    let e = Executable { nodes: Mutex::new(nodes.into()) };
    // SAFETY: passed on from the caller.
    unsafe { put(out, runtime().insert(Object::Executable(e.into()))) }
}

/// `hipKernelNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelNodeParams {
    block: [u32; 3],
    extra: *const *const c_void,
    function: u64,
    grid: [u32; 3],
    params: *const *const u8,
    lds: u32,
}

const _: () = assert!(size_of::<KernelNodeParams>() == 64);

hip! {
    fn hipStreamEndCapture(stream: u64, out: *mut u64) {
        let g = capture::end(&runtime().stream(stream)?);
        match g {
            Ok(g) => put(out, runtime().insert(Object::Graph(Mutex::new(g).into()))),
            Err(e) => {
                if !out.is_null() {
                    put(out, 0)?;
                }
                Err(e)
            }
        }
    }
    fn hipGraphCreate(out: *mut u64, _flags: u32) {
        put(out, runtime().insert(Object::Graph(Arc::default())))
    }
    fn hipGraphDestroy(h: u64) {
        runtime().graph(h)?;
        runtime().remove(h).map(|_| ())
    }
    fn hipGraphInstantiate(
        out: *mut u64,
        h: u64,
        _error: *mut u64,
        _log: *mut c_char,
        _size: usize,
    ) {
        instantiate(out, h)
    }
    fn hipGraphInstantiateWithFlags(out: *mut u64, h: u64, _flags: u64) { instantiate(out, h) }
    fn hipGraphUpload(e: u64, stream: u64) {
        executable(e)?;
        runtime().stream(stream).map(|_| ())
    }
    fn hipGraphLaunch(e: u64, stream: u64) {
        let (e, s) = (executable(e)?, runtime().stream(stream)?);
        runtime().check(s.device)?;
        capture::forbid_sync(&s)?;
        let nodes = Arc::clone(&lock(&e.nodes));
        s.submit(Op::Graph(nodes));
        Ok(())
    }
    fn hipGraphExecDestroy(e: u64) {
        executable(e)?;
        runtime().remove(e).map(|_| ())
    }
    fn hipGraphExecUpdate(e: u64, h: u64, bad: *mut u64, result: *mut i32) {
        let (e, g) = (executable(e)?, runtime().graph(h)?);
        let new = lock(&g).nodes.clone();
        let mut old = lock(&e.nodes);
        let mut pairs = new.iter().zip(old.iter());
        let differs = new.len() != old.len() || !pairs.all(|(a, b)| alike(a, b));
        if !bad.is_null() {
            put(bad, 0)?;
        }
        if !result.is_null() {
            // hipGraphExecUpdateErrorTopologyChanged.
            put(result, if differs { 2 } else { 0 })?;
        }
        if differs {
            return Err(Error::new(error::GRAPH_UPDATE, "the graph's shape has changed"));
        }
        *old = new.into();
        Ok(())
    }
    fn hipGraphGetNodes(h: u64, nodes: *mut u64, count: *mut usize) {
        let g = runtime().graph(h)?;
        if count.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null count"));
        }
        let n = lock(&g).nodes.len();
        if nodes.is_null() {
            return put(count, n);
        }
        let n = n.min(*count);
        for k in 0..n {
            put(nodes.add(k), runtime().insert(Object::Node(Arc::clone(&g), k)))?;
        }
        put(count, n)
    }
    fn hipGraphNodeGetType(h: u64, kind: *mut i32) {
        let (g, k) = node(h)?;
        let w = lock(&g).nodes.get(k).map(|n| n.work.clone());
        put(kind, match w {
            Some(Work::Kernel(_)) => 0,
            Some(Work::Transfer(crate::runtime::copy::Transfer::Copy { .. })) => 1,
            Some(Work::Transfer(_)) => 2,
            Some(Work::Host(_)) => 3,
            _ => 5,
        })
    }
    fn hipGraphKernelNodeGetParams(h: u64, out: *mut KernelNodeParams) {
        let (g, k) = node(h)?;
        let nodes = lock(&g);
        let Some(Work::Kernel(l)) = nodes.nodes.get(k).map(|n| &n.work) else {
            return Err(Error::new(error::INVALID_VALUE, "not a kernel node"));
        };
        // The arguments were copied at capture; there is no array of pointers to give back.
        put(out, KernelNodeParams {
            block: l.block,
            extra: std::ptr::null(),
            function: 0,
            grid: l.grid,
            params: std::ptr::null(),
            lds: l.dynamic_lds,
        })
    }
    fn hipGraphExecKernelNodeSetParams(e: u64, h: u64, p: *const KernelNodeParams) {
        let (e, (_, k)) = (executable(e)?, node(h)?);
        if p.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null parameters"));
        }
        let p = p.read_unaligned();
        let f = function(p.function)?;
        let r = Request { grid: p.grid, block: p.block, dynamic_lds: p.lds, cooperative: false };
        let l = kernels::prepare(&f, &r, &super::launch::arguments(p.params, p.extra)?)?;
        let mut nodes = lock(&e.nodes);
        let mut new = nodes.to_vec();
        match new.get_mut(k) {
            Some(n) if matches!(n.work, Work::Kernel(_)) => n.work = Work::Kernel(l),
            _ => return Err(Error::new(error::INVALID_VALUE, "not a kernel node")),
        }
        *nodes = new.into();
        Ok(())
    }
}
