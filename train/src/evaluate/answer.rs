//! One greedy answer.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use model::bundle::Bundle;
use model::generate::{Finish, Options as Generation, generate};
use model::image::{DecodeOptions, Image, decode_file};

use super::{Inputs, Row};
use crate::error::{Error, Result};

/// Most tokens of an answer, unless another number is asked for.
pub const LONGEST_ANSWER: usize = 256;

/// What came of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The text, and whether it was cut at the longest length.
    Text {
        /// Trimmed.
        text: String,
        /// The limit of tokens ended it.
        cut: bool,
    },
    /// The row's image cannot be read, in words.
    BadImage(String),
    /// It was stopped in between.
    Stopped,
}

/// Answers rows greedily with one model.
pub struct Answerer<'a> {
    bundle: &'a Bundle,
    options: Generation,
    stop: Option<&'a AtomicBool>,
}

impl<'a> Answerer<'a> {
    /// Answers of at most `longest` tokens; when `stop` becomes true the answer in work is given up.
    pub fn new(bundle: &'a Bundle, longest: usize, stop: Option<&'a AtomicBool>) -> Self {
        let stop_tokens = bundle.stop_tokens();
        let options = Generation { max_new_tokens: longest, stop_tokens, ..Generation::default() };
        Self { bundle, options, stop }
    }

    /// The answer to a row.
    ///
    /// # Errors
    /// If the model fails, or is a text model and the row has an image.
    pub fn answer(&self, row: &Row, inputs: Inputs) -> Result<Answer> {
        let bundle = self.bundle;
        let mut tiles = Vec::new();
        if let Some(path) = &row.image {
            let processor = bundle.processor.as_ref().ok_or_else(|| {
                Error::Data(format!("{}: a text model, but row {} has an image", bundle.origin, row.id))
            })?;
            let mut image = match decode_file(path, &DecodeOptions::default()) {
                Ok(image) => image,
                Err(error) => return Ok(Answer::BadImage(error.to_string())),
            };
            if !inputs.image {
                image = blank(image.width(), image.height());
            }
            tiles.push(processor.process(&image));
        }
        let prompt = bundle.prompt(&[row.message(inputs.case)], &tiles)?;
        let asked = || self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        let (mut answers, _) =
            generate(bundle.decoder(), Some(&bundle.tokenizer), &[prompt], &self.options, &mut |_, _| {
                if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(|e| bundle.explain(e))?;
        Ok(match answers.pop() {
            Some(answer) if answer.finish == Finish::Cancelled => Answer::Stopped,
            Some(answer) => {
                Answer::Text { text: answer.text.trim().to_owned(), cut: answer.finish == Finish::Length }
            }
            None => Answer::Text { text: String::new(), cut: false },
        })
    }
}

/// Mid-grey.
fn blank(width: usize, height: usize) -> Image {
    // An image that was decoded is not empty, so its size makes an image again.
    Image::from_grey(width, height, vec![128; width * height]).unwrap_or_else(|| unreachable!())
}
