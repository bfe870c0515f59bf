//! The file that describes a run. Every default is that of the SmolVLM report paper's notebook (spec smolvlm §7)
//! where it has one.

mod adapter;
mod data;
mod sections;
pub mod suggest;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use adapter::{LoraSection, LoraStart, Modules, QuantFormat, QuantizationSection};
pub use data::{DataSection, IdLists, LimitOver, SplitShares};
pub(crate) use data::{EXPECTED_OUTPUT, group_by};
pub use sections::{
    Augmentation, ImageSection, LossOver, LossSection, ModelSection, Normalisation, OptimizerKind,
    OptimizerSection, Precision, ScheduleSection, StatePlace, TextSizes, TokenizerSection, TrainingSection,
    VisionSizes, WeightDType,
};

/// A whole run. Relative paths are relative to the file's folder, those of `[data]` (but `data.cache`) to
/// `data.root`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder of the run: configuration, metrics, plots, checkpoints, and the exported model.
    pub out: PathBuf,
    /// Start of every random stream: weights, order, augmentation, dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Element types of activations and of the products' inputs. What is trained, sums and the optimiser's state
    /// are f32 either way.
    #[serde(default)]
    pub precision: Precision,
    /// What is trained.
    pub model: ModelSection,
    /// The base model's linear layers in 4 bits; left out: as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationSection>,
    /// An adapter is trained instead of the model's own weights; left out: all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
    /// Vocabulary, for a model from scratch.
    #[serde(default)]
    pub tokenizer: TokenizerSection,
    /// What it is trained on.
    pub data: DataSection,
    /// How images are cut.
    #[serde(default)]
    pub image: ImageSection,
    /// What is minimised.
    #[serde(default)]
    pub loss: LossSection,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: OptimizerSection,
    /// Learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleSection,
    /// The loop.
    #[serde(default)]
    pub training: TrainingSection,
}

const fn default_seed() -> u64 {
    42
}

/// Leaves out `NAME/..` where NAME is a real folder, so that `configs/experiments/../../runs` reads `runs`. After a link
/// `..` means another place, so that stays.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        let folder = || tidy.symlink_metadata().is_ok_and(|m| m.is_dir());
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidy.components().next_back(), Some(Component::Normal(_))) && folder() =>
            {
                tidy.pop();
            }
            part => tidy.push(part),
        }
    }
    if tidy.as_os_str().is_empty() { ".".into() } else { tidy }
}

impl TrainConfig {
    /// Reads a configuration. `overrides` are `(key, value)` pairs such as `("training.epochs", "3")`; a value
    /// that is no TOML is taken as a string.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown key (the nearest one is named) or a value that makes no sense.
    pub fn from_file(path: &Path, overrides: &[(String, String)]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::from_toml(&text, &path.display().to_string(), folder, overrides)
    }

