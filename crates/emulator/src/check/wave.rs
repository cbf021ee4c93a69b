//! The part of a dword's shadow that tells the waves of one workgroup apart.

use super::{Access, GroupClock};

/// The last write (time, wave, atomic, bytes) and the last reads (time, bytes, waves).
#[derive(Clone, Copy, Default)]
pub(super) struct Touch(pub(super) u64);

const WRITE: u64 = (1 << 21) - 1;

impl Touch {
    /// Without what another workgroup has left.
    pub(super) fn keep(self, write: bool, read: bool) -> Touch {
        let w = if write { self.0 & WRITE } else { 0 };
        let r = if read { self.0 & !WRITE } else { 0 };
        Touch(w | r)
    }

    fn written(self) -> (u32, u32, bool, u32) {
        let x = self.0 as u32;
        (x & 0xfff, x >> 12 & 15, x >> 16 & 1 == 1, x >> 17 & 15)
    }

    fn read(self) -> (u32, u32, u32) {
        let x = self.0 >> 21;
        (x as u32 & 0xfff, (x >> 12) as u32 & 15, (x >> 16) as u32 & 0xffff)
    }

    fn with_read(self, time: u32, mask: u32, waves: u32) -> Touch {
        let r = u64::from(time) | u64::from(mask) << 12 | u64::from(waves) << 16;
        Touch(self.0 & WRITE | r << 21)
    }

    /// After an access by wave `index`, or the other wave of a conflict and whether it wrote.
    #[inline]
    pub(super) fn access(
        self,
        c: &GroupClock,
        index: u32,
        mask: u32,
        kind: Access,
    ) -> Result<Touch, (u32, bool)> {
        let atomic = matches!(kind, Access::Atomic | Access::AtomicRead);
        let (wt, by, was_atomic, bytes) = self.written();
        if wt != 0 && bytes & mask != 0 && !(atomic && was_atomic) && !c.before(index, by, wt) {
            return Err((by, true));
        }
        let (rt, read_bytes, readers) = self.read();
        let mine = 1 << (index % 16);
        match kind {
            Access::AtomicRead => Ok(self),
            Access::Read => {
                let same = read_bytes == mask && readers != 0;
                // As in LDS: of unordered readers the earliest time, of ordered ones the last.
                if same && (rt == c.now() || first(c, index, rt, readers & !mine).is_some()) {
                    return Ok(self.with_read(rt, mask, readers | mine));
                }
                Ok(self.with_read(c.now(), mask, mine))
            }
            Access::Write | Access::Atomic => {
                if read_bytes & mask != 0
                    && let Some(by) = first(c, index, rt, readers & !mine)
                {
                    return Err((by, false));
                }
                let both = if wt == c.now() && by == index % 16 { bytes | mask } else { mask };
                let w = c.now() | (index % 16) << 12 | u32::from(atomic) << 16 | both << 17;
                let keep = read_bytes & !mask != 0;
                Ok(Touch(if keep { self.0 & !WRITE } else { 0 } | u64::from(w)))
            }
        }
    }
}

/// The first of `waves` whose action at `time` is not ordered before wave `index`.
fn first(c: &GroupClock, index: u32, time: u32, mut waves: u32) -> Option<u32> {
    while waves != 0 {
        let by = waves.trailing_zeros();
        if !c.before(index, by, time) {
            return Some(by);
        }
        waves &= waves - 1;
    }
    None
}
