//! What the shadow of device memory keeps for each dword, and the table for what does not fit.

use std::collections::HashMap;
use std::sync::Mutex;

/// The last write of, or the last read of, the bytes `mask` of a dword.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Record(pub(super) u32);

/// Numbers of segments that fit a record.
pub(super) const NUMBERS: u32 = 1 << 25;

const ATOMIC: u32 = 1 << 29;
const GROUPS: u32 = 1 << 30;
const TABLE: u32 = 2 << 30;

impl Record {
    /// An access by one segment.
    pub(super) fn one(number: u32, mask: u32, atomic: bool) -> Record {
        Record(number | mask << 25 | if atomic { ATOMIC } else { 0 })
    }

    /// Accesses by several workgroups of the launch whose first segment is `number`.
    pub(super) fn groups(number: u32, mask: u32, atomic: bool) -> Record {
        Record(Record::one(number, mask, atomic).0 | GROUPS)
    }

    /// A place in the table, where there are several records.
    pub(super) fn table() -> Record {
        Record(TABLE)
    }

    #[inline]
    pub(super) fn number(self) -> u32 {
        self.0 & (NUMBERS - 1)
    }

    #[inline]
    pub(super) fn mask(self) -> u32 {
        self.0 >> 25 & 15
    }

    pub(super) fn atomic(self) -> bool {
        self.0 & ATOMIC != 0
    }

    /// Several workgroups of one launch.
    pub(super) fn is_groups(self) -> bool {
        self.0 >> 30 == 1
    }

    pub(super) fn in_table(self) -> bool {
        self.0 >> 30 == 2
    }

    /// The same accesses on other bytes.
    pub(super) fn with_mask(self, mask: u32) -> Record {
        Record(self.0 & !(15 << 25) | mask << 25)
    }
}

/// Sets of records by shadow address (its lowest bit tells reads from writes).
#[derive(Default)]
pub(super) struct Table(Mutex<HashMap<usize, Vec<Record>>>);

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Vec<Record>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The records at `key`, `inline` being what the shadow holds.
    pub(super) fn get(&self, key: usize, inline: Record) -> Vec<Record> {
        if !inline.in_table() {
            return if inline == Record::default() { vec![] } else { vec![inline] };
        }
        self.lock().get(&key).cloned().unwrap_or_default()
    }

    /// Keeps `set` at `key`; what the shadow must hold for it.
    pub(super) fn put(&self, key: usize, old: Record, set: Vec<Record>) -> Record {
        if let [] | [_] = &set[..] {
            if old.in_table() {
                self.lock().remove(&key);
            }
            return set.first().copied().unwrap_or_default();
        }
        self.lock().insert(key, set);
        Record::table()
    }
}
