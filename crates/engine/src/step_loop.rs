//! The engine's thread: takes commands, plans, has batches run, tells.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::UnboundedSender;

use model::RowOutput;

use crate::constraint::MaskWork;
use crate::request::Event;
use crate::scheduler::{Chunk, Landed, Plan, Scheduler, Started};
use crate::sequence::{Place, Sequence};
use crate::{Device, Execute};

/// What other threads ask of the engine's thread.
pub(crate) enum Command {
    /// Run a sequence and tell its caller.
    Submit { place: Place, sequence: Box<Sequence>, caller: Caller },
    /// Nobody listens to this sequence any more.
    Cancel(Place),
    /// The last handle is gone.
    Stop,
}

/// The sending end of a `Stream`.
pub(crate) struct Caller {
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) cached_tokens: Arc<AtomicUsize>,
}

impl Caller {
    /// Sends an event. A caller that is gone has its `Cancel` on the way.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// What the engine's thread shows to the handles.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) running: AtomicUsize,
    /// Requests in the channel or in the scheduler's queue. A handle counts its own request before
    /// sending it, so that a full queue is known at once.
    pub(crate) waiting: AtomicUsize,
    pub(crate) free_blocks: AtomicUsize,
    pub(crate) preemptions: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) cached_prompt_tokens: AtomicU64,
    /// Why the engine cannot run batches any more.
    pub(crate) failure: OnceLock<String>,
}

/// What runs the batches.
pub(crate) enum Executor {
    /// One after the other: the next one is planned when the last one's results are there.
    Normal(Execute),
    /// The next one is planned and launched while the last one runs.
    Overlapped(Box<dyn Device>),
}

pub(crate) struct StepLoop {
    commands: Receiver<Command>,
    scheduler: Scheduler,
    executor: Executor,
    masks: Sender<MaskWork>,
    /// The chunks of the batch that was launched last, until it lands.
    under_way: Option<Vec<Chunk>>,
    callers: HashMap<Place, Caller>,
    shared: Arc<Shared>,
    /// How many of `shared.waiting` have come out of the channel.
    waiting_seen: usize,
}

impl StepLoop {
    pub(crate) fn new(
        commands: Receiver<Command>,
        scheduler: Scheduler,
        executor: Executor,
        masks: Sender<MaskWork>,
        shared: Arc<Shared>,
    ) -> StepLoop {
        StepLoop {
            commands,
            scheduler,
            executor,
            masks,
            under_way: None,
            callers: HashMap::new(),
            shared,
            waiting_seen: 0,
        }
    }

    /// Runs until the last handle is gone. Streams that are open then fail.
    ///
    /// After a failure the thread stays, to refuse what was sent before the sender could know.
    pub(crate) fn run(mut self) {
        while self.take_commands() {
            self.publish_load();
            if self.is_idle() {
                continue;
            }
            // A panic in the executor, or here, must not leave the callers waiting for ever.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.step()))
                .unwrap_or_else(|panic| Err(panic_message(panic.as_ref())));
            if let Err(reason) = outcome {
                tracing::error!(reason, "the engine has failed");
                // Never set before: with a failure no sequence is added, so no step is run.
                let _ = self.shared.failure.set(reason.clone());
                self.fail_all(&reason);
            }
        }
        self.fail_all("the engine was stopped");
    }

    fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.under_way.is_none()
    }

    /// Takes all commands that are there, waiting for one if there is nothing else to do. Returns
    /// false if the thread is to end.
    fn take_commands(&mut self) -> bool {
        if self.is_idle() {
            let Ok(command) = self.commands.recv() else { return false };
            if !self.take(command) {
                return false;
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            if !self.take(command) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, command: Command) -> bool {
        match command {
            Command::Submit { place, sequence, caller } => {
                self.waiting_seen += 1;
                if let Some(reason) = self.shared.failure.get() {
                    caller.tell(Event::Failed(reason.clone()));
                } else {
                    self.callers.insert(place, caller);
                    self.scheduler.add(place, *sequence);
                }
            }
            Command::Cancel(place) => {
                self.callers.remove(&place);
                self.scheduler.cancel(place);
            }
            Command::Stop => return false,
        }
        true
    }

    /// Plans a batch and takes the results of one: the same one, or the one before it.
    fn step(&mut self) -> Result<(), String> {
        let plan = self.plan();
        match &mut self.executor {
            Executor::Normal(execute) => {
                let Some(Plan { batch, chunks, .. }) = plan else {
                    return Ok(());
                };
                let results = execute(batch).map_err(|error| error.to_string())?;
                self.land(&chunks, results)
            }
            Executor::Overlapped(device) => {
                let earlier = self.under_way.take();
                if let Some(Plan { batch, chunks, .. }) = plan {
                    device.launch(batch).map_err(|error| error.to_string())?;
                    self.under_way = Some(chunks);
                }
                let Some(chunks) = earlier else {
                    return Ok(());
                };
                let results = device.wait().map_err(|error| error.to_string())?;
                self.land(&chunks, results)
            }
        }
    }

    fn plan(&mut self) -> Option<Plan> {
        let plan = self.scheduler.plan()?;
        self.publish_load();
        self.publish_starts(&plan.started);
        Some(plan)
    }

    fn land(&mut self, chunks: &[Chunk], results: Vec<RowOutput>) -> Result<(), String> {
        let Landed { news, masks } = self.scheduler.apply(chunks, results)?;
        for work in masks {
            self.masks.send(work).map_err(|_| "the mask threads have ended")?;
        }
        // First the figures, then the events: whoever sees an end also sees its blocks free.
        self.publish_load();
        for (place, event) in news {
            let last = event.is_last();
            if let Some(caller) = self.callers.get(&place) {
                caller.tell(event);
            }
            if last {
                self.callers.remove(&place);
            }
        }
        Ok(())
    }

    fn fail_all(&mut self, reason: &str) {
        self.under_way = None;
        for (place, caller) in std::mem::take(&mut self.callers) {
            self.scheduler.cancel(place);
            caller.tell(Event::Failed(reason.to_owned()));
        }
        self.publish_load();
    }

    fn publish_load(&mut self) {
        let waiting = self.scheduler.waiting();
        match waiting.checked_sub(self.waiting_seen) {
            Some(preempted) => self.shared.waiting.fetch_add(preempted, Relaxed),
            None => self.shared.waiting.fetch_sub(self.waiting_seen - waiting, Relaxed),
        };
        self.waiting_seen = waiting;
        self.shared.running.store(self.scheduler.running(), Relaxed);
        self.shared.free_blocks.store(self.scheduler.free_blocks(), Relaxed);
        self.shared.preemptions.store(self.scheduler.preemptions, Relaxed);
    }

    fn publish_starts(&mut self, started: &[Started]) {
        for start in started {
            self.shared.prompt_tokens.fetch_add(start.prompt_tokens as u64, Relaxed);
            self.shared.cached_prompt_tokens.fetch_add(start.cached_tokens as u64, Relaxed);
            if let Some(caller) = self.callers.get(&start.place) {
                caller.cached_tokens.store(start.cached_tokens, Relaxed);
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("a step panicked: {text}")
}
