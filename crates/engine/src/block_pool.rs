//! The KV pool's blocks: who holds them, and what the full ones contain (the prefix cache).
//!
//! A full block can be published under its content: its tokens and all those before them. Sequences
//! that begin alike then hold the same blocks. A published block is never written again. When
//! nobody holds it, it stays findable until its place is needed, least recently used first.
//!
//! A backend may compute a prompt's tokens and generated ones differently (`Span::generated`), so a
//! block's content is also which of its tokens are of a prompt. A sequence that is computed again
//! takes the blocks of its own answer; a request whose prompt holds that answer does not. What that
//! costs: a conversation's next turn computes the last answer again, from the block on that holds
//! its first token. Earlier answers were computed as a prompt's tokens by the turn before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What comes before a block: it and the block's tokens are the block's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Parent {
    /// Nothing; only requests of the same salt share.
    Root(Option<Arc<str>>),
    /// The published block with this serial number. These are never used twice, so equal parents
    /// are equal contents, with no trust in hashes.
    Block(u64),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Content {
    parent: Parent,
    /// How many of `tokens`, from the first, are of a prompt; the others were generated.
    prompt_tokens: usize,
    tokens: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    published: Option<Published>,
}

#[derive(Debug)]
struct Published {
    serial: u64,
    content: Arc<Content>,
    /// Key in `BlockPool::idle` while nobody holds the block.
    last_use: u64,
}

/// Owner of all blocks. What `allocate`, `hold` and `publish` hand out belongs to the caller until
/// `release`.
#[derive(Debug)]
pub(crate) struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    /// Blocks without holder and content.
    empty: Vec<u32>,
    /// Published blocks without holder, by last use.
    idle: BTreeMap<u64, u32>,
    published: HashMap<Arc<Content>, u32>,
    next_serial: u64,
    next_use: u64,
}

impl BlockPool {
    /// A pool of `count` empty blocks.
    pub(crate) fn new(count: u32, block_size: usize) -> BlockPool {
        BlockPool {
            block_size,
            blocks: (0..count).map(|_| Block::default()).collect(),
            // Taken from the end, so the lowest numbers go first.
            empty: (0..count).rev().collect(),
            idle: BTreeMap::new(),
            published: HashMap::new(),
            next_serial: 0,
            next_use: 0,
        }
    }

