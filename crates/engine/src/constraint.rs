//! Constraints: which tokens may come next, computed on threads of their own.
//!
//! The mask of a draw depends on the token before it. In the overlapped loop the draw is planned,
//! and its row launched, while that token is still being drawn: its mask is promised, and set while
//! the row is computed. The token lands, a [`MaskWork`] goes to the mask threads, and the device
//! waits for the mask only when it has the row's logits. So a constrained sequence runs at the pace
//! of the others, and the engine's thread never computes a mask.
//!
//! Whoever holds the promise sets it, at the latest when dropped: a sequence that ends or is
//! preempted leaves no device waiting. What is drawn then is of no interest to anybody.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use model::{LateMask, TokenMask};

/// The mask for the token after `token`, which was generated; `None`: any token. An error ends the
/// sequence with [`crate::Event::ConstraintFailed`].
pub type NextMask = Box<dyn FnMut(u32) -> Result<Option<Arc<TokenMask>>, String> + Send>;

/// What a sequence's tokens must be like.
pub struct Constraint {
    /// The mask of the first token.
    pub first: Option<Arc<TokenMask>>,
    /// Called once with each generated token, in order, but for the last one.
    pub next: NextMask,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

/// A mask that will be set: when this is dropped, if not before.
#[derive(Debug, Default)]
struct Promise(LateMask);

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// A sequence's constraint: the masks of its next draws.
pub(crate) struct Masks {
    next: Arc<Mutex<NextMask>>,
    /// Why there is no mask for the next token.
    failure: Arc<OnceLock<String>>,
    /// The mask of the token behind those known.
    current: LateMask,
    /// The mask of the one after that.
    promised: Promise,
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masks").field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl Masks {
    pub(crate) fn new(constraint: Constraint) -> Masks {
        let current = LateMask::default();
        current.set(constraint.first);
        Masks {
            next: Arc::new(Mutex::new(constraint.next)),
            failure: Arc::default(),
            current,
            promised: Promise::default(),
        }
    }

    /// The mask of the token that is `ahead` (0 or 1) behind the next one.
    pub(crate) fn of(&self, ahead: usize) -> LateMask {
        if ahead == 0 { self.current.clone() } else { self.promised.0.clone() }
    }

    /// Why the next token, which was drawn, is not to be had.
    pub(crate) fn failure(&self) -> Option<&String> {
        self.failure.get()
    }

    /// The next token is `token`: the work of computing the mask of the one behind it.
    pub(crate) fn advance(&mut self, token: u32) -> MaskWork {
        let mask = std::mem::take(&mut self.promised);
        self.current = mask.0.clone();
        MaskWork { next: self.next.clone(), failure: self.failure.clone(), token, mask }
    }

    /// Draws of unknown tokens are dropped and will be planned anew.
    pub(crate) fn forget_promised(&mut self) {
        self.promised = Promise::default();
    }
}

/// One mask to be computed.
pub(crate) struct MaskWork {
    next: Arc<Mutex<NextMask>>,
    failure: Arc<OnceLock<String>>,
    token: u32,
    mask: Promise,
}

impl MaskWork {
    /// Sets the mask. Where there is none, the reason is known before anything is drawn.
    pub(crate) fn run(self) {
        // Only one work of a sequence is under way, so nobody else wants this lock for long.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mask = catch_unwind(AssertUnwindSafe(|| next(self.token)));
        let reason = match mask.unwrap_or_else(|_| Err("the constraint panicked".into())) {
            Ok(Some(mask)) if mask.is_empty() => "no token can follow".into(),
            Ok(mask) => return self.mask.0.set(mask),
            Err(reason) => reason,
        };
        // Only this work can fail before the sequence hears of it.
        let _ = self.failure.set(reason);
    }
}

/// Starts the threads that run works. They end when the sender is gone.
///
/// # Errors
/// The operating system's, when it gives no thread.
pub(crate) fn start_threads() -> std::io::Result<Sender<MaskWork>> {
    let (sender, works) = channel::<MaskWork>();
    let works = Arc::new(Mutex::new(works));
    let count =
        std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
    for _ in 0..count {
        let works = works.clone();
        let next = move || works.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let body = move || {
            while let Ok(work) = next() {
                work.run();
            }
        };
        std::thread::Builder::new().name("masks".into()).spawn(body)?;
    }
    Ok(sender)
}

/// Most threads: a mask takes about 100 µs, and a step a hundred times that.
const MAX_THREADS: usize = 8;
