//! `[quantization]` and `[lora]`: a frozen base, and what is trained on it.

use std::collections::BTreeMap;

use engine::{Codebook, QuantConfig};
use model::lora::{LoraConfig, LoraInit, Targets};
use model::quantize::SKIPPED;
use serde::{Deserialize, Serialize};

/// 4-bit value tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantFormat {
    /// Quantiles of the normal distribution.
    #[default]
    Nf4,
    /// A 4-bit float.
    Fp4,
}

/// The base model's linear layers in 4 bits. The defaults are the paper's: NF4, double quantisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizationSection {
    /// Values of the codes.
    pub format: QuantFormat,
    /// Weights that share a scale.
    pub block: usize,
    /// Quantise the scales too.
    pub double: bool,
    /// Modules left as they are, by the last parts of their paths; the head always is.
    pub skip: Vec<String>,
}

impl Default for QuantizationSection {
    fn default() -> Self {
        Self { format: QuantFormat::Nf4, block: 64, double: true, skip: Vec::new() }
    }
}

impl QuantizationSection {
    /// Modules left as they are: the head, and those of `skip`.
    pub fn skipped(&self) -> Vec<String> {
        SKIPPED.iter().map(|name| (*name).to_owned()).chain(self.skip.iter().cloned()).collect()
    }

    /// For the engine.
    pub fn config(&self) -> QuantConfig {
        let codebook = match self.format {
            QuantFormat::Nf4 => Codebook::Nf4,
            QuantFormat::Fp4 => Codebook::Fp4,
        };
        QuantConfig { codebook, block: self.block, double: self.double }
    }
}

/// Start values of an adapter's A; B starts at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraStart {
    /// Normal, deviation 1/r: the notebook's.
    #[default]
    Gaussian,
    /// Uniform in ±1/√in: PEFT's default.
    Kaiming,
}

/// Layers by name: a list of path endings, or a regular expression for whole paths, or `all-linear`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Path endings.
    Names(Vec<String>),
    /// `all-linear` or a regular expression.
    Pattern(String),
}

impl From<&Modules> for Targets {
    fn from(modules: &Modules) -> Self {
        match modules {
            Modules::Names(names) => Self::Names(names.clone()),
            Modules::Pattern(all) if all == "all-linear" => Self::AllLinear,
            Modules::Pattern(pattern) => Self::Pattern(pattern.clone()),
        }
    }
}

/// A low-rank adapter on a frozen base. The defaults are the notebook's, which give the paper's number of trained
/// parameters (spec smolvlm §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank.
    pub r: usize,
    /// The term is multiplied by alpha/r.
    pub alpha: f64,
    /// Dropout of the term's input.
    pub dropout: f64,
    /// Start values.
    pub init: LoraStart,
    /// Layers that get a term.
    pub target_modules: Modules,
    /// Layers that do not, whatever the targets say.
    pub exclude_modules: Vec<String>,
    /// Layers that are trained whole beside it.
    pub modules_to_save: Vec<String>,
    /// Multiply by alpha/√r instead.
    pub rslora: bool,
    /// Learn the magnitude of the rows too.
    pub dora: bool,
    /// Only the layers with these numbers; all if empty.
    pub layers: Vec<usize>,
    /// Other ranks for layers whose path ends in a regular expression.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for such layers.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraSection {
    fn default() -> Self {
        let paper = LoraConfig::default();
        let Targets::Names(names) = paper.target_modules else {
            unreachable!("the paper names seven modules")
        };
        Self {
            r: paper.r,
            alpha: paper.lora_alpha,
            dropout: paper.lora_dropout,
            init: LoraStart::Gaussian,
            target_modules: Modules::Names(names),
            exclude_modules: Vec::new(),
            modules_to_save: Vec::new(),
            rslora: false,
            dora: false,
            layers: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl LoraSection {
    /// In PEFT's terms; `base` is the model that the adapter belongs to.
    pub fn config(&self, base: Option<String>) -> LoraConfig {
        LoraConfig {
            r: self.r,
            lora_alpha: self.alpha,
            lora_dropout: self.dropout,
            target_modules: (&self.target_modules).into(),
            exclude_modules: (!self.exclude_modules.is_empty())
                .then(|| Targets::Names(self.exclude_modules.clone())),
            use_rslora: self.rslora,
            use_dora: self.dora,
            init: match self.init {
                LoraStart::Gaussian => LoraInit::Gaussian,
                LoraStart::Kaiming => LoraInit::Kaiming,
            },
            rank_pattern: self.rank_pattern.clone().into_iter().collect(),
            alpha_pattern: self.alpha_pattern.clone().into_iter().collect(),
            modules_to_save: self.modules_to_save.clone(),
            layers_to_transform: self.layers.clone(),
            base_model: base,
            ..LoraConfig::default()
        }
    }

    /// The key that makes no sense and what was expected.
    pub(super) fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let checks = [
            ("lora.r", (1..=4096).contains(&self.r), "a rank from 1 to 4096"),
            ("lora.alpha", positive(self.alpha), "a positive number"),
            ("lora.dropout", (0.0..1.0).contains(&self.dropout), "a probability below 1"),
            (
                "lora.rank_pattern",
                self.rank_pattern.values().all(|r| (1..=4096).contains(r)),
                "ranks from 1 to 4096",
            ),
            ("lora.alpha_pattern", self.alpha_pattern.values().all(|&a| positive(a)), "positive numbers"),
        ];
        checks.into_iter().find(|(_, good, _)| !good).map(|(key, _, rule)| (key, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_always_stays() {
        let section = QuantizationSection { skip: vec!["proj".into()], ..QuantizationSection::default() };
        assert_eq!(section.skipped(), ["lm_head", "proj"]);
        assert!(model::quantize::skips("lm_head", &QuantizationSection::default().skipped()));
    }
}
