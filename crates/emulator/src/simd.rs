//! The variants of the loops over lanes: one source, compiled for several sets of instructions.

use std::fmt;

/// A set of the processor's instructions that loops over lanes are compiled for. All variants give
/// the same results, but for the payload of a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 with FMA: eight lanes at a time.
    Avx2,
    /// AVX-512: sixteen lanes at a time.
    Avx512,
}

/// `[(name, whether this processor has it)]`.
#[cfg(target_arch = "x86_64")]
macro_rules! detect {
    ($($feature:tt),+) => { vec![$(($feature, std::arch::is_x86_feature_detected!($feature))),+] };
}

impl Simd {
    /// All, narrowest first.
    pub const ALL: [Simd; 3] = [Simd::Portable, Simd::Avx2, Simd::Avx512];

    /// The fastest that this processor runs: AVX2, where it was measured beside AVX-512.
    pub fn best() -> Simd {
        let fastest = [Simd::Avx2, Simd::Avx512, Simd::Portable];
        fastest.into_iter().find(|s| s.missing().is_empty()).unwrap_or(Simd::Portable)
    }

    /// The instruction sets that this processor lacks to run the variant.
    pub fn missing(self) -> Vec<&'static str> {
        let features = match self {
            Simd::Portable => vec![],
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => detect!("avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "popcnt"),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => {
                let mut wide = detect!("avx512f", "avx512bw", "avx512dq", "avx512vl");
                wide.extend(detect!("avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "popcnt"));
                wide
            }
            #[cfg(not(target_arch = "x86_64"))]
            Simd::Avx2 => vec![("avx2", false)],
            #[cfg(not(target_arch = "x86_64"))]
            Simd::Avx512 => vec![("avx512f", false)],
        };
        features.into_iter().filter(|f| !f.1).map(|f| f.0).collect()
    }

    /// The variant of a name, as in `EMU_SIMD`.
    pub fn named(name: &str) -> Option<Simd> {
        Simd::ALL.into_iter().find(|s| s.to_string() == name)
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Simd::Portable => "portable",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_lacks_nothing() {
        assert!(Simd::Portable.missing().is_empty());
        assert!(Simd::best().missing().is_empty());
        assert_eq!(Simd::best() == Simd::Portable, !Simd::Avx2.missing().is_empty());
        for s in Simd::ALL {
            assert_eq!(Simd::named(&s.to_string()), Some(s));
        }
        assert_eq!(Simd::named("avx"), None);
    }
}
