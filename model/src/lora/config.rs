//! `adapter_config.json`.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// How an adapter is made; names and meaning are PEFT's.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// α: the term is multiplied by α/r, or α/√r with [`Self::use_rslora`].
    pub lora_alpha: f64,
    /// Probability of dropping an element of the term's input in training.
    pub lora_dropout: f64,
    /// Layers that get a term.
    pub target_modules: Targets,
    /// Layers that do not, whatever the targets say.
    pub exclude_modules: Option<Targets>,
    /// Scale by α/√r (Kalajdzievski 2023, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Learn the magnitude of the rows (Liu et al. 2024, arXiv 2402.09353).
    pub use_dora: bool,
    /// Start values.
    pub init: LoraInit,
    /// Other ranks for layers whose path ends in a regular expression, first match first.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other α for such layers.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Layers that are trained whole.
    pub modules_to_save: Vec<String>,
    /// Only layers with these numbers; all if empty.
    pub layers_to_transform: Vec<usize>,
    /// What stands before the number in a path; any part if empty.
    pub layers_pattern: Vec<String>,
    /// The model that the adapter belongs to.
    pub base_model: Option<String>,
    /// PEFT's task, which says nothing here but is kept.
    pub task_type: Option<String>,
}

/// Layers by name.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Those whose path is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
    /// Those whose whole path this regular expression matches.
    Pattern(String),
    /// Every linear layer but the output projection: `"all-linear"`.
    AllLinear,
}

/// Start values of a term. B is zero in both: a fresh adapter changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraInit {
    /// A uniform in ±1/√in: PEFT's default.
    Kaiming,
    /// A normal with standard deviation 1/r.
    Gaussian,
}

/// The seven names of the decoder's layers; q, k and v are also those of the vision tower.
const SEVEN: [&str; 7] = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];

impl Default for LoraConfig {
    /// The adapter of the paper: rank 8 on the seven names, gaussian start, dropout 0.1 (spec smolvlm §7).
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.1,
            target_modules: Targets::Names(SEVEN.map(str::to_owned).into()),
            exclude_modules: None,
            use_rslora: false,
            use_dora: false,
            init: LoraInit::Gaussian,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            base_model: None,
            task_type: None,
        }
    }
}

/// Keys of PEFT 0.15.2 that change nothing here, whatever they hold.
const IGNORED: [&str; 12] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "revision",
    "peft_version",
    "runtime_config",
];

/// Keys that change what an adapter computes and are not supported unless they are off.
const UNSUPPORTED: [&str; 3] = ["layer_replication", "lora_bias", "trainable_token_indices"];

/// Reads the keys of an object one by one.
struct Keys<'a> {
    map: Map<String, Value>,
    origin: &'a str,
}

