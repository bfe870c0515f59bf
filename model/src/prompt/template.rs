//! Chat templates.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::{Content, Message, PromptError};

/// The rule of all published SmolVLM models (spec smolvlm §5), for folders without a template.
pub const SMOLVLM: &str = "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}\
{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}\
{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>{% else %}{{ item['text'] }}\
{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";

/// Steps that a template may take. SmolVLM's takes about twenty per message.
const FUEL: u64 = 10_000_000;

/// A template that writes messages as the model was trained to read them.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    text: String,
    origin: String,
    /// Content is handed over as a list of items rather than as one string.
    lists: bool,
}

impl ChatTemplate {
    /// SmolVLM's own rule.
    ///
    /// # Panics
    /// Never: the built-in text is a valid template, as the tests of this crate show.
    pub fn smolvlm() -> Self {
        Self::new(SMOLVLM, "built-in template").expect("the built-in template is valid")
    }

    /// A Jinja template; `origin` names it in errors. A template that looks at the `type` of content
    /// items gets lists of them, any other gets strings.
    ///
    /// # Errors
    /// If the text is not a template.
    pub fn new(template: &str, origin: &str) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        // As transformers sets its Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed(origin, &e))?);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", template.to_owned()).map_err(|e| failed(origin, &e))?;
        let lists = ["'type'", "\"type\"", ".type"].iter().any(|access| template.contains(access));
        Ok(Self { environment, text: template.into(), origin: origin.into(), lists })
    }

    /// Its Jinja text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The template among the files of a model: `chat_template.jinja`, else the `chat_template` of
    /// `chat_template.json` or of `tokenizer_config.json`. `None` if there is none. `read` gives a file's text,
    /// `None` where there is no such file; `path` names it in errors.
    ///
    /// # Errors
    /// If `read` fails, or what a file has is no template.
    pub fn find<E: From<PromptError>>(
        read: impl Fn(&str) -> Result<Option<String>, E>,
        path: impl Fn(&str) -> String,
    ) -> Result<Option<Self>, E> {
        for name in ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"] {
            let Some(text) = read(name)? else { continue };
            let origin = path(name);
            let is_json = Path::new(name).extension().is_some_and(|extension| extension == "json");
            let template = if is_json { from_json(&text, &origin)? } else { Some(text) };
            if let Some(template) = template {
                return Ok(Some(Self::new(&template, &origin)?));
            }
        }
        Ok(None)
    }

    /// [`Self::find`] in a folder.
    ///
    /// # Errors
    /// If a file cannot be read, or what it has is no template.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>, PromptError> {
        let path = |name: &str| folder.as_ref().join(name);
        let origin = |name: &str| path(name).display().to_string();
        let read = |name: &str| match std::fs::read_to_string(path(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                Err(PromptError::Template { origin: origin(name), reason: format!("cannot be read: {e}") })
            }
        };
        Self::find(read, origin)
    }

    /// Writes `messages`; with `add_generation_prompt`, up to where the assistant is to speak.
    ///
    /// # Errors
    /// If the template refuses the messages, fails or runs for too long; if a message has an image and the
    /// template takes only text.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, PromptError> {
        let messages = messages.iter().map(|m| self.message(m)).collect::<Result<Vec<_>, _>>()?;
        let chat = self.environment.get_template("chat").map_err(|e| failed(&self.origin, &e))?;
        chat.render(context! { messages, add_generation_prompt }).map_err(|e| failed(&self.origin, &e))
    }

    fn message(&self, message: &Message) -> Result<Value, PromptError> {
        let role = message.role.name();
        if self.lists {
            let items: Vec<_> = message
                .content
                .iter()
                .map(|item| match item {
                    Content::Image => context! { type => "image" },
                    Content::Text(text) => context! { type => "text", text },
                })
                .collect();
            return Ok(context! { role, content => items });
        }
        let mut content = String::new();
        for item in &message.content {
            match item {
                Content::Text(text) => content.push_str(text),
                Content::Image => {
                    let reason = "this template takes text only, no images".into();
                    return Err(PromptError::Template { origin: self.origin.clone(), reason });
                }
            }
        }
        Ok(context! { role, content })
    }
}

fn failed(origin: &str, error: &minijinja::Error) -> PromptError {
    PromptError::Template { origin: origin.into(), reason: format!("chat template: {error}") }
}

/// The `chat_template` of a JSON file: a text, or a list of named ones, of which `default` is taken.
fn from_json(text: &str, origin: &str) -> Result<Option<String>, PromptError> {
    let invalid = |reason: String| PromptError::Template { origin: origin.into(), reason };
    let json: Json = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
    match json.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(template)) => Ok(Some(template.clone())),
        Some(Json::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let template = default.and_then(|entry| entry["template"].as_str());
            template
                .map(|template| Some(template.to_owned()))
                .ok_or_else(|| invalid("`chat_template` is a list without one named `default`".into()))
        }
        Some(_) => Err(invalid("`chat_template` is neither a text nor a list of texts".into())),
    }
}
