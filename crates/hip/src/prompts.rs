//! Which chunks of prompts attention's expanded form takes together, planned once a batch.

use crate::kernels::attention_prompt::{self, Chunk, keys};
use crate::kernels::{Rows, gather_entries};

/// Chunks that are taken together, in one launch of each kernel, and what these read of them in
/// device memory.
pub(crate) struct Launch {
    pub(crate) chunks: Vec<Chunk>,
    /// Keys of all.
    pub(crate) keys: Rows,
    /// Addresses of the lists of `gather_entries` and `attention_prompt`.
    pub(crate) sequences: u64,
    pub(crate) blocks: u64,
}

/// The launches of a batch's chunks, for whose keys there is room for `room`, and the words that
/// they find at address `at`, a multiple of 16.
pub(crate) fn launches(chunks: &[Chunk], room: usize, at: u64) -> (Vec<Launch>, Vec<u32>) {
    let (mut launches, mut words) = (Vec::new(), Vec::new());
    for chunks in fitting(chunks, room) {
        let here = |words: &Vec<u32>| at + 4 * words.len() as u64;
        let keys = Rows { count: here(&words), bound: keys(chunks) };
        words.extend([keys.bound as u32, 0, 0, 0]);
        let sequences = here(&words);
        words.extend(gather_entries::list(chunks));
        let blocks = here(&words);
        words.extend(attention_prompt::list(chunks));
        launches.push(Launch { chunks: chunks.to_vec(), keys, sequences, blocks });
    }
    (launches, words)
}

/// Words of a batch of so many chunks with so many rows at most.
pub(crate) fn most_words(chunks: usize, rows: usize) -> usize {
    8 * chunks + attention_prompt::most_listed(chunks, rows)
}

/// Neighbouring chunks, each time as many as have `room` keys together, one at least: a sequence
/// that exceeds the room alone is for its launch to refuse.
fn fitting(mut chunks: &[Chunk], room: usize) -> Vec<&[Chunk]> {
    let mut parts = Vec::new();
    while !chunks.is_empty() {
        let mut sum = 0;
        let fits = |chunk: &&Chunk| {
            sum += chunk.keys();
            sum <= room
        };
        let count = chunks.iter().take_while(fits).count().max(1);
        let (part, rest) = chunks.split_at(count);
        parts.push(part);
        chunks = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[(usize, usize)]) -> Vec<Chunk> {
        let mut row = 3;
        let mut chunks = Vec::new();
        for (i, &(first, rows)) in sizes.iter().enumerate() {
            chunks.push(Chunk { row, rows, first, table: 10 * i });
            row += rows;
        }
        chunks
    }

    /// Whole sequences in their order, as many as there is room for; the sequence that has more
    /// keys than that alone.
    #[test]
    fn launches_have_as_many_sequences_as_there_is_room_for() {
        let sizes = [(0, 40), (20, 30), (0, 10), (0, 1), (99, 1), (0, 101), (60, 40), (0, 1)];
        let all = chunks(&sizes);
        let counts = |room| -> Vec<usize> {
            let parts = fitting(&all, room);
            assert_eq!(parts.concat(), all);
            parts.iter().map(|part| part.len()).collect()
        };
        assert_eq!(counts(100), [3, 1, 1, 1, 1, 1]);
        assert_eq!(counts(101), [4, 1, 1, 2]);
        assert_eq!(counts(402), [7, 1]);
        assert_eq!(counts(403), [8]);
        assert!(fitting(&[], 100).is_empty());
    }

    /// What each launch finds where it is told to look.
    #[test]
    fn launches_find_their_own_words() {
        const AT: u64 = 0x1000;
        let all = chunks(&[(0, 40), (20, 200), (0, 10), (0, 300)]);
        let (launches, words) = launches(&all, 300, AT);
        assert_eq!(launches.len(), 2);
        for (launch, chunks) in launches.iter().zip([&all[..3], &all[3..]]) {
            let from = |address: u64| {
                assert!(address.is_multiple_of(16));
                &words[(address - AT) as usize / 4..]
            };
            assert_eq!(launch.chunks, chunks);
            let total: usize = chunks.iter().map(Chunk::keys).sum();
            assert_eq!((launch.keys.bound, from(launch.keys.count)[0]), (total, total as u32));
            assert!(from(launch.sequences).starts_with(&gather_entries::list(chunks)));
            assert!(from(launch.blocks).starts_with(&attention_prompt::list(chunks)));
        }
        assert!(words.len() <= most_words(4, 550));
    }
}
