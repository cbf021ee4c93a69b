//! The KV pool's blocks: which are free, which belong to a sequence.

/// Owner of all free blocks. A block that was handed out belongs to whoever holds its number, until
/// it is given back.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Vec<u32>,
}

impl BlockPool {
    /// A pool of blocks `0..blocks`, all free.
    pub(crate) fn new(blocks: u32) -> BlockPool {
        // Taken from the end, so the lowest numbers go first.
        BlockPool { free: (0..blocks).rev().collect() }
    }

    /// Takes `count` blocks, or none at all if fewer are free.
    pub(crate) fn allocate(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        Some(self.free.split_off(rest))
    }

    /// Takes blocks back.
    pub(crate) fn release(&mut self, blocks: Vec<u32>) {
        self.free.extend(blocks);
    }

    /// Blocks that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// The free blocks' numbers.
    #[cfg(test)]
    pub(crate) fn free_blocks(&self) -> &[u32] {
        &self.free
    }
}
