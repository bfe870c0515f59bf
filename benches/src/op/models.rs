//! The applications of a whole model, from one with few layers.
//!
//! Layers of a tower are alike, so a model with two of each, run once, applies every distinct case. How often the
//! whole model applies it follows from two more runs, each with one layer less of one tower: what a layer more adds,
//! times the layers.

use std::collections::BTreeMap;

use engine::{Application, DType, Device, QuantConfig, Rng, Tensor, capture, no_grad};
use model::bundle::{Network, network};
use model::config::Config;
use model::llama::{Cache, Places};
use model::loader::Loader;
use model::lora::{Adapter, LoraConfig};
use model::quantize::SKIPPED;
use model::smolvlm::right_padded;
use train::config::OptimizerSection;
use train::optimizer::{Optimizer, clip_factor};

use super::{Case, Phase, key};
use crate::{Error, Result};

/// Short names of published models.
const SHORT: [(&str, &str); 7] = [
    ("smolvlm-256m", "SmolVLM-256M-Instruct"),
    ("smolvlm-500m", "SmolVLM-500M-Instruct"),
    ("smolvlm", "SmolVLM-Instruct"),
    ("smolvlm2", "SmolVLM2-2.2B-Instruct"),
    ("smollm2-135m", "SmolLM2-135M"),
    ("smollm2-1.7b", "SmolLM2-1.7B"),
    ("vicuna-7b", "vicuna-7b-v1.5"),
];

/// The configuration of a model by its short or published name, or from a `config.json`.
///
/// # Errors
/// If there is no such model, or the file describes none.
pub fn config(name: &str) -> Result<Config> {
    let short = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name));
    if let Some(config) = Config::known(short.map_or(name, |s| s.1)) {
        return Ok(config);
    }
    if std::path::Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        return Config::from_file(name).map_err(|e| Error::Model(e.into()));
    }
    let names: Vec<&str> = SHORT.iter().map(|s| s.0).chain(Config::known_names()).collect();
    Err(Error::Input(format!(
        "no model is called `{name}`; there are {}, or give a config.json",
        names.join(", ")
    )))
}

/// What a model is asked to do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Sizes.
    pub config: Config,
    /// Element type of weights and activations.
    pub dtype: DType,
    /// Linear layers in NF4 with double quantisation, but for the head.
    pub nf4: bool,
    /// Tokens of the prompt, those of one tile included; `None`: the tile's and 100, or 512 without an image.
    pub tokens: Option<usize>,
    /// Tokens before the decoded one; `None`: the prompt's.
    pub depth: Option<usize>,
    /// A training step too: of an adapter on 4-bit layers, else of all weights.
    pub train: bool,
}

/// Layers of each tower.
#[derive(Clone, Copy)]
struct Layers {
    vision: usize,
    text: usize,
}

/// How often each phase has an application.
type Counts = BTreeMap<&'static str, usize>;

/// Applications of one run by their keys, with how often and where each occurs.
#[derive(Default)]
struct Census(BTreeMap<String, (Application, Counts)>);

impl Census {
    fn add(&mut self, phase: &'static str, applications: Vec<Application>) {
        for application in applications {
            let entry = self.0.entry(key(&application)).or_insert_with(|| (application, Counts::new()));
            *entry.1.entry(phase).or_default() += 1;
        }
    }

    fn counts(&self) -> BTreeMap<String, Counts> {
        self.0.iter().map(|(key, entry)| (key.clone(), entry.1.clone())).collect()
    }
}