    /// Parses the text of a configuration; `origin` names it in errors, `folder` is where relative paths start.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_toml(
        text: &str,
        origin: &str,
        folder: &Path,
        overrides: &[(String, String)],
    ) -> Result<Self> {
        let failed = |e: &toml::de::Error| Error::config(origin, suggest::with_suggestion(&e.to_string()));
        let changed;
        let text = if overrides.is_empty() {
            text
        } else {
            let mut table: toml::Table = toml::from_str(text).map_err(|e| failed(&e))?;
            for (key, value) in overrides {
                set(&mut table, key, value).map_err(|reason| Error::config(origin, reason))?;
            }
            changed = table.to_string();
            &changed
        };
        let mut config: Self = toml::from_str(text).map_err(|e| failed(&e))?;
        config.resolve(folder);
        config.validate(origin)?;
        Ok(config)
    }

    /// The resolved file: every key with its value, paths as they will be used.
    pub fn to_toml(&self) -> String {
        // Nothing in the struct is a type that TOML lacks.
        toml::to_string_pretty(self).unwrap_or_else(|e| format!("# cannot be written as TOML: {e}\n"))
    }

    /// Makes paths independent of the file's folder and fills in what depends on other keys.
    fn resolve(&mut self, folder: &Path) {
        let join = |path: &mut PathBuf| *path = tidy(&folder.join(&*path));
        join(&mut self.out);
        join(&mut self.data.root);
        let usual = if self.lora.is_some() { OptimizerKind::Adamw8bit } else { OptimizerKind::Adamw };
        self.optimizer.kind.get_or_insert(usual);
        if self.optimizer.state == StatePlace::File && self.optimizer.state_file.is_none() {
            self.optimizer.state_file = Some(self.out.join("optimizer-state.bin"));
        }
        if self.schedule.warmup_steps.is_none() && self.schedule.warmup_ratio.is_none() {
            self.schedule.warmup_steps = Some(ScheduleSection::DEFAULT_WARMUP);
        }
        let paths = [
            &mut self.optimizer.state_file,
            &mut self.model.config,
            &mut self.model.folder,
            &mut self.tokenizer.file,
            &mut self.data.cache,
        ];
        for path in paths {
            path.iter_mut().for_each(join);
        }
    }

    fn validate(&self, origin: &str) -> Result<()> {
        let wrong = |key: &str, reason: &str| Err(Error::config(origin, format!("`{key}`: {reason}")));
        let m = &self.model;
        let sources = [m.folder.is_some(), m.config.is_some(), m.vision.is_some() || m.text.is_some()];
        if sources.iter().filter(|s| **s).count() != 1 {
            return wrong("model", "give one of `folder`, `config`, or `vision` and `text` with sizes");
        }
        if m.vision.is_some() && m.text.is_none() {
            return wrong(
                "model",
                "`vision` sizes need `text` sizes too (`text` alone makes a decoder alone)",
            );
        }
        if m.folder.is_some() && (self.tokenizer.file.is_some() || self.tokenizer.vocab_size.is_some()) {
            return wrong("tokenizer", "a model from a folder has its own; leave the section out");
        }
        if m.folder.is_none() && (self.tokenizer.file.is_some() == self.tokenizer.vocab_size.is_some()) {
            return wrong("tokenizer", "give `file`, or `vocab_size` to learn one from the training texts");
        }
        if self.quantization.is_some() && self.lora.is_none() {
            return wrong("quantization", "4-bit weights cannot be trained; add a `[lora]` section");
        }
        if self.lora.is_some() && m.freeze_vision {
            return wrong(
                "model.freeze_vision",
                "an adapter leaves the model frozen; use `lora.exclude_modules`",
            );
        }
        if let Some((key, rule)) = self.lora.as_ref().and_then(LoraSection::wrong) {
            return wrong(key, &format!("expected {rule}"));
        }
        if self.data.files.is_empty() {
            return wrong("data.files", "is empty; name at least one JSON Lines file");
        }
        if self.data.lists.is_some() && self.data.split.is_some() {
            return wrong("data", "give `lists` or `split`, not both");
        }
        if self.data.split.as_ref().is_some_and(|s| !s.is_valid()) {
            return wrong("data.split", "`train`, `validation` and `test` are shares that sum to 1");
        }
        let t = &self.training;
        for (key, value) in [
            ("training.batch_size", t.batch_size),
            ("training.accumulation", t.accumulation),
            ("training.epochs", t.epochs),
            ("training.keep_checkpoints", t.keep_checkpoints),
            ("training.sample_tokens", t.sample_tokens),
            ("data.case_limit", self.data.case_limit),
            ("data.prefetch", self.data.prefetch),
        ] {
            if value == 0 {
                return wrong(key, "must be at least 1");
            }
        }
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let beta = |x: f64| (0.0..1.0).contains(&x);
        let o = &self.optimizer;
        let a = &self.image.augmentation;
        let finite = |x: f64| x.is_finite() && x >= 0.0;
        for (key, good, rule) in [
            ("data.case_dropout", share(self.data.case_dropout), "a share from 0 to 1"),
            ("optimizer.lr", finite(o.lr), "a finite number, not negative"),
            ("optimizer.weight_decay", finite(o.weight_decay), "a finite number, not negative"),
            ("optimizer.beta1", beta(o.beta1), "at least 0 and below 1"),
            ("optimizer.beta2", beta(o.beta2), "at least 0 and below 1"),
            ("optimizer.momentum", beta(o.momentum), "at least 0 and below 1"),
            ("schedule.warmup_ratio", self.schedule.warmup_ratio.is_none_or(share), "a share from 0 to 1"),
            ("optimizer.eps", o.eps.is_finite() && o.eps > 0.0, "a positive number"),
            ("training.clip_norm", finite(t.clip_norm), "a finite number, not negative"),
            ("model.init_std", m.init_std.is_finite() && m.init_std > 0.0, "a positive number"),
            ("image.augmentation.shift", (0.0..=0.5).contains(&a.shift), "a share of the edge up to 0.5"),
            ("image.augmentation.zoom", (0.0..=0.5).contains(&a.zoom), "a share from 0 to 0.5"),
            ("image.augmentation.rotate", (0.0..=45.0).contains(&a.rotate), "degrees from 0 to 45"),
            ("image.augmentation.brightness", share(a.brightness), "a share of the range from 0 to 1"),
            ("image.augmentation.contrast", share(a.contrast), "a share from 0 to 1"),
        ] {
            if !good {
                return wrong(key, &format!("expected {rule}"));
            }
        }
        Ok(())
    }

    /// Keys whose values differ from `other`'s, beside those that do not change what is computed.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        const HARMLESS: [&str; 13] = [
            "out",
            "data.root",
            "data.cache",
            "data.workers",
            "data.prefetch",
            "optimizer.state",
            "optimizer.state_file",
            "training.sample_count",
            "training.sample_tokens",
            "training.validate_every",
            "training.checkpoint_every",
            "training.keep_checkpoints",
            "training.checkpointing",
        ];
        let table = |config| toml::Table::try_from(config).unwrap_or_default();
        let mut keys = Vec::new();
        differing("", &table(self), &table(other), &mut keys);
        keys.retain(|key| !HARMLESS.contains(&key.as_str()));
        keys
    }
}

