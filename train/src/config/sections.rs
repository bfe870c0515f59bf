//! Sections of a run's configuration.

use std::path::PathBuf;

use model::config::PreprocessorConfig;
use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, warmup_steps};

/// Element type of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32 throughout.
    F32,
    /// bf16 activations; sums in f32. Frozen weights are bf16 too.
    #[default]
    Bf16,
    /// bf16 products over an f32 residual stream with f32 norms: what `prepare_model_for_kbit_training` makes of a
    /// model under bf16 autocast (spec smolvlm §7, recipe N).
    Mixed,
}

/// What is trained: a `folder` in Hugging Face layout, or a model from scratch by its `config` file or by
/// `vision` and `text` sizes (`text` alone for a decoder alone).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A model to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// A `config.json`; weights are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Pixel shuffle of a model by sizes.
    #[serde(default = "two")]
    pub scale_factor: usize,
    /// The head is the embedding matrix (a model by sizes).
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weight matrices; norms start at 1, biases at 0.
    #[serde(default = "init_std")]
    pub init_std: f64,
    /// The vision tower and the connector keep their weights. With augmentation off, each image then goes through
    /// them once and its features are kept on the disk.
    #[serde(default)]
    pub freeze_vision: bool,
    /// Sizes of the vision tower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<VisionSizes>,
    /// Sizes of the decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSizes>,
}

const fn two() -> usize {
    2
}

const fn init_std() -> f64 {
    0.02
}

/// SigLIP sizes by the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionSizes {
    /// Edge of a tile in pixels.
    pub image_size: usize,
    /// Edge of a patch in pixels.
    pub patch_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
}

/// Llama sizes by the names of `config.json`; the vocabulary is the tokenizer's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSizes {
    /// Width.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Longest sequence.
    #[serde(default = "positions")]
    pub max_position_embeddings: usize,
}

const fn rope_theta() -> f64 {
    10_000.0
}

const fn positions() -> usize {
    1024
}

/// Vocabulary of a model from scratch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSection {
    /// A `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Most entries of a byte-level BPE learned from the training rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
}

/// How images are cut. What is not given comes from the model's folder; from scratch: no splitting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSection {
    /// Cut into tiles, beside the image as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splitting: Option<bool>,
    /// What the first resize makes of the longest edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_edge: Option<usize>,
    /// Random changes of training images.
    #[serde(default)]
    pub augmentation: Augmentation,
}

impl ImageSection {
    /// Puts what is given in the place of a folder's settings; says whether anything was.
    pub fn apply(&self, settings: &mut PreprocessorConfig) -> bool {
        if let Some(splitting) = self.splitting {
            settings.do_image_splitting = splitting;
        }
        if let Some(edge) = self.longest_edge {
            settings.longest_edge = edge;
        }
        self.splitting.is_some() || self.longest_edge.is_some()
    }
}

/// Largest random changes of a training image, each drawn uniformly. Never mirrored: the heart is on the left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Shift along each axis, as a share of the edge.
    pub shift: f64,
    /// Change of scale, as a share.
    pub zoom: f64,
    /// Turn, in degrees.
    pub rotate: f64,
    /// Added to every pixel, as a share of the range.
    pub brightness: f64,
    /// Change of the distance from mid-grey, as a share.
    pub contrast: f64,
}

impl Augmentation {
    /// True if images stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Which tokens count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOver {
    /// All but padding and image places, as the notebook has it.
    #[default]
    All,
    /// The answer with its end.
    Answer,
}

/// How the loss of an accumulated batch is averaged (spec smolvlm §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Sum over all counted tokens, divided by their number (transformers from 4.52).
    #[default]
    Tokens,
    /// Mean of each micro-batch, then of these (transformers up to 4.51).
    MicroBatches,
}

/// What is minimised: cross-entropy of the next token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSection {
    /// Which tokens count.
    pub over: LossOver,
    /// How they are averaged.
    pub normalisation: Normalisation,
}

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// `AdamW` with f32 moments: 8 bytes a parameter.
    Adamw,
    /// `AdamW` with 8-bit moments (bitsandbytes): 2 bytes a parameter. Small tensors keep f32 moments.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    /// Gradient descent, with momentum if that is not 0. Weight decay is a part of the gradient.
    Sgd,
}

