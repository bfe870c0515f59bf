//! One image to one answer, timed.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use model::bundle::Bundle;
use model::generate::{Finish, Options, Timings, generate};
use model::image::{DecodeOptions, Idefics3Processor, decode_file};
use model::prompt::report::{Limit, Parsed, Report, message};
use serde_json::{Value, json};

use crate::{generate as command, interrupt, system};

/// Reads images with one model and one clinical case.
pub(super) struct Reader<'a> {
    bundle: &'a Bundle,
    processor: &'a Idefics3Processor,
    case: Option<String>,
    options: Options,
}

/// What the model said of one image.
pub(super) struct Answer {
    /// The file as it was named.
    pub(super) file: String,
    /// Its line.
    pub(super) raw: String,
    /// The fields of the line.
    pub(super) parsed: Parsed,
    pub(super) finish: Finish,
    pub(super) tokens: usize,
    pub(super) times: Times,
}

/// Where the time went.
pub(super) struct Times {
    /// Decoding the file and cutting it into tiles.
    pub(super) image: Duration,
    /// Vision tower, connector and embedding.
    pub(super) vision: Duration,
    pub(super) generation: Timings,
}

impl Times {
    /// From the file to the first token.
    pub(super) fn first_token(&self) -> Duration {
        self.image + self.vision + self.generation.prefill
    }
}

/// Why an image has no answer.
pub(super) enum Failure {
    /// This image or its prompt: the next one may do.
    Image(anyhow::Error),
    /// The model or the machine.
    Model(anyhow::Error),
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Image(error) | Failure::Model(error) => error,
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bundle: &'a Bundle, case: Option<String>, max_new_tokens: usize) -> Result<Self> {
        let Some(processor) = &bundle.processor else {
            anyhow::bail!("{}: a text model cannot read images; report needs a SmolVLM", bundle.origin);
        };
        let stop_tokens = bundle.stop_tokens();
        ensure!(!stop_tokens.is_empty(), "{}: no token that ends an answer (eos_token_id)", bundle.origin);
        let options = Options { max_new_tokens, stop_tokens, ..Options::default() };
        Ok(Self { bundle, processor, case, options })
    }

    pub(super) fn bundle(&self) -> &Bundle {
        self.bundle
    }

    /// The answer to one image; `on_text` sees it grow and can end it, as Ctrl-C does.
    pub(super) fn read(
        &self,
        path: &Path,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let image = decode_file(path, &DecodeOptions::default()).map_err(|e| Failure::Image(e.into()))?;
        let tiles = self.processor.process(&image);
        let image = started.elapsed();
        let started = Instant::now();
        let message = message(self.case.as_deref(), Limit::default());
        let prompt = self.bundle.prompt(&[message], &[tiles]).map_err(|e| self.sort(e, path))?;
        let vision = started.elapsed();
        let model = self.bundle.decoder();
        let tokenizer = Some(&self.bundle.tokenizer);
        let generated = generate(model, tokenizer, &[prompt], &self.options, &mut |_, piece| {
            let flow = on_text(piece);
            if interrupt::asked() { ControlFlow::Break(()) } else { flow }
        });
        let (mut generations, generation) = generated.map_err(|e| self.sort(e, path))?;
        let Some(answer) = generations.pop() else {
            return Err(Failure::Model(anyhow::anyhow!("{}: no answer was generated", path.display())));
        };
        let raw = answer.text.trim().to_owned();
        Ok(Answer {
            file: path.display().to_string(),
            parsed: Report::parse(&raw),
            raw,
            finish: answer.finish,
            tokens: answer.ids.len(),
            times: Times { image, vision, generation },
        })
    }

    /// Whether an error is this image's or the model's.
    fn sort(&self, error: model::Error, path: &Path) -> Failure {
        match self.bundle.explain(error) {
            error @ (model::Error::Input(_) | model::Error::Prompt(_)) => {
                Failure::Image(anyhow::Error::new(error).context(path.display().to_string()))
            }
            error => Failure::Model(error.into()),
        }
    }
}

impl Answer {
    /// The answer as one JSON object.
    pub(super) fn to_json(&self, bundle: &Bundle) -> Value {
        let unreadable: serde_json::Map<_, _> = self
            .parsed
            .unreadable
            .iter()
            .map(|(field, text)| (field.name().to_owned(), Value::from(text.as_str())))
            .collect();
        let missing: Vec<_> = self.parsed.missing.iter().map(|field| field.name()).collect();
        let times = &self.times;
        json!({
            "file": self.file,
            "model": bundle.origin,
            "report": self.parsed.report,
            "missing": missing,
            "unreadable": unreadable,
            "raw": self.raw,
            "finish": command::finish_name(&self.finish),
            "tokens": self.tokens,
            "timings": {
                "image_s": times.image.as_secs_f64(),
                "vision_s": times.vision.as_secs_f64(),
                "prompt_tokens": times.generation.prompt_tokens,
                "prefill_s": times.generation.prefill.as_secs_f64(),
                "first_token_s": times.first_token().as_secs_f64(),
                "decode_s": times.generation.decode.as_secs_f64(),
                "decode_tokens_per_s": times.generation.decode_rate(),
            },
            "peak_memory": {
                "process_bytes": system::peak_resident(),
                "tensor_bytes": bundle.device().memory().total().peak,
            },
        })
    }
}
