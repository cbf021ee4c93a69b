//! The shadow of a workgroup's LDS: who wrote and read each byte, and whether it holds a value.

use super::{Access, GroupClock};

/// Bits of a record: time of the last write, its wave, whether it was atomic; time of the first
/// read after it, the waves that read; the wave (plus one) whose direct-to-LDS load is under way;
/// and whether the four bytes of the dword have records of their own.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Record(u64);

const SPLIT: u64 = 1 << 63;
const FILLING: u64 = 31 << 50;

impl Record {
    fn written(self) -> u32 {
        self.0 as u32 & 0xfff
    }

    fn writer(self) -> u32 {
        self.0 as u32 >> 12 & 15
    }

    fn atomic(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    fn read(self) -> u32 {
        (self.0 >> 20) as u32 & 0xfff
    }

    fn readers(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    fn filling(self) -> u32 {
        (self.0 >> 50) as u32 & 31
    }

    /// The record after an access by `wave`, or the conflict it has.
    #[inline]
    fn access(self, c: &GroupClock, wave: u32, kind: Access) -> Result<Record, LdsConflict> {
        if self.0 & FILLING != 0 {
            return Err(LdsConflict::Filling(self.filling() - 1));
        }
        let atomic = kind == Access::Atomic;
        let both = atomic && self.atomic();
        if !both && self.written() != 0 && !c.before(wave, self.writer(), self.written()) {
            return Err(LdsConflict::Write(self.writer()));
        }
        let now = u64::from(c.now());
        if kind == Access::Read {
            let mine = 1u64 << (32 + wave % 16);
            // Of readers not ordered among each other the earliest time is kept: a later read
            // may be missed, an ordered one is never reported.
            if self.read() == c.now() || self.unordered_reader(c, wave).is_some() {
                return Ok(Record(self.0 | mine));
            }
            return Ok(Record(self.0 & !(0xfff << 20 | 0xffff << 32) | now << 20 | mine));
        }
        if let Some(by) = self.unordered_reader(c, wave) {
            return Err(LdsConflict::Read(by));
        }
        Ok(Record(now | u64::from(wave % 16) << 12 | u64::from(atomic) << 16))
    }

    #[inline]
    fn unordered_reader(self, c: &GroupClock, wave: u32) -> Option<u32> {
        let mut others = self.readers() & !(1 << (wave % 16));
        while others != 0 {
            let by = others.trailing_zeros();
            if !c.before(wave, by, self.read()) {
                return Some(by);
            }
            others &= others - 1;
        }
        None
    }
}

/// What an LDS access collided with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdsConflict {
    /// An unordered write of this wave.
    Write(u32),
    /// An unordered read of this wave.
    Read(u32),
    /// A direct-to-LDS load of this wave that no `s_waitcnt` has covered.
    Filling(u32),
}

/// Shadow of one workgroup's LDS.
#[derive(Default)]
pub struct LdsShadow {
    words: Vec<Record>,
    /// Four records for each split dword; empty until there is one.
    bytes: Vec<Record>,
    /// Bytes that hold a defined value.
    valid: Vec<bool>,
}

impl LdsShadow {
    /// Becomes a shadow of `size` undefined bytes.
    pub fn reset(&mut self, size: usize) {
        self.words.clear();
        self.words.resize(size.div_ceil(4), Record::default());
        self.bytes.clear();
        self.valid.clear();
        self.valid.resize(size, false);
    }

    /// Whether `len` bytes at `at` are defined.
    #[inline]
    pub fn defined(&self, at: usize, len: usize) -> bool {
        self.valid.get(at..at + len).is_some_and(|v| v.iter().all(|b| *b))
    }

    /// Sets whether `len` bytes at `at` are defined.
    #[inline]
    pub fn define(&mut self, at: usize, len: usize, on: bool) {
        if let Some(v) = self.valid.get_mut(at..at + len) {
            v.fill(on);
        }
    }

    /// Records an access by `wave`, or the conflict it has.
    #[inline]
    pub fn access(
        &mut self,
        (at, len): (usize, usize),
        wave: u32,
        c: &GroupClock,
        kind: Access,
    ) -> Option<LdsConflict> {
        if (at | len) & 3 == 0 {
            for k in at / 4..(at + len) / 4 {
                let r = *self.words.get(k)?;
                if r.0 & SPLIT != 0 {
                    let hit = self.by_byte((4 * k, 4), wave, c, kind);
                    if hit.is_some() {
                        return hit;
                    }
                    continue;
                }
                match r.access(c, wave, kind) {
                    Ok(new) => self.words[k] = new,
                    Err(conflict) => return Some(conflict),
                }
            }
            return None;
        }
        self.by_byte((at, len), wave, c, kind)
    }

    /// A read by `wave` in a loop that waits for another wave's signal: what the writer did before
    /// is known from here on.
    pub fn poll(
        &mut self,
        (at, len): (usize, usize),
        wave: u32,
        c: &mut GroupClock,
    ) -> Option<LdsConflict> {
        for b in at..at + len {
            let word = *self.words.get(b / 4)?;
            let r = if word.0 & SPLIT != 0 { *self.bytes.get(b)? } else { word };
            if r.0 & FILLING != 0 {
                return Some(LdsConflict::Filling(r.filling() - 1));
            }
            if r.written() != 0 {
                c.follow(wave, r.writer(), r.written());
            }
        }
        None
    }

