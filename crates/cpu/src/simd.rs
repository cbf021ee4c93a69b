//! Sixteen f32 lanes in the widest registers this processor has, chosen at run time.
//!
//! A kernel is one generic `#[inline(always)]` function over [`Lanes`]; [`simd!`] compiles it for
//! AVX-512, for AVX2 and portably, and picks one per call. All three compute the same bits: a fused
//! multiply-add is correctly rounded everywhere.

/// Sixteen running sums.
///
/// Implementations other than `[f32; 16]` use instructions that the processor may lack: only
/// [`simd!`] names them, after it has detected the instructions.
pub(crate) trait Lanes: Copy {
    /// Sixteen zeros.
    fn zero() -> Self;
    /// `self + x * w`, rounded once.
    fn add_product(self, x: &[f32; 16], w: &[f32; 16]) -> Self;
    /// The sums.
    fn array(self) -> [f32; 16];
}

impl Lanes for [f32; 16] {
    #[inline(always)]
    fn zero() -> Self {
        [0.0; 16]
    }

    #[inline(always)]
    fn add_product(self, x: &[f32; 16], w: &[f32; 16]) -> Self {
        std::array::from_fn(|l| x[l].mul_add(w[l], self[l]))
    }

    #[inline(always)]
    fn array(self) -> [f32; 16] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// Two AVX registers; needs AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: `simd!` has detected AVX2 before it names this type.
            unsafe { Avx2(_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }

        #[inline(always)]
        fn add_product(self, x: &[f32; 16], w: &[f32; 16]) -> Self {
            let (x, w) = (x.as_ptr(), w.as_ptr());
            // SAFETY: as in `zero`; both pointers lead to 16 values, loads need no alignment.
            unsafe {
                Avx2(
                    _mm256_fmadd_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(w), self.0),
                    _mm256_fmadd_ps(_mm256_loadu_ps(x.add(8)), _mm256_loadu_ps(w.add(8)), self.1),
                )
            }
        }

        #[inline(always)]
        fn array(self) -> [f32; 16] {
            let mut out = [0f32; 16];
            // SAFETY: as in `zero`; `out` has room for both halves.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), self.0);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), self.1);
            }
            out
        }
    }

    /// One AVX-512 register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl Lanes for Avx512 {
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: `simd!` has detected AVX-512 before it names this type.
            unsafe { Avx512(_mm512_setzero_ps()) }
        }

        #[inline(always)]
        fn add_product(self, x: &[f32; 16], w: &[f32; 16]) -> Self {
            // SAFETY: as in `zero`; both pointers lead to 16 values, loads need no alignment.
            unsafe {
                let (x, w) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(w.as_ptr()));
                Avx512(_mm512_fmadd_ps(x, w, self.0))
            }
        }

        #[inline(always)]
        fn array(self) -> [f32; 16] {
            let mut out = [0f32; 16];
            // SAFETY: as in `zero`; `out` has room for the register.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
            out
        }
    }
}

/// Defines `$name`, which runs the `#[inline(always)]` function `$body`, generic over [`Lanes`],
/// compiled for the widest vectors this processor has.
macro_rules! simd {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        #[expect(unsafe_code, reason = "calls code for the instruction set that was just detected")]
        pub(crate) fn $name($($arg: $ty),*) {
            use $body as body;
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) {
                    body::<$crate::simd::Avx512>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    body::<$crate::simd::Avx2>($($arg),*)
                }
                let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2");
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if fma && wide {
                    // SAFETY: every feature that `avx512` is compiled for was detected.
                    return unsafe { avx512($($arg),*) };
                }
                if fma {
                    // SAFETY: AVX2 and FMA were detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<[f32; 16]>($($arg),*)
        }
    };
}

pub(crate) use simd;
