//! Runtime choice of instruction set. One source, compiled three times.

/// Defines `$name`, which runs the `#[inline(always)]` function `$body` compiled for the widest
/// vectors this processor has.
macro_rules! simd {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        #[expect(unsafe_code, reason = "calls code for the instruction set that was just detected")]
        pub(crate) fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*)
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
            $body($($arg),*)
        }
    };
}

pub(crate) use simd;