    fn by_byte(
        &mut self,
        (at, len): (usize, usize),
        wave: u32,
        c: &GroupClock,
        kind: Access,
    ) -> Option<LdsConflict> {
        for b in at..at + len {
            self.split(b / 4)?;
            match self.bytes[b].access(c, wave, kind) {
                Ok(new) => self.bytes[b] = new,
                Err(conflict) => return Some(conflict),
            }
        }
        for k in at / 4..(at + len).div_ceil(4) {
            let four = &self.bytes[4 * k..4 * k + 4];
            if four.iter().all(|r| *r == four[0]) {
                self.words[k] = four[0];
            }
        }
        None
    }

    /// Gives the bytes of dword `k` their own records.
    fn split(&mut self, k: usize) -> Option<()> {
        let r = *self.words.get(k)?;
        if r.0 & SPLIT == 0 {
            if self.bytes.is_empty() {
                self.bytes.resize(4 * self.words.len(), Record::default());
            }
            self.bytes[4 * k..4 * k + 4].fill(r);
            self.words[k].0 |= SPLIT;
        }
        Some(())
    }

    /// Marks whole dwords as being filled by `wave`'s direct-to-LDS load, or (`None`) as arrived.
    pub fn fill(&mut self, at: usize, len: usize, wave: Option<u32>) {
        let set = |r: &mut Record| {
            r.0 = r.0 & !FILLING | wave.map_or(0, |w| u64::from(w % 16 + 1) << 50);
        };
        for k in at / 4..(at + len).div_ceil(4).min(self.words.len()) {
            set(&mut self.words[k]);
            if self.words[k].0 & SPLIT != 0 {
                self.bytes[4 * k..4 * k + 4].iter_mut().for_each(set);
            }
        }
    }

    /// Time starts again after a barrier: all that happened is ordered.
    pub fn forget(&mut self) {
        self.words.iter_mut().for_each(|r| r.0 &= FILLING | SPLIT);
        self.bytes.iter_mut().for_each(|r| r.0 &= FILLING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow(size: usize) -> LdsShadow {
        let mut s = LdsShadow::default();
        s.reset(size);
        s
    }

    #[test]
    fn conflicts_need_unordered_waves() {
        let (mut s, mut c) = (shadow(64), GroupClock::default());
        assert_eq!(s.access((0, 4), 0, &c, Access::Write), None);
        assert_eq!(s.access((0, 4), 0, &c, Access::Read), None);
        assert_eq!(s.access((3, 4), 1, &c, Access::Read), Some(LdsConflict::Write(0)));
        c.barrier();
        assert_eq!(s.access((0, 4), 1, &c, Access::Read), None);
        assert_eq!(s.access((0, 4), 2, &c, Access::Read), None);
        assert_eq!(s.access((0, 4), 0, &c, Access::Write), Some(LdsConflict::Read(1)));
        // Reads before the barrier do not hide a read after it.
        c.barrier();
        assert_eq!(s.access((0, 4), 3, &c, Access::Read), None);
        assert_eq!(s.access((0, 4), 0, &c, Access::Write), Some(LdsConflict::Read(3)));
        s.fill(32, 16, Some(3));
        assert_eq!(s.access((40, 4), 3, &c, Access::Read), Some(LdsConflict::Filling(3)));
        c.barrier();
        s.forget();
        assert_eq!(s.access((40, 4), 3, &c, Access::Read), Some(LdsConflict::Filling(3)));
        s.fill(32, 16, None);
        assert_eq!(s.access((40, 4), 0, &c, Access::Atomic), None);
        assert_eq!(s.access((40, 4), 1, &c, Access::Atomic), None);
        assert_eq!(s.access((40, 4), 0, &c, Access::Read), Some(LdsConflict::Write(1)));
    }

    #[test]
    fn bytes_of_one_dword_have_their_own_owners() {
        let (mut s, mut c) = (shadow(16), GroupClock::default());
        for wave in 0..4 {
            assert_eq!(s.access((wave as usize, 1), wave, &c, Access::Write), None);
        }
        assert_eq!(s.access((0, 4), 3, &c, Access::Read), Some(LdsConflict::Write(0)));
        assert_eq!(s.access((2, 2), 3, &c, Access::Read), Some(LdsConflict::Write(2)));
        c.barrier();
        assert_eq!(s.access((0, 4), 3, &c, Access::Write), None);
        assert!(s.words[0].0 & SPLIT == 0, "one owner again");
        assert_eq!(s.access((1, 1), 2, &c, Access::Write), Some(LdsConflict::Write(3)));
    }

    #[test]
    fn atomics_order_waves() {
        let (mut s, mut c) = (shadow(16), GroupClock::default());
        assert_eq!(s.access((0, 4), 0, &c, Access::Write), None);
        c.atomic(0, 8, false, true);
        c.atomic(1, 8, true, false);
        assert_eq!(s.access((0, 4), 1, &c, Access::Read), None);
        assert_eq!(s.access((0, 4), 2, &c, Access::Read), Some(LdsConflict::Write(0)));
    }
}
