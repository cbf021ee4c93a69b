//! What a launch did: instructions by class, bytes by width, LDS bank conflicts, MFMA cycles.

use std::collections::{BTreeMap, HashMap};

use crate::inst::{Class, Mem, MemKind, Space};

/// Counts of one launch; disabled counters stay zero and cost one branch.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Counting is on.
    pub on: bool,
    /// Wave-instructions by class.
    pub instructions: BTreeMap<Class, u64>,
    /// Bytes read from device memory by bytes per lane.
    pub read: BTreeMap<u8, u64>,
    /// Bytes written to device memory by bytes per lane.
    pub written: BTreeMap<u8, u64>,
    /// Bytes read by scalar loads.
    pub scalar_read: u64,
    /// Distinct dwords of device memory touched: a bitmap of 64 dwords by address / 256.
    touched: HashMap<u64, u64>,
    /// LDS cycles, and how many of them are due to bank conflicts.
    pub lds_cycles: u64,
    /// LDS cycles beyond one per phase.
    pub lds_conflicts: u64,
    /// Issue cycles of matrix instructions.
    pub mfma_cycles: u64,
    /// Multiply-adds of matrix instructions.
    pub mfma_macs: u64,
}

/// Lanes that access LDS in the same cycle, as measured on MI355X.
fn phases(m: &Mem) -> (Vec<Vec<usize>>, usize) {
    let store = matches!(m.kind, MemKind::Store { .. });
    let spans = |s: &[(usize, usize)]| s.iter().flat_map(|(a, b)| *a..=*b).collect::<Vec<_>>();
    let twice = |p: Vec<Vec<usize>>| {
        let high = p.iter().map(|v| v.iter().map(|l| l + 32).collect()).collect::<Vec<_>>();
        p.into_iter().chain(high).collect()
    };
    match (m.bytes, store) {
        (16, false) => {
            let a = spans(&[(0, 3), (12, 15), (20, 27)]);
            let b = spans(&[(4, 11), (16, 19), (28, 31)]);
            (twice(vec![a, b]), 64)
        }
        (12, false) => {
            let p =
                [[(0, 3), (20, 23)], [(4, 7), (16, 19)], [(8, 11), (28, 31)], [(12, 15), (24, 27)]];
            (twice(p.iter().map(|s| spans(s)).collect()), 32)
        }
        (8, true) => ((0..4).map(|k| (16 * k..16 * k + 16).collect()).collect(), 32),
        // Wider stores are not measured: taken as 8 lanes a cycle.
        (12 | 16, true) => ((0..8).map(|k| (8 * k..8 * k + 8).collect()).collect(), 32),
        (8, false) => ((0..2).map(|k| (32 * k..32 * k + 32).collect()).collect(), 64),
        _ => (vec![(0..64).collect()], 64),
    }
}

impl Counters {
    /// Zeros, counting or not.
    pub fn new(on: bool) -> Self {
        Counters { on, ..Counters::default() }
    }

    /// Counts one instruction.
    pub fn instruction(&mut self, c: Class) {
        *self.instructions.entry(c).or_insert(0) += 1;
    }

    /// Counts a scalar load of `bytes`.
    pub fn scalar(&mut self, bytes: u64) {
        if self.on {
            self.scalar_read += bytes;
        }
    }

    /// Counts a vector memory access.
    pub fn memory(&mut self, m: &Mem, exec: u64, addr: &[u64; 64]) {
        if !self.on || m.space == Space::Scratch {
            return;
        }
        let bytes = u64::from(m.bytes) * u64::from(exec.count_ones());
        let (r, w) = match m.kind {
            MemKind::Store { .. } => (0, bytes),
            MemKind::Atomic(_) => (bytes, bytes),
            _ => (bytes, 0),
        };
        if r > 0 {
            *self.read.entry(m.bytes).or_insert(0) += r;
        }
        if w > 0 {
            *self.written.entry(m.bytes).or_insert(0) += w;
        }
        for a in (0..64).filter(|l| exec >> l & 1 == 1).map(|l| addr[l]) {
            for d in a / 4..(a.saturating_add(m.bytes.into())).div_ceil(4) {
                *self.touched.entry(d / 64).or_insert(0) |= 1 << (d % 64);
            }
        }
    }

    /// Counts an LDS access and its bank conflicts: two dwords of one bank cost a cycle each.
    pub fn lds(&mut self, m: &Mem, exec: u64, addr: &[u64; 64]) {
        if !self.on {
            return;
        }
        let (phases, banks) = phases(m);
        let offsets = if m.two { vec![m.offset, m.offset1] } else { vec![m.offset] };
        for off in offsets {
            for p in &phases {
                let mut bank: HashMap<u64, Vec<u64>> = HashMap::new();
                for l in p.iter().filter(|l| exec >> **l & 1 == 1) {
                    let first = (addr[*l] + off as u64) / 4;
                    for d in first..first + u64::from(m.bytes).div_ceil(4) {
                        let b = bank.entry(d % banks as u64).or_default();
                        if !b.contains(&d) {
                            b.push(d);
                        }
                    }
                }
                let cycles = bank.values().map(|v| v.len() as u64).max().unwrap_or(0);
                self.lds_cycles += cycles;
                self.lds_conflicts += cycles.saturating_sub(1);
            }
        }
    }

    /// Counts a matrix instruction.
    pub fn mfma(&mut self, cycles: u64, m: usize, k: usize, blocks: usize) {
        if self.on {
            self.mfma_cycles += cycles;
            self.mfma_macs += (m * m * k * blocks) as u64;
        }
    }

    /// Distinct bytes of device memory touched (in dwords).
    pub fn distinct_bytes(&self) -> u64 {
        self.touched.values().map(|b| 4 * u64::from(b.count_ones())).sum()
    }

    /// Adds another workgroup's counts.
    pub fn merge(&mut self, o: &Counters) {
        let sum = |a: &mut BTreeMap<u8, u64>, b: &BTreeMap<u8, u64>| {
            b.iter().for_each(|(k, v)| *a.entry(*k).or_insert(0) += v);
        };
        o.instructions.iter().for_each(|(k, v)| *self.instructions.entry(*k).or_insert(0) += v);
        sum(&mut self.read, &o.read);
        sum(&mut self.written, &o.written);
        o.touched.iter().for_each(|(k, v)| *self.touched.entry(*k).or_insert(0) |= v);
        self.scalar_read += o.scalar_read;
        self.lds_cycles += o.lds_cycles;
        self.lds_conflicts += o.lds_conflicts;
        self.mfma_cycles += o.mfma_cycles;
        self.mfma_macs += o.mfma_macs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::memory::shape;

    fn read(bytes: u8) -> Mem {
        shape(Space::Lds, MemKind::Load { signed: false }, bytes)
    }

    #[test]
    fn bank_conflicts() {
        let mut c = Counters { on: true, ..Counters::default() };
        c.lds(&read(4), !0, &std::array::from_fn(|l| 4 * l as u64));
        assert_eq!((c.lds_cycles, c.lds_conflicts), (1, 0));
        // A stride of 256 bytes puts all lanes into bank 0.
        c.lds(&read(4), !0, &std::array::from_fn(|l| 256 * l as u64));
        assert_eq!((c.lds_cycles, c.lds_conflicts), (65, 63));
        // Linear 16-byte reads: each phase's 16 lanes cover the 64 banks once.
        let mut c = Counters { on: true, ..Counters::default() };
        c.lds(&read(16), !0, &std::array::from_fn(|l| 16 * l as u64));
        assert_eq!((c.lds_cycles, c.lds_conflicts), (4, 0));
    }
}
