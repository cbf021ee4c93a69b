//! Kernel launches.

use std::ffi::c_void;
use std::sync::Arc;

use super::hip;
use super::module::function;
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::kernels::{self, Arguments, Request};
use crate::runtime::runtime;
use crate::runtime::stream::{Work, enqueue};
use crate::sched::Launch;

/// The arguments given through `kernelParams` or `extra`.
///
/// # Safety
/// As for the launch functions: `extra` ends with `HIP_LAUNCH_PARAM_END`.
pub(super) unsafe fn arguments(
    params: *const *const u8,
    extra: *const *const c_void,
) -> HipResult<Arguments> {
    if !params.is_null() {
        return Ok(Arguments::Pointers(params));
    }
    if extra.is_null() {
        return Ok(Arguments::Nothing);
    }
    let (mut buffer, mut size) = (std::ptr::null(), None);
    for k in 0..8 {
        // SAFETY: the list ends with 3.
        let (tag, value) = unsafe { (*extra.add(2 * k) as usize, extra.add(2 * k + 1)) };
        match tag {
            // SAFETY: a tag is followed by its value.
            1 => buffer = unsafe { (*value).cast::<u8>() },
            // SAFETY: the value is a pointer to the size.
            2 => size = Some(unsafe { (*value).cast::<usize>() }),
            3 => break,
            _ => return Err(Error::new(error::INVALID_VALUE, "unknown entry in `extra`")),
        }
    }
    match size {
        Some(n) if !buffer.is_null() && !n.is_null() => {
            // SAFETY: the caller's buffer has the size given with it.
            let bytes = unsafe { std::slice::from_raw_parts(buffer, n.read_unaligned()) };
            Ok(Arguments::Packed(bytes.to_vec()))
        }
        _ => Err(Error::new(error::INVALID_VALUE, "`extra` without buffer or size")),
    }
}

/// # Safety
/// As for [`kernels::prepare`].
unsafe fn launch(
    f: u64,
    r: &Request,
    stream: u64,
    params: *const *const u8,
    extra: *const *const c_void,
) -> HipResult<()> {
    let (f, s) = (function(f)?, runtime().stream(stream)?);
    if f.device != s.device {
        let what = format!("function of device {}, stream of device {}", f.device, s.device);
        return Err(Error::new(error::INVALID_HANDLE, &what));
    }
    // SAFETY: passed on from the caller.
    let l: Arc<Launch> = unsafe { kernels::prepare(&f, r, &arguments(params, extra)?)? };
    enqueue(&s, Work::Kernel(l)).map(|_| ())
}

hip! {
    fn hipModuleLaunchKernel(
        f: u64,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        lds: u32,
        stream: u64,
        params: *const *const u8,
        extra: *const *const c_void,
    ) {
        let (grid, block) = ([gx, gy, gz], [bx, by, bz]);
        let r = Request { grid, block, dynamic_lds: lds, cooperative: false };
        launch(f, &r, stream, params, extra)
    }
    fn hipModuleLaunchCooperativeKernel(
        f: u64,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        lds: u32,
        stream: u64,
        params: *const *const u8,
    ) {
        let (grid, block) = ([gx, gy, gz], [bx, by, bz]);
        let r = Request { grid, block, dynamic_lds: lds, cooperative: true };
        launch(f, &r, stream, params, std::ptr::null())
    }
    fn hipExtModuleLaunchKernel(
        f: u64,
        tx: u32,
        ty: u32,
        tz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        lds: usize,
        stream: u64,
        params: *const *const u8,
        extra: *const *const c_void,
        start: u64,
        stop: u64,
        _flags: u32,
    ) {
        let (threads, block) = ([tx, ty, tz], [bx, by, bz]);
        // The size is in threads here; partial workgroups are not modelled.
        let mut grid = [0; 3];
        for d in 0..3 {
            if block[d] == 0 || threads[d] % block[d] != 0 {
                return Err(Error::new(error::NOT_SUPPORTED, "threads not a multiple of the block"));
            }
            grid[d] = threads[d] / block[d];
        }
        let s = runtime().stream(stream)?;
        if start != 0 {
            crate::runtime::capture::record(&s, &*runtime().event(start)?)?;
        }
        let lds = u32::try_from(lds)
            .map_err(|_| Error::new(error::INVALID_VALUE, "LDS size"))?;
        let r = Request { grid, block, dynamic_lds: lds, cooperative: false };
        launch(f, &r, stream, params, extra)?;
        if stop != 0 {
            crate::runtime::capture::record(&s, &*runtime().event(stop)?)?;
        }
        Ok(())
    }
}
