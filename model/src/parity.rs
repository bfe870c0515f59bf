//! A model against a reference dump, stage by stage.
//!
//! A dump is a safetensors file with the inputs `input_ids`, `attention_mask`, and for images
//! `pixel_values` and `pixel_attention_mask`, and any of the stages that the models name
//! ([`crate::stage`]), `logits`, `loss` (with `labels`), `loss_answer` (with `labels_answer`), and
//! gradients of `loss` by weights as `grad.{name}`.

use engine::weights::{Entry, Weights};
use engine::{DType, Tensor, no_grad};
use serde::Serialize;

use crate::bundle::Network;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::llama::Places;
use crate::loss::next_token_loss;
use crate::smolvlm::{SmolVlm, right_padded};
use crate::stage::collect;

/// How far results may lie from an f32 reference, by the dtype that the model computes in. Differences are
/// taken relative to the largest magnitude of the reference tensor.
///
/// f32: the fixture's own noise (another order of summation, an f64 model) is 1e-6 of the largest value at
/// the logits; ten times that. bf16: eight bits, through some tens of roundings; the fixture's own bf16
/// model lies at 3e-2. Gradients pass everything twice.
pub const fn tolerance(dtype: DType, gradient: bool) -> f64 {
    match (dtype, gradient) {
        (DType::F32, false) => 1e-5,
        (DType::F32, true) => 5e-5,
        (_, false) => 6e-2,
        (_, true) => 1.5e-1,
    }
}

/// One compared tensor.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name in the dump.
    pub name: String,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// That, relative to the largest magnitude of the reference.
    pub relative: f64,
    /// Most that `relative` may be.
    pub tolerance: f64,
    /// Within the tolerance, and finite.
    pub ok: bool,
}

/// The comparison, in the order of computation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Compared tensors.
    pub rows: Vec<Row>,
    /// Tensors of the dump that this model has nothing to compare with.
    pub skipped: Vec<String>,
}

impl Comparison {
    /// The first stage out of tolerance.
    pub fn first_bad(&self) -> Option<&Row> {
        self.rows.iter().find(|r| !r.ok)
    }

    fn compare(&mut self, entry: &Entry, ours: &Tensor, dtype: DType) -> Result<()> {
        let theirs: Vec<f64> = entry.to_f32()?.into_iter().map(f64::from).collect();
        let ours = ours.detach().to_dtype(DType::F32)?.to_f64_vec()?;
        if ours.len() != theirs.len() {
            return Err(Error::Input(format!(
                "`{}` of the reference has shape {:?}, {} elements; the model made {}",
                entry.name(),
                entry.shape(),
                theirs.len(),
                ours.len()
            )));
        }
        let largest = theirs.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // A NaN on either side must not vanish in a maximum.
        let max_abs = theirs.iter().zip(&ours).fold(0.0f64, |m, (a, b)| {
            let d = (a - b).abs();
            if d.is_nan() || m.is_nan() { f64::NAN } else { m.max(d) }
        });
        let relative = max_abs / largest.max(f64::MIN_POSITIVE);
        let tolerance = tolerance(dtype, entry.name().starts_with("grad"));
        self.rows.push(Row {
            name: entry.name().into(),
            max_abs,
            relative,
            tolerance,
            ok: relative <= tolerance,
        });
        Ok(())
    }
}

/// The inputs of a dump.
struct Inputs {
    ids: Vec<u32>,
    batch: usize,
    lengths: Vec<usize>,
    pixels: Option<Tensor>,
    patches: Option<Vec<bool>>,
}

fn integers(reference: &Weights, name: &str) -> Result<Option<(Vec<i64>, Vec<usize>)>> {
    Ok(match reference.get(name) {
        Some(entry) => Some((entry.to_i64()?, entry.shape().to_vec())),
        None => None,
    })
}

fn inputs(config: &Config, reference: &Weights, device: &engine::Device) -> Result<Inputs> {
    let path = reference.path().display();
    let (ids, shape) = integers(reference, "input_ids")?
        .ok_or_else(|| Error::Input(format!("{path}: no `input_ids`; a dump holds its inputs")))?;
    let [batch, n] = shape[..] else {
        return Err(Error::Input(format!(
            "{path}: `input_ids` has shape {shape:?}, expected [batch, tokens]"
        )));
    };
    let ids = ids
        .iter()
        .map(|&id| {
            u32::try_from(id).map_err(|_| Error::Input(format!("{path}: token id {id} in `input_ids`")))
        })
        .collect::<Result<Vec<_>>>()?;
    let lengths = match integers(reference, "attention_mask")? {
        None => vec![n; batch],
        Some((mask, shape)) if shape == [batch, n] => mask
            .chunks(n)
            .map(|row| {
                let length = row.iter().filter(|&&m| m != 0).count();
                let right = row[..length].iter().all(|&m| m != 0);
                right.then_some(length).ok_or_else(|| {
                    Error::Input(format!(
                        "{path}: `attention_mask` is not right-padded; dump single or right-padded rows"
                    ))
                })
            })
            .collect::<Result<_>>()?,
        Some((_, shape)) => {
            return Err(Error::Input(format!(
                "{path}: `attention_mask` has shape {shape:?}, expected [{batch}, {n}]"
            )));
        }
    };
    let (pixels, patches) = match (&config.image, reference.get("pixel_values")) {
        (Some(image), Some(entry)) => {
            let (edge, patch, grid) = (image.vision.image_size, image.vision.patch_size, image.vision.grid());
            let area = 3 * edge * edge;
            let values = entry.to_f32()?;
            if values.len() % area != 0 {
                return Err(Error::Input(format!(
                    "{path}: `pixel_values` has shape {:?}; tiles are [3, {edge}, {edge}]",
                    entry.shape()
                )));
            }
            let mask = integers(reference, "pixel_attention_mask")?.map(|m| m.0);
            // The model drops tiles whose values are all zero: they are padding of the batch.
            let real: Vec<usize> = (0..values.len() / area)
                .filter(|t| values[t * area..(t + 1) * area].iter().any(|&x| x != 0.0))
                .collect();
            let kept: Vec<f32> =
                real.iter().flat_map(|t| values[t * area..(t + 1) * area].iter().copied()).collect();
            let patches =
                mask.map(|mask| real.iter().flat_map(|t| patch_mask(&mask, *t, edge, patch, grid)).collect());
            (Some(Tensor::from_slice(&kept, &[real.len(), 3, edge, edge], device)?), patches)
        }
        _ => (None, None),
    };
    Ok(Inputs { ids, batch, lengths, pixels, patches })
}

