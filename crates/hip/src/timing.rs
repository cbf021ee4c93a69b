//! How long queued work takes.

use crate::stream::{Event, Stream};
use crate::{Error, Graph};

/// Measurements; their median is the result.
const MEASUREMENTS: usize = 25;

impl Stream {
    /// Seconds that one of `launch(0)`, `launch(1)`, .. `launch(count - 1)` takes, one after the
    /// other in a graph, as decode steps run: the median of many replays after a warm-up. What they
    /// queue must use memory that outlives `launch`.
    ///
    /// # Errors
    /// A launch that fails, or work that cannot be recorded.
    pub fn time<F>(&self, count: usize, launch: F) -> Result<f64, Error>
    where
        F: Fn(usize) -> Result<(), Error>,
    {
        // Kernels are loaded when they first run, which a graph that is being recorded forbids.
        (0..count).try_for_each(&launch)?;
        self.synchronize()?;
        self.begin_capture()?;
        let launched = (0..count).try_for_each(&launch);
        let graph: Result<Graph, Error> = self.end_capture();
        launched?;
        let graph = graph?;
        // SAFETY: launches borrow their memory, and `launch` still has it.
        let median = self.time_queued(|| unsafe { self.run(&graph) })?;
        Ok(median / count as f64)
    }

    /// Seconds that `run()` takes when it is queued again and again: the median after a warm-up.
    ///
    /// # Errors
    /// What `run` fails with, or a failed device.
    pub fn time_queued(&self, run: impl Fn() -> Result<(), Error>) -> Result<f64, Error> {
        (0..2).try_for_each(|_| run())?;
        let new = |_| Event::new(self.device());
        let events = (0..=MEASUREMENTS).map(new).collect::<Result<Vec<_>, _>>()?;
        events[0].record(self)?;
        for event in &events[1..] {
            run()?;
            event.record(self)?;
        }
        let times = events.windows(2).map(|pair| pair[1].milliseconds_since(&pair[0]));
        let mut times = times.collect::<Result<Vec<f32>, _>>()?;
        times.sort_by(f32::total_cmp);
        Ok(f64::from(times[MEASUREMENTS / 2]) * 1e-3)
    }
}
