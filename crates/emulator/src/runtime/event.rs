//! Events.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::capture::Captured;
use super::error::{self, Error, HipResult};
use super::lock;
use super::stream::{Op, Stream};
use crate::check::Order;

/// One recording of an event.
#[derive(Default)]
pub(crate) struct Mark {
    done: Mutex<Option<(Instant, Order)>>,
    changed: Condvar,
}

impl Mark {
    /// The stream has reached the recording.
    pub(crate) fn done(&self, order: Order) {
        *lock(&self.done) = Some((Instant::now(), order));
        self.changed.notify_all();
    }

    /// Waits until then.
    pub(crate) fn wait(&self) -> Order {
        let mut d = lock(&self.done);
        loop {
            if let Some((_, o)) = &*d {
                return o.clone();
            }
            d = self.changed.wait(d).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn time(&self) -> Option<Instant> {
        lock(&self.done).as_ref().map(|d| d.0)
    }
}

/// What an event was last recorded as.
#[derive(Clone)]
pub(crate) enum Recorded {
    Never,
    On(Arc<Mark>),
    Captured(Captured),
}

/// An event.
pub(crate) struct Event {
    pub(crate) flags: u32,
    state: Mutex<Recorded>,
}

impl Event {
    pub(crate) fn new(flags: u32) -> Event {
        Event { flags, state: Mutex::new(Recorded::Never) }
    }

    pub(crate) fn recorded(&self) -> Recorded {
        lock(&self.state).clone()
    }

    pub(crate) fn set_captured(&self, c: Captured) {
        *lock(&self.state) = Recorded::Captured(c);
    }

    /// Records on a stream that is not capturing.
    pub(crate) fn record(&self, s: &Arc<Stream>) {
        let m = Arc::new(Mark::default());
        *lock(&self.state) = Recorded::On(Arc::clone(&m));
        s.submit(Op::Mark(m));
    }

    fn mark(&self) -> HipResult<Option<Arc<Mark>>> {
        match self.recorded() {
            Recorded::Never => Ok(None),
            Recorded::On(m) => Ok(Some(m)),
            Recorded::Captured(_) => {
                let what = "event was recorded in a capture: it cannot be queried or waited for";
                Err(Error::new(error::CAPTURED_EVENT, what))
            }
        }
    }

    /// Whether the recorded work has finished.
    pub(crate) fn query(&self) -> HipResult<bool> {
        Ok(self.mark()?.is_none_or(|m| m.time().is_some()))
    }

    /// Waits on the host.
    pub(crate) fn synchronize(&self) -> HipResult<()> {
        if let Some(m) = self.mark()? {
            super::runtime().host_waited(&m.wait());
        }
        Ok(())
    }

    /// Milliseconds from `start` to `self`.
    pub(crate) fn since(&self, start: &Event) -> HipResult<f32> {
        if (self.flags | start.flags) & 2 != 0 {
            return Err(Error::new(error::INVALID_HANDLE, "event was created without timing"));
        }
        let (Some(a), Some(b)) = (start.mark()?, self.mark()?) else {
            return Err(Error::new(error::INVALID_HANDLE, "event was never recorded"));
        };
        match (a.time(), b.time()) {
            (Some(a), Some(b)) if b >= a => Ok((b - a).as_secs_f32() * 1e3),
            (Some(a), Some(b)) => Ok(-((a - b).as_secs_f32() * 1e3)),
            _ => Err(Error::quiet(error::NOT_READY)),
        }
    }
}
