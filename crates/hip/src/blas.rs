//! The platform's own matrix product, to compare with: cuBLAS or rocBLAS, if they are there.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::from_ref;

use libloading::Library;

use crate::kernels::matmul::Output;
use crate::sys::{Handle, Platform, open, symbol};
use crate::{Error, Memory, Stream};

/// `cublasGemmEx`: handle, operations, m, n, k, alpha, A, its type and stride, B, .., beta, C, ..,
/// compute type, algorithm.
type CublasGemm = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// `rocblas_gemm_ex`: the same, with a D beside C, and at the end solution index and flags.
type RocblasGemm = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const c_void,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
    i32,
    u32,
) -> c_int;

enum Gemm {
    Cublas(CublasGemm),
    Rocblas(RocblasGemm),
}

/// A handle of the platform's library on a stream.
pub struct Blas<'a> {
    stream: &'a Stream,
    handle: Handle,
    gemm: Gemm,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    // It keeps the functions where they are; never closed, as in `sys`.
    _library: ManuallyDrop<Library>,
}

impl<'a> Blas<'a> {
    /// Opens the library by the system's search rules.
    ///
    /// # Errors
    /// No library, a missing function, or one that fails to start.
    pub fn open(stream: &'a Stream) -> Result<Blas<'a>, Error> {
        let platform = stream.device().runtime.platform;
        let (names, [create, set_stream, destroy]): (&[&str], _) = match platform {
            Platform::Hip => (
                &["librocblas.so.5", "librocblas.so.4", "librocblas.so"],
                ["rocblas_create_handle", "rocblas_set_stream", "rocblas_destroy_handle"],
            ),
            Platform::Cuda => (
                &["libcublas.so.12", "libcublas.so.13", "libcublas.so"],
                ["cublasCreate_v2", "cublasSetStream_v2", "cublasDestroy_v2"],
            ),
        };
        let library = open(names, None)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the signatures are those of the libraries' public headers; the device is current.
        unsafe {
            let create: unsafe extern "C" fn(*mut Handle) -> c_int = symbol(&library, create)?;
            let set_stream: unsafe extern "C" fn(Handle, Handle) -> c_int =
                symbol(&library, set_stream)?;
            let destroy = symbol(&library, destroy)?;
            let gemm = match platform {
                Platform::Hip => Gemm::Rocblas(symbol(&library, "rocblas_gemm_ex")?),
                Platform::Cuda => Gemm::Cublas(symbol(&library, "cublasGemmEx")?),
            };
            check("starting the matrix library", create(&mut handle))?;
            let blas = Blas { stream, handle, gemm, destroy, _library: ManuallyDrop::new(library) };
            check("giving the matrix library a stream", set_stream(handle, stream.handle()))?;
            Ok(blas)
        }
    }

    /// Queues `out = x w^T`, sums in f32: bf16 `x` `[rows, k]` and `w` `[n, k]`, and `out`
    /// `[rows, n]` as `output` says.
    ///
    /// # Panics
    /// If a buffer is too small.
    ///
    /// # Errors
    /// The library's failure.
    pub fn matmul(
        &self,
        x: &Memory,
        w: &Memory,
        out: &Memory,
        output: Output,
        [rows, n, k]: [usize; 3],
    ) -> Result<(), Error> {
        assert!(x.bytes() >= 2 * rows * k && w.bytes() >= 2 * n * k);
        assert!(out.bytes() >= output.bytes() * rows * n);
        let (one, zero) = (1f32, 0f32);
        let (alpha, beta) = (from_ref(&one).cast::<c_void>(), from_ref(&zero).cast::<c_void>());
        let (x, w, out) = (x.ptr(), w.ptr(), out.ptr());
        let [rows, n, k] = [rows, n, k].map(|size| size as c_int);
        // The libraries' matrices stand column by column: theirs is out^T = w x^T.
        // SAFETY: the buffers have room, the factors outlive the call.
        let code = unsafe {
            match self.gemm {
                Gemm::Cublas(gemm) => {
                    // CUBLAS_OP_T, _N; CUDA_R_16BF, _32F; CUBLAS_COMPUTE_32F; CUBLAS_GEMM_DEFAULT.
                    let (t, plain, bf16, f32, f32_sums, default) = (1, 0, 14, 0, 68, -1);
                    let form = if output == Output::F32 { f32 } else { bf16 };
                    gemm(
                        self.handle,
                        t,
                        plain,
                        n,
                        rows,
                        k,
                        alpha,
                        w,
                        bf16,
                        k,
                        x,
                        bf16,
                        k,
                        beta,
                        out,
                        form,
                        n,
                        f32_sums,
                        default,
                    )
                }
                Gemm::Rocblas(gemm) => {
                    // rocblas_operation_transpose, _none; rocblas_datatype_bf16_r, _f32_r;
                    // rocblas_gemm_algo_standard.
                    let (t, plain, bf16, f32, standard) = (112, 111, 168, 151, 0);
                    let form = if output == Output::F32 { f32 } else { bf16 };
                    gemm(
                        self.handle,
                        t,
                        plain,
                        n,
                        rows,
                        k,
                        alpha,
                        w,
                        bf16,
                        k,
                        x,
                        bf16,
                        k,
                        beta,
                        out,
                        form,
                        n,
                        out,
                        form,
                        n,
                        f32,
                        standard,
                        0,
                        0,
                    )
                }
            }
        };
        check("a product of the matrix library", code)
    }
}

fn check(call: &str, code: c_int) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(Error::Call { call: call.into(), name: "its status".into(), code }),
    }
}

impl Drop for Blas<'_> {
    fn drop(&mut self) {
        // Its failures were reported where results were awaited.
        let _ = self.stream.synchronize();
        // SAFETY: destroyed once, and no work of it is under way.
        unsafe { (self.destroy)(self.handle) };
    }
}
