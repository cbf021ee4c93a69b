use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// Most bytes of conversations, as JSON, that are kept. The oldest give way.
const MAX_BYTES: usize = 64 << 20;

/// Conversations that a later request may go on with, in memory only.
#[derive(Debug, Default)]
pub(crate) struct Store {
    kept: Mutex<Kept>,
    random: RandomState,
}

#[derive(Debug, Default)]
struct Kept {
    conversations: HashMap<String, Arc<[Value]>>,
    /// Their ids and sizes, oldest first.
    order: VecDeque<(String, usize)>,
    bytes: usize,
}

impl Store {
    /// An id that nobody can guess, as it opens a conversation. `number` is used only once.
    pub(crate) fn id(&self, number: u64) -> String {
        // A keyed hash whose key never leaves this process.
        let half = |part: u64| self.random.hash_one((number, part));
        format!("resp_{:016x}{:016x}", half(0), half(1))
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<[Value]>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).conversations.get(id).cloned()
    }

    /// Keeps a conversation, if it is not larger than all that may be kept.
    pub(crate) fn put(&self, id: String, messages: Vec<Value>) {
        let size = messages.iter().map(|message| message.to_string().len()).sum::<usize>();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(id, messages, size, MAX_BYTES);
    }
}

impl Kept {
    fn put(&mut self, id: String, messages: Vec<Value>, size: usize, limit: usize) {
        if size > limit {
            return;
        }
        while self.bytes + size > limit {
            let Some((oldest, freed)) = self.order.pop_front() else { break };
            self.conversations.remove(&oldest);
            self.bytes -= freed;
        }
        self.bytes += size;
        self.order.push_back((id.clone(), size));
        self.conversations.insert(id, Arc::from(messages));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way() {
        let mut kept = Kept::default();
        for (id, size) in [("a", 4), ("b", 4), ("c", 3), ("large", 11)] {
            kept.put(id.to_owned(), Vec::new(), size, 10);
        }
        let mut ids: Vec<&str> = kept.conversations.keys().map(String::as_str).collect();
        ids.sort_unstable();
        assert_eq!((ids, kept.bytes), (vec!["b", "c"], 7));
    }
}
