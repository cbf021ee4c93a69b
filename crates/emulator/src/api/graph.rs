//! Graphs.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::module::function;
use super::{hip, put};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::graph::{self, Executable, alike};
use crate::runtime::kernels::{self, Request};
use crate::runtime::stream::{Op, Work};
use crate::runtime::{Object, capture, lock, runtime};
use crate::sched::Launch;

fn executable(h: u64) -> HipResult<Arc<Executable>> {
    match runtime().get(h)? {
        Object::Executable(e) => Ok(e),
        _ => Err(Error::new(error::INVALID_HANDLE, "handle is not an executable graph")),
    }
}

/// # Safety
/// `out` must be null or valid for writing.
unsafe fn instantiate(out: *mut u64, h: u64) -> HipResult<()> {
    let nodes = lock(&*runtime().graph(h)?).nodes.clone();
    let e = Executable::new(nodes)?;
    // SAFETY: passed on from the caller.
    unsafe { put(out, runtime().insert(Object::Executable(e.into()))) }
}

/// `hipKernelNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct KernelNodeParams {
    block: [u32; 3],
    extra: *const *const c_void,
    function: u64,
    grid: [u32; 3],
    params: *const *const u8,
    lds: u32,
}

const _: () = assert!(size_of::<KernelNodeParams>() == 64);

/// The launch that a node's parameters describe, and the function's handle.
///
/// # Safety
/// `p` must be null or valid, with arguments as for a launch.
pub(super) unsafe fn kernel(p: *const KernelNodeParams) -> HipResult<(Arc<Launch>, u64)> {
    if p.is_null() {
        return Err(Error::new(error::INVALID_VALUE, "null parameters"));
    }
    // SAFETY: not null, and the caller promises the rest.
    let p = unsafe { p.read_unaligned() };
    let f = function(p.function)?;
    let r = Request { grid: p.grid, block: p.block, dynamic_lds: p.lds, cooperative: false };
    // SAFETY: passed on from the caller.
    let l = unsafe { kernels::prepare(&f, &r, &super::launch::arguments(p.params, p.extra)?)? };
    Ok((l, p.function))
}

hip! {
    fn hipStreamEndCapture(stream: u64, out: *mut u64) {
        match capture::end(&runtime().stream(stream)?) {
            Ok(g) => put(out, g),
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
        graph::destroy(h)
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
        if capture::spoil_all() {
            eprintln!("emulator: hipGraphLaunch has spoilt the captures that are open");
        }
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
            put(nodes.add(k), graph::handle(&g, k))?;
        }
        put(count, n)
    }
    fn hipGraphNodeGetType(h: u64, kind: *mut i32) {
        let (g, k) = runtime().node(h)?;
        let w = lock(&g).nodes.get(k).map(|n| graph::kind(&n.work));
        put(kind, w.unwrap_or(5))
    }
    fn hipGraphKernelNodeGetParams(h: u64, out: *mut KernelNodeParams) {
        let (g, k) = runtime().node(h)?;
        let mut g = lock(&g);
        let Some(Work::Kernel(l, f)) = g.nodes.get(k).map(|n| n.work.clone()) else {
            return Err(Error::new(error::INVALID_VALUE, "not a kernel node"));
        };
        put(out, KernelNodeParams {
            block: l.block,
            extra: std::ptr::null(),
            function: f,
            grid: l.grid,
            params: g.arguments(k, &l),
            lds: l.dynamic_lds,
        })
    }
    fn hipGraphKernelNodeSetParams(h: u64, p: *const KernelNodeParams) {
        let (g, k) = runtime().node(h)?;
        let (l, f) = kernel(p)?;
        match lock(&g).nodes.get_mut(k) {
            Some(n) if matches!(n.work, Work::Kernel(..)) => n.work = Work::Kernel(l, f),
            _ => return Err(Error::new(error::INVALID_VALUE, "not a kernel node")),
        }
        Ok(())
    }
    fn hipGraphExecKernelNodeSetParams(e: u64, h: u64, p: *const KernelNodeParams) {
        let (e, (_, k)) = (executable(e)?, runtime().node(h)?);
        let (l, f) = kernel(p)?;
        let mut nodes = lock(&e.nodes);
        let mut new = nodes.to_vec();
        match new.get_mut(k) {
            Some(n) if matches!(n.work, Work::Kernel(..)) => n.work = Work::Kernel(l, f),
            _ => return Err(Error::new(error::INVALID_VALUE, "not a kernel node")),
        }
        *nodes = new.into();
        Ok(())
    }
    fn hipGraphDebugDotPrint(h: u64, path: *const c_char, _flags: u32) {
        let g = runtime().graph(h)?;
        let path = super::text(path)?;
        let mut dot = String::from("digraph {\n");
        for (k, n) in lock(&g).nodes.iter().enumerate() {
            let label = match &n.work {
                Work::Kernel(l, _) => l.kernel.name.clone(),
                Work::Transfer(_) => "copy or fill".into(),
                Work::Host(_) => "host".into(),
                Work::Collective(c) => format!("{:?}", c.kind),
                Work::Empty => "empty".into(),
            };
            dot += &format!("  n{k} [label=\"{k}: {label}\"];\n");
            n.after.iter().for_each(|a| dot += &format!("  n{a} -> n{k};\n"));
        }
        std::fs::write(&path, dot + "}\n")
            .map_err(|e| Error::new(error::INVALID_VALUE, &format!("{path}: {e}")))
    }
}
