//! A tensor-parallel group: every rank's model on a thread of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::{Backend, Batch, DeviceError, LoadError, Model, RowOutput};

type StepResult = Result<Vec<RowOutput>, DeviceError>;

/// Bytes of a rank's stack, of which the system takes what is used. HIP follows a recorded graph's
/// nodes by recursion, some 1,500 for a decode step; Rust's own threads have 2 MiB.
const STACK: usize = 16 << 20;

/// What a rank's thread is told.
enum Order {
    /// Begin a batch.
    Launch(Arc<Batch>),
    /// Hand over the results of so many batches, counted from the start.
    Results(usize),
}

/// The running ranks. Dropping it ends their threads.
pub struct Ranks {
    orders: Vec<Sender<Order>>,
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
        let (mut orders, mut threads, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
        for rank in 0..ranks {
            let (order_tx, order_rx) = channel();
            let (loaded_tx, loaded_rx) = channel();
            let (load, result_tx) = (Arc::clone(&load), result_tx.clone());
            let body = move || {
                let model = match load(rank) {
                    Ok(model) => model,
                    Err(error) => return drop(loaded_tx.send(Err(error))),
                };
                // A receiver that is gone means that the group is being dropped.
                let _ = loaded_tx.send(Ok(()));
                let mut member = Member { rank, model, launched: 0, ended: 0, result_tx };
                for order in order_rx {
                    // Others wait for this rank: they must hear of its end.
                    let outcome = catch_unwind(AssertUnwindSafe(|| member.follow(order)));
                    let outcome =
                        outcome.unwrap_or_else(|_| Err(DeviceError("it panicked".into())));
                    if let Err(error) = outcome {
                        let _ = member.result_tx.send((rank, Err(error)));
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("rank-{rank}"));
            let thread = thread.stack_size(STACK).spawn(body);
            threads.push(thread.map_err(|e| DeviceError(format!("no thread for rank: {e}")))?);
            orders.push(order_tx);
            loaded.push(loaded_rx);
        }
        let ended = vec![0; ranks];
        let outputs = VecDeque::new();
        let group = Ranks { orders, results, ended, waited: 0, outputs, threads };
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

    /// Hands a batch to all ranks, and returns at once. A rank's device begins it when it has ended
    /// those launched before; the rank's thread hands it over to the device before that.
    ///
    /// # Errors
    /// A rank that has died; the group must not be used after that.
    pub fn launch(&mut self, batch: Batch) -> Result<(), DeviceError> {
        let batch = Arc::new(batch);
        self.tell(|| Order::Launch(Arc::clone(&batch)))
    }

    fn tell(&self, order: impl Fn() -> Order) -> Result<(), DeviceError> {
        self.orders.iter().try_for_each(|rank| rank.send(order())).map_err(|_| died())
    }

    /// Waits until all ranks have ended the oldest batch that was launched and not waited for, and
    /// returns rank 0's results.
    ///
    /// # Errors
    /// Any rank's failure; the group must not be used after one.
    pub fn wait(&mut self) -> StepResult {
        self.waited += 1;
        self.tell(|| Order::Results(self.waited))?;
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

/// A rank's thread.
struct Member<B: Backend> {
    rank: usize,
    model: Model<B>,
    /// Batches whose work has been queued.
    launched: usize,
    /// Batches whose results were sent.
    ended: usize,
    result_tx: Sender<(usize, StepResult)>,
}

impl<B: Backend> Member<B> {
    fn follow(&mut self, order: Order) -> Result<(), DeviceError> {
        match order {
            Order::Launch(batch) => {
                self.model.compute(&batch)?;
                if batch.awaits_masks() {
                    self.send(self.launched, true)?;
                }
                self.model.draw(&batch)?;
                self.launched += 1;
                self.send(self.launched, false)
            }
            Order::Results(count) => self.send(count, true),
        }
    }

    /// Sends the results of batches until they are `count` in all; without `wait`, of those alone
    /// that the device has ended.
    fn send(&mut self, count: usize, wait: bool) -> Result<(), DeviceError> {
        while self.ended < count
            && let Some(results) = self.model.results(wait)?
        {
            self.ended += 1;
            // A receiver that is gone means that the group is being dropped.
            let _ = self.result_tx.send((self.rank, Ok(results)));
        }
        Ok(())
    }
}

fn died() -> DeviceError {
    DeviceError("a rank died".into())
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.orders.clear();
        for thread in self.threads.drain(..) {
            // A rank that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}
