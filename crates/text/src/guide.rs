//! What an answer may be, token by token: thinking, then content by a grammar or free, or calls of
//! declared tools whose arguments their schemas accept.

use std::sync::Arc;

use crate::grammar::{Grammar, GrammarCompiler, GrammarError};
use crate::tool_call_id::{id_prefix, parse_header};
use crate::{ParserOptions, Tokenizer};

/// What an answer must be like.
#[derive(Debug, Clone, Default)]
pub struct AnswerRules {
    /// Most tokens of thinking, its end included; `None`: any number. Without effect where the
    /// prompt does not end in thinking.
    pub thinking_budget: Option<usize>,
    /// What the content must match; `None`: anything.
    pub content: Option<Grammar>,
    /// The tools that may be called; `None`: nothing is said of tools.
    pub tools: Option<ToolRules>,
    /// No id of `stop_ids` comes before this many tokens, where another one can.
    pub min_tokens: usize,
    /// Ids that end the answer.
    pub stop_ids: Vec<u32>,
}

/// Which tools may be called, and how often.
#[derive(Debug, Clone)]
pub struct ToolRules {
    /// Names and, from [`ToolRules::arguments`], what the arguments must be.
    pub tools: Vec<(String, Grammar)>,
    /// Most calls in the answer.
    pub most_calls: usize,
    /// The answer is one section of calls, and no text.
    pub required: bool,
}

/// The tokens around tools and thinking.
#[derive(Debug, Clone, Copy)]
struct Markers {
    end_think: Option<u32>,
    section_begin: u32,
    section_end: u32,
    call_begin: u32,
    argument_begin: u32,
    call_end: u32,
}

impl Markers {
    fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let id = |name: &str| {
            let missing = || GrammarError(format!("the model has no token {name}"));
            tokenizer.special_id(name).ok_or_else(missing)
        };
        Ok(Self {
            end_think: tokenizer.special_id("</think>"),
            section_begin: id("<|tool_calls_section_begin|>")?,
            section_end: id("<|tool_calls_section_end|>")?,
            call_begin: id("<|tool_call_begin|>")?,
            argument_begin: id("<|tool_call_argument_begin|>")?,
            call_end: id("<|tool_call_end|>")?,
        })
    }
}

impl ToolRules {
    /// What a call's arguments must be so that `schema` accepts them.
    ///
    /// # Errors
    /// As [`GrammarCompiler::compile`], and a model without tool calls.
    pub fn arguments(
        compiler: &GrammarCompiler,
        tokenizer: &Tokenizer,
        schema: &serde_json::Value,
    ) -> Result<Grammar, GrammarError> {
        compiler.compile_until(schema, Markers::new(tokenizer)?.call_end)
    }
}

/// Where an answer stands.
#[derive(Debug, Clone)]
enum State {
    /// Tokens of thinking so far.
    Thinking(usize),
    /// Nothing but thinking so far.
    Start,
    Content,
    /// Inside a section, between calls.
    Section,
    /// A call's header, as far as it is there.
    Header(Grammar, Vec<u8>),
    Arguments(Grammar),
    /// Nothing may follow.
    End,
}

/// Follows one answer and tells which tokens may come next.
#[derive(Debug, Clone)]
pub struct Guide {
    compiler: Arc<GrammarCompiler>,
    tokenizer: Arc<Tokenizer>,
    markers: Markers,
    rules: AnswerRules,
    state: State,
    first_tool_index: usize,
    calls: usize,
    tokens: usize,
}

impl Guide {
    /// At the beginning of an answer to a prompt that `prompt` describes.
    ///
    /// # Errors
    /// A model without tool calls.
    pub fn new(
        compiler: Arc<GrammarCompiler>,
        tokenizer: Arc<Tokenizer>,
        rules: AnswerRules,
        prompt: ParserOptions,
    ) -> Result<Self, GrammarError> {
        Ok(Self {
            markers: Markers::new(&tokenizer)?,
            compiler,
            tokenizer,
            rules,
            state: if prompt.thinking { State::Thinking(0) } else { State::Start },
            first_tool_index: prompt.first_tool_index,
            calls: 0,
            tokens: 0,
        })
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// One that may not come next.
    pub fn push(&mut self, id: u32) -> Result<(), GrammarError> {
        self.tokens += 1;
        let Markers { section_begin, section_end, call_begin, argument_begin, call_end, .. } =
            self.markers;
        if self.compiler.end_ids().contains(&id) && !matches!(self.state, State::Thinking(_)) {
            self.state = State::End;
            return Ok(());
        }
        let (has_tools, required) = (self.rules.tools.is_some(), self.required());
        let may_call = self.may_call();
        let next = match &mut self.state {
            State::Thinking(_) if Some(id) == self.markers.end_think => State::Start,
            State::Thinking(_) | State::Start | State::Content
                if has_tools && id == section_begin =>
            {
                State::Section
            }
            State::Thinking(count) => State::Thinking(*count + 1),
            State::Start if required => return Err(GrammarError("expected a call".into())),
            State::Start | State::Content => {
                if let Some(grammar) = &mut self.rules.content {
                    grammar.push(id)?;
                }
                State::Content
            }
            State::Section if id == call_begin && may_call => {
                State::Header(self.header()?, Vec::new())
            }
            State::Section if id == section_end => self.behind_section(),
            State::Section => {
                return Err(GrammarError("expected a call or the section's end".into()));
            }
            State::Header(grammar, text) => {
                grammar.push(id)?;
                if id == argument_begin {
                    self.calls += 1;
                    let header = String::from_utf8_lossy(text).into_owned();
                    State::Arguments(self.arguments(parse_header(&header).0)?)
                } else {
                    text.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default());
                    return Ok(());
                }
            }
            State::Arguments(grammar) => {
                grammar.push(id)?;
                if id != call_end {
                    return Ok(());
                }
                State::Section
            }
            State::End => State::End,
        };
        self.state = next;
        Ok(())
    }

