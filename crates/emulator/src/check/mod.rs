//! Race detection: between waves of a workgroup in LDS and device memory, between workgroups,
//! launches and copies in device memory.

mod clock;
mod global;
mod known;
mod lds;
mod record;
mod wave;

pub use clock::GroupClock;
pub use global::{Operation, Order, Races, Rival, Segments, Shadow, join};
pub use known::Scope;
pub use lds::{LdsConflict, LdsShadow};

/// How an access takes part in races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Plain read.
    Read,
    /// Plain write.
    Write,
    /// Atomic write or read-modify-write: races with plain accesses only.
    Atomic,
    /// Atomic read: races with plain writes only.
    AtomicRead,
}
