//! Collectives between ranks that are threads of one process.

use std::sync::{Arc, Barrier, Mutex, PoisonError};

/// A rank's membership in a tensor-parallel group.
#[derive(Debug, Clone)]
pub struct Group {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    contributions: Vec<Mutex<Vec<f32>>>,
    barrier: Barrier,
}

impl Group {
    /// The memberships of a group of `ranks`.
    pub fn new(ranks: usize) -> Vec<Group> {
        let contributions = (0..ranks).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { contributions, barrier: Barrier::new(ranks) });
        (0..ranks).map(|rank| Group { rank, shared: Arc::clone(&shared) }).collect()
    }

    /// Hands `read` every rank's `values`, in rank order. All ranks must call this alike.
    pub(crate) fn exchange(&self, values: &[f32], mut read: impl FnMut(usize, &[f32])) {
        let lock = |rank: usize| {
            self.shared.contributions[rank].lock().unwrap_or_else(PoisonError::into_inner)
        };
        {
            let mut own = lock(self.rank);
            own.clear();
            own.extend_from_slice(values);
        }
        self.shared.barrier.wait();
        for rank in 0..self.shared.contributions.len() {
            read(rank, &lock(rank));
        }
        // Nobody overwrites a contribution that another rank still reads.
        self.shared.barrier.wait();
    }

    /// Ranks in the group.
    pub(crate) fn ranks(&self) -> usize {
        self.shared.contributions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_hears_all_in_rank_order() {
        let threads = Group::new(4).into_iter().enumerate().map(|(rank, group)| {
            std::thread::spawn(move || {
                for round in 0..200 {
                    let mut heard = Vec::new();
                    group
                        .exchange(&[(round * 10 + rank) as f32], |_, v| heard.extend_from_slice(v));
                    let expected: Vec<f32> = (0..4).map(|r| (round * 10 + r) as f32).collect();
                    assert_eq!(heard, expected);
                }
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    }
}
