//! A device and what belongs to it: memory, pinned host memory.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;
use crate::sys::{Collectives, DevicePtr, Driver, Handle, Platform, Special, rocm_release};

/// The oldest ROCm whose stream capture holds.
const OLDEST_ROCM: [c_uint; 3] = [7, 2, 2];
/// HIP's version in ROCm 7.2.1, for a library that came another way than the rest of ROCm. In those
/// before, a thread that asks for an event spoils what others record.
const OLDEST_HIP: c_int = 70_253_211;
/// The only GPU whose instructions the HIP kernels use.
const HIP_TARGET: &str = "gfx950";
/// `hipDeviceMallocUncached`.
const UNCACHED: u32 = 3;
/// "Peer access already enabled" in both runtimes.
const PEER_ENABLED: c_int = 704;
/// Compute capability that the CUDA kernels need, as `major * 10 + minor`.
const CUDA_TARGET: c_int = 90;

/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const CUDA_PROCESSORS: c_int = 16;

/// An opened runtime.
pub struct Runtime {
    pub(crate) platform: Platform,
    pub(crate) driver: Driver,
    pub(crate) special: Special,
    directory: Option<PathBuf>,
}

impl Runtime {
    /// Opens the platform's library, in `directory` or by the system's search rules, and
    /// initialises it.
    ///
    /// # Errors
    /// No library, a missing function, a runtime that is too old, or one that fails to start.
    pub fn open(platform: Platform, directory: Option<&Path>) -> Result<Arc<Runtime>, Error> {
        let driver = Driver::open(platform, directory)?;
        let special = Special::open(platform, &driver)?;
        let runtime =
            Runtime { platform, driver, special, directory: directory.map(Path::to_owned) };
        // SAFETY: initialising has no preconditions.
        runtime.check("starting the GPU runtime", unsafe { (runtime.driver.init)(0) })?;
        if platform == Platform::Hip {
            let mut version = 0;
            // SAFETY: `version` outlives the call.
            let code = unsafe { (runtime.driver.version)(&mut version) };
            runtime.check("asking for the runtime's version", code)?;
            let rocm = rocm_release(directory)?;
            if rocm < OLDEST_ROCM || version < OLDEST_HIP {
                let [hip, oldest_hip] = [version, OLDEST_HIP]
                    .map(|v| [v / 10_000_000, v / 100_000 % 100, v % 100_000].map(|n| n as c_uint));
                let dotted =
                    |[major, minor, patch]: [c_uint; 3]| format!("{major}.{minor}.{patch}");
                return Err(Error::Unfit(format!(
                    "ROCm is {} and its HIP runtime {}; ROCm {} or newer is needed, with a HIP \
                     runtime of {} or newer: stream capture breaks in older ones",
                    dotted(rocm),
                    dotted(hip),
                    dotted(OLDEST_ROCM),
                    dotted(oldest_hip)
                )));
            }
        }
        Ok(Arc::new(runtime))
    }

    /// Its platform.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// Opens the collectives' library.
    pub(crate) fn collectives(&self) -> Result<Collectives, Error> {
        Collectives::open(self.platform, self.directory.as_deref())
    }

    /// Number of devices.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn devices(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        let code = unsafe { (self.driver.device_count)(&mut count) };
        self.check("counting devices", code)?;
        Ok(count.max(0) as usize)
    }

    /// An error for every code but success.
    pub(crate) fn check(&self, call: &str, code: c_int) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let text = match &self.special {
            // SAFETY: the function takes any number.
            Special::Hip { error_name, .. } => unsafe { error_name(code) },
            Special::Cuda { error_name, .. } => {
                let mut text = std::ptr::null();
                // SAFETY: `text` outlives the call; on failure it stays null.
                unsafe { error_name(code, &mut text) };
                text
            }
        };
        let name = match text.is_null() {
            true => "unknown error".to_owned(),
            // SAFETY: a static string of the runtime.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Err(Error::Call { call: call.to_owned(), name, code })
    }
}

/// One GPU, made current for the calling thread when it is opened. Use it on that thread.
#[derive(Clone)]
pub struct Device {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) ordinal: c_int,
    context: Context,
}

#[derive(Clone, Copy)]
struct Context(Handle);

// SAFETY: a context handle may be used from any thread; `bind` makes it current where needed.
unsafe impl Send for Context {}
// SAFETY: as above; it is only passed to the runtime, by value.
unsafe impl Sync for Context {}

impl Device {
    /// Opens device `ordinal` and refuses one that our kernels do not run on.
    ///
    /// # Errors
    /// No such device, or a GPU of another kind (found and needed are named).
    pub fn open(runtime: &Arc<Runtime>, ordinal: usize) -> Result<Device, Error> {
        let count = runtime.devices()?;
        if ordinal >= count {
            return Err(Error::Unfit(format!(
                "device {ordinal} is needed, but there are only {count}"
            )));
        }
        let ordinal = ordinal as c_int;
        let context = match &runtime.special {
            Special::Hip { .. } => Context(std::ptr::null_mut()),
            Special::Cuda { retain_context, .. } => {
                let mut context = std::ptr::null_mut();
                // SAFETY: `context` outlives the call; the device exists.
                let code = unsafe { retain_context(&mut context, ordinal) };
                runtime.check("opening the device", code)?;
                Context(context)
            }
        };
        let device = Device { runtime: Arc::clone(runtime), ordinal, context };
        device.bind()?;
        device.check_target()?;
        Ok(device)
    }

