//! What an adapter and 4-bit weights come to, and the memory of training with them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use engine::{Codebook, QuantConfig};
use model::config::{Config, QuantizedSizes, TrainingMemory, TrainingStep};
use model::lora::{LoraConfig, Target, TargetKind};
use model::quantize::SKIPPED;
use serde::Serialize;

use super::InspectArgs;
use crate::output::{Align, bytes, grouped, table};
use crate::quantize::Format;

/// An adapter on a model.
#[derive(Serialize)]
pub(super) struct LoraPlan {
    modules: Vec<Module>,
    trainable: u64,
    /// Parameters with those of the adapter.
    all: u64,
    percent: f64,
    /// Bytes of `adapter_model.safetensors`' values.
    file_bytes: u64,
}

#[derive(Serialize)]
struct Module {
    path: String,
    shape: [usize; 2],
    /// `None` where the layer is trained whole.
    rank: Option<usize>,
    scale: Option<f32>,
    parameters: u64,
}

/// Linear layers in 4 bits.
#[derive(Serialize)]
pub(super) struct QuantPlan {
    format: &'static str,
    #[serde(flatten)]
    sizes: QuantizedSizes,
    bits_per_weight: f64,
    total_bytes_rest_bf16: u64,
    total_bytes_rest_f32: u64,
}

/// A step of training the adapter on the 4-bit weights.
#[derive(Serialize)]
pub(super) struct TrainingPlan {
    batch: u64,
    tokens: u64,
    counted: u64,
    checkpointed: TrainingMemory,
    checkpointed_total: u64,
    kept: TrainingMemory,
    kept_total: u64,
}

/// What was asked for.
#[derive(Default, Serialize)]
pub(super) struct Plans {
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<LoraPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantized: Option<QuantPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<TrainingPlan>,
}

impl Plans {
    /// For `tiles` tiles and `tokens` tokens a sample.
    pub(super) fn new(config: &Config, args: &InspectArgs, tiles: u64, tokens: u64) -> Result<Self> {
        let mut plans = Self::default();
        let targets = match &args.lora {
            None => None,
            Some(name) => {
                let linears = config.linears();
                let lora = read_lora(name)?;
                Some(lora.targets(linears.iter().map(|(path, dims)| (path.as_str(), *dims)))?)
            }
        };
        plans.lora = targets.as_deref().map(|targets| LoraPlan::new(config, targets));
        let quant = args.quantize.map(|format| QuantConfig {
            codebook: match format {
                Format::Nf4 => Codebook::Nf4,
                Format::Fp4 => Codebook::Fp4,
            },
            ..QuantConfig::default()
        });
        if let Some(quant) = quant {
            let sizes = config.quantized_sizes(&quant, &SKIPPED.map(str::to_owned));
            plans.quantized = Some(QuantPlan {
                format: quant.codebook.name(),
                sizes,
                bits_per_weight: sizes.bits_per_weight(),
                total_bytes_rest_bf16: sizes.total_bytes(2),
                total_bytes_rest_f32: sizes.total_bytes(4),
            });
            if let Some(targets) = &targets {
                let counted = u64::from(args.counted.unwrap_or(args.text_tokens));
                let batch = u64::from(args.batch);
                let step = TrainingStep {
                    batch,
                    tiles,
                    tokens,
                    counted,
                    checkpointing: true,
                    stream: 4,
                    compute: 2,
                    eight_bit: false,
                };
                let checkpointed = config.training_memory(&sizes, targets, &step);
                let kept =
                    config.training_memory(&sizes, targets, &TrainingStep { checkpointing: false, ..step });
                plans.training = Some(TrainingPlan {
                    batch,
                    tokens,
                    counted,
                    checkpointed,
                    checkpointed_total: checkpointed.total(),
                    kept,
                    kept_total: kept.total(),
                });
            }
        }
        Ok(plans)
    }

    /// The same as text; every module with `all`.
    pub(super) fn text(&self, all: bool) -> String {
        let mut text = String::new();
        for part in [
            self.lora.as_ref().map(|plan| plan.text(all)),
            self.quantized.as_ref().map(QuantPlan::text),
            self.training.as_ref().map(TrainingPlan::text),
        ] {
            // Writing to a string cannot fail.
            let _ = part.map(|part| write!(text, "\n{part}"));
        }
        text
    }
}