impl Workload {
    /// Every distinct application, with how often the whole model has it.
    ///
    /// # Errors
    /// If the model cannot be built or run.
    pub fn cases(&self, device: &Device) -> Result<Vec<Case>> {
        let vision = self.config.image.as_ref().map_or(0, |image| image.vision.num_hidden_layers);
        let text = self.config.text.num_hidden_layers;
        let two = Layers { vision: vision.min(2), text: text.min(2) };
        let census = self.census(two, device)?;
        // Counts of the run with one layer less, and how many layers of that tower are missing.
        let mut less = Vec::new();
        for (layers, of) in [(Layers { text: 1, ..two }, text), (Layers { vision: 1, ..two }, vision)] {
            if of >= 2 {
                less.push((self.census(layers, device)?.counts(), of - 2));
            }
        }
        let whole = |key: &String, phase: &'static str, count: usize| {
            let missing = less.iter().map(|(counts, times)| {
                let fewer = counts.get(key).and_then(|c| c.get(phase)).copied().unwrap_or(0);
                times * count.saturating_sub(fewer)
            });
            count + missing.sum::<usize>()
        };
        let case = |(key, (application, counts)): (String, (Application, Counts))| {
            let phases = counts
                .into_iter()
                .map(|(phase, count)| Phase { name: phase.to_owned(), count: whole(&key, phase, count) });
            Case { application, phases: phases.collect() }
        };
        Ok(census.0.into_iter().map(case).collect())
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> usize {
        let tile = self.config.image.as_ref().map_or(0, model::config::VisionLanguageConfig::tokens_per_tile);
        self.tokens.unwrap_or(if tile > 0 { tile + 100 } else { 512 }).max(tile + 1)
    }

    /// Runs every phase once with so many layers.
    fn census(&self, layers: Layers, device: &Device) -> Result<Census> {
        let mut config = self.config.clone();
        config.text.num_hidden_layers = layers.text;
        if let Some(image) = &mut config.image {
            image.vision.num_hidden_layers = layers.vision;
        }
        let mut census = Census::default();
        let network = network(&self.loader(device), &config)?;
        let ids = self.ids(&config);
        no_grad(|| self.inference(&network, &config, &ids, &mut census))?;
        drop(network);
        if self.train {
            self.training(&config, &ids, device, &mut census)?;
        }
        Ok(census)
    }

    fn loader(&self, device: &Device) -> Loader {
        let loader = Loader::random(1, self.dtype, device).repeating();
        if self.nf4 {
            loader.quantized(QuantConfig::default(), SKIPPED.map(str::to_owned).into())
        } else {
            loader
        }
    }

    /// One tile, then text.
    fn ids(&self, config: &Config) -> Vec<u32> {
        let mut rng = Rng::new(2);
        let mut ids = Vec::new();
        if let Some(image) = &config.image {
            ids.extend(std::iter::repeat_n(image.image_token_id, image.tokens_per_tile()));
        }
        // Past the special tokens at the start, below those at the end.
        let most = config.text.vocab_size.saturating_sub(200).max(1);
        ids.resize_with(self.prompt(), || rng.below(most) as u32);
        ids
    }

    fn pixels(config: &Config, device: &Device) -> Result<Option<Tensor>> {
        let Some(image) = &config.image else { return Ok(None) };
        let edge = image.vision.image_size;
        let dims = [1, image.vision.num_channels, edge, edge];
        Ok(Some(Tensor::randn(&dims, 0.5, DType::F32, &mut Rng::new(3), device)?))
    }

