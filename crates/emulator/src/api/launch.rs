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
    let handle = f;
    let (f, s) = (function(f)?, runtime().stream(stream)?);
    if f.device != s.device {
        let what = format!("function of device {}, stream of device {}", f.device, s.device);
        return Err(Error::new(error::INVALID_HANDLE, &what));
    }
    // SAFETY: passed on from the caller.
    let l: Arc<Launch> = unsafe { kernels::prepare(&f, r, &arguments(params, extra)?)? };
    enqueue(&s, Work::Kernel(l, handle)).map(|_| ())
}

/// `HIP_LAUNCH_CONFIG`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DriverConfig {
    grid: [u32; 3],
    block: [u32; 3],
    lds: u32,
    stream: u64,
    attributes: *const Attribute,
    count: u32,
}

/// `hipLaunchConfig_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    lds: usize,
    stream: u64,
    attributes: *const Attribute,
    count: u32,
}

/// `hipLaunchAttribute`: a number, padding, and a value of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attribute {
    id: u32,
    _pad: u32,
    value: [i32; 16],
}

const _: () = assert!(size_of::<DriverConfig>() == 56 && size_of::<Config>() == 56);
const _: () = assert!(size_of::<Attribute>() == 72);

/// Whether the attributes ask for a cooperative launch; the other known ones are hints.
///
/// # Safety
/// `list` must have `count` entries.
unsafe fn cooperative(list: *const Attribute, count: u32) -> HipResult<bool> {
    let mut found = false;
    for k in 0..count as usize {
        if list.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null attributes"));
        }
        // SAFETY: not null, and the caller promises the length.
        let a = unsafe { list.add(k).read_unaligned() };
        match a.id {
            2 => found |= a.value[0] != 0,
            1 | 3 | 8..=10 => {}
            id => {
                let what = format!("launch attribute {id} is not modelled");
                return Err(Error::new(error::INVALID_VALUE, &what));
            }
        }
    }
    Ok(found)
}

hip! {
    fn hipDrvLaunchKernelEx(
        config: *const DriverConfig,
        f: u64,
        params: *const *const u8,
        extra: *const *const c_void,
    ) {
        if config.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null configuration"));
        }
        let c = config.read_unaligned();
        let cooperative = cooperative(c.attributes, c.count)?;
        let r = Request { grid: c.grid, block: c.block, dynamic_lds: c.lds, cooperative };
        launch(f, &r, c.stream, params, extra)
    }
    fn hipLaunchKernelExC(config: *const Config, f: u64, params: *const *const u8) {
        if config.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null configuration"));
        }
        let c = config.read_unaligned();
        let lds = u32::try_from(c.lds).map_err(|_| Error::new(error::INVALID_VALUE, "LDS size"))?;
        let cooperative = cooperative(c.attributes, c.count)?;
        let r = Request { grid: c.grid, block: c.block, dynamic_lds: lds, cooperative };
        // There are no fat binaries here, so the host symbol must be a function's handle.
        function(f).map_err(|_| {
            let what = "the kernel must be a hipFunction_t: host symbols are not registered here";
            Error::new(error::INVALID_DEVICE_FUNCTION, what)
        })?;
        launch(f, &r, c.stream, params, std::ptr::null())
    }
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
