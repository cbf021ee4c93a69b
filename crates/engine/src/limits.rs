//! Checks against the engine's limits, before anything is queued.

use crate::{EngineConfig, Request, SubmitError};

impl EngineConfig {
    /// Whether an engine can run with these limits at all.
    pub(crate) fn check(&self) -> Result<(), String> {
        let at_least_one = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("block_size", self.block_size),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("{name} is 0, but must be at least 1")),
            None => Ok(()),
        }
    }

    /// Whether a request is well-formed and could run if it were alone.
    pub(crate) fn admits(&self, request: &Request) -> Result<(), SubmitError> {
        let (prompt, max_tokens) = (request.prompt.len(), request.max_tokens);
        let vocab_size = self.vocab_size;
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(SubmitError::BadToken { id, vocab_size });
        }
        let needed = prompt.saturating_add(max_tokens);
        if needed > self.max_model_len {
            let max_model_len = self.max_model_len;
            return Err(SubmitError::TooLong { prompt, max_tokens, max_model_len });
        }
        let pool = self.num_blocks.saturating_mul(self.block_size);
        if needed > pool {
            return Err(SubmitError::PoolTooSmall { needed, pool });
        }
        Ok(())
    }
}
