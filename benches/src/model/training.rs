//! One training step of adapters on a frozen model: a tile (where there is a vision tower) and text, forward,
//! backward, clipping and `AdamW`. On NF4 weights that is `QLoRA`'s step.
//!
//! `benches/rivals/torch_qlora.py` takes the same step of PyTorch, PEFT and bitsandbytes.

use std::path::PathBuf;
use std::time::Instant;

use ::model::bundle::Network;
use ::model::config::{Config, PreprocessorConfig, TrainingStep};
use ::model::image::{DecodeOptions, Idefics3Processor, decode_file};
use ::model::llama::Places;
use ::model::lora::{Adapter, LoraConfig};
use ::model::quantize::SKIPPED;
use ::model::smolvlm::right_padded;
use engine::{DType, Device, QuantConfig, Rng, Tensor};
use serde::Serialize;
use train::config::OptimizerSection;
use train::optimizer::{Optimizer, clip_factor};

use super::inference::ids;
use super::{Figure, Kind, Meter, Subject, resident, restart_peak};
use crate::work::work;
use crate::{Error, Result, stats};

/// The step.
#[derive(Clone, Debug)]
pub struct Training {
    /// Recompute each layer in the backward pass.
    pub checkpointing: bool,
    /// Of the adapters.
    pub dropout: f64,
    /// An image whose tiles are trained on; a tile of noise without one.
    pub image: Option<PathBuf>,
    /// Text tokens, which are all counted by the loss.
    pub text_tokens: usize,
}

/// What is known of a step beside its figure.
#[derive(Clone, Debug, Serialize)]
pub struct Parts {
    /// Median seconds.
    pub forward_seconds: f64,
    /// Median seconds.
    pub backward_seconds: f64,
    /// Median seconds of clipping and `AdamW`.
    pub optimizer_seconds: f64,
    /// Tiles of the sample.
    pub tiles: usize,
    /// Tokens of the sample, those of its tiles included.
    pub tokens: usize,
    /// Parameters of the adapters.
    pub trained: usize,
    /// What `inspect` plans for the tensors of such a step; `None` for a dense model.
    pub planned_bytes: Option<u64>,
    /// Resident bytes before the first step, where the system says.
    pub loaded_resident: Option<u64>,
    /// Of the same sample again and again, from the unmeasured first step on.
    pub losses: Vec<f64>,
}

/// The sample.
struct Batch {
    pixels: Option<Tensor>,
    ids: Vec<u32>,
    /// Rows whose logits are counted, and what they should say.
    at: Tensor,
    labels: Tensor,
    places: Places,
    tiles: usize,
}