    /// Makes the device current for the calling thread.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn bind(&self) -> Result<(), Error> {
        // SAFETY: the device exists, the context was retained at `open` and is never released.
        let code = unsafe {
            match &self.runtime.special {
                Special::Hip { set_device, .. } => set_device(self.ordinal),
                Special::Cuda { set_context, .. } => set_context(self.context.0),
            }
        };
        self.check("selecting the device", code)
    }

    pub(crate) fn check(&self, call: &str, code: c_int) -> Result<(), Error> {
        self.runtime.check(call, code).map_err(|error| match error {
            Error::Call { call, name, code } => {
                Error::Call { call: format!("device {}: {call}", self.ordinal), name, code }
            }
            other => other,
        })
    }

    fn check_target(&self) -> Result<(), Error> {
        let found = self.target()?;
        let (fits, needed) = match self.runtime.platform {
            Platform::Hip => (found == HIP_TARGET, HIP_TARGET.to_owned()),
            Platform::Cuda => (found == format!("sm_{CUDA_TARGET}"), format!("sm_{CUDA_TARGET}")),
        };
        match fits {
            true => Ok(()),
            false => Err(Error::Unfit(format!(
                "device {} is a {} ({found}); the kernels are made for {needed}",
                self.ordinal,
                self.name()?
            ))),
        }
    }

    /// The instruction set: `gfx950`, `sm_90`.
    fn target(&self) -> Result<String, Error> {
        match &self.runtime.special {
            Special::Hip { properties, .. } => {
                // hipDeviceProp_tR0600: 1,472 bytes, gcnArchName at 1,160 (256 bytes).
                let mut bytes = [0u8; 4096];
                // SAFETY: the buffer is larger than the struct of any HIP 6 or 7.
                let code = unsafe { properties(bytes.as_mut_ptr().cast(), self.ordinal) };
                self.check("asking for the device's properties", code)?;
                let name: Vec<u8> =
                    bytes[1160..1416].iter().copied().take_while(|&byte| byte != 0).collect();
                let name = String::from_utf8_lossy(&name).into_owned();
                Ok(name.split(':').next().unwrap_or_default().to_owned())
            }
            // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
            Special::Cuda { .. } => {
                Ok(format!("sm_{}{}", self.attribute(75)?, self.attribute(76)?))
            }
        }
    }

    fn attribute(&self, number: c_int) -> Result<c_int, Error> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        let code =
            unsafe { (self.runtime.driver.device_attribute)(&mut value, number, self.ordinal) };
        self.check("asking for an attribute", code)?;
        Ok(value)
    }

    /// The product's name.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn name(&self) -> Result<String, Error> {
        let mut text = [0 as c_char; 256];
        // SAFETY: the buffer has the length that is passed.
        let code =
            unsafe { (self.runtime.driver.device_name)(text.as_mut_ptr(), 256, self.ordinal) };
        self.check("asking for the device's name", code)?;
        let bytes: Vec<u8> = text.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The device's platform.
    pub fn platform(&self) -> Platform {
        self.runtime.platform
    }

    /// Whether it is the emulator, whose times mean nothing.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn is_emulated(&self) -> Result<bool, Error> {
        Ok(self.name()?.ends_with("(emulated)"))
    }

    /// How many processors an NVIDIA GPU has.
    ///
    /// # Errors
    /// The runtime's failure.
    pub(crate) fn cuda_processors(&self) -> Result<usize, Error> {
        Ok(self.attribute(CUDA_PROCESSORS)? as usize)
    }

    /// Threads in a wave of our kernels.
    pub(crate) fn wave(&self) -> usize {
        match self.runtime.platform {
            Platform::Hip => 64,
            Platform::Cuda => 32,
        }
    }

    /// Free and total bytes of the device's memory.
    ///
    /// # Errors
    /// The runtime's failure.
    pub fn memory(&self) -> Result<(usize, usize), Error> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        let code = unsafe { (self.runtime.driver.memory_info)(&mut free, &mut total) };
        self.check("asking for free memory", code)?;
        Ok((free, total))
    }

    /// Refuses a `peer` whose memory this device cannot reach.
    ///
    /// # Errors
    /// Devices without a path between them, or the runtime's failure.
    pub fn check_peer(&self, peer: &Device) -> Result<(), Error> {
        let mut can = 0;
        // SAFETY: `can` outlives the call.
        let code =
            unsafe { (self.runtime.driver.can_access_peer)(&mut can, self.ordinal, peer.ordinal) };
        self.check("asking for peer access", code)?;
        match can {
            0 => Err(Error::Unfit(format!(
                "device {} cannot reach the memory of device {}, which tensor parallelism needs",
                self.ordinal, peer.ordinal
            ))),
            _ => Ok(()),
        }
    }

    /// Lets this device's kernels, from now on, reach the memory of `peer`.
    ///
    /// # Errors
    /// Devices without a path between them.
    pub(crate) fn reach(&self, peer: &Device) -> Result<(), Error> {
        self.bind()?;
        // SAFETY: this device is current, and both stay open.
        let code = unsafe {
            match &self.runtime.special {
                Special::Hip { enable_peer, .. } => enable_peer(peer.ordinal, 0),
                Special::Cuda { enable_peer, .. } => enable_peer(peer.context.0, 0),
            }
        };
        match code {
            PEER_ENABLED => {
                // RCCL has done it, and would take this for the failure of a launch of its own.
                if let Special::Hip { last_error, .. } = &self.runtime.special {
                    // SAFETY: it has no preconditions.
                    unsafe { last_error() };
                }
                Ok(())
            }
            code => self.check(&format!("reaching the memory of device {}", peer.ordinal), code),
        }
    }

    /// Takes device memory. Its contents are undefined.
    ///
    /// # Errors
    /// Too little memory; says how much was wanted and is free.
    pub fn allocate(&self, bytes: usize) -> Result<Memory, Error> {
        let mut ptr = 0;
        // Runtimes refuse or return null for nothing.
        let taken = bytes.max(16);
        // SAFETY: `ptr` outlives the call.
        let code = unsafe { (self.runtime.driver.allocate)(&mut ptr, taken) };
        if code != 0 {
            let (free, _) = self.memory()?;
            self.check(&format!("taking {bytes} bytes of memory, of {free} free"), code)?;
        }
        Ok(Memory(Arc::new(Block { device: self.clone(), ptr, bytes })))
    }

    /// The same, of memory that other devices see at once what is written to.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn allocate_uncached(&self, bytes: usize) -> Result<Memory, Error> {
        let Special::Hip { allocate_with, .. } = &self.runtime.special else {
            return self.allocate(bytes); // CUDA keeps no remote memory in its caches
        };
        let mut ptr = 0;
        // SAFETY: `ptr` outlives the call.
        let code = unsafe { allocate_with(&mut ptr, bytes.max(16), UNCACHED) };
        self.check(&format!("taking {bytes} bytes of uncached memory"), code)?;
        Ok(Memory(Arc::new(Block { device: self.clone(), ptr, bytes })))
    }

    /// Takes pinned host memory, zeroed.
    ///
    /// # Errors
    /// Too little memory.
    pub fn allocate_pinned(&self, bytes: usize) -> Result<Pinned, Error> {
        let mut ptr = std::ptr::null_mut();
        // SAFETY: `ptr` outlives the call.
        let code = unsafe { (self.runtime.driver.allocate_pinned)(&mut ptr, bytes.max(16), 0) };
        self.check(&format!("pinning {bytes} bytes of host memory"), code)?;
        // SAFETY: the block has that many bytes and nobody else knows it.
        unsafe { ptr.cast::<u8>().write_bytes(0, bytes.max(16)) };
        Ok(Pinned { device: self.clone(), ptr, bytes })
    }
}

