//! One step: forward and backward passes of the micro-batches, clipping, the optimiser; and the validation loss.

use engine::{DType, Device, Gradients, Tensor, no_grad};
use model::smolvlm::{SmolVlm, right_padded};

use crate::config::{Normalisation, Precision};
use crate::data::batch::Batch;
use crate::error::Result;

/// Runs batches through a model.
pub struct Trainer<'a> {
    /// The model.
    pub model: &'a SmolVlm,
    /// Type of activations.
    pub precision: Precision,
    /// Averaging of the loss.
    pub normalisation: Normalisation,
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
        self.model.text.device()
    }

    fn dtype(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// Sum of the losses of all tokens of `batch` that count, an f32 scalar. The head sees only the positions
    /// whose next token counts: most of a prompt does not, and its logits would be the largest tensor of all.
    fn loss_sum(&self, batch: &Batch, at: &[u32], labels: &[i32]) -> Result<Tensor> {
        let (model, device) = (self.model, self.device());
        let (rows, n) = (batch.rows(), batch.length());
        let features = model.image_features_in(self.dtype(), &batch.pixels, None)?;
        let embeds = model.embed(&batch.ids, rows, Some(&features))?.to_dtype(self.dtype())?;
        let places = right_padded(&batch.lengths, n, device)?;
        let hidden = model.text.forward(&embeds, &places, None)?;
        let width = hidden.dim(2)?;
        let at = Tensor::from_slice(at, &[at.len()], device)?;
        let chosen = hidden.reshape(&[rows * n, width])?.embedding(&at)?;
        let labels = Tensor::from_slice(labels, &[labels.len()], device)?;
        let losses = model.text.logits(&chosen)?.cross_entropy(&labels, model::loss::IGNORE)?;
        Ok(losses.sum(&[0])?)
    }

    /// Loss and gradients of the micro-batches of one step. Each is made by `batch(i)` when its turn comes and
    /// dropped before the next.
    pub fn accumulate(
        &self,
        micro_batches: usize,
        batch: &dyn Fn(usize) -> Result<Batch>,
        counted: usize,
    ) -> Result<Accumulated> {
        let mut sum = Accumulated { loss: 0.0, gradients: Gradients::default(), tokens: 0 };
        for i in 0..micro_batches {
            let batch = batch(i)?;
            let (at, labels) = batch.targets();
            sum.tokens += batch.tokens();
            if at.is_empty() {
                continue;
            }
            let share = match self.normalisation {
                Normalisation::Tokens => 1.0 / counted as f64,
                Normalisation::MicroBatches => 1.0 / (micro_batches * at.len()) as f64,
            };
            let loss = self.loss_sum(&batch, &at, &labels)?.affine(share as f32, 0.0)?;
            sum.loss += loss.item()?;
            sum.gradients.accumulate(loss.backward()?)?;
        }
        Ok(sum)
    }

    /// Mean loss of the tokens that count in `batches`; nothing is recorded.
    pub fn evaluate(&self, batches: impl Iterator<Item = Result<Batch>>) -> Result<f64> {
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
