//! Where a model's sizes come from, and whether its weights agree with them.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use engine::Device;
use engine::weights::Weights;
use model::bundle::{gguf_config, gguf_name};
use model::config::{Config, PreprocessorConfig};
use model::quantize::{self, is_quantized};
use serde::Serialize;

use crate::demo;
use crate::open::{FloatType, NO_MODEL};

/// A model without its weights in memory.
pub(super) struct Source {
    pub(super) origin: String,
    pub(super) config: Config,
    /// What the model is opened in, where nobody says.
    pub(super) dtype: FloatType,
    /// `None` for a text model.
    pub(super) preprocessor: Option<PreprocessorConfig>,
    /// `None` where there are no weights to look at.
    pub(super) file: Option<FileCheck>,
}

/// The tensors of a file against those of the configuration.
#[derive(Serialize)]
pub(super) struct FileCheck {
    pub(super) tensors: usize,
    pub(super) bytes: usize,
    /// Storage types with the number of tensors of each.
    pub(super) dtypes: Vec<(String, usize)>,
    pub(super) missing: Vec<String>,
    pub(super) wrong_shape: Vec<String>,
    /// Not in the configuration; ignored when the model is opened.
    pub(super) unknown: Vec<String>,
}

impl FileCheck {
    /// Whether the model can be opened.
    pub(super) fn fits(&self) -> bool {
        self.missing.is_empty() && self.wrong_shape.is_empty()
    }

    /// `name` is what the file calls a tensor.
    fn new(config: &Config, weights: &Weights, name: impl Fn(&str) -> Option<String>) -> Self {
        let mut unknown: std::collections::BTreeSet<&str> = weights.names().collect();
        let (mut missing, mut wrong_shape) = (Vec::new(), Vec::new());
        for tensor in config.tensors() {
            let stored = name(&tensor.name).unwrap_or_else(|| tensor.name.clone());
            unknown.remove(stored.as_str());
            if is_quantized(weights, &stored) {
                // Codes have no shape of their own; their tensors are checked against the text beside them.
                let beside = format!("{stored}.");
                unknown.retain(|name| !name.starts_with(&beside));
                match quantize::read(weights, &stored, &Device::cpu()) {
                    Ok(weight) if weight.dims()[..] == tensor.shape => {}
                    Ok(weight) => {
                        wrong_shape.push(format!(
                            "{stored} {:?}, expected {:?}",
                            weight.dims(),
                            tensor.shape
                        ));
                    }
                    Err(error) => wrong_shape.push(error.to_string()),
                }
                continue;
            }
            match weights.get(&stored) {
                None => missing.push(stored),
                Some(entry) if entry.shape() != tensor.shape => {
                    wrong_shape.push(format!("{stored} {:?}, expected {:?}", entry.shape(), tensor.shape));
                }
                Some(_) => {}
            }
        }
        let mut dtypes = std::collections::BTreeMap::new();
        for entry in weights.entries() {
            *dtypes.entry(entry.dtype().to_string()).or_insert(0) += 1;
        }
        Self {
            tensors: weights.entries().len(),
            bytes: weights.total_bytes(),
            dtypes: dtypes.into_iter().collect(),
            missing,
            wrong_shape,
            unknown: unknown.into_iter().map(str::to_owned).collect(),
        }
    }
}

impl Source {
    /// From what the command line names.
    pub(super) fn find(model: Option<&str>) -> Result<Self> {
        let Some(name) = model else { return Self::demonstration() };
        let path = Path::new(name);
        if path.is_dir() {
            return Self::folder(path);
        }
        if path.is_file() {
            let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
            return if json { Self::config_file(path) } else { Self::gguf(path) };
        }
        let Some(config) = Config::known(name) else {
            let known: Vec<_> = Config::known_names().collect();
            bail!("{name}: neither a file or folder nor a model known by name ({})", known.join(", "));
        };
        Ok(Self {
            origin: name.into(),
            preprocessor: PreprocessorConfig::known(name),
            dtype: stored(&config),
            config,
            file: None,
        })
    }

    fn demonstration() -> Result<Self> {
        let files = demo::model().ok_or_else(|| anyhow!(NO_MODEL))?;
        let path = |name: &str| format!("{}/{name}", files.name);
        let json = demo::text("config.json").with_context(|| format!("{}: missing", path("config.json")))?;
        let config = Config::from_json(json, &path("config.json"))?;
        let settings = demo::text("preprocessor_config.json")
            .map(|json| PreprocessorConfig::from_json(json, &path("preprocessor_config.json")));
        let bytes =
            files.files.iter().find(|file| file.0 == "model.safetensors").map_or(&[][..], |file| file.1);
        let weights = Weights::embedded(&path("model.safetensors"), bytes)?;
        Ok(Self {
            origin: files.name.into(),
            preprocessor: or_default(settings.transpose()?, &config),
            file: Some(FileCheck::new(&config, &weights, |_| None)),
            dtype: stored(&config),
            config,
        })
    }

    fn folder(path: &Path) -> Result<Self> {
        let mut source = Self::config_file(&path.join("config.json"))?;
        source.origin = path.display().to_string();
        source.file = match Weights::open(path) {
            Ok(weights) => Some(FileCheck::new(&source.config, &weights, |_| None)),
            Err(error) if has_no_weights(path) => {
                tracing::info!("sizes only: {error}");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(source)
    }

    fn config_file(path: &Path) -> Result<Self> {
        let config = Config::from_file(path)?;
        let settings = path.with_file_name("preprocessor_config.json");
        let settings = settings.is_file().then(|| PreprocessorConfig::from_file(&settings)).transpose()?;
        Ok(Self {
            origin: path.display().to_string(),
            preprocessor: or_default(settings, &config),
            dtype: stored(&config),
            config,
            file: None,
        })
    }

    fn gguf(path: &Path) -> Result<Self> {
        let weights = Weights::open(path)?;
        let Some(meta) = weights.gguf() else {
            bail!(
                "{}: one weight file without sizes; name its folder, its config.json or a .gguf file",
                path.display()
            );
        };
        let config = gguf_config(meta, &weights)?;
        Ok(Self {
            origin: path.display().to_string(),
            preprocessor: None,
            file: Some(FileCheck::new(&config, &weights, gguf_name)),
            // What block-quantised weights become.
            dtype: FloatType::F32,
            config,
        })
    }
}

/// The settings of the folder, else the published rule for the tower's tiles.
fn or_default(settings: Option<PreprocessorConfig>, config: &Config) -> Option<PreprocessorConfig> {
    let image = config.image.as_ref()?;
    Some(settings.unwrap_or_else(|| PreprocessorConfig::with_tile_edge(image.vision.image_size)))
}

/// The type that the published weights have, by `torch_dtype`.
fn stored(config: &Config) -> FloatType {
    match config.torch_dtype.as_deref() {
        Some("float32" | "float16") => FloatType::F32,
        _ => FloatType::Bf16,
    }
}

fn has_no_weights(folder: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"].iter().all(|name| !folder.join(name).exists())
}