    /// Blocks that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Takes a block without content; forgets the least recently used content if it must.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let block = self.empty.pop().or_else(|| self.evict())?;
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.idle.pop_first()?;
        if let Some(old) = self.blocks[block as usize].published.take() {
            self.published.remove(&old.content);
        }
        Some(block)
    }

    /// The published blocks that hold the beginning of `tokens`, as many as there are. The first
    /// `prompt_len` tokens are of a prompt.
    pub(crate) fn find(
        &self,
        salt: Option<&Arc<str>>,
        tokens: &[u32],
        prompt_len: usize,
    ) -> Vec<u32> {
        let mut found = Vec::new();
        for tokens in tokens.chunks_exact(self.block_size) {
            match self.published.get(&self.content(salt, &found, tokens, prompt_len)) {
                Some(block) => found.push(*block),
                None => break,
            }
        }
        found
    }

    /// The content of a block that holds `tokens` behind the published blocks `before`, of a
    /// sequence whose first `prompt_len` tokens are of a prompt.
    fn content(
        &self,
        salt: Option<&Arc<str>>,
        before: &[u32],
        tokens: &[u32],
        prompt_len: usize,
    ) -> Content {
        let last = before.last().and_then(|last| self.blocks[*last as usize].published.as_ref());
        let parent = match last {
            Some(last) => Parent::Block(last.serial),
            None => Parent::Root(salt.cloned()),
        };
        let prompt_left = prompt_len.saturating_sub(before.len() * self.block_size);
        Content { parent, prompt_tokens: prompt_left.min(self.block_size), tokens: tokens.into() }
    }

    /// How many of these blocks nobody holds.
    pub(crate) fn idle_among(&self, blocks: &[u32]) -> usize {
        blocks.iter().filter(|block| self.blocks[**block as usize].holders == 0).count()
    }

    /// Becomes a holder of a published block.
    pub(crate) fn hold(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        if let (0, Some(published)) = (entry.holders, &entry.published) {
            self.idle.remove(&published.last_use);
        }
        entry.holders += 1;
    }

    /// Publishes the caller's block `block`, which now holds `tokens` behind the published blocks
    /// `before`, of a sequence whose first `prompt_len` tokens are of a prompt. Returns the block
    /// to use from now on: if another one has this content already, the caller holds that one
    /// instead.
    pub(crate) fn publish(
        &mut self,
        salt: Option<&Arc<str>>,
        before: &[u32],
        tokens: &[u32],
        prompt_len: usize,
        block: u32,
    ) -> u32 {
        let content = Arc::new(self.content(salt, before, tokens, prompt_len));
        if let Some(&other) = self.published.get(&content) {
            self.hold(other);
            self.release(&[block]);
            return other;
        }
        self.published.insert(content.clone(), block);
        let serial = self.next_serial;
        self.next_serial += 1;
        self.blocks[block as usize].published = Some(Published { serial, content, last_use: 0 });
        block
    }

    /// Gives a sequence's blocks back. The last ones are forgotten first, so that a block never
    /// stays findable longer than the one before it.
    pub(crate) fn release(&mut self, blocks: &[u32]) {
        for &block in blocks.iter().rev() {
            let entry = &mut self.blocks[block as usize];
            entry.holders -= 1;
            if entry.holders > 0 {
                continue;
            }
            match &mut entry.published {
                Some(published) => {
                    published.last_use = self.next_use;
                    self.idle.insert(self.next_use, block);
                    self.next_use += 1;
                }
                None => self.empty.push(block),
            }
        }
    }
}

#[cfg(test)]
impl BlockPool {
    /// Checks every invariant against the sequences' blocks.
    pub(crate) fn check<'a>(
        &self,
        holders: impl Iterator<Item = &'a Vec<u32>>,
    ) -> Result<(), String> {
        let mut held = vec![0; self.blocks.len()];
        holders.flatten().for_each(|block| held[*block as usize] += 1);
        let mut free = vec![0; self.blocks.len()];
        self.empty.iter().chain(self.idle.values()).for_each(|block| free[*block as usize] += 1);
        for (number, block) in self.blocks.iter().enumerate() {
            let ensure = |holds: bool, what: &str| {
                if holds { Ok(()) } else { Err(format!("block {number} {what}: {block:?}")) }
            };
            ensure(block.holders == held[number], "counts its holders wrongly")?;
            ensure(free[number] == u32::from(block.holders == 0), "is in the wrong list")?;
            match &block.published {
                None => ensure(block.holders < 2, "is shared, but not full")?,
                Some(published) => {
                    let found = self.published.get(&published.content);
                    ensure(found == Some(&(number as u32)), "cannot be found")?;
                    let idle = self.idle.get(&published.last_use) == Some(&(number as u32));
                    ensure(idle == (block.holders == 0), "is idle, or is not")?;
                    let reachable = match published.content.parent {
                        Parent::Root(_) => true,
                        Parent::Block(serial) => self.serials().any(|other| other == serial),
                    };
                    ensure(reachable, "has lost its parent")?;
                }
            }
        }
        let count = self.blocks.iter().filter(|block| block.published.is_some()).count();
        if count == self.published.len() { Ok(()) } else { Err("stale contents".into()) }
    }

    fn serials(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().filter_map(|block| Some(block.published.as_ref()?.serial))
    }

    /// Whether a block may not be written any more.
    pub(crate) fn is_published(&self, block: u32) -> bool {
        self.blocks[block as usize].published.is_some()
    }
}
