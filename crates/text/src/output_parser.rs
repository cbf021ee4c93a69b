use std::sync::Arc;

use crate::tool_call_id::{format_id, parse_header};
use crate::{Detokenizer, Tokenizer};

/// One piece of an answer. Pieces of one kind that follow each other are to be concatenated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Text of the model's thinking.
    Reasoning(String),
    /// Text of the answer.
    Content(String),
    /// A tool call begins.
    ToolCallStart {
        /// Place of the call in this answer, from 0.
        index: usize,
        /// `functions.NAME:IDX`, IDX counting from [`ParserOptions::first_tool_index`].
        id: String,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments: JSON text as the model wrote it.
    ToolCallArguments {
        /// The call's place, as in its [`Delta::ToolCallStart`].
        index: usize,
        /// The text to append.
        fragment: String,
    },
}

/// What the parser must know of the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParserOptions {
    /// The prompt ended inside `<think>`: the output begins with reasoning.
    pub thinking: bool,
    /// Read tool sections. Without it their markers are text.
    pub tools: bool,
    /// Number of tool calls in the conversation so far.
    pub first_tool_index: usize,
}

/// Splits generated ids into reasoning, content and tool calls, as they come.
///
/// It goes by the ids of the markers, so that text which merely spells a marker is text. An answer
/// is `reasoning </think> content`, with tool sections anywhere in it:
/// `section_begin (call_begin HEADER argument_begin ARGUMENTS call_end)* section_end`.
/// It bears what models do wrong: a section that begins before `</think>` ends the reasoning; a
/// call may come without a section, end without arguments, or be cut off; markers out of place are
/// dropped, as is text between the calls of a section.
///
/// An end of call inside a JSON string counts only if a call or the end of the section, or of the
/// output, follows: otherwise the model is writing about markers, and they are text.
#[derive(Debug)]
pub struct OutputParser {
    tokenizer: Arc<Tokenizer>,
    markers: Markers,
    options: ParserOptions,
    detokenizer: Detokenizer,
    state: State,
    calls: usize,
    reasoning_tokens: usize,
}

#[derive(Debug)]
enum State {
    Reasoning,
    Content,
    /// Inside a section, between calls.
    Section,
    Header(String),
    Arguments(Arguments),
}

/// Where the JSON text of a call's arguments stands.
#[derive(Debug, Default)]
struct Arguments {
    in_string: bool,
    escaped: bool,
    /// An end of call inside a string, until the next token tells what it is.
    held_end: Option<u32>,
}

impl Arguments {
    fn scan(&mut self, fragment: &str) {
        for byte in fragment.bytes() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ => {}
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Think,
    EndThink,
    SectionBegin,
    SectionEnd,
    CallBegin,
    ArgumentBegin,
    CallEnd,
}

/// Ids of the markers that this model's tokenizer has.
#[derive(Debug)]
struct Markers(Vec<(u32, Marker)>);

impl Markers {
    fn new(tokenizer: &Tokenizer, tools: bool) -> Self {
        let mut names = vec![("<think>", Marker::Think), ("</think>", Marker::EndThink)];
        if tools {
            names.extend([
                ("<|tool_calls_section_begin|>", Marker::SectionBegin),
                ("<|tool_calls_section_end|>", Marker::SectionEnd),
                ("<|tool_call_begin|>", Marker::CallBegin),
                ("<|tool_call_argument_begin|>", Marker::ArgumentBegin),
                ("<|tool_call_end|>", Marker::CallEnd),
            ]);
        }
        let known = names.into_iter();
        Self(
            known
                .filter_map(|(name, marker)| Some((tokenizer.special_id(name)?, marker)))
                .collect(),
        )
    }

    fn get(&self, id: u32) -> Option<Marker> {
        self.0.iter().find(|known| known.0 == id).map(|known| known.1)
    }
}

impl OutputParser {
    /// A parser for one answer.
    pub fn new(tokenizer: Arc<Tokenizer>, options: ParserOptions) -> Self {
        Self {
            markers: Markers::new(&tokenizer, options.tools),
            tokenizer,
            options,
            detokenizer: Detokenizer::new(true),
            state: if options.thinking { State::Reasoning } else { State::Content },
            calls: 0,
            reasoning_tokens: 0,
        }
    }