    fn inference(&self, network: &Network, config: &Config, ids: &[u32], census: &mut Census) -> Result<()> {
        let text = network.decoder();
        let device = text.device();
        let mut features = None;
        if let (Some(model), Some(pixels)) = (network.vision_language(), Self::pixels(config, device)?) {
            let (result, kept) = capture(|| model.image_features(&pixels, None));
            features = Some(result?);
            census.add("vision", kept);
        }
        let n = ids.len();
        let (result, kept) = capture(|| -> model::Result<()> {
            let embeds = network.embed(ids, 1, features.as_ref())?;
            let mut cache = Cache::new(text.config(), 1, n, text.cache_dtype(embeds.dtype()), device)?;
            let hidden = text.forward(&embeds, &Places::from(0, 1, n, device)?, Some(&mut cache))?;
            text.logits(&hidden.narrow(1, n - 1, 1)?).map(drop)
        });
        result?;
        census.add("prefill", kept);
        let depth = self.depth.unwrap_or(n);
        let before: Vec<u32> = (0..depth).map(|i| 100 + (i % 1000) as u32).collect();
        let embeds = text.embed(&before, 1)?;
        let mut cache = Cache::new(text.config(), 1, depth + 1, text.cache_dtype(embeds.dtype()), device)?;
        if depth > 0 {
            text.forward(&embeds, &Places::from(0, 1, depth, device)?, Some(&mut cache))?;
        }
        let (result, kept) = capture(|| -> model::Result<()> {
            let embeds = text.embed(&[100], 1)?;
            let hidden = text.forward(&embeds, &Places::from(depth, 1, 1, device)?, Some(&mut cache))?;
            text.logits(&hidden)?.argmax()?;
            Ok(())
        });
        result?;
        census.add("decode", kept);
        Ok(())
    }

    fn training(&self, config: &Config, ids: &[u32], device: &Device, census: &mut Census) -> Result<()> {
        let loader = if self.nf4 { self.loader(device) } else { self.loader(device).trainable() };
        let network = network(&loader, config)?;
        let adapter = if self.nf4 {
            let lora = LoraConfig { lora_dropout: 0.1, ..LoraConfig::default() };
            Some(Adapter::new(lora, &network, 1)?)
        } else {
            None
        };
        let parameters = adapter.as_ref().map_or_else(|| loader.given(), Adapter::parameters);
        if let Some(adapter) = &adapter {
            network.attach(adapter)?;
        }
        let failed = |e: train::Error| Error::Input(format!("the training step: {e}"));
        // One for each parameter: an application that takes all of them would not say how many another layer has.
        let section = OptimizerSection::default();
        let optimizers = parameters.into_iter().map(|one| Optimizer::new(vec![one], &section));
        let optimizers = optimizers.collect::<train::Result<Vec<_>>>().map_err(failed)?;
        let pixels = Self::pixels(config, device)?;
        let n = ids.len();
        let tile = config.image.as_ref().map_or(0, model::config::VisionLanguageConfig::tokens_per_tile);
        // Position i predicts token i + 1; the tile's own tokens do not count.
        let at: Vec<u32> = (tile.max(1) - 1..n - 1).map(|i| i as u32).collect();
        let labels: Vec<i32> = ids[tile.max(1)..].iter().map(|&id| id as i32).collect();
        let (counted, text) = (at.len(), network.decoder());
        let at = Tensor::from_slice(&at, &[counted], device)?;
        let labels = Tensor::from_slice(&labels, &[counted], device)?;
        let places = right_padded(&[n], n, device)?;
        let (result, kept) = capture(|| -> Result<()> {
            let _dropout = adapter.as_ref().map(|a| a.dropout().during(1));
            let features = match (network.vision_language(), &pixels) {
                (Some(model), Some(pixels)) => Some(model.image_features_in(self.dtype, pixels, None)?),
                _ => None,
            };
            let embeds = network.embed(ids, 1, features.as_ref())?.to_dtype(self.dtype)?;
            let hidden = text.forward(&embeds, &places, None)?;
            let width = hidden.dim(2)?;
            let chosen = hidden.reshape(&[n, width])?.embedding(&at)?;
            let loss = text.logits(&chosen)?.cross_entropy(&labels, model::loss::IGNORE)?;
            let loss = loss.sum(&[0])?.affine(1.0 / counted as f32, 0.0)?;
            let mut gradients = loss.backward()?;
            let norms = optimizers.iter().map(|one| one.global_norm(&gradients));
            let norms = norms.collect::<train::Result<Vec<f64>>>().map_err(failed)?;
            let clip = clip_factor(norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt(), 1.0);
            optimizers.iter().try_for_each(|one| one.step(&mut gradients, 1, 1e-4, clip)).map_err(failed)
        });
        result?;
        census.add("train", kept);
        Ok(())
    }
}
