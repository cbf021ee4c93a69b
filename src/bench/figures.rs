//! From the times of all answers to the figures.

use std::time::Duration;

use serde::Serialize;

use super::client::Timing;

/// Percentiles of one latency, in milliseconds, and all its values in ascending order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    #[serde(skip)]
    pub(super) sorted: Vec<f64>,
}

impl Latency {
    /// Zeros if there is no value.
    fn new(mut values: Vec<f64>) -> Latency {
        values.sort_by(f64::total_cmp);
        Latency {
            mean: values.iter().fold(0.0, |sum, value| sum + value) / values.len().max(1) as f64,
            p50: percentile(&values, 50.0),
            p90: percentile(&values, 90.0),
            p99: percentile(&values, 99.0),
            max: percentile(&values, 100.0),
            sorted: values,
        }
    }
}

/// The value below which `percent` of the ascending values lie, linear between the two nearest ones
/// (Hyndman and Fan's type 7, numpy's default). 0 if there is no value.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = sorted.len().saturating_sub(1) as f64 * percent / 100.0;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or_default();
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

/// All figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) completed: usize,
    pub(super) failed: usize,
    pub(super) duration_s: f64,
    pub(super) input_tokens: usize,
    pub(super) output_tokens: usize,
    pub(super) requests_per_s: f64,
    pub(super) output_tokens_per_s: f64,
    pub(super) total_tokens_per_s: f64,
    /// Time to the first piece of text.
    pub(super) ttft_ms: Latency,
    /// Time per output token after the first piece, averaged over each answer.
    pub(super) tpot_ms: Latency,
    /// Times between the pieces of an answer.
    pub(super) itl_ms: Latency,
    /// Time to the end of the answer.
    pub(super) e2e_ms: Latency,
}

impl Figures {
    /// The figures of answers that came within `duration`.
    pub(super) fn new(timings: &[Timing], failed: usize, duration: Duration) -> Figures {
        let duration_s = duration.as_secs_f64();
        let sum = |tokens: fn(&Timing) -> usize| timings.iter().map(tokens).sum::<usize>();
        let input_tokens = sum(|timing| timing.prompt_tokens);
        let output_tokens = sum(|timing| timing.output_tokens);
        let gaps = timings.iter().flat_map(|timing| timing.pieces.windows(2));
        Figures {
            completed: timings.len(),
            failed,
            duration_s,
            input_tokens,
            output_tokens,
            requests_per_s: timings.len() as f64 / duration_s,
            output_tokens_per_s: output_tokens as f64 / duration_s,
            total_tokens_per_s: (input_tokens + output_tokens) as f64 / duration_s,
            ttft_ms: Latency::new(timings.iter().filter_map(ttft).map(ms).collect()),
            tpot_ms: Latency::new(timings.iter().filter_map(tpot).map(ms).collect()),
            itl_ms: Latency::new(gaps.map(|pair| ms(pair[1] - pair[0])).collect()),
            e2e_ms: Latency::new(timings.iter().map(|timing| ms(timing.end)).collect()),
        }
    }

    /// The four latencies with their names.
    pub(super) fn latencies(&self) -> [(&'static str, &Latency); 4] {
        [
            ("TTFT", &self.ttft_ms),
            ("TPOT", &self.tpot_ms),
            ("ITL", &self.itl_ms),
            ("E2E", &self.e2e_ms),
        ]
    }

    /// A table for the user.
    pub(super) fn table(&self) -> String {
        let mut out = format!(
            "requests    {} completed, {} failed in {:.2} s ({:.2}/s)\n\
             tokens      {} in, {} out\n\
             throughput  {:.1} output tokens/s, {:.1} tokens/s in all\n\n\
             latency, ms     mean       p50       p90       p99       max\n",
            self.completed,
            self.failed,
            self.duration_s,
            self.requests_per_s,
            self.input_tokens,
            self.output_tokens,
            self.output_tokens_per_s,
            self.total_tokens_per_s,
        );
        for (name, latency) in self.latencies() {
            let Latency { mean, p50, p90, p99, max, .. } = latency;
            out += &format!("{name:<10}{mean:>10.2}{p50:>10.2}{p90:>10.2}{p99:>10.2}{max:>10.2}\n");
        }
        out
    }
}

/// Time to the first piece of text, if there was one.
pub(super) fn ttft(timing: &Timing) -> Option<Duration> {
    timing.pieces.first().copied()
}

/// Time per output token after the first, if there is one.
pub(super) fn tpot(timing: &Timing) -> Option<Duration> {
    let tokens = u32::try_from(timing.output_tokens).ok()?.checked_sub(1)?;
    (timing.end - ttft(timing)?).checked_div(tokens)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate_between_neighbours() {
        let values: Vec<f64> = (1..=5).map(f64::from).collect();
        let cases = [(0.0, 1.0), (50.0, 3.0), (90.0, 4.6), (99.0, 4.96), (100.0, 5.0)];
        for (percent, expected) in cases {
            // Three roundings of numbers below 8.
            assert!((percentile(&values, percent) - expected).abs() < 3e-15, "{percent}");
        }
        assert_eq!(percentile(&[1.0, 2.0], 50.0), 1.5);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn figures_of_two_answers() {
        let answer = |pieces: &[u64], end, output_tokens| Timing {
            pieces: pieces.iter().map(|at| Duration::from_millis(*at)).collect(),
            end: Duration::from_millis(end),
            prompt_tokens: 10,
            output_tokens,
        };
        let one = answer(&[100, 110, 140], 160, 4);
        let two = answer(&[300], 300, 1);
        let figures = Figures::new(&[one, two], 3, Duration::from_millis(500));
        assert_eq!((figures.completed, figures.failed), (2, 3));
        assert_eq!((figures.input_tokens, figures.output_tokens), (20, 5));
        assert_eq!((figures.requests_per_s, figures.output_tokens_per_s), (4.0, 10.0));
        assert_eq!(figures.total_tokens_per_s, 50.0);
        assert_eq!(figures.ttft_ms.sorted, [100.0, 300.0]);
        assert_eq!(figures.tpot_ms.sorted, [20.0], "one token alone has no time between tokens");
        assert_eq!(figures.itl_ms.sorted, [10.0, 30.0]);
        assert_eq!((figures.e2e_ms.mean, figures.e2e_ms.max), (230.0, 300.0));
        let none = Figures::new(&[], 1, Duration::from_secs(1));
        assert_eq!((none.ttft_ms.mean, none.ttft_ms.p99), (0.0, 0.0));
    }
}
