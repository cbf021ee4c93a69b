//! Modules, functions, globals.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{hip, put, text};
use crate::elf;
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::kernels::{self, Function, LoadedModule};
use crate::runtime::{Object, capture, lock, runtime};

fn module(h: u64) -> HipResult<Arc<LoadedModule>> {
    match runtime().get(h)? {
        Object::Module(m) => Ok(m),
        _ => Err(Error::new(error::INVALID_HANDLE, "handle is not a module")),
    }
}

/// The function behind a handle.
pub(super) fn function(h: u64) -> HipResult<Arc<Function>> {
    match runtime().get(h)? {
        Object::Function(f) => Ok(f),
        _ => Err(Error::new(error::INVALID_HANDLE, "handle is not a function")),
    }
}

/// # Safety
/// `image` must be null or a complete code object.
unsafe fn load_data(out: *mut u64, image: *const u8) -> HipResult<()> {
    capture::forbid_unsafe("hipModuleLoadData")?;
    if image.is_null() {
        return Err(Error::new(error::INVALID_VALUE, "null image"));
    }
    // SAFETY: passed on from the caller.
    let size = unsafe { elf::size_of_image(image) };
    let size = size.map_err(|e| Error::new(error::INVALID_IMAGE, &e.to_string()))?;
    // SAFETY: the image says that it is this long.
    let bytes = unsafe { std::slice::from_raw_parts(image, size) };
    put_module(out, bytes)
}

fn put_module(out: *mut u64, bytes: &[u8]) -> HipResult<()> {
    let m = kernels::load(bytes)?;
    // SAFETY: the C caller's result pointer.
    unsafe { put(out, runtime().insert(Object::Module(m))) }
}

hip! {
    fn hipModuleLoad(out: *mut u64, path: *const c_char) {
        capture::forbid_unsafe("hipModuleLoad")?;
        let path = text(path)?;
        let bytes = std::fs::read(&path)
            .map_err(|e| Error::new(error::FILE_NOT_FOUND, &format!("{path}: {e}")))?;
        put_module(out, &bytes)
    }
    fn hipModuleLoadData(out: *mut u64, image: *const u8) { load_data(out, image) }
    fn hipModuleLoadDataEx(
        out: *mut u64,
        image: *const u8,
        _n: u32,
        _options: *mut c_void,
        _values: *mut c_void,
    ) {
        load_data(out, image)
    }
    fn hipModuleUnload(h: u64) {
        let m = module(h)?;
        capture::forbid_unsafe("hipModuleUnload")?;
        runtime().streams(m.device).iter().for_each(|s| s.synchronize());
        runtime().remove(h)?;
        for f in lock(&m.functions).drain(..) {
            runtime().remove(f)?;
        }
        runtime().memory.free(m.module.memory.base);
        Ok(())
    }
    fn hipModuleGetFunction(out: *mut u64, h: u64, name: *const c_char) {
        let (m, name) = (module(h)?, text(name)?);
        let kernel = m.module.kernels.get(&name).cloned().ok_or_else(|| {
            Error::new(error::NOT_FOUND, &format!("the module has no kernel {name}"))
        })?;
        let f = Function { kernel, device: m.device, dynamic_lds: AtomicU32::new(0) };
        let f = runtime().insert(Object::Function(f.into()));
        lock(&m.functions).push(f);
        put(out, f)
    }
    fn hipModuleGetGlobal(p: *mut u64, bytes: *mut usize, h: u64, name: *const c_char) {
        let (m, name) = (module(h)?, text(name)?);
        let (addr, size) = m.module.globals.get(&name).copied().ok_or_else(|| {
            Error::new(error::NOT_FOUND, &format!("the module has no variable {name}"))
        })?;
        if !p.is_null() {
            put(p, addr)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, size as usize) }
    }
    fn hipFuncGetAttribute(value: *mut i32, which: i32, f: u64) {
        put(value, kernels::attribute(&*function(f)?, which)?)
    }
    fn hipFuncSetAttribute(f: u64, which: i32, value: i32) {
        let f = function(f)?;
        let limit = kernels::LDS_LIMIT.saturating_sub(f.kernel.desc.lds);
        match (which, u32::try_from(value)) {
            (8, Ok(v)) if v <= limit => {
                f.dynamic_lds.store(v, Ordering::Relaxed);
                Ok(())
            }
            (9, _) => Ok(()),
            _ => Err(Error::new(error::INVALID_VALUE, &format!("attribute {which} = {value}"))),
        }
    }
    fn hipModuleOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut i32,
        f: u64,
        threads: i32,
        lds: usize,
    ) {
        let f = function(f)?;
        let (Ok(threads @ 1..), Ok(lds)) = (u32::try_from(threads), u32::try_from(lds)) else {
            return Err(Error::new(error::INVALID_VALUE, "block size or LDS"));
        };
        put(blocks, kernels::occupancy(&f.kernel, threads, lds.min(1 << 24)) as i32)
    }
}
