//! What an output must be, and the search for what it is not.

use std::ops::Range;

use anyhow::{bail, ensure};

use super::gpu::{Bytes, Random};

/// One rounding of an f32, whichever way it goes: matrix units may cut instead of rounding.
const ULP: f64 = 1.0 / (1 << 23) as f64;
/// A rounding to nearest of a bf16.
pub(super) const BF16: f64 = 1.0 / 256.0;

/// A value that the device may miss by `bound`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exact {
    pub(super) value: f64,
    pub(super) bound: f64,
}

impl Exact {
    /// The same after a last rounding to bf16.
    pub(super) fn to_bf16(self) -> Exact {
        let bound = self.bound * (1.0 + BF16) + BF16 * self.value.abs();
        Exact { bound, ..self }
    }
}

/// Products that one matrix instruction adds at most.
const SLAB: usize = 128;

/// A sum of products of values whose products an f32 holds.
///
/// Bound, for any order that takes products from first to last in instructions of up to [`SLAB`]
/// and cuts them into segments, each a chain from zero, that are added in turn: what stands in an
/// accumulator is a sum of consecutive products, so the difference of two running sums, and within
/// an instruction that and some of its products. So each rounding is at most an ulp of the
/// difference of the greatest and the least running sum and the magnitudes of a slab; of roundings
/// there is one for each product and each segment (128 products or more).
pub(super) fn dot(terms: impl Iterator<Item = f64>) -> Exact {
    let (mut sum, mut least, mut greatest) = (0f64, 0f64, 0f64);
    let (mut slab, mut largest_slab, mut count) = (0f64, 0f64, 0usize);
    for term in terms {
        sum += term;
        (least, greatest) = (least.min(sum), greatest.max(sum));
        slab = if count.is_multiple_of(SLAB) { 0.0 } else { slab } + term.abs();
        largest_slab = largest_slab.max(slab);
        count += 1;
    }
    let roundings = (count + count / 128 + 8) as f64;
    Exact { value: sum, bound: roundings * ULP * (greatest - least + largest_slab) }
}

/// `silu(g) u` in bf16.
///
/// Bound: e^-g is good to 3 * 2^-23 + |g| * 2^-24 (its argument's product rounds once, the
/// instruction by an ulp or two), division and product round once each. Below the smallest normal
/// number only the absolute error counts.
pub(super) fn gated(g: f32, u: f32) -> Exact {
    let (g, u) = (f64::from(g), f64::from(u));
    let value = g / (1.0 + (-g).exp()) * u;
    let error = (10.0 + g.abs()) * 2f64.powi(-24) * value.abs();
    Exact { value, bound: error + f64::from(f32::MIN_POSITIVE) }.to_bf16()
}

/// Says that `found` at `place` of `name` is not within the bound.
pub(super) fn close(name: &str, place: &[usize], found: f32, exact: Exact) -> anyhow::Result<()> {
    let Exact { value, bound } = exact;
    // Not a number is not close either.
    let fits = (f64::from(found) - value).abs() <= bound;
    ensure!(fits, "{name}{place:?} is {found}, expected {value} within {bound:.1e}");
    Ok(())
}

/// Says that `found` is not `expected`.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    name: &str,
    place: &[usize],
    found: T,
    expected: T,
) -> anyhow::Result<()> {
    ensure!(found == expected, "{name}{place:?} is {found:?}, expected {expected:?}");
    Ok(())
}

/// Says where an output of f32, or of numbers below 2^32 - 1, is still as it was poisoned.
pub(super) fn words_written(name: &str, bytes: &Bytes) -> anyhow::Result<()> {
    for (i, word) in bytes.0.chunks_exact(4).enumerate() {
        if word == [0xff; 4] {
            bail!("{name}[{i}] was not written: found all bits set, expected a value");
        }
    }
    Ok(())
}

/// The same of bf16.
pub(super) fn halves_written(name: &str, bytes: &Bytes) -> anyhow::Result<()> {
    halves_written_in(name, bytes, 0..bytes.0.len() / 2)
}

/// The same of some of them.
pub(super) fn halves_written_in(
    name: &str,
    bytes: &Bytes,
    range: Range<usize>,
) -> anyhow::Result<()> {
    let first = range.start;
    for (i, half) in bytes.0[2 * first..2 * range.end].chunks_exact(2).enumerate() {
        if half == [0xff; 2] {
            bail!("{name}[{}] was not written: found all bits set, expected a value", first + i);
        }
    }
    Ok(())
}

/// `0..count` if that is at most `some` and 2; else the first, the last and up to `some` others.
pub(super) fn sample(count: usize, some: usize, seed: usize) -> Vec<usize> {
    if count <= some + 2 {
        return (0..count).collect();
    }
    let mut random = Random::new(seed as u64);
    let mut chosen = vec![0, count - 1];
    chosen.extend((0..some).map(|_| random.below(count)));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_product_is_found_in_a_long_sum() {
        let mut random = Random::new(3);
        let terms: Vec<f64> =
            (0..7168).map(|_| f64::from(random.unit()) * f64::from(random.unit())).collect();
        let exact = dot(terms.iter().copied());
        let in_f32 = terms.iter().fold(0f32, |sum, &term| sum + term as f32);
        close("out", &[0], in_f32, exact).unwrap();
        let typical = terms.iter().map(|term| term.abs()).sum::<f64>() / terms.len() as f64;
        let without = exact.value - typical;
        let message = close("out", &[2, 5], without as f32, exact).unwrap_err().to_string();
        assert!(message.starts_with("out[2, 5] is "), "{message}");
        assert!(close("out", &[0], f32::NAN, exact).is_err());
    }

    #[test]
    fn what_stays_poisoned_is_named() {
        let mut bytes = vec![0; 64];
        words_written("out", &Bytes(bytes.clone())).unwrap();
        halves_written("out", &Bytes(bytes.clone())).unwrap();
        bytes[6..10].fill(0xff);
        let error = halves_written("out", &Bytes(bytes.clone())).unwrap_err().to_string();
        assert!(error.contains("out[3]"), "{error}");
        words_written("out", &Bytes(bytes.clone())).unwrap();
        bytes[8..12].fill(0xff);
        let error = words_written("out", &Bytes(bytes)).unwrap_err().to_string();
        assert!(error.contains("out[2]"), "{error}");
    }

    #[test]
    fn samples_have_the_ends() {
        assert!(sample(0, 4, 1).is_empty());
        assert_eq!(sample(1, 4, 1), [0]);
        assert_eq!(sample(6, 4, 1), [0, 1, 2, 3, 4, 5]);
        let some = sample(7168, 6, 3);
        assert_eq!((some[0], some[some.len() - 1]), (0, 7167));
        assert!((3..=8).contains(&some.len()));
    }
}
