//! One step: forward and backward passes of the micro-batches; and the validation loss.

use engine::profile::phase;
use engine::{DType, Device, Gradients, Rng, Tensor, no_grad};
use model::bundle::Network;
use model::nn::DropoutState;
use model::smolvlm::{SmolVlm, right_padded};

use crate::config::{Normalisation, Precision};
use crate::data::batch::Batch;
use crate::data::features::Features;
use crate::data::sample::Sight;
use crate::error::{Error, Result};

/// Runs batches through a model.
pub struct Trainer<'a> {
    /// The model.
    pub network: &'a Network,
    /// Type of activations.
    pub precision: Precision,
    /// Averaging of the loss.
    pub normalisation: Normalisation,
    /// No parameter that an image goes through is trained: nothing is recorded there.
    pub vision_is_frozen: bool,
    /// Dropout of the adapter's terms, if there is one.
    pub dropout: Option<&'a DropoutState>,
    /// Where features are kept; only for a frozen tower and images that do not change.
    pub features: Option<&'a Features>,
}

/// What the micro-batches of a step came to.
pub struct Accumulated {
    /// Mean loss.
    pub loss: f64,
    /// Its gradients.
    pub gradients: Gradients,
    /// Tokens, image places included, padding not.
    pub tokens: usize,
}

impl Trainer<'_> {
    /// Where the model lives.
    pub fn device(&self) -> &Device {
        self.network.decoder().device()
    }

    /// Type of activations.
    pub fn dtype(&self) -> DType {
        self.precision.into()
    }

    /// Image tokens `[tiles, tokens per tile, hidden]` of all images; `None` if there are none.
    pub fn image_features(&self, sights: &[Sight<'_>]) -> Result<Option<Tensor>> {
        if sights.is_empty() {
            return Ok(None);
        }
        let Some(model) = self.network.vision_language() else {
            return Err(Error::Data("a decoder alone reads no images".into()));
        };
        if let Some(features) = self.features {
            let each =
                sights.iter().map(|sight| self.kept(features, model, sight)).collect::<Result<Vec<_>>>()?;
            return Ok(Some(Tensor::concat(&each.iter().collect::<Vec<_>>(), 0)?));
        }
        let pixels = self.pixels(sights)?;
        let run = || model.image_features_in(self.dtype(), &pixels, None);
        Ok(Some(if self.vision_is_frozen { no_grad(run)?.detach() } else { run()? }))
    }

    fn kept(&self, features: &Features, model: &SmolVlm, sight: &Sight<'_>) -> Result<Tensor> {
        match sight {
            Sight::Tiles(key, tiles) => features.compute(model, key, tiles),
            Sight::Features(key, stored) => features.tensor(stored, self.device()).ok_or_else(|| {
                Error::Data(format!(
                    "the features of {key:?} in the cache have a wrong size; remove the cache"
                ))
            }),
        }
    }

    /// Normalised pixels `[tiles, 3, edge, edge]`, f32.
    fn pixels(&self, sights: &[Sight<'_>]) -> Result<Tensor> {
        let (mut values, mut count, mut edge) = (Vec::new(), 0, 0);
        for sight in sights {
            // Features are only read where there is a store of them, and then this is not called.
            let Sight::Tiles(_, tiles) = sight else { continue };
            let start = values.len();
            values.resize(start + tiles.shape().iter().product::<usize>(), 0.0);
            tiles.write_normalised(&mut values[start..]);
            count += tiles.count();
            edge = tiles.edge();
        }
        Ok(Tensor::from_slice(&values, &[count, 3, edge, edge], self.device())?)
    }

    /// Embeddings `[rows, n, hidden]` of `rows` rows of ids with their images.
    pub fn embed(&self, ids: &[u32], rows: usize, sights: &[Sight<'_>]) -> Result<Tensor> {
        let features = self.image_features(sights)?;
        Ok(self.network.embed(ids, rows, features.as_ref())?.to_dtype(self.dtype())?)
    }

    /// Sum of the losses of all tokens of `batch` that count, an f32 scalar. The head sees only the positions
    /// whose next token counts: most of a prompt does not, and its logits would be the largest tensor of all.
    fn loss_sum(&self, batch: &Batch<'_>, at: &[u32], labels: &[i32]) -> Result<Tensor> {
        let (text, device) = (self.network.decoder(), self.device());
        let (rows, n) = (batch.rows(), batch.length());
        let embeds = self.embed(&batch.ids, rows, &batch.sights)?;
        let places = right_padded(&batch.lengths, n, device)?;
        let hidden = text.forward(&embeds, &places, None)?;
        let width = hidden.dim(2)?;
        let at = Tensor::from_slice(at, &[at.len()], device)?;
        let chosen = hidden.reshape(&[rows * n, width])?.embedding(&at)?;
        let labels = Tensor::from_slice(labels, &[labels.len()], device)?;
        let losses = text.logits(&chosen)?.cross_entropy(&labels, model::loss::IGNORE)?;
        Ok(losses.sum(&[0])?)
    }

    /// Loss and gradients of the `micro_batches` micro-batches of one step, which together count `counted` tokens.
    /// Each is asked of `next` when its turn comes and dropped before the next; `seed` is that of the step's dropouts.
    pub fn accumulate<'p>(
        &self,
        micro_batches: usize,
        next: &mut dyn FnMut() -> Result<Batch<'p>>,
        counted: usize,
        seed: u64,
    ) -> Result<Accumulated> {
        let mut sum = Accumulated { loss: 0.0, gradients: Gradients::default(), tokens: 0 };
        for i in 0..micro_batches {
            let batch = {
                let _phase = phase("data");
                next()?
            };
            // On until the backward pass is done: it draws the masks again.
            let _dropout = self.dropout.map(|d| d.during(Rng::new(seed ^ i as u64).bits()));
            let (at, labels) = batch.targets();
            sum.tokens += batch.tokens();
            if at.is_empty() {
                continue;
            }
            let share = match self.normalisation {
                Normalisation::Tokens => 1.0 / counted as f64,
                Normalisation::MicroBatches => 1.0 / (micro_batches * at.len()) as f64,
            };
            self.device().step("micro-batch", || {
                let forward = phase("forward");
                let loss = self.loss_sum(&batch, &at, &labels)?.affine(share as f32, 0.0)?;
                sum.loss += loss.item()?;
                drop(forward);
                let _phase = phase("backward");
                Ok::<_, Error>(sum.gradients.accumulate(loss.backward()?)?)
            })?;
        }
        Ok(sum)
    }

    /// Mean loss of the tokens that count in `batches`; nothing is recorded.
    pub fn evaluate<'p>(&self, batches: impl Iterator<Item = Result<Batch<'p>>>) -> Result<f64> {
        let _phase = phase("validation");
        let (mut sum, mut counted) = (0.0, 0);
        for batch in batches {
            let batch = batch?;
            let (at, labels) = batch.targets();
            if at.is_empty() {
                continue;
            }
            sum += no_grad(|| self.loss_sum(&batch, &at, &labels))?.item()?;
            counted += at.len();
        }
        Ok(sum / counted.max(1) as f64)
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 | Precision::Mixed => Self::F32,
            Precision::Bf16 => Self::BF16,
        }
    }
}