    /// The tokens that may come next, as in [`Grammar::mask`]; `None`: all.
    ///
    /// # Errors
    /// As [`Grammar::mask`].
    pub fn mask(&mut self) -> Result<Option<Vec<u32>>, GrammarError> {
        let mask = self.mask_by_state()?;
        if self.tokens >= self.rules.min_tokens {
            return Ok(mask);
        }
        let all = mask.unwrap_or_else(|| self.all());
        let mut longer = all.clone();
        forbid(&mut longer, &self.rules.stop_ids);
        Ok(Some(if longer.iter().any(|word| *word != 0) { longer } else { all }))
    }

    fn mask_by_state(&mut self) -> Result<Option<Vec<u32>>, GrammarError> {
        if let State::Header(grammar, _) | State::Arguments(grammar) = &mut self.state {
            return grammar.mask().map(Some);
        }
        match self.state {
            State::Thinking(count) => Ok(self.thinking_mask(count)),
            State::Start if self.required() => Ok(Some(self.only(&[self.markers.section_begin]))),
            State::Start => self.content_mask(self.may_call()),
            State::Content => self.content_mask(self.may_call() && self.rules.content.is_none()),
            State::Section => {
                let call = self.may_call().then_some(self.markers.call_begin);
                let end = (self.calls > 0).then_some(self.markers.section_end);
                let next: Vec<u32> = call.into_iter().chain(end).collect();
                Ok(Some(self.only(&next)))
            }
            _ => Ok(Some(self.only(self.compiler.end_ids()))),
        }
    }

    fn thinking_mask(&self, count: usize) -> Option<Vec<u32>> {
        let spent = self.rules.thinking_budget.is_some_and(|budget| count + 1 >= budget);
        if let (Some(end), true) = (self.markers.end_think, spent) {
            return Some(self.only(&[end]));
        }
        let must_go_on = self.rules.content.is_some() || self.required();
        if self.rules.tools.is_none() && !must_go_on {
            return None;
        }
        let mut mask = self.all();
        if self.rules.tools.is_some() {
            self.forbid_calls(&mut mask, true);
        }
        if must_go_on {
            forbid(&mut mask, self.compiler.end_ids());
        }
        Some(mask)
    }

    fn content_mask(&mut self, may_call: bool) -> Result<Option<Vec<u32>>, GrammarError> {
        if let Some(grammar) = &mut self.rules.content {
            let mut mask = grammar.mask()?;
            if may_call {
                allow(&mut mask, self.markers.section_begin);
            }
            return Ok(Some(mask));
        }
        if self.rules.tools.is_none() {
            return Ok(None);
        }
        let mut mask = self.all();
        self.forbid_calls(&mut mask, may_call);
        Ok(Some(mask))
    }

    /// Takes away the markers of tools, but for the beginning of a section if that is allowed.
    fn forbid_calls(&self, mask: &mut [u32], may_begin: bool) {
        let Markers { section_begin, section_end, call_begin, argument_begin, call_end, .. } =
            self.markers;
        forbid(mask, &[section_end, call_begin, argument_begin, call_end]);
        if !may_begin {
            forbid(mask, &[section_begin]);
        }
    }

    fn required(&self) -> bool {
        self.rules.tools.as_ref().is_some_and(|tools| tools.required)
    }

    fn may_call(&self) -> bool {
        self.rules.tools.as_ref().is_some_and(|tools| self.calls < tools.most_calls)
    }

    /// Free text may follow calls; one that has a form is in place of them.
    fn behind_section(&self) -> State {
        match self.required() || self.rules.content.is_some() {
            true => State::End,
            false => State::Content,
        }
    }

    /// The header of the next call: its number is known.
    fn header(&self) -> Result<Grammar, GrammarError> {
        let tools = self.rules.tools.iter().flat_map(|tools| &tools.tools);
        let prefixes = tools.map(|(name, _)| id_prefix(name));
        let number = (self.first_tool_index + self.calls).to_string();
        self.compiler.compile_header(prefixes, &number, self.markers.argument_begin)
    }

    fn arguments(&self, name: &str) -> Result<Grammar, GrammarError> {
        let mut tools = self.rules.tools.iter().flat_map(|tools| &tools.tools);
        let tool = tools.find(|(known, _)| known == name);
        tool.map(|(_, grammar)| grammar.clone())
            .ok_or_else(|| GrammarError(format!("there is no tool {name:?}")))
    }

    fn all(&self) -> Vec<u32> {
        let vocab_size = self.compiler.vocab_size();
        let mut mask = vec![u32::MAX; vocab_size.div_ceil(32) as usize];
        if let (Some(last), used @ 1..) = (mask.last_mut(), vocab_size % 32) {
            *last = (1 << used) - 1;
        }
        mask
    }

    fn only(&self, ids: &[u32]) -> Vec<u32> {
        let mut mask = vec![0; self.compiler.vocab_size().div_ceil(32) as usize];
        ids.iter().for_each(|id| allow(&mut mask, *id));
        mask
    }
}

fn allow(mask: &mut [u32], id: u32) {
    if let Some(word) = mask.get_mut(id as usize / 32) {
        *word |= 1 << (id % 32);
    }
}

fn forbid(mask: &mut [u32], ids: &[u32]) {
    for id in ids {
        if let Some(word) = mask.get_mut(*id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }
}
