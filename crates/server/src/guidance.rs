//! From what a request demands of its answer to the engine's constraint.

use std::sync::Arc;

use engine::Constraint;
use model::TokenMask;
use text::{AnswerRules, GrammarError, Guide, ParserOptions};

use crate::App;
use crate::error::ApiError;

/// What all choices of a request must be like.
#[derive(Debug)]
pub(crate) struct Guidance {
    guide: Guide,
    first: Option<Arc<TokenMask>>,
    /// The field that is named where an answer cannot go on.
    pub(crate) param: String,
}

impl Guidance {
    /// `None` if the rules ask for nothing.
    pub(crate) fn new(
        rules: AnswerRules,
        prompt: ParserOptions,
        param: String,
        app: &App,
    ) -> Result<Option<Self>, ApiError> {
        let AnswerRules { thinking_budget, content, tools, min_tokens, .. } = &rules;
        let budget = thinking_budget.is_some() && prompt.thinking;
        if !budget && content.is_none() && tools.is_none() && *min_tokens == 0 {
            return Ok(None);
        }
        let failed = |error: GrammarError| ApiError::field(&param, error);
        let guide = Guide::new(app.grammar_compiler()?, app.tokenizer.clone(), rules, prompt);
        let mut guide = guide.map_err(failed)?;
        let first = guide.mask().map_err(failed)?.map(TokenMask::new).map(Arc::new);
        Ok(Some(Self { guide, first, param }))
    }

    /// The constraint of one choice.
    pub(crate) fn constraint(&self) -> Constraint {
        let mut guide = self.guide.clone();
        let mut next = move |id| {
            guide.push(id)?;
            guide.mask()
        };
        let masked = |mask: Option<Vec<u32>>| mask.map(TokenMask::new).map(Arc::new);
        let next = move |id| next(id).map(masked).map_err(|error| error.to_string());
        Constraint { first: self.first.clone(), next: Box::new(next) }
    }
}
