use serde::Serialize;

use crate::transcript::Piece;

/// Token counts of a whole request.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Debug, Clone, Default, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

#[derive(Debug, Clone, Default, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

impl Usage {
    pub(crate) fn new(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, total_tokens: prompt_tokens, ..Self::default() }
    }

    /// Prompt tokens that were in the prefix cache.
    pub(crate) fn cached_tokens(&self) -> usize {
        self.prompt_tokens_details.cached_tokens
    }

    /// Generated tokens that were reasoning.
    pub(crate) fn reasoning_tokens(&self) -> usize {
        self.completion_tokens_details.reasoning_tokens
    }

    pub(crate) fn add(&mut self, piece: &Piece) {
        self.completion_tokens += piece.generated;
        self.total_tokens += piece.generated;
        self.prompt_tokens_details.cached_tokens += piece.cached_prompt_tokens;
        self.completion_tokens_details.reasoning_tokens +=
            piece.end.map_or(0, |end| end.reasoning_tokens);
    }
}
