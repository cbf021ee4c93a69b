//! A run's result, with its standard error.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One row's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Item {
    /// 1 or 0 for right or wrong; for a text, its mean negative log-likelihood per token.
    pub(super) value: f64,
    /// What it counts: 1; for a text, its scored tokens.
    pub(super) weight: f64,
    /// Log-probabilities of the choices, or the answer.
    pub(super) detail: Value,
}

/// All rows' results, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) task: String,
    pub(super) model: String,
    pub(super) num_fewshot: usize,
    pub(super) items: Vec<Item>,
}

impl Report {
    pub(super) fn new(task: &str, model: &str, num_fewshot: usize, items: Vec<Item>) -> Report {
        Report { task: task.to_owned(), model: model.to_owned(), num_fewshot, items }
    }

    pub(super) fn is_perplexity(&self) -> bool {
        self.task == "perplexity"
    }

    /// The result in one line.
    pub(super) fn summary(&self) -> String {
        let values = self.items.iter().map(|item| (item.value, item.weight));
        let (mean, error) = mean_and_error(values);
        let head = format!("{}, {} rows", self.model, self.items.len());
        if self.is_perplexity() {
            let tokens: f64 = self.items.iter().map(|item| item.weight).sum();
            let perplexity = mean.exp();
            // The error of exp(x) is that of x times exp(x), to first order.
            return format!(
                "{head}, {tokens} tokens: perplexity {perplexity:.4} ± {:.4}",
                error * perplexity
            );
        }
        let right = self.items.iter().filter(|item| item.value == 1.0).count();
        format!("{head}, {right} right: accuracy {:.2} % ± {:.2}", mean * 100.0, error * 100.0)
    }

    pub(super) fn read(path: &Path) -> anyhow::Result<Report> {
        let place = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(place)?;
        serde_json::from_slice(&bytes).with_context(place)
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

/// The weighted mean of (value, weight) pairs and its standard error.
///
/// With equal weights the error is that of a mean, the sample's standard deviation (over n - 1)
/// divided by sqrt(n). Otherwise the rows are clusters of their weights, and the error is that of a
/// ratio of sums: sqrt(n / (n - 1) sum(w^2 (x - mean)^2)) / sum(w). It is 0 for fewer than two.
pub(super) fn mean_and_error(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let n = pairs.clone().count() as f64;
    let weights: f64 = pairs.clone().map(|(_, w)| w).sum();
    if weights == 0.0 {
        return (0.0, 0.0);
    }
    let mean = pairs.clone().map(|(x, w)| x * w).sum::<f64>() / weights;
    if n < 2.0 {
        return (mean, 0.0);
    }
    let squares: f64 = pairs.map(|(x, w)| (w * (x - mean)).powi(2)).sum();
    (mean, (n / (n - 1.0) * squares).sqrt() / weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_a_mean_and_of_a_ratio() {
        // 3 of 4: sqrt(p (1 - p) / (n - 1)).
        let pairs = [1.0, 1.0, 0.0, 1.0].map(|x| (x, 1.0));
        let (mean, error) = mean_and_error(pairs.into_iter());
        assert_eq!(mean, 0.75);
        assert!((error - (0.75f64 * 0.25 / 3.0).sqrt()).abs() < 1e-15);
        // Equal weights of any size change nothing.
        let scaled = mean_and_error(pairs.iter().map(|&(x, _)| (x, 7.0)));
        assert!((scaled.0 - mean).abs() < 1e-15 && (scaled.1 - error).abs() < 1e-15);
        let (mean, error) = mean_and_error([(1.0, 1.0), (2.0, 3.0)].into_iter());
        // sqrt(2 / 1 * ((1 * -0.75)^2 + (3 * 0.25)^2)) / 4 = sqrt(2.25) / 4.
        assert_eq!((mean, error), (1.75, 0.375));
        assert_eq!(mean_and_error([(3.0, 2.0)].into_iter()), (3.0, 0.0));
        assert_eq!(mean_and_error(std::iter::empty()), (0.0, 0.0));
    }
}
