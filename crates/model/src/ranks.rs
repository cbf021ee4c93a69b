//! A tensor-parallel group: every rank's model on a thread of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::{Backend, Batch, DeviceError, LoadError, Model, RowOutput};

type StepResult = Result<Vec<RowOutput>, DeviceError>;

/// The running ranks. Dropping it ends their threads.
pub struct Ranks {
    batches: Vec<Sender<Arc<Batch>>>,
    results: Receiver<(usize, StepResult)>,
    /// How many batches each rank has ended.
    ended: Vec<usize>,
    /// Batches whose results were taken by `wait`.
    waited: usize,
    /// Rank 0's results of the batches it has ended since then.
    outputs: VecDeque<Vec<RowOutput>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ranks {
    /// Starts `ranks` threads; each makes its model with `load(rank)` there, so that a device is
    /// only ever touched by its own thread. Returns when all have loaded.
    ///
    /// # Errors
    /// The first rank's error, in rank order.
    pub fn start<B, F>(ranks: usize, load: F) -> Result<Ranks, LoadError>
    where
        B: Backend,
        F: Fn(usize) -> Result<Model<B>, LoadError> + Send + Sync + 'static,
    {
        let load = Arc::new(load);
        let (result_tx, results) = channel();
        let (mut batches, mut threads, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
        for rank in 0..ranks {
            let (batch_tx, batch_rx) = channel::<Arc<Batch>>();
            let (loaded_tx, loaded_rx) = channel();
            let (load, result_tx) = (Arc::clone(&load), result_tx.clone());
            let body = move || {
                let mut model = match load(rank) {
                    Ok(model) => model,
                    Err(error) => return drop(loaded_tx.send(Err(error))),
                };
                // A receiver that is gone means that the group is being dropped.
                let _ = loaded_tx.send(Ok(()));
                for batch in batch_rx {
                    // Others wait for this rank: they must hear of its end.
                    let result = catch_unwind(AssertUnwindSafe(|| model.forward(&batch)));
                    let result = result.unwrap_or_else(|_| Err(DeviceError("it panicked".into())));
                    if result_tx.send((rank, result)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("rank-{rank}")).spawn(body);
            threads.push(thread.map_err(|e| DeviceError(format!("no thread for rank: {e}")))?);
            batches.push(batch_tx);
            loaded.push(loaded_rx);
        }
        let ended = vec![0; ranks];
        let outputs = VecDeque::new();
        let group = Ranks { batches, results, ended, waited: 0, outputs, threads };
        for rank in loaded {
            rank.recv().map_err(|_| DeviceError("a rank died while loading".into()))??;
        }
        Ok(group)
    }

    /// Runs one batch on all ranks and returns rank 0's results. None may be under way.
    ///
    /// # Errors
    /// Any rank's failure; the group must not be used after one.
    pub fn run(&mut self, batch: Batch) -> StepResult {
        self.launch(batch)?;
        self.wait()
    }

    /// Hands a batch to all ranks, which begin it as soon as they have ended those launched before,
    /// and returns at once.
    ///
    /// # Errors
    /// A rank that has died; the group must not be used after that.
    pub fn launch(&mut self, batch: Batch) -> Result<(), DeviceError> {
        let batch = Arc::new(batch);
        for rank in &self.batches {
            rank.send(Arc::clone(&batch)).map_err(|_| died())?;
        }
        Ok(())
    }

    /// Waits until all ranks have ended the oldest batch that was launched and not waited for, and
    /// returns rank 0's results.
    ///
    /// # Errors
    /// Any rank's failure; the group must not be used after one.
    pub fn wait(&mut self) -> StepResult {
        self.waited += 1;
        // Ranks need not end in step: one may have ended the next batch too.
        while self.ended.iter().any(|ended| *ended < self.waited) {
            let (rank, result) = self.results.recv().map_err(|_| died())?;
            let result = result.map_err(|e| DeviceError(format!("rank {rank}: {e}")))?;
            self.ended[rank] += 1;
            if rank == 0 {
                self.outputs.push_back(result);
            }
        }
        self.outputs.pop_front().ok_or_else(died)
    }
}

fn died() -> DeviceError {
    DeviceError("a rank died".into())
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.batches.clear();
        for thread in self.threads.drain(..) {
            // A rank that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}