    /// Takes the next id. What it returns over all calls, concatenated, depends on the ids alone.
    pub fn push(&mut self, id: u32) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if matches!(self.state, State::Reasoning) {
            self.reasoning_tokens += 1;
        }
        let marker = self.markers.get(id);
        self.settle_held_end(id, marker, &mut deltas);
        match (marker, &mut self.state) {
            (Some(Marker::CallEnd), State::Arguments(arguments)) if arguments.in_string => {
                arguments.held_end = Some(id);
            }
            (Some(_), State::Arguments(arguments)) if arguments.in_string => {
                self.text(id, &mut deltas);
            }
            (Some(marker), _) => self.turn(marker, &mut deltas),
            (None, _) => self.text(id, &mut deltas),
        }
        deltas
    }

    /// Ends the answer and returns what was still held back. A call that was cut off keeps what
    /// there is of its arguments; if even its header is incomplete there is no call, as a name cut
    /// short would name another function.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        self.flush(&mut deltas);
        if let State::Header(header) = &self.state
            && parse_header(header).1
        {
            self.start_call(&mut deltas);
        }
        self.state = State::Content;
        deltas
    }

    /// Number of [`Delta::ToolCallStart`]s so far.
    pub fn tool_calls_seen(&self) -> usize {
        self.calls
    }

    /// Number of ids so far that were reasoning, its closing marker included.
    pub fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Decides on an end of call that was held back, now that `next` follows.
    fn settle_held_end(&mut self, next: u32, marker: Option<Marker>, deltas: &mut Vec<Delta>) {
        let State::Arguments(arguments) = &mut self.state else { return };
        let Some(id) = arguments.held_end.take() else { return };
        let call_is_over = matches!(marker, Some(Marker::CallBegin | Marker::SectionEnd));
        if call_is_over || self.tokenizer.is_special(next) {
            self.turn(Marker::CallEnd, deltas);
        } else {
            self.text(id, deltas);
        }
    }

    /// Goes where `marker` leads.
    fn turn(&mut self, marker: Marker, deltas: &mut Vec<Delta>) {
        self.flush(deltas);
        let inside_call = matches!(self.state, State::Header(_) | State::Arguments(_));
        let header = matches!(self.state, State::Header(_));
        let next = match marker {
            Marker::Think if inside_call => return,
            Marker::Think => State::Reasoning,
            Marker::EndThink if matches!(self.state, State::Reasoning) => State::Content,
            Marker::EndThink => return,
            Marker::ArgumentBegin if header => State::Arguments(Arguments::default()),
            Marker::ArgumentBegin => return,
            Marker::CallBegin => State::Header(String::new()),
            Marker::CallEnd if inside_call => State::Section,
            Marker::CallEnd => return,
            Marker::SectionBegin => State::Section,
            Marker::SectionEnd => State::Content,
        };
        if let State::Header(header) = &self.state {
            // Arguments need a call to belong to, whatever its header is.
            let arguments_follow = matches!(next, State::Arguments(_));
            if arguments_follow || !header.trim().is_empty() {
                self.start_call(deltas);
            }
        }
        self.state = next;
    }

    fn start_call(&mut self, deltas: &mut Vec<Delta>) {
        let State::Header(header) = &self.state else { return };
        let name = parse_header(header).0.to_owned();
        let id = format_id(&name, self.options.first_tool_index + self.calls);
        deltas.push(Delta::ToolCallStart { index: self.calls, id, name });
        self.calls += 1;
    }

    /// Takes `id` as text of wherever the parser is.
    fn text(&mut self, id: u32, deltas: &mut Vec<Delta>) {
        let text = self.detokenizer.push(&self.tokenizer, id);
        self.place(text, deltas);
    }

    /// Emits the bytes of an unfinished code point.
    fn flush(&mut self, deltas: &mut Vec<Delta>) {
        let text = self.detokenizer.finish();
        self.place(text, deltas);
    }

    fn place(&mut self, text: String, deltas: &mut Vec<Delta>) {
        if text.is_empty() {
            return;
        }
        match &mut self.state {
            State::Reasoning => deltas.push(Delta::Reasoning(text)),
            State::Content => deltas.push(Delta::Content(text)),
            State::Section => {}
            State::Header(header) => header.push_str(&text),
            State::Arguments(arguments) => {
                arguments.scan(&text);
                let index = self.calls.saturating_sub(1);
                deltas.push(Delta::ToolCallArguments { index, fragment: text });
            }
        }
    }
}
