//! Tensors in pieces of bounded size, on all cores.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::CheckpointError;

/// Elements decoded at a time: their f32 fit the first cache.
pub(super) const CHUNK: usize = 4096;

/// Elements in a piece where memory allows: reads of several MiB are as fast as any.
const MOST: usize = 4 << 20;
/// Elements in a piece below which seeks and calls would cost more than the work.
const LEAST: usize = 32 << 10;
/// Bytes a thread holds per element of its piece: the widest type has eight, and so has what it
/// becomes or is compared with.
const PER_ELEMENT: usize = 16;
/// Memory of the program itself and of its threads' stacks.
const FIXED: usize = 48 << 20;
/// Memory of a tensor's header entries and plan.
const PER_TENSOR: usize = 2 << 10;

/// How much is done at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pieces {
    pub(super) threads: usize,
    /// Elements, a multiple of [`CHUNK`].
    elements: usize,
}

impl Pieces {
    /// Fits `threads` threads, or fewer, into `max_memory` bytes. `tensors` are all of the
    /// checkpoint's; `scales` is the size of the largest set of FP8 scales: each thread holds one.
    ///
    /// # Errors
    /// The bytes that one thread would need.
    pub(super) fn fit(
        max_memory: usize,
        tensors: usize,
        scales: usize,
        threads: usize,
    ) -> Result<Pieces, usize> {
        let fixed = FIXED + tensors * PER_TENSOR;
        let least = LEAST * PER_ELEMENT + scales;
        let room = max_memory.saturating_sub(fixed);
        let threads = threads.min(room / least);
        if threads == 0 {
            return Err(fixed + least);
        }
        let elements = ((room / threads - scales) / PER_ELEMENT).min(MOST);
        Ok(Pieces { threads, elements: elements / CHUNK * CHUNK })
    }

    /// The pieces of a tensor of `elements` elements, one at least.
    pub(super) fn of(&self, elements: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
        let size = self.elements;
        (0..elements.div_ceil(size).max(1)).map(move |i| i * size..((i + 1) * size).min(elements))
    }
}

/// Runs of [`CHUNK`] elements in a piece of `elements`.
pub(super) fn chunks(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(CHUNK).map(move |start| start..(start + CHUNK).min(elements))
}

/// Takes jobs one after another on every thread until all are done. Each thread has its own `S`.
///
/// # Errors
/// The first error of a job or of the iterator; no job is begun after it.
pub(super) fn run<J: Send, S: Default>(
    threads: usize,
    jobs: impl Iterator<Item = Result<J, CheckpointError>> + Send,
    work: impl Fn(&mut S, J) -> Result<(), CheckpointError> + Sync,
) -> Result<(), CheckpointError> {
    let state = Mutex::new((jobs, None));
    let next = || {
        // A poisoned lock: a panic elsewhere, which the scope passes on.
        let mut state = state.lock().ok()?;
        if state.1.is_some() {
            return None;
        }
        let job = state.0.next()?;
        job.map_err(|error| state.1 = Some(error)).ok()
    };
    let fail = |error| {
        if let Ok(mut state) = state.lock() {
            state.1.get_or_insert(error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = S::default();
                while let Some(job) = next() {
                    if let Err(error) = work(&mut own, job) {
                        fail(error);
                    }
                }
            });
        }
    });
    // A panic has been passed on by the scope.
    state.into_inner().unwrap_or_else(PoisonError::into_inner).1.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_tensor_once() {
        let pieces = Pieces { threads: 1, elements: CHUNK };
        let all: Vec<_> = pieces.of(2 * CHUNK + 32).collect();
        assert_eq!(all, [0..CHUNK, CHUNK..2 * CHUNK, 2 * CHUNK..2 * CHUNK + 32]);
        assert_eq!((pieces.of(0).len(), pieces.of(0).next()), (1, Some(0..0)));
        assert_eq!(chunks(CHUNK + 1).collect::<Vec<_>>(), [0..CHUNK, CHUNK..CHUNK + 1]);
    }

    #[test]
    fn threads_and_pieces_fit_the_memory() {
        for max_memory in [50 << 20, 64 << 20, 1 << 30, 4 << 30] {
            let pieces = Pieces::fit(max_memory, 100, 4096, 64).unwrap();
            let used = pieces.threads * (pieces.elements * PER_ELEMENT + 4096);
            assert!(FIXED + 100 * PER_TENSOR + used <= max_memory && pieces.elements >= LEAST);
        }
        assert_eq!(Pieces::fit(4 << 30, 100, 0, 2).unwrap(), Pieces { threads: 2, elements: MOST });
        assert!(Pieces::fit(48 << 20, 100, 0, 2).unwrap_err() > 48 << 20);
    }

    #[test]
    fn the_first_error_ends_all() {
        let jobs = (0..1000).map(Ok);
        let done = std::sync::atomic::AtomicUsize::new(0);
        let work = |_: &mut (), job| match job {
            10 => Err(CheckpointError::File { path: "x".into(), problem: "y".into() }),
            _ => {
                done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
        };
        assert_eq!(run(1, jobs, work).unwrap_err().to_string(), "x: y");
        assert_eq!(done.into_inner(), 10);
    }
}