impl Training {
    /// Puts adapters on the subject and takes the steps.
    ///
    /// # Errors
    /// If the image cannot be read, the sample is too long, or the engine fails.
    pub fn run(&self, subject: &mut Subject, meter: &Meter) -> Result<(Figure, Parts)> {
        if self.text_tokens == 0 || !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Input("a step needs a text token, and a dropout from 0 to below 1".into()));
        }
        subject.network.set_checkpointing(self.checkpointing);
        let lora = LoraConfig { lora_dropout: self.dropout, ..LoraConfig::default() };
        let adapter = Adapter::new(lora, &subject.network, 1)?;
        subject.network.attach(&adapter)?;
        let optimizer = Optimizer::new(adapter.parameters(), &OptimizerSection::default());
        let optimizer = optimizer.map_err(|e| Error::Input(e.to_string()))?;
        let loaded_resident = resident().map(|r| r.now);
        let batch = self.batch(subject, &meter.device)?;
        let stream = subject.how.stream();

        let mut parts: [Vec<f64>; 3] = Default::default();
        let mut seconds = Vec::new();
        let mut losses = Vec::new();
        let mut once = |number: usize| -> Result<()> {
            let _dropout = adapter.dropout().during(number as u64 + 1);
            let begun = Instant::now();
            let loss = loss(&subject.network, &batch, stream)?;
            losses.push(loss.item()?);
            let forward = begun.elapsed().as_secs_f64();
            let mut gradients = loss.backward()?;
            drop(loss);
            let backward = begun.elapsed().as_secs_f64();
            let failed = |e: train::Error| Error::Input(e.to_string());
            let norm = optimizer.global_norm(&gradients).map_err(failed)?;
            optimizer.step(&mut gradients, number + 1, 1e-4, clip_factor(norm, 1.0)).map_err(failed)?;
            let whole = begun.elapsed().as_secs_f64();
            seconds.push(whole);
            for (part, time) in parts.iter_mut().zip([forward, backward - forward, whole - backward]) {
                part.push(time);
            }
            Ok(())
        };
        let mut step = |number: usize| meter.device.step("training step", || once(number));
        // The first one fills pools and caches.
        let (done, work) = work(|| step(0));
        done?;
        meter.device.memory().reset_peak();
        restart_peak();
        (1..=meter.repeats).try_for_each(step)?;

        let name = if self.checkpointing { "step, checkpointing" } else { "step" };
        let figure = meter.finish(name.into(), Kind::Step, None, seconds.split_off(1), &work);
        let [forward, backward, update] = parts.each_ref().map(|part| stats::median(&part[1..]));
        let parts = Parts {
            forward_seconds: forward,
            backward_seconds: backward,
            optimizer_seconds: update,
            tiles: batch.tiles,
            tokens: batch.ids.len(),
            trained: adapter.parameter_count(),
            planned_bytes: self.planned(subject, &batch)?,
            loaded_resident,
            losses,
        };
        Ok((figure, parts))
    }

    fn batch(&self, subject: &Subject, device: &Device) -> Result<Batch> {
        let text = subject.network.decoder();
        let pixels = self.pixels(&subject.config, device)?;
        let tiles = pixels.as_ref().map_or(0, |p| p.dims()[0]);
        let (image_id, per_tile) =
            subject.config.image.as_ref().map_or((0, 0), |i| (i.image_token_id, i.tokens_per_tile()));
        let mut all = vec![image_id; tiles * per_tile];
        let words = ids(text, self.text_tokens);
        all.extend(words.into_iter().map(|id| if tiles > 0 && id == image_id { id - 1 } else { id }));
        // Every text token counts; position i predicts token i + 1, and without an image the first has no position.
        let (n, counted) = (all.len(), self.text_tokens.min(all.len() - 1));
        if counted == 0 {
            return Err(Error::Input("a step on text alone needs two text tokens".into()));
        }
        let at: Vec<u32> = (n - counted - 1..n - 1).map(|i| i as u32).collect();
        let labels: Vec<i32> = all[n - counted..].iter().map(|&id| id as i32).collect();
        Ok(Batch {
            pixels,
            at: Tensor::from_slice(&at, &[counted], device)?,
            labels: Tensor::from_slice(&labels, &[counted], device)?,
            places: right_padded(&[n], n, device)?,
            ids: all,
            tiles,
        })
    }

    /// `[tiles, 3, edge, edge]`; `None` for a text model.
    fn pixels(&self, config: &Config, device: &Device) -> Result<Option<Tensor>> {
        let Some(image) = &config.image else {
            return match &self.image {
                Some(path) => Err(Error::Input(format!("{}: a text model takes no image", path.display()))),
                None => Ok(None),
            };
        };
        let edge = image.vision.image_size;
        let Some(path) = &self.image else {
            let noise = Tensor::randn(&[1, 3, edge, edge], 0.5, DType::F32, &mut Rng::new(2), device)?;
            return Ok(Some(noise));
        };
        let processor = Idefics3Processor::new(PreprocessorConfig::with_tile_edge(edge), "bench model");
        let processor = processor.map_err(::model::Error::from)?;
        let decoded = decode_file(path, &DecodeOptions::default()).map_err(::model::Error::from)?;
        let tiles = processor.process(&decoded);
        Ok(Some(Tensor::from_slice(&tiles.normalised(), &[tiles.count(), 3, edge, edge], device)?))
    }

    fn planned(&self, subject: &Subject, batch: &Batch) -> Result<Option<u64>> {
        if !subject.how.nf4 {
            return Ok(None);
        }
        let config = &subject.config;
        let linears = config.linears();
        let targets =
            LoraConfig::default().targets(linears.iter().map(|(path, dims)| (path.as_str(), *dims)))?;
        let step = TrainingStep {
            batch: 1,
            tiles: batch.tiles as u64,
            tokens: batch.ids.len() as u64,
            counted: batch.labels.count() as u64,
            checkpointing: self.checkpointing,
            stream: subject.how.stream().size() as u64,
            compute: subject.how.dtype.size() as u64,
            eight_bit: false,
        };
        let sizes = config.quantized_sizes(&QuantConfig::default(), &SKIPPED.map(str::to_owned));
        Ok(Some(config.training_memory(&sizes, &targets, &step).total()))
    }
}

/// Mean loss of the counted tokens. Activations that the backward pass does not need are gone when it returns.
fn loss(network: &Network, batch: &Batch, stream: DType) -> Result<Tensor> {
    let features = match (&batch.pixels, network.vision_language()) {
        (Some(pixels), Some(model)) => Some(model.image_features_in(stream, pixels, None)?),
        _ => None,
    };
    let embeds = network.embed(&batch.ids, 1, features.as_ref())?.to_dtype(stream)?;
    let text = network.decoder();
    let hidden = text.forward(&embeds, &batch.places, None)?;
    let (rows, width) = (batch.ids.len(), hidden.dims()[2]);
    let logits = text.logits(&hidden.reshape(&[rows, width])?.embedding(&batch.at)?)?;
    let losses = logits.cross_entropy(&batch.labels, ::model::loss::IGNORE)?;
    Ok(losses.sum(&[0])?.affine(1.0 / batch.labels.count() as f32, 0.0)?)
}
