use std::sync::Arc;

use engine::{FinishReason, TokenInfo};
use text::{Delta, Detokenizer, OutputParser, ParserOptions, Tokenizer};

use crate::params::Stop;
use crate::stop::StopMatcher;

/// How ids become text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// All of it is text.
    Text {
        /// Leave control tokens out.
        skip_special: bool,
    },
    /// A chat answer: reasoning, content and tool calls.
    Chat(ParserOptions),
}

/// A token to be reported with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) info: TokenInfo,
    /// Characters of text before it.
    pub(crate) offset: usize,
}

/// What one event adds to an answer. An answer is the sum of its pieces, sent singly or at once.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece {
    /// Place of the choice in the answer.
    pub(crate) choice: usize,
    pub(crate) deltas: Vec<Delta>,
    /// The tokens behind it, if their log-probabilities are wanted. Text that is held back comes
    /// later than its token.
    pub(crate) tokens: Vec<Token>,
    /// The prompt's tokens, if their log-probabilities are wanted apart from the answer.
    pub(crate) prompt: Option<Vec<TokenInfo>>,
    /// Tokens generated for it.
    pub(crate) generated: usize,
    /// Prompt tokens that were in the prefix cache: in the last piece of a prompt's first choice,
    /// so that a prompt counts once however many choices it has.
    pub(crate) cached_prompt_tokens: usize,
    /// Present in the last piece.
    pub(crate) end: Option<End>,
}

/// How a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: FinishReason,
    /// Which of the stop strings it was, if it was one.
    pub(crate) stop_string: Option<usize>,
    /// Tokens that were reasoning.
    pub(crate) reasoning_tokens: usize,
    pub(crate) tool_calls: usize,
}

enum Renderer {
    Text(Detokenizer),
    Chat(Box<OutputParser>),
}

/// One choice's way from token ids to [`Piece`]s. A function of the ids it is given.
///
/// Stop strings are looked for in the answer's text: in a chat answer not in its reasoning and tool
/// calls, and never across them.
pub(crate) struct Transcript {
    choice: usize,
    tokenizer: Arc<Tokenizer>,
    renderer: Renderer,
    stop: StopMatcher,
    stop_ids: Vec<u32>,
    include_stop: bool,
    /// Tokens before which no stop string counts, and those that were generated.
    min_tokens: usize,
    generated: usize,
    report_tokens: bool,
    /// Characters of text so far.
    characters: usize,
}

impl Transcript {
    pub(crate) fn new(
        choice: usize,
        tokenizer: Arc<Tokenizer>,
        form: Form,
        stop: Stop,
        min_tokens: usize,
        report_tokens: bool,
    ) -> Self {
        let renderer = match form {
            Form::Text { skip_special } => Renderer::Text(Detokenizer::new(skip_special)),
            Form::Chat(options) => {
                Renderer::Chat(Box::new(OutputParser::new(tokenizer.clone(), options)))
            }
        };
        Self {
            choice,
            tokenizer,
            renderer,
            stop: StopMatcher::new(stop.strings, stop.include),
            stop_ids: stop.ids,
            include_stop: stop.include,
            min_tokens,
            generated: 0,
            report_tokens,
            characters: 0,
        }
    }

    /// Begins the answer with its prompt. Stop strings are not looked for in it.
    pub(crate) fn echo(&mut self, prompt: Vec<TokenInfo>) -> Piece {
        let mut piece = Piece { choice: self.choice, ..Piece::default() };
        for info in prompt {
            let offset = self.characters;
            piece.deltas.extend(self.render(info.id));
            if self.report_tokens {
                piece.tokens.push(Token { info, offset });
            }
        }
        piece
    }

    /// Takes the next generated token. The piece has an end if a stop string is complete.
    pub(crate) fn token(&mut self, info: TokenInfo) -> Piece {
        let offset = self.characters;
        let hidden = !self.include_stop && self.stop_ids.contains(&info.id);
        let rendered = if hidden { Vec::new() } else { self.render(info.id) };
        self.generated += 1;
        let (deltas, stopped) = match self.generated < self.min_tokens {
            true => (rendered, None),
            false => self.stop_at_string(rendered),
        };
        let tokens = if self.report_tokens { vec![Token { info, offset }] } else { Vec::new() };
        let end = stopped.map(|string| self.end(FinishReason::Stop, Some(string)));
        Piece { choice: self.choice, deltas, tokens, generated: 1, end, ..Piece::default() }
    }

    /// Ends the answer, releasing what was held back.
    pub(crate) fn finish(&mut self, reason: FinishReason) -> Piece {
        let rendered = match &mut self.renderer {
            Renderer::Text(detokenizer) => content(detokenizer.finish()),
            Renderer::Chat(parser) => parser.finish(),
        };
        let (mut deltas, stopped) = self.stop_at_string(rendered);
        deltas.extend(content(self.stop.flush()));
        let reason = if stopped.is_some() { FinishReason::Stop } else { reason };
        let end = Some(self.end(reason, stopped));
        Piece { choice: self.choice, deltas, end, ..Piece::default() }
    }

    fn render(&mut self, id: u32) -> Vec<Delta> {
        match &mut self.renderer {
            Renderer::Text(detokenizer) => {
                let text = detokenizer.push(&self.tokenizer, id);
                self.characters += text.chars().count();
                content(text)
            }
            Renderer::Chat(parser) => parser.push(id),
        }
    }

    /// Passes content through the matcher; tells which stop string ends the answer there.
    fn stop_at_string(&mut self, rendered: Vec<Delta>) -> (Vec<Delta>, Option<usize>) {
        let mut deltas = Vec::new();
        for delta in rendered {
            if let Delta::Content(text) = delta {
                let released = self.stop.push(&text);
                deltas.extend(content(released.text));
                if released.stopped.is_some() {
                    return (deltas, released.stopped);
                }
            } else {
                deltas.extend(content(self.stop.flush()));
                deltas.push(delta);
            }
        }
        (deltas, None)
    }

    fn end(&self, reason: FinishReason, stop_string: Option<usize>) -> End {
        match &self.renderer {
            Renderer::Text(_) => End { reason, stop_string, reasoning_tokens: 0, tool_calls: 0 },
            Renderer::Chat(parser) => End {
                reason,
                stop_string,
                reasoning_tokens: parser.reasoning_tokens(),
                tool_calls: parser.tool_calls_seen(),
            },
        }
    }
}

fn content(text: String) -> Vec<Delta> {
    if text.is_empty() { Vec::new() } else { vec![Delta::Content(text)] }
}
