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
        let share = self.of_ceilings(ceilings).map(|share| format!("{:.0} %", 100.0 * share));
        vec![
            micros(self.seconds),
            rate(self.bytes, 1e9),
            rate(self.operations, 1e12),
            share.unwrap_or_default(),
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

/// All results. `ceilings`: of hardware; without, times are the emulator's and mean nothing.
pub(super) fn markdown(rows: &[Row], ceilings: Option<&Ceilings>) -> String {
    let counted = rows.iter().any(|row| row.counters.is_some());
    let columns: &[&str] = match (ceilings, counted) {
        (Some(_), _) => &["µs", "GB/s", "TFLOP/s", "of ceiling", "library µs"],
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
    };
    let mut lines = vec![["kernel", "shape"].iter().chain(columns).map(|&c| c.into()).collect()];
    for row in rows {
        let figures = match (&row.wrong, ceilings) {
            (Some(_), _) => vec!["WRONG".to_owned()],
            (None, Some(ceilings)) => row.timed(ceilings),
            (None, None) => row.counted(),
        };
        let mut line = vec![row.kernel.clone(), row.shape.clone()];
        line.extend(figures);
        line.resize(2 + columns.len(), String::new());
        lines.push(line);
    }
    align(&lines)
}

/// Cells of equal width in each column: text to the left, figures (from the third on) to the right.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let length = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3)
    };
    let lengths: Vec<usize> = (0..columns).map(length).collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&lengths).enumerate().map(|(i, (cell, &length))| match i {
            0 | 1 => format!("{cell:<length$}"),
            _ => format!("{cell:>length$}"),
        });
        out += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rules = lengths.iter().enumerate().map(|(i, &length)| match i {
                0 | 1 => "-".repeat(length),
                _ => "-".repeat(length - 1) + ":",
            });
            out += &format!("| {} |\n", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    out
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
        let ceilings = Ceilings { copy_bytes_per_s: 4e12, library_flops_per_s: Some(6e15) };
        let table = markdown(&[row, wrong], Some(&ceilings));
        assert_eq!(
            table,
            "\
| kernel | shape   |    µs |   GB/s | TFLOP/s | of ceiling | library µs |
| ------ | ------- | ----: | -----: | ------: | ---------: | ---------: |
| matmul | 1 row   |   1.0 | 2000.0 |  3000.0 |       50 % |        2.5 |
| embed  | 4 of 16 | WRONG |        |         |            |            |
"
        );
    }
}
