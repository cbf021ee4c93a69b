use std::collections::HashSet;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

use crate::error::{read_json, read_text};
use crate::protect::{Protected, Protection};
use crate::python::{JsonStyle, deep_sorted, json_dumps};
use crate::{TextError, Tokenizer, tools_to_typescript};

const TEMPLATE_FILE: &str = "chat_template.jinja";
const CONFIG_FILE: &str = "tokenizer_config.json";

/// The model's own chat template, rendered as Hugging Face's `apply_chat_template` does.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// What to render: a conversation in OpenAI's JSON shape, and the template's switches.
#[derive(Debug, Clone)]
pub struct ChatPrompt<'a> {
    /// Messages, oldest first.
    pub messages: &'a [Value],
    /// Tool definitions. An empty slice counts as none.
    pub tools: Option<&'a [Value]>,
    /// The request's `chat_template_kwargs`, such as `thinking` and `preserve_thinking`. The
    /// other fields of this struct take precedence over entries of the same name.
    pub kwargs: Map<String, Value>,
    /// Whether to end with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or else the field `chat_template` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Names the file, and the line where the template does not parse.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let (template, config) = (dir.join(TEMPLATE_FILE), dir.join(CONFIG_FILE));
        if template.exists() {
            return Self::new(&template, read_text(&template)?);
        }
        if config.exists()
            && let Some(Value::String(source)) = read_json(&config)?.get_mut("chat_template")
        {
            return Self::new(&config, std::mem::take(source));
        }
        let expected = &[TEMPLATE_FILE, "a chat_template in tokenizer_config.json"];
        Err(TextError::Missing { dir: dir.to_owned(), expected })
    }

    fn new(path: &Path, source: String) -> Result<Self, TextError> {
        let failed = |error: Error| TextError::format(path, describe(&error));
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(failed)?,
        );
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_template_owned(TEMPLATE_FILE, source).map_err(failed)?;
        Ok(Self { environment })
    }

    /// The template as the model's files have it.
    pub fn source(&self) -> String {
        let template = self.environment.get_template(TEMPLATE_FILE);
        template.map(|template| template.source().to_owned()).unwrap_or_default()
    }

    /// Renders `prompt` to text. To tokenize it use [`ChatTemplate::encode`]: in the text alone, a
    /// control token cannot be told from a user who spells one.
    ///
    /// # Errors
    /// [`TextError::Template`] with the template's own message where it calls `raise_exception`.
    pub fn render(&self, prompt: &ChatPrompt) -> Result<String, TextError> {
        Ok(self.render_protected(prompt, &HashSet::new())?.text)
    }

    /// Renders `prompt` and tokenizes it. Special tokens that the template writes become their
    /// ids; the same names inside messages, tools or kwargs stay text, also where two of their
    /// strings meet. (Hugging Face's tokenizer turns those into control tokens.)
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        prompt: &ChatPrompt,
    ) -> Result<Vec<u32>, TextError> {
        let rendered = self.render_protected(prompt, &tokenizer.delimiters())?;
        Ok(tokenizer.encode_where(&rendered.text, |range| rendered.is_template_text(&range)))
    }

    fn render_protected(
        &self,
        prompt: &ChatPrompt,
        delimiters: &HashSet<char>,
    ) -> Result<Protected, TextError> {
        let mut context = prompt.kwargs.clone();
        context.insert("messages".to_owned(), Value::from(prompt.messages));
        context.remove("tools");
        context.remove("tools_ts_str");
        if let Some(tools) = prompt.tools.filter(|tools| !tools.is_empty()) {
            let tools: Vec<_> = tools.iter().map(deep_sorted).collect();
            if let Some(declaration) = tools_to_typescript(&tools) {
                context.insert("tools_ts_str".to_owned(), Value::from(declaration));
            }
            context.insert("tools".to_owned(), Value::from(tools));
        }
        let mut strings = Vec::new();
        let source = self.environment.get_template(TEMPLATE_FILE).map_err(template_error)?;
        strings.push(source.source());
        collect_strings(&mut strings, context.values());
        strings.extend(context.keys().map(String::as_str));
        let protection = Protection::new(delimiters, strings)?;
        let mut context = protection.entries(&context);
        context.insert("add_generation_prompt".to_owned(), prompt.add_generation_prompt.into());
        let rendered =
            source.render(minijinja::Value::from(Serde(&context))).map_err(template_error)?;
        Ok(protection.restore(&rendered))
    }
}

/// Gathers every string and key inside `values`.
fn collect_strings<'a>(strings: &mut Vec<&'a str>, values: impl IntoIterator<Item = &'a Value>) {
    for value in values {
        match value {
            Value::String(text) => strings.push(text),
            Value::Array(items) => collect_strings(strings, items),
            Value::Object(entries) => {
                strings.extend(entries.keys().map(String::as_str));
                collect_strings(strings, entries.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// `tojson(separators=(item, key), ensure_ascii=false)`, printing as Python's `json.dumps`.
fn tojson(value: Serde<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let mut style = JsonStyle::default();
    if let Some(separators) = kwargs.get::<Option<Vec<String>>>("separators")? {
        let pair: [String; 2] = separators.try_into().map_err(|_| {
            Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair")
        })?;
        [style.item_separator, style.key_separator] = pair;
    }
    style.ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    Ok(json_dumps(&value, &style))
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, RAISED.to_owned() + &message))
}

/// Marks errors that the template raised on purpose.
const RAISED: &str = "raised by the template: ";

fn template_error(error: Error) -> TextError {
    let raised = error.detail().and_then(|detail| detail.strip_prefix(RAISED));
    TextError::Template(raised.map_or_else(|| describe(&error), str::to_owned))
}

/// One line: what went wrong and where in the template.
fn describe(error: &Error) -> String {
    let detail = error.detail().unwrap_or("");
    let place = error.line().map(|line| format!(" (template line {line})")).unwrap_or_default();
    format!("{}: {detail}{place}", error.kind())
}