/// Device memory, given back when dropped (the runtime waits for work that uses it), unless other
/// ranks have been told where it is: then when these can no longer use it.
pub struct Memory(Arc<Block>);

/// What [`Memory`] owns.
pub(crate) struct Block {
    device: Device,
    ptr: DevicePtr,
    bytes: usize,
}

impl Memory {
    /// Its address on the device.
    pub fn ptr(&self) -> u64 {
        self.0.ptr
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Keeps it from being given back.
    pub(crate) fn keep(&self) -> Arc<Block> {
        Arc::clone(&self.0)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the address came from `allocate` and is given back once. A device that has
        // failed cannot free; nothing is left to do then.
        unsafe { (self.device.runtime.driver.free)(self.ptr) };
    }
}

/// Pinned host memory that the device copies from and to.
pub struct Pinned {
    device: Device,
    ptr: *mut c_void,
    bytes: usize,
}

impl Pinned {
    /// Its bytes. No copy from or to it may be under way.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the block lives as long as `self` and was zeroed when it was made.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.bytes) }
    }

    /// Its bytes, to be written. No copy from or to it may be under way.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as `as_slice`; `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.bytes) }
    }
}

impl Pinned {
    /// Sets the first word, which kernels may be looking at.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn post(&self, word: u32) {
        assert!(self.bytes >= 4);
        // SAFETY: the block has a word, is aligned to pages and lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.ptr.cast()) }.store(word, Ordering::Release);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the block came from `allocate_pinned` and is given back once.
        unsafe { (self.device.runtime.driver.free_pinned)(self.ptr) };
    }
}
