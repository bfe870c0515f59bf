//! From messages and image grids to token ids (spec smolvlm §5).
//!
//! A template writes the conversation as one text with an `<image>` per picture; each `<image>` is then
//! spelled out as the tags and placeholders of its tiles; the tokenizer does the rest. The same text serves
//! both vocabularies: where `<row_1_col_1>` is a token it becomes one, elsewhere it is ordinary text.

mod expand;
pub mod report;
mod template;

pub use crate::image::Grid;
pub use expand::expand_image;
pub use template::{ChatTemplate, SMOLVLM as SMOLVLM_TEMPLATE};

use crate::config::{ConfigError, VisionLanguageConfig};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Stands for an image in a text, and, repeated, for its features.
pub const IMAGE: &str = "<image>";
/// Stands before every tile, and once after the last.
pub const FAKE: &str = "<fake_token_around_image>";
/// Announces the image seen as a whole.
pub const GLOBAL: &str = "<global-img>";
/// Ends every message; generation stops here.
pub const END_OF_UTTERANCE: &str = "<end_of_utterance>";

/// What can go wrong between messages and ids.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The template is not Jinja, or failed on these messages.
    #[error("{origin}: {reason}")]
    Template {
        /// Where the template comes from.
        origin: String,
        /// What the template engine said.
        reason: String,
    },
    /// Messages and images do not go together.
    #[error("the messages have {placeholders} images, but {images} were given")]
    ImageCount {
        /// Images in the messages.
        placeholders: usize,
        /// Images given.
        images: usize,
    },
    /// A text spells a control token, which would end it early or stand for an image.
    #[error("the text contains `{token}`, which is a control token of this model; remove it")]
    ControlToken {
        /// The token.
        token: String,
    },
    /// The tokenizer lacks a token, or has it under another id than the model.
    #[error("{0}")]
    Vocabulary(String),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A configuration does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that templates expect.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image; the n-th one of a conversation is the n-th one given.
    Image,
    /// Text.
    Text(String),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// A message of text alone.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: vec![Content::Text(text.into())] }
    }

    /// The usual question: images first, then text.
    pub fn user(images: usize, text: impl Into<String>) -> Self {
        let mut content = vec![Content::Image; images];
        content.push(Content::Text(text.into()));
        Self { role: Role::User, content }
    }

    fn images(&self) -> usize {
        self.content.iter().filter(|item| **item == Content::Image).count()
    }
}

/// A prompt, ready for prefill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The rendered text, images still as one `<image>` each.
    pub text: String,
    /// Its ids, images spelled out.
    pub ids: Vec<u32>,
    /// How many of the ids stand for image features: tiles × tokens per tile.
    pub image_tokens: usize,
}

/// A prompt with its answer, as training takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Prompt, ` ANSWER` and `<end_of_utterance>`.
    pub ids: Vec<u32>,
    /// Index of the first id of the answer.
    pub answer_start: usize,
    /// How many of the ids stand for image features.
    pub image_tokens: usize,
}

/// How a model spells an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ImageSpelling {
    tokens_per_tile: usize,
    id: u32,
}

/// Turns messages into ids for one model.
#[derive(Debug)]
pub struct PromptEncoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    image: Option<ImageSpelling>,
    /// Ends an answer; `None` for [`END_OF_UTTERANCE`].
    end: Option<u32>,
}

