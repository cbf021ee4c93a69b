//! Initialisation, versions, devices, errors.

use std::ffi::{c_char, c_void};

use super::{hip, put, put_text};
use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::{capture, current_device, kernels, runtime, set_device};

/// The version these functions follow: that of ROCm 7.2.1.
const VERSION: i32 = 7 * 10_000_000 + 2 * 100_000 + 53_211;
const NAME: &str = "AMD Instinct MI355X (emulated)";
const ARCH: &str = "gfx950:sramecc+:xnack-";
/// Size of `hipDeviceProp_tR0600`.
const PROPERTIES: usize = 1472;

/// Value of `hipDeviceAttribute_t`, those of an MI355X.
fn attribute(which: i32, device: usize) -> HipResult<i32> {
    Ok(match which {
        5 => 2_400_000,
        10 | 24 | 88 | 90 => 1,
        19 => 4 << 20,
        23 => 9,
        26..=28 | 56 => 1024,
        29 => i32::MAX,
        30 | 31 => 65_535,
        57 => 2048,
        59 => 8192,
        60 => 2_000_000,
        61 => 5,
        63 | 10_015 => 256,
        67 => device as i32 + 1,
        68 | 69 => 0,
        74 => 65_536,
        71 => 131_072,
        75 | 10_002 => kernels::LDS_LIMIT as i32,
        82 => 4096,
        87 => 64,
        89 => 0,
        10_016 => 1,
        10_017 => 100_000,
        10_018 => 8,
        _ => {
            let what = format!("device attribute {which} is not modelled");
            return Err(Error::new(error::INVALID_VALUE, &what));
        }
    })
}

/// `librocm-core`'s only function here: ROCm 7.2.2.
///
/// # Safety
/// Three places for numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn getROCmVersion(major: *mut u32, minor: *mut u32, patch: *mut u32) -> u32 {
    // SAFETY: the caller has them.
    unsafe { (*major, *minor, *patch) = (7, 2, 2) };
    0
}

hip! {
    fn hipInit(flags: u32) {
        if flags != 0 {
            return Err(Error::new(error::INVALID_VALUE, "flags must be zero"));
        }
        runtime();
        Ok(())
    }
    fn hipDriverGetVersion(v: *mut i32) { put(v, VERSION) }
    fn hipRuntimeGetVersion(v: *mut i32) { put(v, VERSION) }
    fn hipGetDeviceCount(n: *mut i32) { put(n, runtime().devices.len() as i32) }
    fn hipSetDevice(d: i32) { set_device(d) }
    fn hipGetDevice(d: *mut i32) { put(d, current_device() as i32) }
    fn hipDeviceGet(d: *mut i32, ordinal: i32) {
        runtime().device_index(ordinal)?;
        put(d, ordinal)
    }
    fn hipDeviceGetName(name: *mut c_char, len: i32, d: i32) {
        runtime().device_index(d)?;
        put_text(name, len, NAME)
    }
    fn hipDeviceGetAttribute(out: *mut i32, which: i32, d: i32) {
        let d = runtime().device_index(d)?;
        put(out, attribute(which, d)?)
    }
    fn hipDeviceTotalMem(bytes: *mut usize, d: i32) {
        let d = runtime().device_index(d)?;
        put(bytes, runtime().memory.usage(d).1 as usize)
    }
    fn hipDeviceGetPCIBusId(id: *mut c_char, len: i32, d: i32) {
        let d = runtime().device_index(d)?;
        put_text(id, len, &format!("0000:{:02x}:00.0", d + 1))
    }
    fn hipDeviceGetUuid(uuid: *mut [u8; 16], d: i32) {
        let d = runtime().device_index(d)?;
        let mut id = *b"emulated-gfx950\0";
        id[15] = b'0' + d as u8;
        put(uuid, id)
    }
    fn hipGetDevicePropertiesR0600(p: *mut u8, d: i32) {
        let d = runtime().device_index(d)?;
        if p.is_null() {
            return Err(Error::new(error::INVALID_VALUE, "null properties"));
        }
        std::ptr::copy_nonoverlapping(properties(d).as_ptr(), p, PROPERTIES);
        Ok(())
    }
    fn hipDeviceSynchronize() {
        capture::forbid_blocking("hipDeviceSynchronize", error::CAPTURE_UNSUPPORTED)?;
        runtime().synchronize(current_device())
    }
    fn hipDeviceReset() {
        capture::forbid_blocking("hipDeviceReset", error::CAPTURE_UNSUPPORTED)?;
        // Allocations and modules stay; pending work is waited for.
        runtime().synchronize(current_device())
    }
    fn hipDeviceCanAccessPeer(can: *mut i32, d: i32, peer: i32) {
        let (a, b) = (runtime().device_index(d)?, runtime().device_index(peer)?);
        put(can, i32::from(a != b))
    }
    fn hipDeviceEnablePeerAccess(peer: i32, flags: u32) {
        let (me, peer) = (current_device(), runtime().device_index(peer)?);
        if flags != 0 || me == peer {
            return Err(Error::new(error::INVALID_VALUE, "flags, or access to the device itself"));
        }
        if !runtime().memory.set_peer(me, peer, true) {
            return Err(Error::quiet(error::PEER_ENABLED));
        }
        Ok(())
    }
    fn hipDeviceDisablePeerAccess(peer: i32) {
        let (me, peer) = (current_device(), runtime().device_index(peer)?);
        if !runtime().memory.set_peer(me, peer, false) {
            return Err(Error::new(error::PEER_NOT_ENABLED, "it was not enabled"));
        }
        Ok(())
    }
    fn hipDeviceGetP2PAttribute(value: *mut i32, which: i32, a: i32, b: i32) {
        let (a, b) = (runtime().device_index(a)?, runtime().device_index(b)?);
        if a == b {
            return Err(Error::new(error::PEER_UNSUPPORTED, "both devices are the same"));
        }
        // Performance rank, access, native atomics, array access.
        put(value, i32::from(matches!(which, 1 | 2)))
    }
    fn hipDeviceGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) {
        put(least, 1)?;
        put(greatest, -1)
    }
    fn hipDeviceGraphMemTrim(d: i32) { runtime().device_index(d).map(|_| ()) }
    fn hipGetProcAddress(
        name: *const c_char,
        out: *mut *mut c_void,
        _version: i32,
        _flags: u64,
        status: *mut i32,
    ) {
        let mut name = super::text(name)?;
        if name == "hipGetDeviceProperties" {
            name.push_str("R0600");
        }
        let p = symbol(&name);
        if !status.is_null() {
            put(status, i32::from(p.is_null()))?;
        }
        if p.is_null() {
            return Err(Error::new(error::NOT_FOUND, &format!("no function {name}")));
        }
        put(out, p)
    }
}

