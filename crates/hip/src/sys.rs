//! The runtime's functions, found by name when a library is opened.
//!
//! [`Driver`] is one table with two sets of names: AMD's HIP runtime and, for development on
//! NVIDIA GPUs, the CUDA driver. Both have these functions with the same parameters; where they
//! differ, [`Special`] has each one's own. [`Collectives`] is RCCL's or NCCL's table.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::Error;
use crate::tensor_map::TensorMap;

/// An opaque object of the runtime.
pub(crate) type Handle = *mut c_void;
/// An address in device memory.
pub(crate) type DevicePtr = u64;

/// Which runtime a table belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// AMD's HIP runtime (or the emulator in its place).
    Hip,
    /// NVIDIA's CUDA driver: the development target.
    Cuda,
}

impl Platform {
    /// File names of the runtime, the preferred first.
    fn driver_names(self) -> &'static [&'static str] {
        match self {
            Platform::Hip => &["libamdhip64.so.7", "libamdhip64.so"],
            Platform::Cuda => &["libcuda.so.1"],
        }
    }

    /// File names of the collectives' library.
    fn collectives_names(self) -> &'static [&'static str] {
        match self {
            Platform::Hip => &["librccl.so.1", "librccl.so"],
            Platform::Cuda => &["libnccl.so.2"],
        }
    }
}

/// Opens the first of `names` that is there: in `directory`, else where the system looks.
pub(crate) fn open(names: &[&str], directory: Option<&Path>) -> Result<Library, Error> {
    let mut reason = String::new();
    for name in names {
        let path = directory.map_or(PathBuf::from(name), |directory| directory.join(name));
        // SAFETY: the runtimes' initialisers have no preconditions; a file of this name that is
        // something else is the operator's to keep away.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok(library),
            Err(error) => reason = explain(&error),
        }
    }
    Err(Error::Library { names: names.join(" or "), reason })
}

/// ROCm's release (major, minor, patch), as `librocm-core` says, on which AMD's packages of the HIP
/// runtime depend: the runtime's own version has another count of patches.
///
/// # Errors
/// No library, no function, or one that does not know.
pub(crate) fn rocm_release(directory: Option<&Path>) -> Result<[c_uint; 3], Error> {
    type GetVersion = unsafe extern "C" fn(*mut c_uint, *mut c_uint, *mut c_uint) -> c_uint;
    let library = open(&["librocm-core.so.1", "librocm-core.so"], directory)?;
    // SAFETY: the signature is that of rocm_version.h.
    let get_version: GetVersion = unsafe { symbol(&library, "getROCmVersion")? };
    let [mut major, mut minor, mut patch] = [0; 3];
    // SAFETY: the numbers outlive the call, the library is open.
    match unsafe { get_version(&mut major, &mut minor, &mut patch) } {
        0 => Ok([major, minor, patch]),
        code => Err(Error::Unfit(format!(
            "librocm-core does not know ROCm's release (code {code}), and 7.2.2 or newer is needed"
        ))),
    }
}