impl OptimizerKind {
    /// Name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adamw => "adamw",
            Self::Adamw8bit => "adamw_8bit",
            Self::Sgd => "sgd",
        }
    }
}

/// Where the optimiser's state lies during the run. It makes no difference to any result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatePlace {
    /// In memory.
    #[default]
    Memory,
    /// In a file that is mapped into memory, as bitsandbytes' paged optimisers keep theirs outside of the GPU's
    /// memory: the system keeps in memory what there is room for.
    File,
}

/// The optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSection {
    /// Which; the notebook's `adamw_8bit` for an adapter, else `adamw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<OptimizerKind>,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment (`AdamW`).
    pub beta1: f64,
    /// Decay of the second moment (`AdamW`).
    pub beta2: f64,
    /// Added to the denominator (`AdamW`).
    pub eps: f64,
    /// Share of the last step that goes into the next (`sgd`).
    pub momentum: f64,
    /// Weight decay: decoupled for `AdamW`, a part of the gradient for `sgd`.
    pub weight_decay: f64,
    /// Norms and biases decay too.
    pub decay_norms_and_biases: bool,
    /// Tensors of fewer elements keep f32 moments under `adamw_8bit`.
    pub min_8bit_size: usize,
    /// Where the state lies.
    pub state: StatePlace,
    /// The file, if it lies in one; `optimizer-state.bin` in the run's folder if none is named. It must not be
    /// there yet, and is gone after the run: checkpoints hold the state too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
}

impl OptimizerSection {
    /// The kind, resolved.
    pub fn kind(&self) -> OptimizerKind {
        self.kind.unwrap_or(OptimizerKind::Adamw)
    }
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            kind: None,
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            momentum: 0.0,
            weight_decay: 0.01,
            decay_norms_and_biases: false,
            min_8bit_size: 4096,
            state: StatePlace::Memory,
            state_file: None,
        }
    }
}

/// Learning rate over time. It rises for `warmup_steps` or, if that is not given or 0, for `warmup_ratio` of the
/// run; if neither is given, for 50 steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSection {
    /// Its shape.
    pub shape: Schedule,
    /// Steps that it rises for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Share of all steps that it rises for, rounded up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self { shape: Schedule::Linear, warmup_steps: None, warmup_ratio: None }
    }
}

impl ScheduleSection {
    /// Steps that the rate rises for if nothing is said; the notebook's.
    pub const DEFAULT_WARMUP: usize = 50;

    /// Steps that the rate rises for in a run of `total` steps.
    pub fn warmup(&self, total: usize) -> usize {
        match (self.warmup_steps, self.warmup_ratio) {
            (None, None) => Self::DEFAULT_WARMUP,
            (steps, ratio) => warmup_steps(steps.unwrap_or(0), ratio.unwrap_or(0.0), total),
        }
    }
}

/// Element type of exported weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightDType {
    /// Half the size.
    #[default]
    Bf16,
    /// As they were trained.
    F32,
}

/// The loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSection {
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Largest global norm of the gradients; longer ones are shortened to it. 0: never.
    pub clip_norm: f64,
    /// Recompute layers in the backward pass instead of keeping their activations.
    pub checkpointing: bool,
    /// Steps between measurements of the validation loss; 0: only at the end of each epoch.
    pub validate_every: usize,
    /// Steps between checkpoints; 0: only at the end of each epoch.
    pub checkpoint_every: usize,
    /// Checkpoints kept; older ones are removed.
    pub keep_checkpoints: usize,
    /// Reports that are generated at each measurement of the validation loss and shown in the run's page; 0: none.
    pub sample_count: usize,
    /// Most tokens of such a report.
    pub sample_tokens: usize,
    /// Element type of the exported model.
    pub export_dtype: WeightDType,
}

impl Default for TrainingSection {
    fn default() -> Self {
        Self {
            batch_size: 4,
            accumulation: 4,
            epochs: 1,
            clip_norm: 1.0,
            checkpointing: true,
            validate_every: 0,
            checkpoint_every: 0,
            keep_checkpoints: 2,
            sample_count: 4,
            sample_tokens: 256,
            export_dtype: WeightDType::Bf16,
        }
    }
}
