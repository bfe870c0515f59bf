//! Vision, prefill, first token and decoding.

use ::model::llama::{Cache, Llama, Places};
use engine::{DType, Tensor, no_grad};

use super::{Figure, Kind, Meter, Subject};
use crate::{Error, Result};

/// Which figures to take.
#[derive(Clone, Debug)]
pub struct Inference {
    /// Vision tower and connector on one tile, and the first token after it, where there is a vision tower.
    pub vision: bool,
    /// Text tokens beside the tile for the first token.
    pub text_tokens: usize,
    /// Lengths of prompts.
    pub prefill: Vec<usize>,
    /// Tokens in the cache before decoding.
    pub decode: Vec<usize>,
    /// Tokens of each decode.
    pub decode_tokens: usize,
}

impl Inference {
    /// Takes the figures in turn, each handed to `done` as it is there.
    ///
    /// # Errors
    /// If a length exceeds the model's, or the engine fails.
    pub fn run(
        &self,
        subject: &Subject,
        meter: &Meter,
        done: &mut dyn FnMut(&Figure),
    ) -> Result<Vec<Figure>> {
        let longest = subject.config.text.max_position_embeddings;
        let prompts = self.prefill.iter().copied();
        let needed = prompts.chain(self.decode.iter().map(|d| d + self.decode_tokens)).max().unwrap_or(0);
        if needed > longest {
            return Err(Error::Input(format!(
                "{}: {needed} tokens are asked for, the model was made for {longest} (max_position_embeddings)",
                subject.name
            )));
        }
        if self.prefill.contains(&0) || self.decode_tokens == 0 {
            return Err(Error::Input("a prompt and a decode have one token at least".into()));
        }
        no_grad(|| {
            let mut figures = Vec::new();
            let mut keep = |figure: Figure| {
                done(&figure);
                figures.push(figure);
            };
            if self.vision && subject.config.image.is_some() {
                keep(vision(subject, meter)?);
                keep(first_token(subject, meter, self.text_tokens)?);
            }
            let text = subject.network.decoder();
            for &tokens in &self.prefill {
                keep(prefill(text, meter, tokens)?);
            }
            for &depth in &self.decode {
                keep(decode(text, meter, depth, self.decode_tokens)?);
            }
            Ok(figures)
        })
    }
}

/// Ids that no model here treats specially.
pub(super) fn ids(text: &Llama, count: usize) -> Vec<u32> {
    let words = text.config().vocab_size as u32;
    let (low, span) = if words > 1000 { (100, words - 900) } else { (words / 2, words - words / 2) };
    (0..count as u32).map(|i| low + i.wrapping_mul(37) % span.max(1)).collect()
}

/// One tile of no particular image, `[1, 3, edge, edge]`.
pub(super) fn tile(subject: &Subject) -> Result<Tensor> {
    let image = subject.config.image.as_ref();
    let image =
        image.ok_or_else(|| Error::Input(format!("{}: a text model takes no image", subject.name)))?;
    let edge = image.vision.image_size;
    let pixels: Vec<f32> = (0..3 * edge * edge).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect();
    Ok(Tensor::from_slice(&pixels, &[1, 3, edge, edge], subject.network.decoder().device())?)
}

fn vision(subject: &Subject, meter: &Meter) -> Result<Figure> {
    let pixels = tile(subject)?;
    meter.figure("vision".into(), Kind::Vision, None, || Ok(()), |()| features(subject, &pixels).map(drop))
}

fn features(subject: &Subject, pixels: &Tensor) -> Result<Tensor> {
    let model = subject.network.vision_language();
    let model = model.ok_or_else(|| Error::Input(format!("{}: has no vision tower", subject.name)))?;
    Ok(model.image_features(pixels, None)?)
}

fn first_token(subject: &Subject, meter: &Meter, text_tokens: usize) -> Result<Figure> {
    let pixels = tile(subject)?;
    let text = subject.network.decoder();
    let (id, tokens) =
        subject.config.image.as_ref().map_or((0, 0), |i| (i.image_token_id, i.tokens_per_tile()));
    let mut all = vec![id; tokens];
    all.extend(ids(text, text_tokens).into_iter().map(|word| if word == id { word - 1 } else { word }));
    let name = format!("first token, 1 tile + {text_tokens}");
    meter.figure(
        name,
        Kind::FirstToken,
        None,
        || Ok(()),
        |()| {
            let features = features(subject, &pixels)?;
            let embeds = subject.network.embed(&all, 1, Some(&features))?;
            last_logits(text, &embeds, &mut cache(text, all.len(), embeds.dtype())?)?
                .argmax()?
                .to_vec::<u32>()?;
            Ok(())
        },
    )
}

fn cache(text: &Llama, tokens: usize, stream: DType) -> Result<Cache> {
    Ok(Cache::new(text.config(), 1, tokens, text.cache_dtype(stream), text.device())?)
}

/// Runs embeddings into the cache and returns the logits of the last row.
fn last_logits(text: &Llama, embeds: &Tensor, cache: &mut Cache) -> Result<Tensor> {
    let new = embeds.dims()[1];
    let places = Places::from(cache.len(), 1, new, text.device())?;
    let hidden = text.forward(embeds, &places, Some(cache))?;
    Ok(text.logits(&hidden.narrow(1, new - 1, 1)?)?)
}

fn prefill(text: &Llama, meter: &Meter, tokens: usize) -> Result<Figure> {
    let ids = ids(text, tokens);
    meter.figure(
        format!("prefill {tokens}"),
        Kind::Prefill,
        Some(tokens),
        || Ok(()),
        |()| {
            let embeds = text.embed(&ids, 1)?;
            last_logits(text, &embeds, &mut cache(text, tokens, embeds.dtype())?)?
                .argmax()?
                .to_vec::<u32>()?;
            Ok(())
        },
    )
}

fn decode(text: &Llama, meter: &Meter, depth: usize, tokens: usize) -> Result<Figure> {
    let ids = ids(text, depth);
    let name = if depth == 0 { format!("decode {tokens}") } else { format!("decode {tokens} at {depth}") };
    let prepare = || {
        let mut cache = cache(text, depth + tokens, text.embed_tokens.dtype())?;
        if depth > 0 {
            last_logits(text, &text.embed(&ids, 1)?, &mut cache)?;
        }
        Ok(cache)
    };
    meter.figure(name, Kind::Decode, Some(tokens), prepare, |mut cache| {
        let mut id = 1u32;
        for _ in 0..tokens {
            id = text.device().step("decode", || -> Result<u32> {
                Ok(last_logits(text, &text.embed(&[id], 1)?, &mut cache)?.argmax()?.to_vec::<u32>()?[0])
            })?;
        }
        Ok(())
    })
}
