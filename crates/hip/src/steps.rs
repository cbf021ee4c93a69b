//! Batches under way. The host queues one while the device computes the one before, and waits for
//! none but to hand over results: between two batches the device waits for nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Batch, DeviceError, RowOutput};
use tracing::{Level, debug, enabled};

use crate::collective::Communicator;
use crate::gpu::Gpu;
use crate::sampler::Round;
use crate::{Device, Event};

/// Batches under way at most: each has its own host memory that the device copies from and to.
pub(crate) const UNDER_WAY: usize = 2;
/// A rank that learns of another's failure lets that one speak first: it knows the cause.
const CAUSE_FIRST: Duration = Duration::from_secs(2);

/// A batch under way.
pub(crate) struct Step {
    batch: Arc<Batch>,
    slot: usize,
    /// Outputs that were queued to be drawn.
    queued: usize,
    /// Results of the first of them: of the rounds of logits before the latest.
    results: Vec<RowOutput>,
}

/// All of them.
pub(crate) struct Steps {
    /// The one that the verbs are about.
    current: Option<Step>,
    /// Those whose work is all queued, the oldest first.
    queued: VecDeque<Step>,
    /// Results that nobody has taken.
    landed: VecDeque<Vec<RowOutput>>,
    /// When the batch in a slot begins, and when its latest round ends.
    begins: [Event; UNDER_WAY],
    ends: [Event; UNDER_WAY],
    next_slot: usize,
    /// Batches begun so far.
    begun: usize,
    /// Outputs of the latest batch.
    outputs: usize,
}

impl Steps {
    pub(crate) fn new(device: &Device) -> Result<Steps, DeviceError> {
        Ok(Steps {
            current: None,
            queued: VecDeque::new(),
            landed: VecDeque::new(),
            begins: [Event::new(device)?, Event::new(device)?],
            ends: [Event::new(device)?, Event::new(device)?],
            begun: 0,
            next_slot: 0,
            outputs: 0,
        })
    }
}

impl Gpu {
    /// Begins a batch; returns its slot. Waits for the device if as many are under way as there are
    /// slots, or if what follows is to be recorded, when the device cannot be asked how far it is.
    pub(crate) fn begin_step(
        &mut self,
        batch: &Arc<Batch>,
        recorded: bool,
    ) -> Result<usize, DeviceError> {
        batch.check_carried(self.steps.outputs)?;
        while self.steps.queued.len() > if recorded { 0 } else { UNDER_WAY - 1 } {
            self.land()?;
        }
        let steps = &mut self.steps;
        let slot = steps.next_slot;
        steps.next_slot = (slot + 1) % UNDER_WAY;
        steps.outputs = batch.outputs.len();
        steps.begun += 1;
        steps.begins[slot].record(&self.stream)?;
        let batch = Arc::clone(batch);
        steps.current = Some(Step { batch, slot, queued: 0, results: Vec::new() });
        Ok(slot)
    }

    /// Queues the drawing of the next `rows` outputs from the logits in `logits`.
    pub(crate) fn sample_step(
        &mut self,
        logits: &crate::Memory,
        rows: usize,
    ) -> Result<(), DeviceError> {
        let mut step = self.steps.current.take().ok_or_else(no_batch)?;
        if step.queued > 0 {
            // The slot's memory is the next round's.
            self.steps.ends[step.slot].record(&self.stream)?;
            self.collect(&mut step)?;
        }
        let round = Round {
            batch: &step.batch,
            first: step.queued,
            rows,
            tokens: self.input.tokens(),
            slot: step.slot,
        };
        self.sampler.queue(&self.stream, &self.kernels, logits, round)?;
        step.queued += rows;
        self.steps.current = Some(step);
        Ok(())
    }

    /// All of the batch is queued.
    pub(crate) fn end_step(&mut self) -> Result<(), DeviceError> {
        let step = self.steps.current.take().ok_or_else(no_batch)?;
        self.tell_gap(step.slot)?;
        self.steps.ends[step.slot].record(&self.stream)?;
        self.steps.queued.push_back(step);
        Ok(())
    }

    /// Tells, at level debug, how long the device stood still between the last two batches before
    /// the one in `slot`, if the later has begun.
    fn tell_gap(&self, slot: usize) -> Result<(), DeviceError> {
        let Steps { begins, ends, begun, .. } = &self.steps;
        let later = (slot + UNDER_WAY - 1) % UNDER_WAY;
        if *begun > 2 && enabled!(Level::DEBUG) && begins[later].is_past()? {
            let gap = begins[later].milliseconds_since(&ends[slot])?;
            debug!(microseconds = gap * 1e3, "the device waited for a step");
        }
        Ok(())
    }

    /// The oldest results that nobody has taken.
    pub(crate) fn take_results(
        &mut self,
        wait: bool,
    ) -> Result<Option<Vec<RowOutput>>, DeviceError> {
        if self.steps.landed.is_empty()
            && let Some(step) = self.steps.queued.front()
            && (wait || self.steps.ends[step.slot].is_past()?)
        {
            self.land()?;
        }
        Ok(self.steps.landed.pop_front())
    }

    /// Waits for the oldest batch that is queued, and keeps its results.
    fn land(&mut self) -> Result<(), DeviceError> {
        let mut step = self.steps.queued.pop_front().ok_or_else(no_batch)?;
        self.collect(&mut step)?;
        self.steps.landed.push_back(step.results);
        Ok(())
    }

    /// Waits for the latest round of a batch, and takes its results.
    fn collect(&mut self, step: &mut Step) -> Result<(), DeviceError> {
        self.wait(step.slot)?;
        let outputs = &step.batch.outputs[step.results.len()..step.queued];
        step.results.extend(self.sampler.results(step.slot, outputs)?);
        Ok(())
    }

    /// Waits for the end of a slot's batch; gives up when the group fails or the watchdog's time is
    /// over.
    fn wait(&mut self, slot: usize) -> Result<(), DeviceError> {
        let start = Instant::now();
        while !self.steps.ends[slot].is_past()? {
            let waited = start.elapsed();
            if waited > self.options.watchdog {
                let message = format!(
                    "a step has not ended within {} s (--watchdog-timeout)",
                    self.options.watchdog.as_secs()
                );
                return Err(self.give_up(message));
            }
            if let Some(Err(error)) = self.group.as_ref().map(Communicator::check) {
                let failed = self.give_up(error.to_string());
                std::thread::sleep(CAUSE_FIRST);
                return Err(failed);
            }
            // A decode step ends within milliseconds; what takes longer need not be caught at once.
            if waited > Duration::from_millis(20) {
                std::thread::sleep(Duration::from_micros(200));
            } else {
                std::hint::spin_loop();
            }
        }
        // Failures are the stream's to tell; it may have gone on to the next batch.
        self.stream.is_idle()?;
        Ok(())
    }

    fn give_up(&mut self, message: String) -> DeviceError {
        // What waits for other ranks ends, so that the stream can be destroyed.
        if let Some(peers) = &self.peers {
            peers.stop();
        }
        if let Some(group) = &mut self.group {
            group.abort();
        }
        DeviceError(message)
    }
}

fn no_batch() -> DeviceError {
    DeviceError("no batch was begun".into())
}
