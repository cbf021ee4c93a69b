//! The C symbols. Every function checks its pointers, reports what is wrong on stderr, and returns
//! a HIP (or NCCL) code; nothing unwinds into the caller.

mod device;
mod graph;
mod graph_nodes;
mod launch;
mod memory;
mod module;
mod nccl;
mod stream;

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::runtime::error::{self, Error, HipResult};
use crate::runtime::note_error;

/// Runs a call's body and turns its result into a code.
fn guard(name: &str, body: impl FnOnce() -> HipResult<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Error::new(error::UNKNOWN, "internal error in the emulator")));
    match result {
        Ok(()) => 0,
        Err(e) => {
            if let Some(what) = &e.what {
                eprintln!("emulator: {name}: {what}");
            }
            note_error(e.code);
            e.code
        }
    }
}

/// Writes a result through a pointer.
///
/// # Safety
/// `p` must be null or valid for writing.
unsafe fn put<T>(p: *mut T, value: T) -> HipResult<()> {
    if p.is_null() {
        return Err(Error::new(error::INVALID_VALUE, "null pointer for a result"));
    }
    // SAFETY: not null, and the caller promises the rest.
    unsafe { p.write_unaligned(value) };
    Ok(())
}

/// An array of handles.
///
/// # Safety
/// `p` must have `count` entries, or be null.
unsafe fn list(p: *const u64, count: usize) -> HipResult<Vec<u64>> {
    if p.is_null() && count > 0 {
        return Err(Error::new(error::INVALID_VALUE, "null array"));
    }
    // SAFETY: the caller promises the length.
    Ok((0..count).map(|k| unsafe { p.add(k).read_unaligned() }).collect())
}

/// A C string as UTF-8.
///
/// # Safety
/// `p` must be null or a NUL-terminated string.
unsafe fn text(p: *const c_char) -> HipResult<String> {
    if p.is_null() {
        return Err(Error::new(error::INVALID_VALUE, "null pointer for a name"));
    }
    // SAFETY: not null, and the caller promises the rest.
    Ok(unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned())
}

/// Copies text into a C buffer of `len` bytes.
///
/// # Safety
/// `p` must be null or valid for `len` bytes.
unsafe fn put_text(p: *mut c_char, len: i32, s: &str) -> HipResult<()> {
    let room = usize::try_from(len).unwrap_or(0);
    if p.is_null() || room == 0 {
        return Err(Error::new(error::INVALID_VALUE, "no room for a name"));
    }
    let n = s.len().min(room - 1);
    // SAFETY: `n + 1` bytes fit.
    unsafe {
        std::ptr::copy_nonoverlapping(s.as_ptr().cast(), p, n);
        p.add(n).write(0);
    }
    Ok(())
}

/// Defines C functions that return a HIP code.
macro_rules! hip {
    ($(fn $name:ident($($a:ident: $t:ty),* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe, reason = "not every body touches a pointer")]
            unsafe extern "C" fn $name($($a: $t),*) -> i32 {
                // SAFETY: the C caller keeps the documented contract of the function.
                $crate::api::guard(stringify!($name), || unsafe { $body })
            }
        )*
    };
}
use hip;