/// Patches of tile `t` with at least one valid pixel.
fn patch_mask(mask: &[i64], t: usize, edge: usize, patch: usize, grid: usize) -> Vec<bool> {
    let pixel = |y: usize, x: usize| mask.get((t * edge + y) * edge + x).is_some_and(|&m| m != 0);
    (0..grid * grid)
        .map(|i| {
            let (r, c) = (i / grid * patch, i % grid * patch);
            (r..r + patch).any(|y| (c..c + patch).any(|x| pixel(y, x)))
        })
        .collect()
}

fn vlm_logits(model: &SmolVlm, inputs: &Inputs, dtype: DType) -> Result<Tensor> {
    let features = match &inputs.pixels {
        Some(pixels) => Some(model.image_features_in(dtype, pixels, inputs.patches.as_deref())?),
        None => None,
    };
    model.forward(&inputs.ids, &inputs.lengths, features.as_ref(), dtype)
}

fn logits(network: &Network, inputs: &Inputs, dtype: DType) -> Result<Tensor> {
    match network {
        Network::SmolVlm(model) => vlm_logits(model, inputs, dtype),
        Network::Llama(model) => {
            let embeds = model.embed(&inputs.ids, inputs.batch)?.to_dtype(dtype)?;
            let places: Places = right_padded(&inputs.lengths, embeds.dim(1)?, embeds.device())?;
            model.logits(&model.forward(&embeds, &places, None)?)
        }
    }
}

fn labels(reference: &Weights, name: &str) -> Result<Option<Vec<i32>>> {
    let Some((labels, _)) = integers(reference, name)? else { return Ok(None) };
    let narrow = |&l: &i64| {
        i32::try_from(l)
            .map_err(|_| Error::Input(format!("{}: label {l} in `{name}`", reference.path().display())))
    };
    labels.iter().map(narrow).collect::<Result<_>>().map(Some)
}

/// Runs `network` on the inputs of `reference` in `dtype` and compares what both have. `weights` are the
/// network's (or its adapter's) tensors by name; gradients are compared for those that are tracked.
pub fn compare(
    config: &Config,
    network: &Network,
    weights: &[(String, Tensor)],
    reference: &Weights,
    dtype: DType,
) -> Result<Comparison> {
    compare_on(config, network, weights, reference, reference, dtype)
}

/// As [`compare`], with the inputs and labels of the dump `given`.
pub fn compare_on(
    config: &Config,
    network: &Network,
    weights: &[(String, Tensor)],
    given: &Weights,
    reference: &Weights,
    dtype: DType,
) -> Result<Comparison> {
    let device = match network {
        Network::SmolVlm(model) => model.text.device(),
        Network::Llama(model) => model.device(),
    };
    let inputs = inputs(config, given, device)?;
    let (logits, stages) = collect(|| logits(network, &inputs, dtype));
    let logits = logits?;
    let mut comparison = Comparison::default();
    let mut seen: Vec<&str> = vec![
        "input_ids",
        "attention_mask",
        "pixel_values",
        "pixel_attention_mask",
        "labels",
        "labels_answer",
    ];
    for (name, ours) in &stages {
        if let Some(entry) = reference.get(name) {
            comparison.compare(entry, ours, dtype)?;
            seen.push(entry.name());
        }
    }
    for (name, labels_name) in [("loss", "labels"), ("loss_answer", "labels_answer")] {
        let (Some(entry), Some(labels)) = (reference.get(name), labels(given, labels_name)?) else {
            continue;
        };
        let loss = no_grad(|| mean_loss(&logits, &labels))?;
        comparison.compare(entry, &loss, dtype)?;
        seen.push(entry.name());
    }
    let wanted: Vec<_> = weights
        .iter()
        .filter_map(|(name, w)| Some((reference.get(&format!("grad.{name}"))?, w)))
        .filter(|(_, w)| w.is_tracked())
        .collect();
    if let (false, Some(labels)) = (wanted.is_empty(), labels(given, "labels")?) {
        let gradients = mean_loss(&logits, &labels)?.backward()?;
        for (entry, weight) in wanted {
            let zero = Tensor::zeros(&weight.dims(), DType::F32, device)?;
            comparison.compare(entry, gradients.get(weight).unwrap_or(&zero), dtype)?;
            seen.push(entry.name());
        }
    }
    comparison.skipped = reference.names().filter(|n| !seen.contains(n)).map(str::to_owned).collect();
    Ok(comparison)
}

fn mean_loss(logits: &Tensor, labels: &[i32]) -> Result<Tensor> {
    let (sum, counted) = next_token_loss(logits, labels)?;
    Ok(sum.affine(1.0 / counted.max(1) as f32, 0.0)?)
}
