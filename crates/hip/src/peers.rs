//! Ranks' memory that kernels of other ranks reach, and how the ranks tell each other where it is.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::device::{Block, Device, Memory, Pinned};
use crate::kernels::all_reduce::{EPOCH_BYTES, FLAG_BYTES, MAX_RANKS, Twins, slot_bytes};
use crate::{Error, Stream};

/// How long a rank waits for the others to tell a number: they do so at nearly the same time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that all ranks tell each other, round by round.
pub(crate) struct Exchange {
    ranks: usize,
    rounds: Mutex<Vec<Vec<Option<u64>>>>,
    told: Condvar,
}

impl Exchange {
    /// Among so many ranks.
    pub(crate) fn new(ranks: usize) -> Exchange {
        Exchange { ranks, rounds: Mutex::default(), told: Condvar::new() }
    }

    /// Tells the rank's number of a round, and waits for all ranks' numbers.
    fn tell(&self, round: usize, rank: usize, number: u64) -> Result<Vec<u64>, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        while rounds.len() <= round {
            rounds.push(vec![None; self.ranks]);
        }
        rounds[round][rank] = Some(number);
        self.told.notify_all();
        loop {
            if let Some(all) = rounds[round].iter().copied().collect() {
                return Ok(all);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let absent = rounds[round].iter().position(Option::is_none).unwrap_or_default();
                return Err(Error::Unfit(format!(
                    "rank {absent} has not told where its memory is within {} s",
                    PATIENCE.as_secs()
                )));
            }
            rounds = self.told.wait_timeout(rounds, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A rank's memory that others reach, and what it knows of theirs.
pub struct Peers {
    exchange: Arc<Exchange>,
    rank: usize,
    /// Rounds of the exchange that have passed.
    round: usize,
    /// The ranks' flags.
    flags: [u64; MAX_RANKS],
    /// The ranks' slots.
    slots: [u64; MAX_RANKS],
    /// The ranks' partial sums, for each of its own that it has shared. These stay where they are:
    /// another at the place of one would be taken for it.
    parts: Vec<([u64; MAX_RANKS], Arc<Block>)>,
    epochs: Memory,
    stop: Pinned,
    _flags: Memory,
    _slots: Memory,
}

impl Peers {
    /// Bytes of device memory that each of so many ranks takes.
    pub(crate) fn bytes(ranks: usize) -> usize {
        FLAG_BYTES + EPOCH_BYTES + slot_bytes(ranks)
    }

    /// Meets the other ranks, which do the same at this time, and makes their memory reachable.
    pub(crate) fn meet(
        stream: &Stream,
        exchange: Arc<Exchange>,
        rank: usize,
    ) -> Result<Peers, Error> {
        let device = stream.device();
        let flags = device.allocate_uncached(FLAG_BYTES)?;
        let slots = device.allocate_uncached(slot_bytes(exchange.ranks))?;
        let epochs = device.allocate(EPOCH_BYTES)?;
        for memory in [&flags, &slots, &epochs] {
            stream.fill(memory, 0)?;
        }
        stream.synchronize()?;
        let mut peers = Peers {
            exchange,
            rank,
            round: 0,
            flags: [0; MAX_RANKS],
            slots: [0; MAX_RANKS],
            parts: Vec::new(),
            epochs,
            stop: device.allocate_pinned(4)?,
            _flags: flags,
            _slots: slots,
        };
        let ordinals = peers.tell(device.ordinal as u64)?;
        for (_, ordinal) in ordinals.iter().enumerate().filter(|(other, _)| *other != rank) {
            let peer = Device::open(&device.runtime, *ordinal as usize);
            device.bind()?;
            device.reach(&peer?)?;
        }
        peers.flags = peers.tell_addresses(peers._flags.ptr())?;
        peers.slots = peers.tell_addresses(peers._slots.ptr())?;
        Ok(peers)
    }

    fn tell(&mut self, number: u64) -> Result<Vec<u64>, Error> {
        self.round += 1;
        self.exchange.tell(self.round - 1, self.rank, number)
    }

    fn tell_addresses(&mut self, own: u64) -> Result<[u64; MAX_RANKS], Error> {
        let mut all = [0; MAX_RANKS];
        for (to, address) in all.iter_mut().zip(self.tell(own)?) {
            *to = address;
        }
        Ok(all)
    }

    /// What [`all_reduce_norm`](crate::kernels::all_reduce::all_reduce_norm) needs to sum the
    /// ranks' `part`s. The first time for this memory it waits for the other ranks, which ask the
    /// same in turn; the memory is then given back with `self` at the earliest.
    ///
    /// # Errors
    /// A rank that does not ask.
    pub fn twins(&mut self, part: &Memory) -> Result<Twins<'_>, Error> {
        let known = self.parts.iter().find(|(parts, _)| parts[self.rank] == part.ptr());
        let parts = match known {
            Some(&(parts, _)) => parts,
            None => {
                let parts = self.tell_addresses(part.ptr())?;
                self.parts.push((parts, part.keep()));
                parts
            }
        };
        let Peers { rank, flags, slots, epochs, stop, .. } = self;
        let ranks = self.exchange.ranks;
        let (flags, slots) = (*flags, *slots);
        Ok(Twins { ranks, rank: *rank, parts, flags, slots, epochs, stop })
    }

    /// Ends the waiting of this rank's kernels for others, for good.
    pub fn stop(&self) {
        self.stop.post(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ranks_hear_all_numbers() {
        let exchange = Arc::new(Exchange::new(4));
        let rank = |rank: usize| {
            let exchange = Arc::clone(&exchange);
            std::thread::spawn(move || {
                for round in 0..100 {
                    let heard = exchange.tell(round, rank, (10 * round + rank) as u64).unwrap();
                    let expected: Vec<u64> = (0..4).map(|r| (10 * round + r) as u64).collect();
                    assert_eq!(heard, expected);
                }
            })
        };
        let threads: Vec<_> = (0..4).map(rank).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