fn differing(prefix: &str, a: &toml::Table, b: &toml::Table, keys: &mut Vec<String>) {
    let mut names: Vec<_> = a.keys().chain(b.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        match (a.get(name), b.get(name)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                differing(&format!("{prefix}{name}."), a, b, keys);
            }
            (a, b) if a != b => keys.push(format!("{prefix}{name}")),
            _ => {}
        }
    }
}

/// Sets the dotted `key` of `table`.
fn set(table: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut at = table;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            at.insert(name.to_owned(), value);
            return Ok(());
        }
        let inner = at.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner.as_table_mut().ok_or_else(|| format!("`{key}`: `{name}` is not a section"))?;
    }
    Err(format!("`{key}` is no key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
out = "run"
[model]
folder = "base"
[data]
files = ["cases.jsonl"]
"#;

    fn parse(text: &str, overrides: &[(&str, &str)]) -> Result<TrainConfig, String> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        TrainConfig::from_toml(text, "run.toml", Path::new("/here"), &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_notebooks() {
        let config = parse(SMALL, &[]).unwrap();
        assert_eq!((config.seed, config.training.batch_size, config.training.accumulation), (42, 4, 4));
        assert_eq!((config.optimizer.lr, config.schedule.warmup(1000)), (1e-4, 50));
        assert_eq!(config.training.clip_norm, 1.0);
        assert_eq!(config.optimizer.kind(), OptimizerKind::Adamw);
        let qlora = parse(&format!("{SMALL}\n[quantization]\n[lora]\n"), &[]).unwrap();
        assert_eq!(qlora.optimizer.kind(), OptimizerKind::Adamw8bit);
        let lora = qlora.lora.unwrap();
        assert_eq!((lora.r, lora.alpha, lora.dropout, lora.init), (8, 8.0, 0.1, LoraStart::Gaussian));
        assert_eq!(config.out, Path::new("/here/run"));
        // What is printed reads back as the same.
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_nearest() {
        let said = parse(&format!("{SMALL}\n[training]\nepoch = 2\n"), &[]).unwrap_err();
        assert!(said.contains("run.toml") && said.contains("did you mean `epochs`?"), "{said}");
        let said = parse(SMALL, &[("optimizer.learning_rate", "1"), ("optimizer.lrr", "1")]).unwrap_err();
        assert!(said.contains("unknown field"), "{said}");
        let said = parse(SMALL, &[("schedule.shape", "cosin")]).unwrap_err();
        assert!(said.contains("did you mean `cosine`?"), "{said}");
        let said = parse(SMALL, &[("optimizer.kind", "adam_8bit")]).unwrap_err();
        assert!(said.contains("did you mean `adamw_8bit`?"), "{said}");
    }

    #[test]
    fn overrides_change_values_and_differences_name_them() {
        let config = parse(SMALL, &[]).unwrap();
        let other = parse(SMALL, &[("training.epochs", "3"), ("out", "elsewhere"), ("seed", "7")]).unwrap();
        assert_eq!((other.training.epochs, other.seed), (3, 7));
        assert_eq!(config.differences(&other), ["seed", "training.epochs"]);
    }

    #[test]
    fn what_depends_on_other_keys_is_filled_in() {
        let config = parse(SMALL, &[("optimizer.state", "file")]).unwrap();
        assert_eq!(config.optimizer.state_file.as_deref(), Some(Path::new("/here/run/optimizer-state.bin")));
        let named = [("optimizer.state", "file"), ("optimizer.state_file", "s.bin")];
        let other = parse(SMALL, &named).unwrap();
        assert_eq!(other.optimizer.state_file.as_deref(), Some(Path::new("/here/s.bin")));
        // Where the state lies changes nothing that is computed.
        assert!(config.differences(&other).is_empty());
        assert!(config.differences(&parse(SMALL, &[]).unwrap()).is_empty());

        let ratio = parse(SMALL, &[("schedule.warmup_ratio", "0.1")]).unwrap();
        assert_eq!(ratio.schedule.warmup(200), 20);
        let default = parse(SMALL, &[]).unwrap();
        assert_eq!(default.schedule.warmup_steps, Some(50));
        assert!(default.differences(&parse(SMALL, &[("schedule.warmup_steps", "50")]).unwrap()).is_empty());
        assert_eq!(parse(&ratio.to_toml(), &[]).unwrap(), ratio);
        for kind in [OptimizerKind::Adamw, OptimizerKind::Adamw8bit, OptimizerKind::Sgd] {
            let config = parse(SMALL, &[("optimizer.kind", kind.name())]).unwrap();
            assert_eq!(config.optimizer.kind(), kind);
        }
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        for (key, value) in [
            ("training.batch_size", "0"),
            ("optimizer.beta2", "1.0"),
            ("optimizer.momentum", "-0.1"),
            ("schedule.warmup_ratio", "1.5"),
            ("data.case_dropout", "1.5"),
            ("training.clip_norm", "-1"),
            ("tokenizer.vocab_size", "400"),
            ("data.files", "[]"),
            ("model.config", "\"config.json\""),
        ] {
            let said = parse(SMALL, &[(key, value)]).unwrap_err();
            let section = key.split('.').next().unwrap();
            assert!(said.contains(section), "{key}: {said}");
        }
    }
}
