//! A decoder put into a vision-language model whose other parts are random.

use engine::{DType, Device, Rng, Tensor};

use super::source::{Parts, Source};
use crate::config::{Config, GenerationConfig, PreprocessorConfig, TextConfig};
use crate::error::{Error, Result};
use crate::export::Make;
use crate::nn::{INIT_STD, salt};
use crate::prompt::{END_OF_UTTERANCE, FAKE, GLOBAL, IMAGE, SMOLVLM_TEMPLATE};

/// The shape to put a decoder into.
#[derive(Clone, Debug)]
pub struct Graft {
    /// The published model of that shape.
    pub shape: String,
    /// Of the random parts.
    pub seed: u64,
}

/// Where the tensors come from.
pub(super) struct Plan {
    seed: u64,
    /// Rows of the decoder's own vocabulary.
    known_rows: usize,
    /// Name of the source's head.
    head: &'static str,
}

/// Names of the tiles in the vocabularies of 256M and 500M: rows and columns 1 to 6.
const TILES: usize = 6;

impl Graft {
    /// `smolvlm-256m`, or a full name.
    fn config(&self) -> Result<(String, Config)> {
        [self.shape.clone(), format!("{}-Instruct", self.shape)]
            .into_iter()
            .find_map(|name| Config::known(&name).filter(|c| c.image.is_some()).map(|c| (name, c)))
            .ok_or_else(|| {
                let names: Vec<_> = Config::known_names().collect();
                Error::Input(format!(
                    "{}: no published vision-language model; known are {}",
                    self.shape,
                    names.join(", ")
                ))
            })
    }

    /// Turns the parts of a decoder into those of the vision-language model.
    pub(super) fn plan(&self, parts: &mut Parts) -> Result<Plan> {
        let (name, mut config) = self.config()?;
        let own = &parts.config.text;
        if parts.config.image.is_some() {
            return Err(Error::Input("the model has a vision tower already".into()));
        }
        let same = |t: &TextConfig| {
            let heads = [t.num_attention_heads, t.num_key_value_heads, t.head_dim];
            ([t.hidden_size, t.intermediate_size, t.num_hidden_layers], heads)
        };
        if same(own) != same(&config.text) {
            return Err(Error::Input(format!(
                "the decoder of {name} has sizes {:?}, this one {:?}: choose a shape that fits",
                same(&config.text),
                same(own)
            )));
        }
        let image = config.vision_language(&name)?.clone();
        // The rotation and the epsilon belong to the weights.
        config.text = TextConfig { vocab_size: config.text.vocab_size, ..own.clone() };

        let known_rows = own.vocab_size;
        let tokens = parts.tokenizer.vocab_size();
        let added = special_tokens(tokens, config.text.vocab_size).ok_or_else(|| {
            Error::Input(format!("{name} has no room for the tokens of images after {tokens} others"))
        })?;
        let tokenizer = parts.tokenizer.with_specials(&added)?;
        let id = |token: &str| tokenizer.special_id(token);
        if id(IMAGE) != Some(image.image_token_id)
            || id(END_OF_UTTERANCE) != config.eos_token_ids.first().copied()
        {
            return Err(Error::Input(format!(
                "{name} has {IMAGE} at {}, but after a vocabulary of {tokens} it stands at {:?}",
                image.image_token_id,
                id(IMAGE)
            )));
        }
        parts.generation = GenerationConfig {
            bos_token_id: config.bos_token_id,
            eos_token_ids: config.eos_token_ids.clone(),
            pad_token_id: config.pad_token_id,
            ..GenerationConfig::default()
        };
        parts.preprocessor = PreprocessorConfig::known(&name)
            .or(Some(PreprocessorConfig::with_tile_edge(image.vision.image_size)));
        parts.template = Some(SMOLVLM_TEMPLATE.to_owned());
        let head =
            if parts.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        (parts.config, parts.tokenizer) = (config, tokenizer);
        Ok(Plan { seed: self.seed, known_rows, head })
    }
}

/// The special tokens after the first `known` ids in the order of the 256M and 500M vocabularies (spec smolvlm §5).
fn special_tokens(known: usize, all: usize) -> Option<Vec<String>> {
    let mut tokens = vec![GLOBAL.to_owned()];
    tokens.extend((1..=TILES).flat_map(|r| (1..=TILES).map(move |c| format!("<row_{r}_col_{c}>"))));
    tokens.extend([FAKE.to_owned(), IMAGE.to_owned()]);
    let reserved = all.checked_sub(known + tokens.len() + 1)?;
    tokens.extend((0..reserved).map(|i| format!("<|reserved_special_token_{i}|>")));
    tokens.push(END_OF_UTTERANCE.to_owned());
    Some(tokens)
}

impl Plan {
    /// Makes the tensor `name`: the decoder's own, its vocabulary with new rows, or random.
    pub(super) fn make<'a>(
        &self,
        source: &'a Source,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Make<'a>> {
        let own = match name.strip_prefix("model.text_model.") {
            Some(rest) => Some(format!("model.{rest}")),
            None if name == "lm_head.weight" => Some(self.head.to_owned()),
            None => None,
        };
        let (seed, device) = (self.seed ^ salt(name), device.clone());
        let Some(own) = own else {
            let (shape, constant) = (shape.to_vec(), constant(name));
            return Ok(Box::new(move || random(&shape, constant, seed, &device)));
        };
        if own != "model.embed_tokens.weight" && name != "lm_head.weight" {
            return source.make(&own, shape, &device);
        }
        let known = self.known_rows.min(shape[0]);
        let make = source.make(&own, &[source.config().text.vocab_size, shape[1]], &device)?;
        let new = [shape[0] - known, shape[1]];
        Ok(Box::new(move || {
            let old = make()?.to_dtype(DType::F32)?.narrow(0, 0, known)?;
            if new[0] == 0 {
                return Ok(old);
            }
            Ok(Tensor::concat(&[&old, &random(&new, None, seed, &device)?], 0)?)
        }))
    }
}

/// Start value of norms and biases.
fn constant(name: &str) -> Option<f64> {
    match name.rsplit_once('.') {
        Some((_, "bias")) => Some(0.0),
        Some((module, _)) if module.contains("norm") => Some(1.0),
        _ => None,
    }
}

fn random(shape: &[usize], constant: Option<f64>, seed: u64, device: &Device) -> Result<Tensor> {
    Ok(match constant {
        Some(value) => Tensor::full(shape, value, DType::F32, device)?,
        None => Tensor::randn(shape, INIT_STD, DType::F32, &mut Rng::new(seed), device)?,
    })
}
