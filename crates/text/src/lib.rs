//! Text in and out of the model: tokenizer, chat template, streaming detokenizer, and the parser
//! that tells reasoning, content and tool calls apart.
//!
//! In: a model directory ([`Tokenizer::from_dir`], [`ChatTemplate::from_dir`]), then OpenAI-shaped
//! messages and tools. Out: token ids for the engine ([`ChatTemplate::encode`]). Back: sampled ids
//! become text ([`Detokenizer`]) or typed pieces of an answer ([`OutputParser`]), and a [`Guide`]
//! tells which may be sampled, for tools and structured output. Everything here is a function of
//! its arguments; only the constructors read files.
//!
//! What a user writes never becomes a control token, wherever the template puts it.

mod byte_level;
mod dates;
mod detokenizer;
mod error;
mod grammar;
mod grammar_cache;
mod guide;
mod multiple_of;
mod output_parser;
mod protect;
mod python;
mod schema;
mod slices;
mod special;
mod template;
mod tiktoken;
mod tokenizer;
mod tool_call_id;
mod tool_declaration;

pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use grammar::{Grammar, GrammarCompiler, GrammarError, GrammarSource};
pub use guide::{AnswerRules, Guide, ToolRules};
pub use output_parser::{Delta, OutputParser, ParserOptions};
pub use template::{ChatPrompt, ChatTemplate};
pub use tokenizer::Tokenizer;
pub use tool_call_id::repair_tool_call_ids;
pub use tool_declaration::tools_to_typescript;