impl Keys<'_> {
    fn error(&self, key: &str, expected: &str) -> Error {
        Error::Input(format!("{}: `{key}`: expected {expected}", self.origin))
    }

    /// The value of the first of `names` that is there; `null` counts as absent.
    fn take(&mut self, names: &[&str]) -> Option<Value> {
        names.iter().filter_map(|name| self.map.remove(*name)).find(|v| !v.is_null())
    }

    fn with<T>(
        &mut self,
        names: &[&str],
        expected: &str,
        default: T,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.take(names) {
            None => Ok(default),
            Some(value) => read(&value).ok_or_else(|| self.error(names[0], expected)),
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn targets(value: &Value) -> Option<Targets> {
    match value {
        Value::String(all) if all == "all-linear" => Some(Targets::AllLinear),
        Value::String(pattern) => Some(Targets::Pattern(pattern.clone())),
        other => strings(other).map(Targets::Names),
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| x.is_finite() && *x > 0.0)
}

/// Largest rank taken; a real one is below a thousand, and a wild one would only exhaust memory.
const LARGEST_RANK: usize = 1 << 16;

fn rank(value: &Value) -> Option<usize> {
    size(value).filter(|r| (1..=LARGEST_RANK).contains(r))
}

fn pattern<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_object()?.iter().map(|(key, v)| Some((key.clone(), read(v)?))).collect()
}

impl LoraConfig {
    /// Reads `adapter_config.json`. Beside PEFT's names the short ones `alpha`, `dropout` and `init` are taken. The
    /// second part of the result says which keys are unknown and were left out.
    ///
    /// # Errors
    /// If a value makes no sense, or asks for what is not supported.
    pub fn from_value(value: Value, origin: &str) -> Result<(Self, Vec<String>)> {
        let Value::Object(map) = value else {
            return Err(Error::Input(format!("{origin}: an adapter's configuration is an object")));
        };
        let mut keys = Keys { map, origin };
        if let Some(kind) = keys.take(&["peft_type"])
            && kind.as_str() != Some("LORA")
        {
            return Err(Error::Input(format!("{origin}: `peft_type` is {kind}; LORA is supported")));
        }
        let bias = keys.with(&["bias"], "a string", "none".to_owned(), |v| v.as_str().map(str::to_owned))?;
        if bias != "none" {
            return Err(Error::Input(format!(
                "{origin}: `bias` is {bias:?}; only \"none\" is supported: trained biases are not part of the adapter"
            )));
        }
        for key in UNSUPPORTED {
            if let Some(value) = keys.take(&[key])
                && value != json!(false)
            {
                return Err(Error::Input(format!(
                    "{origin}: `{key}` is set to {value}; it is not supported"
                )));
            }
        }
        let default = Self::default();
        let init = match keys.take(&["init_lora_weights", "init"]) {
            // EVA only chooses start values; the stored ones are what counts.
            None | Some(Value::Bool(_)) => LoraInit::Kaiming,
            Some(Value::String(name)) => match name.as_str() {
                "gaussian" => LoraInit::Gaussian,
                "kaiming" | "eva" | "orthogonal" => LoraInit::Kaiming,
                other => {
                    return Err(Error::Input(format!(
                        "{origin}: `init_lora_weights` is {other:?}, which changes the weights of the model itself or \
                         is unknown; true, \"gaussian\", \"eva\" and \"orthogonal\" are supported"
                    )));
                }
            },
            Some(_) => return Err(keys.error("init_lora_weights", "true or a name")),
        };
        let target_modules = match keys.take(&["target_modules"]) {
            None => default.target_modules,
            Some(value) => {
                targets(&value).ok_or_else(|| keys.error("target_modules", "names or a pattern"))?
            }
        };
        let config = Self {
            r: keys.with(&["r", "rank"], "a rank from 1 on", default.r, rank)?,
            lora_alpha: keys.with(&["lora_alpha", "alpha"], "a positive number", 8.0, positive)?,
            lora_dropout: keys.with(&["lora_dropout", "dropout"], "a number in [0, 1)", 0.0, |v| {
                v.as_f64().filter(|p| (0.0..1.0).contains(p))
            })?,
            target_modules,
            exclude_modules: keys
                .with(&["exclude_modules"], "names or a pattern", None, |v| targets(v).map(Some))?,
            use_rslora: keys.with(&["use_rslora"], "true or false", false, Value::as_bool)?,
            use_dora: keys.with(&["use_dora"], "true or false", false, Value::as_bool)?,
            init,
            rank_pattern: keys
                .with(&["rank_pattern"], "patterns with ranks", vec![], |v| pattern(v, rank))?,
            alpha_pattern: keys
                .with(&["alpha_pattern"], "patterns with numbers", vec![], |v| pattern(v, positive))?,
            modules_to_save: keys.with(&["modules_to_save"], "names", vec![], strings)?,
            layers_to_transform: keys.with(
                &["layers_to_transform"],
                "layer numbers",
                vec![],
                |v| match v {
                    Value::Array(all) => all.iter().map(size).collect(),
                    one => size(one).map(|n| vec![n]),
                },
            )?,
            layers_pattern: keys.with(&["layers_pattern"], "names", vec![], strings)?,
            base_model: keys.with(&["base_model_name_or_path"], "a string", None, |v| {
                v.as_str().map(|s| Some(s.to_owned()))
            })?,
            task_type: keys
                .with(&["task_type"], "a string", None, |v| v.as_str().map(|s| Some(s.to_owned())))?,
        };
        let unknown = keys.map.keys().filter(|key| !IGNORED.contains(&key.as_str())).cloned().collect();
        Ok((config, unknown))
    }

    /// Reads the text of `adapter_config.json`; see [`Self::from_value`].
    pub fn from_json(text: &str, origin: &str) -> Result<(Self, Vec<String>)> {
        let value = serde_json::from_str(text).map_err(|e| Error::Input(format!("{origin}: {e}")))?;
        Self::from_value(value, origin)
    }

    /// The text of `adapter_config.json` with every key that PEFT 0.15.2 writes, sorted as it sorts them.
    pub fn to_json(&self) -> String {
        let names = |targets: &Targets| match targets {
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
            Targets::AllLinear => json!("all-linear"),
        };
        let number = |x: f64| if x.fract() == 0.0 && x < 1e15 { json!(x as u64) } else { json!(x) };
        let list = |all: &[String]| if all.is_empty() { Value::Null } else { json!(all) };
        let ranks: Map<_, _> = self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let alphas: Map<_, _> = self.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect();
        let layers = match &self.layers_to_transform[..] {
            [] => Value::Null,
            all => json!(all),
        };
        let value = json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "corda_config": null,
            "eva_config": null,
            "exclude_modules": self.exclude_modules.as_ref().map(names),
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": match self.init {
                LoraInit::Kaiming => json!(true),
                LoraInit::Gaussian => json!("gaussian"),
            },
            "layer_replication": null,
            "layers_pattern": list(&self.layers_pattern),
            "layers_to_transform": layers,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": list(&self.modules_to_save),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": ranks,
            "revision": null,
            "target_modules": names(&self.target_modules),
            "task_type": self.task_type,
            "trainable_token_indices": null,
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        });
        format!("{value:#}")
    }

    /// Factor of a term of this rank and α.
    pub(crate) fn scale(&self, rank: usize, alpha: f64) -> f32 {
        let r = rank as f64;
        (if self.use_rslora { alpha / r.sqrt() } else { alpha / r }) as f32
    }
}
