//! Order between the waves of one workgroup: barriers, and atomics on LDS or memory.

use std::collections::HashMap;

/// Largest number of waves of a workgroup.
pub(super) const WAVES: usize = 16;
/// Times that fit the shadows' fields.
const LAST: u32 = (1 << 12) - 1;

/// Vector clocks of the waves of a workgroup, over one time that all share: an action of wave `j`
/// at time `t` comes before wave `i` if `i` knows of `j` up to `t`.
pub struct GroupClock {
    now: u32,
    known: [[u32; WAVES]; WAVES],
    /// What was published through each address.
    channels: HashMap<u64, [u32; WAVES]>,
}

impl Default for GroupClock {
    fn default() -> Self {
        GroupClock { now: 1, known: [[0; WAVES]; WAVES], channels: HashMap::new() }
    }
}

impl GroupClock {
    /// The time to record with an action.
    pub fn now(&self) -> u32 {
        self.now
    }

    /// Whether an action of wave `by` at time `at` comes before what `wave` does now.
    #[inline]
    pub fn before(&self, wave: u32, by: u32, at: u32) -> bool {
        by == wave || self.known[wave as usize % WAVES][by as usize % WAVES] >= at
    }

    fn step(&mut self) {
        // Once the fields are full nothing is told apart until a barrier starts again.
        self.now = (self.now + 1).min(LAST);
    }

    /// All waves have met. True if time starts again, so that what the shadows hold is void.
    pub fn barrier(&mut self) -> bool {
        self.channels.clear();
        let again = self.now > LAST / 2;
        if again {
            *self = Self::default();
            return true;
        }
        self.known = [[self.now; WAVES]; WAVES];
        self.step();
        false
    }

    /// `wave` has seen what wave `by` wrote at time `at` as a signal: it knows what `by` knows.
    pub fn follow(&mut self, wave: u32, by: u32, at: u32) {
        let theirs = self.known[by as usize % WAVES];
        let mine = &mut self.known[wave as usize % WAVES];
        mine.iter_mut().zip(theirs).for_each(|(x, y)| *x = (*x).max(y));
        let by = &mut mine[by as usize % WAVES];
        *by = (*by).max(at);
    }

    /// An atomic by `wave` on `address`: it `writes` what the wave knows and did, `reads` what
    /// others wrote.
    pub fn atomic(&mut self, wave: u32, address: u64, reads: bool, writes: bool) {
        let wave = wave as usize % WAVES;
        let join = |a: &mut [u32; WAVES], b: &[u32; WAVES]| {
            a.iter_mut().zip(b).for_each(|(x, y)| *x = (*x).max(*y));
        };
        if reads && let Some(c) = self.channels.get(&address) {
            join(&mut self.known[wave], c);
        }
        if writes {
            self.known[wave][wave] = self.now;
            let mine = self.known[wave];
            join(self.channels.entry(address).or_default(), &mine);
            self.step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_comes_from_barriers_and_atomics() {
        let mut c = GroupClock::default();
        let wrote = c.now();
        assert!(c.before(0, 0, wrote) && !c.before(1, 0, wrote));
        c.atomic(0, 64, false, true);
        let later = c.now();
        c.atomic(1, 64, true, false);
        assert!(c.before(1, 0, wrote) && !c.before(1, 0, later) && !c.before(2, 0, wrote));
        // Through a second wave.
        c.atomic(1, 8, false, true);
        c.atomic(2, 8, true, false);
        assert!(c.before(2, 0, wrote));
        assert!(!c.barrier());
        assert!(c.before(5, 0, later) && !c.before(5, 0, c.now()));
        for _ in 0..5000 {
            c.atomic(0, 64, false, true);
        }
        assert!(c.barrier(), "time starts again");
        assert_eq!(c.now(), 1);
    }
}