impl<'a> PromptEncoder<'a> {
    /// For a vision-language model.
    ///
    /// # Errors
    /// If the tokenizer does not have the image tokens under the ids that the model expects.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: &'a ChatTemplate,
        config: &VisionLanguageConfig,
    ) -> Result<Self, PromptError> {
        for token in [IMAGE, FAKE, END_OF_UTTERANCE] {
            if tokenizer.special_id(token).is_none() {
                let reason = format!("the tokenizer has no special token `{token}`; is it this model's?");
                return Err(PromptError::Vocabulary(reason));
            }
        }
        let id = tokenizer.special_id(IMAGE);
        if id != Some(config.image_token_id) {
            return Err(PromptError::Vocabulary(format!(
                "`{IMAGE}` is {} in the tokenizer, but image_token_id is {} in config.json",
                id.unwrap_or_default(),
                config.image_token_id
            )));
        }
        let image = ImageSpelling { tokens_per_tile: config.tokens_per_tile(), id: config.image_token_id };
        Ok(Self { tokenizer, template, image: Some(image), end: None })
    }

    /// For a text model.
    pub fn text_only(tokenizer: &'a Tokenizer, template: &'a ChatTemplate) -> Self {
        Self { tokenizer, template, image: None, end: None }
    }

    /// Answers end with the token `id`, in models that do not know [`END_OF_UTTERANCE`].
    #[must_use]
    pub fn ending_with(self, id: u32) -> Self {
        Self { end: Some(id), ..self }
    }

    /// The conversation as text, one `<image>` per image.
    ///
    /// # Errors
    /// If a text has a control token in it, or the template fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, PromptError> {
        for item in messages.iter().flat_map(|message| &message.content) {
            if let Content::Text(text) = item {
                self.refuse_control(text)?;
            }
        }
        self.template.render(messages, add_generation_prompt)
    }

    /// Ids of a conversation that ends where the model is to answer. `grids` has one entry per image, as
    /// the image processor gives it.
    ///
    /// # Errors
    /// As [`Self::render`], and if images and messages do not go together.
    pub fn encode(&self, messages: &[Message], grids: &[Grid]) -> Result<Prompt, PromptError> {
        let placeholders = messages.iter().map(Message::images).sum();
        if placeholders != grids.len() {
            return Err(PromptError::ImageCount { placeholders, images: grids.len() });
        }
        let text = self.render(messages, true)?;
        let Some(image) = self.image else {
            if !grids.is_empty() {
                return Err(PromptError::Vocabulary("a text model takes no images".into()));
            }
            let ids = self.tokenizer.encode(&text)?;
            return Ok(Prompt { text, ids, image_tokens: 0 });
        };
        let placeholders = text.matches(IMAGE).count();
        if placeholders != grids.len() {
            // The template dropped or invented one.
            return Err(PromptError::ImageCount { placeholders, images: grids.len() });
        }
        let expanded = expand::expand_all(&text, grids, image.tokens_per_tile);
        let ids = self.tokenizer.encode(&expanded)?;
        let image_tokens = ids.iter().filter(|&&id| id == image.id).count();
        let expected: usize = grids.iter().map(|grid| grid.tiles() * image.tokens_per_tile).sum();
        if image_tokens != expected {
            return Err(PromptError::Vocabulary(format!(
                "the tokenizer made {image_tokens} image tokens of {expected}; is it this model's?"
            )));
        }
        Ok(Prompt { text, ids, image_tokens })
    }

    /// Ids of a conversation with the answer that the model is to learn.
    ///
    /// Prompt and answer are tokenised apart, which gives the same ids as together: a `:` always ends a
    /// piece (spec smolvlm §8). A space stands between them, unless the template ends in white space.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_example(
        &self,
        messages: &[Message],
        grids: &[Grid],
        answer: &str,
    ) -> Result<Example, PromptError> {
        self.refuse_control(answer)?;
        let Prompt { text, mut ids, image_tokens } = self.encode(messages, grids)?;
        let answer_start = ids.len();
        let gap = if text.ends_with(char::is_whitespace) { "" } else { " " };
        match self.end {
            None => ids.extend(self.tokenizer.encode(&format!("{gap}{answer}{END_OF_UTTERANCE}"))?),
            Some(end) => {
                ids.extend(self.tokenizer.encode(&format!("{gap}{answer}"))?);
                ids.push(end);
            }
        }
        Ok(Example { ids, answer_start, image_tokens })
    }

    fn refuse_control(&self, text: &str) -> Result<(), PromptError> {
        match self.tokenizer.special_in(text) {
            Some(token) => Err(PromptError::ControlToken { token: token.into() }),
            None => Ok(()),
        }
    }
}
