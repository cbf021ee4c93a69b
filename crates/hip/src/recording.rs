//! Who records graphs, and who makes them ready or launches them: not both at once.
//!
//! HIP (7.2, and still 7.14) spoils every capture in the process, of whatever device, thread and
//! mode, when a graph is launched meanwhile, and then says so at the capture's end. Ranks record
//! the same graph at nearly the same time: the first would launch its own while others record.

use std::sync::{Condvar, Mutex, PoisonError};

static COUNTS: Mutex<[usize; 2]> = Mutex::new([0; 2]);
static LEFT: Condvar = Condvar::new();

/// A stay among those who record. The thread must not launch a graph before it ends.
pub(crate) type Recording = Stay<0>;
/// A stay among those who make graphs ready or launch them.
pub(crate) type Launching = Stay<1>;

/// Many of one kind may stay at once.
pub(crate) struct Stay<const KIND: usize>(());

impl<const KIND: usize> Stay<KIND> {
    /// Waits until none of the other kind stays.
    pub(crate) fn begin() -> Stay<KIND> {
        let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |counts: &mut [usize; 2]| counts[1 - KIND] > 0;
        let mut counts = LEFT.wait_while(counts, others).unwrap_or_else(PoisonError::into_inner);
        counts[KIND] += 1;
        Stay(())
    }
}

impl<const KIND: usize> Drop for Stay<KIND> {
    fn drop(&mut self) {
        COUNTS.lock().unwrap_or_else(PoisonError::into_inner)[KIND] -= 1;
        LEFT.notify_all();
    }
}
