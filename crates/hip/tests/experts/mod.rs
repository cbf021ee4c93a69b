//! Which rows go to which experts.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

use hip::Memory;
use hip::kernels::Rows;
use hip::kernels::sort::{Sorted, sort};

use crate::device::Gpu;
use crate::numbers::Random;

/// `top_k` experts for each row.
pub struct Case {
    pub chosen: Vec<u32>,
    pub top_k: usize,
    pub experts: usize,
}

impl Case {
    pub fn random(seed: u64, rows: usize, top_k: usize, experts: usize) -> Case {
        let mut random = Random(seed);
        let row = |_| {
            let first = random.below(experts);
            let mut row: Vec<u32> = (0..top_k).map(|k| ((first + k) % experts) as u32).collect();
            row.sort_unstable();
            row
        };
        Case { chosen: (0..rows).flat_map(row).collect(), top_k, experts }
    }

    /// All rows to one expert.
    pub fn same(rows: usize, expert: u32, experts: usize) -> Case {
        Case { chosen: vec![expert; rows], top_k: 1, experts }
    }

    pub fn rows(&self) -> usize {
        self.chosen.len() / self.top_k
    }

    /// The number of rows in device memory.
    pub fn count(&self, gpu: &Gpu) -> Memory {
        gpu.upload(&[self.rows() as u32])
    }

    pub fn sort(&self, gpu: &Gpu, tiles: usize) -> Sorted {
        let out = Sorted::new(&gpu.device, self.chosen.len(), self.experts).unwrap();
        let (count, chosen) = (self.count(gpu), gpu.upload(&self.chosen));
        let rows = Rows { count: count.ptr(), bound: self.rows() };
        let (stream, kernels) = (&gpu.stream, &gpu.kernels);
        sort(stream, kernels, rows, &chosen, self.top_k, self.experts, tiles, &out).unwrap();
        gpu.stream.synchronize().unwrap();
        out
    }

    /// The slot of each pair.
    pub fn slots(&self, gpu: &Gpu, sorted: &Sorted) -> Vec<usize> {
        let count = gpu.download::<u32>(&sorted.group_count)[0] as usize;
        let (groups, pairs): (Vec<u32>, Vec<u32>) =
            (gpu.download(&sorted.groups), gpu.download(&sorted.pairs));
        let mut slots = vec![0; self.chosen.len()];
        for group in groups.chunks(4).take(count) {
            for slot in group[1]..group[1] + group[2] {
                slots[pairs[slot as usize] as usize] = slot as usize;
            }
        }
        slots
    }
}
