//! The results as a table in GitHub's Markdown, and as JSON.

use serde::Serialize;

use super::case::Cost;
use super::ceilings::Ceilings;
use super::counters::{Counters, roofline};

/// One case's.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) kernel: String,
    pub(super) shape: String,
    /// What is wrong with its outputs.
    pub(super) wrong: Option<String>,
    pub(super) bytes: usize,
    pub(super) operations: usize,
    /// Seconds that MI355X needs at least.
    pub(super) roofline_s: f64,
    /// Median of many launches on hardware.
    pub(super) seconds: Option<f64>,
    /// The platform's library, at the same shape.
    pub(super) library_s: Option<f64>,
    pub(super) counters: Option<Counters>,
}

impl Row {
    pub(super) fn new(kernel: String, shape: String, cost: Cost) -> Row {
        Row {
            kernel,
            shape,
            wrong: None,
            bytes: cost.bytes,
            operations: cost.operations,
            roofline_s: roofline(cost),
            seconds: None,
            library_s: None,
            counters: None,
        }
    }

    /// Time at the ceilings over time: how much of what this device can do was reached.
    fn of_ceilings(&self, ceilings: &Ceilings) -> Option<f64> {
        let seconds = self.seconds?;
        let bytes = self.bytes as f64 / ceilings.copy_bytes_per_s;
        let operations =
            ceilings.library_flops_per_s.map_or(0.0, |rate| self.operations as f64 / rate);
        Some(bytes.max(operations) / seconds)
    }

    fn timed(&self, ceilings: &Ceilings) -> Vec<String> {
        let rate = |amount: usize, unit: f64| match (self.seconds, amount) {
            (Some(seconds), 1..) => format!("{:.1}", amount as f64 / seconds / unit),
            _ => String::new(),
        };
        let micros = |seconds: Option<f64>| match seconds {
            Some(seconds) => format!("{:.1}", seconds * 1e6),
            None => String::new(),
        };
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let of_copy = self.seconds.map(|seconds| ceilings.copy_s(self.bytes) / seconds);
        vec![
            micros(self.seconds),
            rate(self.bytes, 1e9),
            rate(self.operations, 1e12),
            self.of_ceilings(ceilings).map(percent).unwrap_or_default(),
            of_copy.map(percent).unwrap_or_default(),
            micros(self.library_s),
        ]
    }

    fn counted(&self) -> Vec<String> {
        let needed = format!("{:.3}", self.bytes as f64 / 1e6);
        let roofline = format!("{:.2}", self.roofline_s * 1e6);
        let Some(counters) = &self.counters else {
            return vec![needed, roofline, "emulated".into()];
        };
        let over = |bytes: u64| format!("{:.2}", bytes as f64 / self.bytes.max(1) as f64);
        let share = |part: u64, of: u64| match of {
            0 => "none".to_owned(),
            of => format!("{:.1} %", 100.0 * part as f64 / of as f64),
        };
        let matrix = match counters.mfma_cycles {
            0 => "none".to_owned(),
            cycles => share(cycles, counters.issue_cycles),
        };
        vec![
            needed,
            roofline,
            over(counters.moved_bytes),
            over(counters.accessed_bytes),
            share(counters.lds_conflict_cycles, counters.lds_cycles),
            matrix,
            counters.vgprs.to_string(),
        ]
    }
}

/// A table whose lines are printed as they come, so that a run that is cut off has said something.
pub(super) struct Table<'a> {
    /// Of hardware; without, times are the emulator's and mean nothing.
    ceilings: Option<&'a Ceilings>,
    headings: Vec<&'static str>,
    widths: Vec<usize>,
}

/// Figures have no more characters.
const FIGURE: usize = 8;

impl<'a> Table<'a> {
    /// `names`: each line's kernel and shape. `counted`: the emulator's counters are at hand.
    pub(super) fn new<'n>(
        names: impl Iterator<Item = (&'n str, &'n str)>,
        ceilings: Option<&'a Ceilings>,
        counted: bool,
    ) -> Table<'a> {
        let mut headings = vec!["kernel", "shape"];
        headings.extend_from_slice(match (ceilings, counted) {
            (Some(_), _) => &["µs", "GB/s", "TFLOP/s", "of ceiling", "of a copy", "library µs"],
            (None, true) => &[
                "needed MB",
                "roofline µs",
                "moved / needed",
                "accessed / needed",
                "LDS conflicts",
                "MFMA share",
                "VGPRs",
            ],
            (None, false) => &["needed MB", "roofline µs", "time"],
        });
        let length = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = headings.iter().map(|heading| length(heading)).collect();
        widths[2..].iter_mut().for_each(|width| *width = FIGURE.max(*width));
        for (kernel, shape) in names {
            widths[0] = widths[0].max(length(kernel));
            widths[1] = widths[1].max(length(shape));
        }
        Table { ceilings, headings, widths }
    }

    /// The headings and the rule below them.
    pub(super) fn head(&self) -> String {
        let rules = self.widths.iter().enumerate().map(|(i, &width)| match i {
            0 | 1 => "-".repeat(width),
            _ => "-".repeat(width - 1) + ":",
        });
        let headings = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        format!("{}\n{}", self.aligned(headings), self.aligned(rules.collect()))
    }

    pub(super) fn line(&self, row: &Row) -> String {
        let mut line = vec![row.kernel.clone(), row.shape.clone()];
        line.extend(match (&row.wrong, self.ceilings) {
            (Some(_), _) => vec!["WRONG".to_owned()],
            (None, Some(ceilings)) => row.timed(ceilings),
            (None, None) => row.counted(),
        });
        line.resize(self.widths.len(), String::new());
        self.aligned(line)
    }

    /// Cells of the columns' widths: text to the left, figures (from the third on) to the right.
    fn aligned(&self, cells: Vec<String>) -> String {
        let cells = cells.iter().zip(&self.widths).enumerate().map(|(i, (cell, &width))| match i {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_figures_are_those_of_the_row() {
        let cost = Cost { operations: 3_000_000_000, ..Cost::of_bytes(2_000_000) };
        let mut row = Row::new("matmul".into(), "1 row".into(), cost);
        (row.seconds, row.library_s) = (Some(1e-6), Some(2.5e-6));
        let mut wrong = Row::new("embed".into(), "4 of 16".into(), Cost::of_bytes(1));
        wrong.wrong = Some("out[0] is 1, expected 2".into());
        let ceilings = Ceilings {
            copy_bytes_per_s: 4e12,
            copies: vec![(1_000_000, 6e-7), (3_000_000, 1e-6)],
            library_flops_per_s: Some(6e15),
        };
        let copies = [1, 1_000_000, 1_500_000, 3_000_000, 8_000_000].map(|n| ceilings.copy_s(n));
        assert!(
            copies.iter().zip([6e-7, 6e-7, 7e-7, 1e-6, 2e-6]).all(|(a, b)| (a - b).abs() < 1e-12)
        );
        let names = [("matmul", "1 row"), ("embed", "4 of 16")].into_iter();
        let table = Table::new(names, Some(&ceilings), false);
        assert_eq!(
            [table.head(), table.line(&row), table.line(&wrong)].join("\n"),
            "\
| kernel | shape   |       µs |     GB/s |  TFLOP/s | of ceiling | of a copy | library µs |
| ------ | ------- | -------: | -------: | -------: | ---------: | --------: | ---------: |
| matmul | 1 row   |      1.0 |   2000.0 |   3000.0 |       50 % |      80 % |        2.5 |
| embed  | 4 of 16 |    WRONG |          |          |            |           |            |"
        );
    }
}