/// The loader's own words.
fn explain(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Declares a table: field, HIP's name, CUDA's name, parameters.
macro_rules! table {
    (
        $(#[$doc:meta])* $table:ident from $names:ident;
        $($field:ident = $hip:literal | $cuda:literal ($($parameter:ty),*);)*
    ) => {
        $(#[$doc])*
        pub(crate) struct $table {
            $(pub(crate) $field: unsafe extern "C" fn($($parameter),*) -> c_int,)*
            // It keeps the functions where they are, and is never closed: threads that used it end
            // later, and then call what it has registered for their end.
            _library: ManuallyDrop<Library>,
        }

        impl $table {
            /// Opens the platform's library and finds every function.
            pub(crate) fn open(
                platform: Platform,
                directory: Option<&Path>,
            ) -> Result<$table, Error> {
                let library = open(platform.$names(), directory)?;
                Ok($table {
                    $($field: {
                        let name = match platform {
                            Platform::Hip => $hip,
                            Platform::Cuda => $cuda,
                        };
                        // SAFETY: the signature is that of the library's public header.
                        unsafe { symbol(&library, name)? }
                    },)*
                    _library: ManuallyDrop::new(library),
                })
            }
        }
    };
}

/// # Safety
/// `T` must be the type of a pointer to the function of that name.
pub(crate) unsafe fn symbol<T: Copy>(library: &Library, name: &'static str) -> Result<T, Error> {
    // SAFETY: the caller vouches for the type; the table keeps the library open.
    match unsafe { library.get::<T>(name.as_bytes()) } {
        Ok(symbol) => Ok(*symbol),
        Err(error) => Err(Error::Symbol { name, reason: explain(&error) }),
    }
}

table! {
    /// What both runtimes have.
    Driver from driver_names;
    init = "hipInit" | "cuInit" (c_uint);
    version = "hipRuntimeGetVersion" | "cuDriverGetVersion" (*mut c_int);
    device_count = "hipGetDeviceCount" | "cuDeviceGetCount" (*mut c_int);
    device_attribute = "hipDeviceGetAttribute" | "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    device_name = "hipDeviceGetName" | "cuDeviceGetName" (*mut c_char, c_int, c_int);
    memory_info = "hipMemGetInfo" | "cuMemGetInfo_v2" (*mut usize, *mut usize);
    allocate = "hipMalloc" | "cuMemAlloc_v2" (*mut DevicePtr, usize);
    free = "hipFree" | "cuMemFree_v2" (DevicePtr);
    allocate_pinned = "hipHostMalloc" | "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    free_pinned = "hipHostFree" | "cuMemFreeHost" (*mut c_void);
    copy_to_device = "hipMemcpyHtoDAsync" | "cuMemcpyHtoDAsync_v2"
        (DevicePtr, *const c_void, usize, Handle);
    copy_to_host = "hipMemcpyDtoHAsync" | "cuMemcpyDtoHAsync_v2"
        (*mut c_void, DevicePtr, usize, Handle);
    copy_on_device = "hipMemcpyDtoDAsync" | "cuMemcpyDtoDAsync_v2"
        (DevicePtr, DevicePtr, usize, Handle);
    set_words = "hipMemsetD32Async" | "cuMemsetD32Async" (DevicePtr, c_int, usize, Handle);
    stream_create = "hipStreamCreateWithFlags" | "cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy = "hipStreamDestroy" | "cuStreamDestroy_v2" (Handle);
    stream_synchronize = "hipStreamSynchronize" | "cuStreamSynchronize" (Handle);
    stream_query = "hipStreamQuery" | "cuStreamQuery" (Handle);
    event_create = "hipEventCreateWithFlags" | "cuEventCreate" (*mut Handle, c_uint);
    event_record = "hipEventRecord" | "cuEventRecord" (Handle, Handle);
    event_query = "hipEventQuery" | "cuEventQuery" (Handle);
    event_synchronize = "hipEventSynchronize" | "cuEventSynchronize" (Handle);
    event_elapsed = "hipEventElapsedTime" | "cuEventElapsedTime" (*mut f32, Handle, Handle);
    event_destroy = "hipEventDestroy" | "cuEventDestroy_v2" (Handle);
    module_load = "hipModuleLoadData" | "cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload = "hipModuleUnload" | "cuModuleUnload" (Handle);
    module_function = "hipModuleGetFunction" | "cuModuleGetFunction"
        (*mut Handle, Handle, *const c_char);
    begin_capture = "hipStreamBeginCapture" | "cuStreamBeginCapture_v2" (Handle, c_int);
    end_capture = "hipStreamEndCapture" | "cuStreamEndCapture" (Handle, *mut Handle);
    graph_instantiate = "hipGraphInstantiateWithFlags" | "cuGraphInstantiateWithFlags"
        (*mut Handle, Handle, u64);
    graph_launch = "hipGraphLaunch" | "cuGraphLaunch" (Handle, Handle);
    graph_destroy = "hipGraphDestroy" | "cuGraphDestroy" (Handle);
    graph_exec_destroy = "hipGraphExecDestroy" | "cuGraphExecDestroy" (Handle);
    can_access_peer = "hipDeviceCanAccessPeer" | "cuDeviceCanAccessPeer" (*mut c_int, c_int, c_int);
}

/// What one runtime alone has.
pub(crate) enum Special {
    /// HIP's current device is a number.
    Hip {
        set_device: unsafe extern "C" fn(c_int) -> c_int,
        /// Of the current device to another.
        enable_peer: unsafe extern "C" fn(c_int, c_uint) -> c_int,
        allocate_with: unsafe extern "C" fn(*mut DevicePtr, usize, c_uint) -> c_int,
        /// `hipGetDevicePropertiesR0600`: a struct of 1,472 bytes (HIP 6 and 7).
        properties: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
        error_name: unsafe extern "C" fn(c_int) -> *const c_char,
        /// The calling thread's last error, which it forgets.
        last_error: unsafe extern "C" fn() -> c_int,
        launch: unsafe extern "C" fn(
            Handle,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            Handle,
            *mut *mut c_void,
            *mut *mut c_void,
        ) -> c_int,
    },
    /// CUDA's is a context.
    Cuda {
        retain_context: unsafe extern "C" fn(*mut Handle, c_int) -> c_int,
        set_context: unsafe extern "C" fn(Handle) -> c_int,
        /// Of a kernel.
        set_attribute: unsafe extern "C" fn(Handle, c_int, c_int) -> c_int,
        /// Of the current context to another's memory.
        enable_peer: unsafe extern "C" fn(Handle, c_uint) -> c_int,
        error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
        /// Type, dimensions, address, elements, bytes, a box's sizes and steps; interleaving,
        /// swizzling, lines of L2, what stands beyond.
        encode_tiled: unsafe extern "C" fn(
            *mut TensorMap,
            c_int,
            c_uint,
            *mut c_void,
            *const u64,
            *const u64,
            *const c_uint,
            *const c_uint,
            c_int,
            c_int,
            c_int,
            c_int,
        ) -> c_int,
        launch: unsafe extern "C" fn(
            *const LaunchConfig,
            Handle,
            *mut *mut c_void,
            *mut *mut c_void,
        ) -> c_int,
    },
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) lds: c_uint,
    pub(crate) stream: Handle,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
pub(crate) struct LaunchAttribute {
    id: c_uint,
    /// Of 64 bytes, 8-byte aligned, of which attributes use the first.
    value: [u64; 8],
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the kernel's workgroups may begin
/// before the kernel before it in the stream has ended.
pub(crate) const BEGINS_EARLY: LaunchAttribute =
    LaunchAttribute { id: 6, value: [1, 0, 0, 0, 0, 0, 0, 0] };

impl LaunchAttribute {
    /// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`: so many neighbours along x run at once.
    pub(crate) fn cluster(workgroups: u32) -> LaunchAttribute {
        LaunchAttribute { id: 4, value: [u64::from(workgroups) | 1 << 32, 1, 0, 0, 0, 0, 0, 0] }
    }
}

impl Special {
    pub(crate) fn open(platform: Platform, driver: &Driver) -> Result<Special, Error> {
        let library = &driver._library;
        // SAFETY: the signatures are those of the libraries' public headers.
        unsafe {
            Ok(match platform {
                Platform::Hip => Special::Hip {
                    set_device: symbol(library, "hipSetDevice")?,
                    enable_peer: symbol(library, "hipDeviceEnablePeerAccess")?,
                    allocate_with: symbol(library, "hipExtMallocWithFlags")?,
                    properties: symbol(library, "hipGetDevicePropertiesR0600")?,
                    error_name: symbol(library, "hipGetErrorName")?,
                    last_error: symbol(library, "hipGetLastError")?,
                    launch: symbol(library, "hipModuleLaunchKernel")?,
                },
                Platform::Cuda => Special::Cuda {
                    retain_context: symbol(library, "cuDevicePrimaryCtxRetain")?,
                    set_context: symbol(library, "cuCtxSetCurrent")?,
                    set_attribute: symbol(library, "cuFuncSetAttribute")?,
                    enable_peer: symbol(library, "cuCtxEnablePeerAccess")?,
                    error_name: symbol(library, "cuGetErrorName")?,
                    encode_tiled: symbol(library, "cuTensorMapEncodeTiled")?,
                    launch: symbol(library, "cuLaunchKernelEx")?,
                },
            })
        }
    }
}

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UniqueId(pub(crate) [u8; 128]);

table! {
    /// RCCL, or NCCL: the same names.
    Collectives from collectives_names;
    unique_id = "ncclGetUniqueId" | "ncclGetUniqueId" (*mut UniqueId);
    init_rank = "ncclCommInitRank" | "ncclCommInitRank" (*mut Handle, c_int, UniqueId, c_int);
    destroy = "ncclCommDestroy" | "ncclCommDestroy" (Handle);
    abort = "ncclCommAbort" | "ncclCommAbort" (Handle);
    async_error = "ncclCommGetAsyncError" | "ncclCommGetAsyncError" (Handle, *mut c_int);
    all_gather = "ncclAllGather" | "ncclAllGather"
        (DevicePtr, DevicePtr, usize, c_int, Handle, Handle);
    all_reduce = "ncclAllReduce" | "ncclAllReduce"
        (DevicePtr, DevicePtr, usize, c_int, c_int, Handle, Handle);
}

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(crate) const CUDA_DYNAMIC_SHARED: c_int = 8;
/// `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`: of all memory that caches share, in %.
pub(crate) const CUDA_LDS_CARVEOUT: c_int = 9;
/// `ncclFloat32`.
pub(crate) const NCCL_F32: c_int = 7;
/// `ncclSum`.
pub(crate) const NCCL_SUM: c_int = 0;
