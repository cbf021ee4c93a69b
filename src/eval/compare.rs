//! Two runs on the same rows: the difference, its standard error, and a test of it.
//!
//! Rows are paired, so what both runs find hard does not blur the difference. Right and wrong
//! answers are tested by McNemar's exact test: of the rows on which one run is right and the other
//! wrong, each run should have about half if they are equally good. Texts' likelihoods are not two
//! values but many; there, the difference and its standard error must do.

use anyhow::ensure;

use super::args::CompareArgs;
use super::report::{Report, mean_and_error};

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let (first, second) = (Report::read(&args.first)?, Report::read(&args.second)?);
    let same = first.task == second.task && first.num_fewshot == second.num_fewshot;
    ensure!(
        same && first.items.len() == second.items.len(),
        "{}: {} of {} rows, {} shots, but {}: {} of {} rows, {} shots",
        args.first.display(),
        first.task,
        first.items.len(),
        first.num_fewshot,
        args.second.display(),
        second.task,
        second.items.len(),
        second.num_fewshot,
    );
    println!("{}\n{}\n{}", first.summary(), second.summary(), difference(&first, &second));
    Ok(())
}

fn difference(first: &Report, second: &Report) -> String {
    let pairs = || first.items.iter().zip(&second.items);
    let (mean, error) = mean_and_error(pairs().map(|(a, b)| (b.value - a.value, a.weight)));
    if first.is_perplexity() {
        let (ratio, error) = (mean.exp(), error * mean.exp());
        return format!("perplexity, second / first: {ratio:.5} ± {error:.5}");
    }
    let lost = pairs().filter(|(a, b)| a.value > b.value).count();
    let won = pairs().filter(|(a, b)| a.value < b.value).count();
    format!(
        "second - first: {:+.2} points ± {:.2}; only the second right: {won}, only the first: \
         {lost}; McNemar's exact p = {:.3}",
        mean * 100.0,
        error * 100.0,
        mcnemar(won, lost)
    )
}

/// The probability of a split of `a + b` fair coins at least as uneven.
fn mcnemar(a: usize, b: usize) -> f64 {
    let (n, least) = (a + b, a.min(b));
    // ln(n choose k) for k = 0.. by its ratios, so that large n do not overflow.
    let (mut ln_choose, mut tail) = (0.0, 0.0);
    for k in 0..=least {
        tail += (ln_choose - n as f64 * std::f64::consts::LN_2).exp();
        ln_choose += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::Item;

    #[test]
    fn mcnemar_is_the_two_sided_binomial_test() {
        // scipy.stats.binomtest(k, n).pvalue
        for (a, b, p) in [
            (0, 0, 1.0),
            (3, 3, 1.0),
            (1, 9, 0.021484375),
            (9, 1, 0.021484375),
            (0, 5, 0.0625),
            (40, 60, 0.05688793364098078),
        ] {
            assert!((mcnemar(a, b) - p).abs() < 1e-9, "{a} {b}: {}", mcnemar(a, b));
        }
        assert!(mcnemar(4000, 5000) < 1e-20);
    }

    #[test]
    fn differences_are_paired() {
        let report = |task: &str, values: &[f64]| {
            let item = |&value: &f64| Item { value, weight: 1.0, detail: ().into() };
            Report::new(task, "m", 0, values.iter().map(item).collect())
        };
        let text = difference(
            &report("choice", &[1.0, 1.0, 1.0, 0.0]),
            &report("choice", &[1.0, 0.0, 0.0, 1.0]),
        );
        // Differences 0, -1, -1, 1: mean -0.25, variance (0.0625 + 2 * 0.5625 + 1.5625) / 3.
        let error = 100.0 * (2.75f64 / 3.0 / 4.0).sqrt();
        assert!(text.starts_with(&format!("second - first: -25.00 points ± {error:.2}")), "{text}");
        assert!(text.contains("only the second right: 1, only the first: 2"), "{text}");
        assert!(text.ends_with("p = 1.000"), "{text}");
        let text =
            difference(&report("perplexity", &[1.0, 2.0]), &report("perplexity", &[1.5, 2.5]));
        assert_eq!(text, format!("perplexity, second / first: {:.5} ± 0.00000", 0.5f64.exp()));
    }
}