/// `paper`, or a TOML or JSON file with the keys of PEFT, alone or in a table `[lora]`.
fn read_lora(name: &str) -> Result<LoraConfig> {
    if name == "paper" {
        return Ok(LoraConfig::default());
    }
    let path = Path::new(name);
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{name}: cannot be read (`paper` names the paper's adapter)"))?;
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let mut value: serde_json::Value = if json {
        serde_json::from_str(&text).with_context(|| name.to_owned())?
    } else {
        toml::from_str(&text).with_context(|| name.to_owned())?
    };
    if let Some(section) = value.get_mut("lora") {
        value = section.take();
    }
    let (config, unknown) = LoraConfig::from_value(value, name)?;
    if !unknown.is_empty() {
        tracing::warn!("{name}: unknown keys are ignored: {}", unknown.join(", "));
    }
    Ok(config)
}

impl LoraPlan {
    fn new(config: &Config, targets: &[Target]) -> Self {
        let trainable = targets.iter().map(Target::parameters).sum();
        let modules = targets
            .iter()
            .map(|target| {
                let (rank, scale) = match target.kind {
                    TargetKind::Lora { rank, scale, .. } => (Some(rank), Some(scale)),
                    TargetKind::Full => (None, None),
                };
                let (path, shape, parameters) = (target.path.clone(), target.dims, target.parameters());
                Module { path, shape, rank, scale, parameters }
            })
            .collect();
        let all = config.parameter_count().total() + trainable;
        let percent = 100.0 * trainable as f64 / all as f64;
        Self { modules, trainable, all, percent, file_bytes: 4 * trainable }
    }

    fn text(&self, all: bool) -> String {
        let head = [
            ("adapter", Align::Left),
            ("layers", Align::Right),
            ("[out, in]", Align::Left),
            ("rank", Align::Right),
            ("scale", Align::Right),
            ("parameters", Align::Right),
        ];
        let mut groups: BTreeMap<String, (u64, u64, &Module)> = BTreeMap::new();
        for module in &self.modules {
            // `layers.N` of one kind stand in one line.
            let plain = |part: &str| if part.parse::<usize>().is_ok() { "*" } else { part }.to_owned();
            let name: Vec<String> = module.path.split('.').map(plain).collect();
            let name = if all { module.path.clone() } else { name.join(".") };
            let key = format!("{name} {:?} {:?}", module.shape, module.rank);
            let group = groups.entry(key).or_insert((0, 0, module));
            group.0 += 1;
            group.1 += module.parameters;
        }
        let rows: Vec<_> = groups
            .into_iter()
            .map(|(key, (layers, parameters, module))| {
                vec![
                    key.split(' ').next().unwrap_or_default().to_owned(),
                    layers.to_string(),
                    format!("{:?}", module.shape),
                    module.rank.map_or_else(|| "whole".into(), |r| r.to_string()),
                    module.scale.map_or_else(String::new, |s| format!("{s}")),
                    grouped(parameters),
                ]
            })
            .collect();
        format!(
            "{}{} modules, {} of {} parameters trainable ({:.2}%), {}\n",
            table(&head, &rows),
            self.modules.len(),
            grouped(self.trainable),
            grouped(self.all),
            self.percent,
            bytes(self.file_bytes)
        )
    }
}

impl QuantPlan {
    fn text(&self) -> String {
        let sizes = &self.sizes;
        let row = |name: &str, n: u64, note: String| vec![name.to_owned(), bytes(n), note];
        let note = format!("{} weights of {} layers", grouped(sizes.weights), sizes.layers);
        let rows = [
            row(&format!("{} codes", self.format), sizes.code_bytes, note),
            row("scales", sizes.scale_bytes, "8 bits for a block of 64".into()),
            row("second level", sizes.second_level_bytes, "f32 for 256 scales".into()),
            row("quantised", sizes.quantized_bytes(), format!("{:.3} bits a weight", self.bits_per_weight)),
            row(
                "model",
                self.total_bytes_rest_bf16,
                format!("{} other parameters in bf16", grouped(sizes.other_parameters)),
            ),
            row("", self.total_bytes_rest_f32, "or in f32, as training prepares them".into()),
        ];
        table(&[("", Align::Left), ("", Align::Right), ("", Align::Left)], &rows)
    }
}

impl TrainingPlan {
    fn text(&self) -> String {
        let row = |name: &str, of: fn(&TrainingMemory) -> u64| {
            vec![name.to_owned(), bytes(of(&self.checkpointed)), bytes(of(&self.kept))]
        };
        let rows = [
            row("weights", |m| m.weights),
            row("adapter", |m| m.adapter),
            row("gradients", |m| m.gradients),
            row("optimiser", |m| m.optimizer),
            row("kept of layers", |m| m.kept),
            row("layer running backward", |m| m.layer),
            row("loss", |m| m.loss),
            row("connector", |m| m.connector),
            row("peak", TrainingMemory::total),
        ];
        let head =
            [("training step", Align::Left), ("checkpointing", Align::Right), ("without", Align::Right)];
        format!(
            "{}{} × {} tokens, {} counted; f32 stream, bf16 products, f32 AdamW; without scratch memory of kernels\n",
            table(&head, &rows),
            self.batch,
            grouped(self.tokens),
            grouped(self.counted)
        )
    }
}
