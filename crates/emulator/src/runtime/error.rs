//! HIP error codes.

/// hipErrorInvalidValue.
pub(crate) const INVALID_VALUE: i32 = 1;
/// hipErrorOutOfMemory.
pub(crate) const OUT_OF_MEMORY: i32 = 2;
/// hipErrorInvalidConfiguration.
pub(crate) const INVALID_CONFIGURATION: i32 = 9;
/// hipErrorInvalidDeviceFunction.
pub(crate) const INVALID_DEVICE_FUNCTION: i32 = 98;
/// hipErrorInvalidDevice.
pub(crate) const INVALID_DEVICE: i32 = 101;
/// hipErrorInvalidImage.
pub(crate) const INVALID_IMAGE: i32 = 200;
/// hipErrorNoBinaryForGpu.
pub(crate) const NO_BINARY: i32 = 209;
/// hipErrorPeerAccessUnsupported.
pub(crate) const PEER_UNSUPPORTED: i32 = 217;
/// hipErrorFileNotFound.
pub(crate) const FILE_NOT_FOUND: i32 = 301;
/// hipErrorInvalidHandle.
pub(crate) const INVALID_HANDLE: i32 = 400;
/// hipErrorNotFound.
pub(crate) const NOT_FOUND: i32 = 500;
/// hipErrorNotReady.
pub(crate) const NOT_READY: i32 = 600;
/// hipErrorIllegalAddress.
pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
/// hipErrorPeerAccessAlreadyEnabled.
pub(crate) const PEER_ENABLED: i32 = 704;
/// hipErrorPeerAccessNotEnabled.
pub(crate) const PEER_NOT_ENABLED: i32 = 705;
/// hipErrorHostMemoryAlreadyRegistered.
pub(crate) const REGISTERED: i32 = 712;
/// hipErrorHostMemoryNotRegistered.
pub(crate) const NOT_REGISTERED: i32 = 713;
/// hipErrorLaunchFailure.
pub(crate) const LAUNCH_FAILURE: i32 = 719;
/// hipErrorNotSupported.
pub(crate) const NOT_SUPPORTED: i32 = 801;
/// hipErrorStreamCaptureUnsupported.
pub(crate) const CAPTURE_UNSUPPORTED: i32 = 900;
/// hipErrorStreamCaptureInvalidated.
pub(crate) const CAPTURE_INVALIDATED: i32 = 901;
/// hipErrorStreamCaptureUnmatched.
pub(crate) const CAPTURE_UNMATCHED: i32 = 903;
/// hipErrorStreamCaptureUnjoined.
pub(crate) const CAPTURE_UNJOINED: i32 = 904;
/// hipErrorStreamCaptureIsolation.
pub(crate) const CAPTURE_ISOLATION: i32 = 905;
/// hipErrorStreamCaptureImplicit.
pub(crate) const CAPTURE_IMPLICIT: i32 = 906;
/// hipErrorCapturedEvent.
pub(crate) const CAPTURED_EVENT: i32 = 907;
/// hipErrorStreamCaptureWrongThread.
pub(crate) const CAPTURE_THREAD: i32 = 908;
/// hipErrorGraphExecUpdateFailure.
pub(crate) const GRAPH_UPDATE: i32 = 910;
/// hipErrorUnknown.
pub(crate) const UNKNOWN: i32 = 999;

/// A failed call: the code, and what to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: i32,
    pub(crate) what: Option<String>,
}

impl Error {
    /// An error with an explanation.
    pub(crate) fn new(code: i32, what: &str) -> Self {
        Error { code, what: Some(what.to_owned()) }
    }

    /// An error that is part of normal use.
    pub(crate) fn quiet(code: i32) -> Self {
        Error { code, what: None }
    }
}

/// The result of a call.
pub(crate) type HipResult<T> = Result<T, Error>;

/// Name and description by code.
const NAMES: [(i32, &str, &str); 34] = [
    (0, "hipSuccess\0", "no error\0"),
    (1, "hipErrorInvalidValue\0", "invalid argument\0"),
    (2, "hipErrorOutOfMemory\0", "out of memory\0"),
    (3, "hipErrorNotInitialized\0", "initialization error\0"),
    (9, "hipErrorInvalidConfiguration\0", "invalid configuration argument\0"),
    (17, "hipErrorInvalidDevicePointer\0", "invalid device pointer\0"),
    (98, "hipErrorInvalidDeviceFunction\0", "invalid device function\0"),
    (100, "hipErrorNoDevice\0", "no ROCm-capable device is detected\0"),
    (101, "hipErrorInvalidDevice\0", "invalid device ordinal\0"),
    (200, "hipErrorInvalidImage\0", "device kernel image is invalid\0"),
    (209, "hipErrorNoBinaryForGpu\0", "no kernel image is available for the device\0"),
    (217, "hipErrorPeerAccessUnsupported\0", "peer access is not supported\0"),
    (301, "hipErrorFileNotFound\0", "file not found\0"),
    (400, "hipErrorInvalidHandle\0", "invalid resource handle\0"),
    (500, "hipErrorNotFound\0", "named symbol not found\0"),
    (600, "hipErrorNotReady\0", "device not ready\0"),
    (700, "hipErrorIllegalAddress\0", "an illegal memory access was encountered\0"),
    (704, "hipErrorPeerAccessAlreadyEnabled\0", "peer access is already enabled\0"),
    (705, "hipErrorPeerAccessNotEnabled\0", "peer access has not been enabled\0"),
    (712, "hipErrorHostMemoryAlreadyRegistered\0", "host memory is already registered\0"),
    (713, "hipErrorHostMemoryNotRegistered\0", "host memory is not registered\0"),
    (719, "hipErrorLaunchFailure\0", "unspecified launch failure\0"),
    (801, "hipErrorNotSupported\0", "operation not supported\0"),
    (
        900,
        "hipErrorStreamCaptureUnsupported\0",
        "operation not permitted when stream is capturing\0",
    ),
    (901, "hipErrorStreamCaptureInvalidated\0", "capture invalidated by an earlier error\0"),
    (902, "hipErrorStreamCaptureMerge\0", "operation would merge separate captures\0"),
    (903, "hipErrorStreamCaptureUnmatched\0", "capture was not begun in this stream\0"),
    (904, "hipErrorStreamCaptureUnjoined\0", "capture was not joined to its origin stream\0"),
    (905, "hipErrorStreamCaptureIsolation\0", "dependency on uncaptured work in another stream\0"),
    (906, "hipErrorStreamCaptureImplicit\0", "dependency on the legacy stream\0"),
    (907, "hipErrorCapturedEvent\0", "operation not permitted on a captured event\0"),
    (908, "hipErrorStreamCaptureWrongThread\0", "capture ended by another thread\0"),
    (910, "hipErrorGraphExecUpdateFailure\0", "the graph update was not performed\0"),
    (999, "hipErrorUnknown\0", "unknown error\0"),
];

/// NUL-terminated name or description of a code.
pub(crate) fn text(code: i32, name: bool) -> &'static str {
    let unknown = ("hipErrorUnknown\0", "unknown error\0");
    let (n, d) = NAMES.iter().find(|e| e.0 == code).map_or(unknown, |e| (e.1, e.2));
    if name { n } else { d }
}
