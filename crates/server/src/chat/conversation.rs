use serde_json::{Map, Value};
use text::{ChatPrompt, ParserOptions, TextError, repair_tool_call_ids};

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Generation;
use crate::guidance::Guidance;
use crate::params::Params;
use crate::structure::Structure;
use crate::transcript::Form;

use super::tools::Tools;
use super::{messages, tools};

/// What the chat template is given: checked messages, tools and switches.
#[derive(Debug)]
pub(crate) struct Conversation {
    messages: Vec<Value>,
    tools: Tools,
    kwargs: Map<String, Value>,
    /// Most tokens of thinking, if there is a limit.
    thinking_budget: Option<usize>,
    /// Number of tool calls in the messages.
    tool_calls: usize,
}

impl Conversation {
    /// Takes `messages`, tools and what is said of them, and the template's switches.
    pub(crate) fn take(fields: &mut Fields, app: &App) -> Result<Self, ApiError> {
        let items = fields.array("messages")?;
        let items = fields.required("messages", items)?;
        let mut messages = messages::check(items)?;
        let tools = tools::take(fields)?;
        let kwargs = take_switches(fields, app)?;
        let tool_calls = repair_tool_call_ids(&mut messages);
        Ok(Self { messages, tools, kwargs, thinking_budget: None, tool_calls })
    }

    /// Of messages that are as the chat template wants them.
    pub(crate) fn new(mut messages: Vec<Value>, tools: Tools, thinking: bool) -> Self {
        let kwargs = Map::from_iter([("thinking".to_owned(), thinking.into())]);
        let tool_calls = repair_tool_call_ids(&mut messages);
        Self { messages, tools, kwargs, thinking_budget: None, tool_calls }
    }

    /// With at most this many tokens of thinking.
    pub(crate) fn with_thinking_budget(mut self, budget: Option<usize>) -> Self {
        self.thinking_budget = budget;
        self
    }

    pub(crate) fn thinking_budget(&self) -> Option<usize> {
        self.thinking_budget
    }

    /// The request for the assistant's next message; the conversation came from the field `param`.
    pub(crate) fn generation(
        &self,
        params: Params,
        structure: Option<Structure>,
        param: &'static str,
        app: &App,
    ) -> Result<Generation, ApiError> {
        let (mut rules, mut demand) = params.rules(structure, app)?;
        if rules.content.is_some() && self.tools.required() {
            let complaint = format!("contradicts {demand}: an answer is either content or a call");
            return Err(ApiError::field("tool_choice", complaint));
        }
        rules.tools = self.tools.rules(app)?;
        rules.thinking_budget = self.thinking_budget;
        if rules.tools.is_some() && rules.content.is_none() {
            demand = "tools".to_owned();
        }
        let prompt = encode(self, true, app)?;
        let parser = ParserOptions {
            thinking: prompt.last().copied() == app.tokenizer.special_id("<think>"),
            tools: !self.tools.is_empty(),
            first_tool_index: self.tool_calls,
        };
        Ok(Generation {
            guidance: Guidance::new(rules, parser, demand, app)?,
            prompts: vec![prompt],
            prompt_param: param,
            params,
            default_max_tokens: None,
            logprobs: None,
            prompt_logprobs: None,
            echo: false,
            form: Form::Chat(parser),
        })
    }
}

/// The switches of Kimi's template, and other spellings of the first: Moonshot's own
/// `thinking: {"type": "enabled" | "disabled"}`, and OpenAI's `reasoning_effort`.
fn take_switches(fields: &mut Fields, app: &App) -> Result<Map<String, Value>, ApiError> {
    let mut kwargs = Map::new();
    let mut thinking = None;
    if let Some(mut switches) = fields.object("chat_template_kwargs")? {
        thinking = switches.boolean("thinking")?;
        if let Some(preserve) = switches.boolean("preserve_thinking")? {
            kwargs.insert("preserve_thinking".to_owned(), preserve.into());
        }
        switches.finish()?;
    }
    let mut set = |fields: &Fields, name: &str, enabled: bool| {
        if thinking.is_some_and(|thinking| thinking != enabled) {
            return Err(fields.error(name, "contradicts another field that switches thinking"));
        }
        thinking = Some(enabled);
        Ok(())
    };
    if let Some(mut switch) = fields.object("thinking")? {
        let kind = switch.string("type")?;
        let enabled = match switch.required("type", kind)?.as_str() {
            "enabled" => true,
            "disabled" => false,
            _ => return Err(switch.error("type", r#"must be "enabled" or "disabled""#)),
        };
        switch.finish()?;
        set(fields, "thinking", enabled)?;
    }
    if let Some(effort) = fields.string("reasoning_effort")? {
        let enabled = thinks(&effort).ok_or_else(|| {
            let complaint = "must be none, minimal, low, medium, high or xhigh";
            fields.error("reasoning_effort", complaint)
        })?;
        set(fields, "reasoning_effort", enabled)?;
    }
    kwargs.insert("thinking".to_owned(), thinking.unwrap_or(app.config.thinking).into());
    Ok(kwargs)
}

/// Whether an effort of OpenAI's means thinking: the model knows no degrees. `None`: there is no
/// such effort.
pub(crate) fn thinks(effort: &str) -> Option<bool> {
    match effort {
        "none" => Some(false),
        "minimal" | "low" | "medium" | "high" | "xhigh" => Some(true),
        _ => None,
    }
}

/// Renders and tokenizes a conversation.
pub(crate) fn encode(
    conversation: &Conversation,
    add_generation_prompt: bool,
    app: &App,
) -> Result<Vec<u32>, ApiError> {
    let prompt = ChatPrompt {
        messages: &conversation.messages,
        tools: Some(&conversation.tools.definitions()),
        kwargs: conversation.kwargs.clone(),
        add_generation_prompt,
    };
    app.template.encode(&app.tokenizer, &prompt).map_err(|error| match error {
        TextError::Template(_) => ApiError::bad_request(error.to_string()).with_param("messages"),
        _ => ApiError::internal(error.to_string()),
    })
}
