//! Stream operations on one word of memory: write it, or wait until it satisfies a condition.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::{self, Error, HipResult};
use super::{lock, runtime};
use crate::check::Order;
use crate::memory::Alloc;

/// When a wait is over, by the flags of `hipStreamWaitValue`; `x` is the masked word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// x ≥ value.
    AtLeast,
    /// x = value.
    Equal,
    /// x and value share a set bit.
    And,
    /// Some bit is set in neither x nor value.
    Nor,
}

impl Condition {
    /// From the flags of the call.
    pub(crate) fn from_flags(flags: u32) -> HipResult<Condition> {
        Ok(match flags {
            0 => Condition::AtLeast,
            1 => Condition::Equal,
            2 => Condition::And,
            3 => Condition::Nor,
            _ => return Err(Error::new(error::INVALID_VALUE, &format!("flags {flags:#x}"))),
        })
    }

    fn holds(self, x: u64, value: u64, mask: u64) -> bool {
        let x = x & mask;
        match self {
            Condition::AtLeast => x >= value,
            Condition::Equal => x == value,
            Condition::And => x & value != 0,
            Condition::Nor => !(x | value) & mask != 0,
        }
    }
}

/// A word of 4 or 8 bytes in device or pinned memory.
#[derive(Clone)]
pub(crate) struct Word {
    alloc: Arc<Alloc>,
    addr: u64,
    bytes: u64,
}

/// What the streams that wrote each word had done before.
pub(crate) type Written = Mutex<HashMap<u64, Order>>;

impl Word {
    /// The word at `addr`.
    pub(crate) fn at(addr: u64, bytes: u64) -> HipResult<Word> {
        let fail = |what: &str| Err(Error::new(error::INVALID_VALUE, what));
        if !addr.is_multiple_of(bytes) {
            return fail(&format!("{addr:#x} is not {bytes}-byte aligned"));
        }
        match runtime().memory.find(addr, bytes) {
            Some(alloc) => Ok(Word { alloc, addr, bytes }),
            None => fail(&format!("{addr:#x}: {}", runtime().memory.explain(addr))),
        }
    }

    fn load(&self) -> u64 {
        let p = self.alloc.at(self.addr);
        // SAFETY: `at` found the aligned word inside the allocation, which `alloc` keeps mapped.
        unsafe {
            match self.bytes {
                4 => AtomicU32::from_ptr(p.cast()).load(Ordering::Acquire).into(),
                _ => AtomicU64::from_ptr(p.cast()).load(Ordering::Acquire),
            }
        }
    }

    /// Writes the word; whoever waits for it comes after `order`.
    pub(crate) fn write(&self, value: u64, order: Order) {
        lock(&runtime().written).insert(self.addr, order);
        self.alloc.mark(self.addr, self.bytes as usize, true);
        let p = self.alloc.at(self.addr);
        // SAFETY: as in `load`.
        unsafe {
            match self.bytes {
                4 => AtomicU32::from_ptr(p.cast()).store(value as u32, Ordering::Release),
                _ => AtomicU64::from_ptr(p.cast()).store(value, Ordering::Release),
            }
        }
    }

    /// Waits for the condition; the order it establishes. A word that the host wrote comes after
    /// what the host has waited for.
    pub(crate) fn wait(&self, device: usize, c: Condition, value: u64, mask: u64) -> Order {
        let limit = Duration::from_secs(runtime().config.hang_seconds);
        let start = Instant::now();
        while !c.holds(self.load(), value, mask) {
            if runtime().check(device).is_err() {
                break;
            }
            if start.elapsed() > limit {
                let what = format!(
                    "Hang: a stream waited {} s (EMU_HANG_SECONDS) for the word at {:#x}, which \
                     is {:#x}: {c:?} {value:#x}, mask {mask:#x}",
                    limit.as_secs(),
                    self.addr,
                    self.load()
                );
                runtime().fail(device, error::LAUNCH_FAILURE, &what);
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let written = lock(&runtime().written).get(&self.addr).cloned();
        written.unwrap_or_else(|| runtime().host_order())
    }
}

#[cfg(test)]
mod tests {
    use super::Condition::{And, AtLeast, Equal, Nor};

    #[test]
    fn conditions() {
        assert!(AtLeast.holds(5, 5, !0) && !AtLeast.holds(4, 5, !0));
        assert!(!AtLeast.holds(0x100, 5, 0xff), "the mask comes first");
        assert!(Equal.holds(0x105, 5, 0xff) && !Equal.holds(0x105, 5, 0xfff));
        assert!(And.holds(6, 2, !0) && !And.holds(4, 2, !0));
        assert!(Nor.holds(1, 2, 7) && !Nor.holds(5, 2, 7));
    }
}