/// The address of one of our own symbols.
fn symbol(name: &str) -> *mut c_void {
    let Ok(c) = std::ffi::CString::new(name) else { return std::ptr::null_mut() };
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here = symbol as *const c_void;
    // SAFETY: `info` is ours; the names it gets are those of a loaded library; the library is
    // loaded already, so `dlopen` only counts a reference.
    unsafe {
        if libc::dladdr(here, &mut info) == 0 {
            return std::ptr::null_mut();
        }
        let lib = libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if lib.is_null() {
            return std::ptr::null_mut();
        }
        libc::dlsym(lib, c.as_ptr())
    }
}

/// `hipDeviceProp_tR0600`, the fields with known places.
fn properties(device: usize) -> Vec<u8> {
    let mut p = vec![0u8; PROPERTIES];
    let mut text = |at: usize, s: &str| p[at..at + s.len()].copy_from_slice(s.as_bytes());
    text(0, NAME);
    text(1160, ARCH);
    let wide = [
        (288, runtime().memory.usage(device).1),
        (296, 65_536),
        (696, u64::from(kernels::LDS_LIMIT)),
        (1416, u64::from(kernels::LDS_LIMIT)),
    ];
    for (at, x) in wide {
        p[at..at + 8].copy_from_slice(&x.to_le_bytes());
    }
    let narrow: [(usize, i32); 12] = [
        (304, 131_072),
        (308, 64),
        (320, 1024),
        (348, 2_400_000),
        (388, 256),
        (584, device as i32 + 1),
        (588, 0),
        (592, 0),
        (608, 2_000_000),
        (612, 8192),
        (616, 4 << 20),
        (624, 2048),
    ];
    for (at, x) in narrow {
        p[at..at + 4].copy_from_slice(&x.to_le_bytes());
    }
    p
}

#[unsafe(no_mangle)]
extern "C" fn hipGetLastError() -> i32 {
    match crate::runtime::last_error(true) {
        0 => runtime().check(current_device()).map_or_else(|e| e.code, |()| 0),
        e => e,
    }
}

#[unsafe(no_mangle)]
extern "C" fn hipPeekAtLastError() -> i32 {
    match crate::runtime::last_error(false) {
        0 => runtime().check(current_device()).map_or_else(|e| e.code, |()| 0),
        e => e,
    }
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorName(code: i32) -> *const c_char {
    error::text(code, true).as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn hipGetErrorString(code: i32) -> *const c_char {
    error::text(code, false).as_ptr().cast()
}
