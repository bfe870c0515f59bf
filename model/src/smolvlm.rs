//! SmolVLM (Idefics3, Laurençon et al. 2024, arXiv 2408.12637): vision tower, pixel shuffle, one linear
//! map, and a decoder that reads image features in the places of `<image>` tokens.

use engine::ops::RopeKind;
use engine::profile::{module, phase};
use engine::{DType, Tensor};

use crate::config::{Config, VisionLanguageConfig};
use crate::error::{Error, Result};
use crate::llama::{Llama, Names, Places};
use crate::loader::Loader;
use crate::nn::Linear;
use crate::siglip::Siglip;
use crate::stage::stage;

/// The whole model.
pub struct SmolVlm {
    config: Config,
    image: VisionLanguageConfig,
    /// The vision tower.
    pub vision: Siglip,
    /// Pixel-shuffled features to the decoder's width; no bias.
    pub connector: Linear,
    /// The decoder.
    pub text: Llama,
}

impl SmolVlm {
    /// Loads the tensors under their published names.
    pub fn load(loader: &Loader, config: &Config) -> Result<Self> {
        let image = config.vision_language("config.json")?.clone();
        let connector = "model.connector.modality_projection.proj";
        Ok(Self {
            vision: Siglip::load(loader, &image.vision, "model.vision_model")?,
            connector: Linear::load(
                loader,
                connector,
                image.connector_input(),
                config.text.hidden_size,
                false,
            )?,
            text: Llama::load(
                loader,
                &config.text,
                Names::SMOLVLM,
                RopeKind::Half,
                config.tie_word_embeddings,
            )?,
            config: config.clone(),
            image,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All linear layers in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = self.vision.linears();
        all.push(&self.connector);
        all.extend(self.text.linears());
        all
    }

    /// Turns gradient checkpointing of both towers on or off.
    pub fn set_checkpointing(&mut self, on: bool) {
        self.vision.checkpointing = on;
        self.text.checkpointing = on;
    }

    /// Image tokens `[tiles, tokens per tile, hidden]` of `pixels [tiles, 3, edge, edge]` (f32, normalised);
    /// `patches` as in [`Siglip::forward`]. Arithmetic in the dtype of the weights.
    pub fn image_features(&self, pixels: &Tensor, patches: Option<&[bool]>) -> Result<Tensor> {
        self.image_features_in(self.vision.dtype(), pixels, patches)
    }

    /// As [`Self::image_features`], with activations in `dtype` (master weights in f32, bf16 compute).
    pub fn image_features_in(
        &self,
        dtype: DType,
        pixels: &Tensor,
        patches: Option<&[bool]>,
    ) -> Result<Tensor> {
        let _phase = phase("vision");
        let features = self.vision.forward(&pixels.to_dtype(dtype)?, patches)?;
        let _module = module("model.connector");
        let shuffled = pixel_shuffle(&features, self.image.scale_factor)?;
        stage(|| "connector.pixel_shuffled".into(), &shuffled);
        let tokens = self.connector.forward(&shuffled)?;
        stage(|| "connector.output".into(), &tokens);
        Ok(tokens)
    }

    /// Embeddings `[batch, n, hidden]` of `ids` (`batch` rows of `n`), with the features put in the places of
    /// `<image>`, in order.
    pub fn embed(&self, ids: &[u32], batch: usize, features: Option<&Tensor>) -> Result<Tensor> {
        let _module = module("model");
        let embeds = self.text.embed(ids, batch)?;
        let places: Vec<u32> = ids
            .iter()
            .enumerate()
            .filter(|&(_, &id)| id == self.image.image_token_id)
            .map(|(i, _)| i as u32)
            .collect();
        let rows = features.map_or(0, |f| f.dims()[0] * f.dims()[1]);
        if places.len() != rows {
            return Err(Error::Input(format!(
                "{} <image> tokens in the prompt but {rows} image features (tiles of {} tokens each)",
                places.len(),
                self.image.tokens_per_tile()
            )));
        }
        let merged = match features {
            Some(features) if rows > 0 => {
                let (n, h) = (ids.len() / batch, self.config.text.hidden_size);
                let embeds = embeds.to_dtype(features.dtype())?;
                let index = Tensor::from_slice(&places, &[rows], embeds.device())?;
                let features = features.reshape(&[rows, h])?;
                embeds.reshape(&[batch * n, h])?.scatter_rows(&features, &index)?.reshape(&[batch, n, h])?
            }
            _ => embeds,
        };
        stage(|| "text.inputs_embeds_merged".into(), &merged);
        Ok(merged)
    }

    /// Logits `[batch, n, vocabulary]` of whole sequences, right-padded: `lengths` says how many tokens of
    /// each row are real.
    pub fn forward(
        &self,
        ids: &[u32],
        lengths: &[usize],
        features: Option<&Tensor>,
        dtype: DType,
    ) -> Result<Tensor> {
        let embeds = self.embed(ids, lengths.len(), features)?.to_dtype(dtype)?;
        let places = right_padded(lengths, embeds.dim(1)?, embeds.device())?;
        self.text.logits(&self.text.forward(&embeds, &places, None)?)
    }
}

/// Positions 0, 1, … for every row and a mask of the real tokens, padding on the right.
pub fn right_padded(lengths: &[usize], n: usize, device: &engine::Device) -> Result<Places> {
    let mut places = Places::from(0, lengths.len(), n, device)?;
    if lengths.iter().any(|&l| l < n) {
        let mask: Vec<u8> = lengths.iter().flat_map(|&l| (0..n).map(move |i| u8::from(i < l))).collect();
        places.key_mask = Some(Tensor::from_slice(&mask, &[lengths.len(), n], device)?);
    }
    Ok(places)
}

/// `[tiles, g², e]` to `[tiles, (g/s)², s²·e]`: each output token gathers an s×s block of patches, row by
/// row. A permutation; nothing overlaps.
pub fn pixel_shuffle(features: &Tensor, s: usize) -> Result<Tensor> {
    let (tiles, n, e) = (features.dim(0)?, features.dim(1)?, features.dim(2)?);
    let g = n.isqrt();
    if s == 0 || g * g != n || g % s != 0 {
        return Err(Error::Input(format!("{n} patches are no square grid that divides by {s}")));
    }
    let out = g / s;
    Ok(features.reshape(&[tiles, out, s, out, s, e])?.permute(&[0, 1, 3, 2, 4, 5])?.reshape(&[
        tiles,
        out * out,
        s * s * e,
    ])?)
}
