//! `BERTScore` with an encoder of the model crate.

use std::path::{Path, PathBuf};

use engine::Device;
use eval::bertscore::{Baseline, BertScorer, TextEncoder, default_layer, known_names};
use model::bert::{BertConfig, BertEncoder};

use crate::error::{Error, Result};

/// How `BERTScore` is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BertScoreOptions {
    /// Folder of a BERT or `RoBERTa` encoder.
    pub model: PathBuf,
    /// Layer whose output counts; `None`: `bert_score`'s choice for the model, by the folder's name or the one in its
    /// `config.json`.
    pub layer: Option<usize>,
    /// Weigh word pieces by inverse document frequency over the references.
    pub idf: bool,
    /// Rescale with a baseline.
    pub rescale: Option<Rescale>,
}

/// Where the baseline comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rescale {
    /// The numbers that this program has.
    BuiltIn,
    /// A file in `bert_score`'s form.
    File(PathBuf),
}

struct Encoder {
    inner: BertEncoder,
    name: String,
}

impl TextEncoder for Encoder {
    fn name(&self) -> &str {
        &self.name
    }

    fn width(&self) -> usize {
        self.inner.config.hidden_size
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        self.inner.tokenizer.encode(text).map_err(|e| e.to_string())
    }

    fn vectors(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        self.inner.encode(texts).map_err(|e| e.to_string())
    }
}

/// Opens the encoder.
///
/// # Errors
/// If it cannot be opened, no layer is known for it, or there is no baseline.
pub fn open_bertscore(options: &BertScoreOptions, device: &Device) -> Result<BertScorer> {
    let folder = &options.model;
    let config = BertConfig::from_folder(folder)?;
    let names = [folder_name(folder), config.published_name.clone()];
    let known = names.iter().flatten().find_map(|name| Some((name.clone(), default_layer(name)?)));
    let layer = options.layer.or(known.as_ref().map(|(_, layer)| *layer)).ok_or_else(|| {
        Error::Data(format!(
            "{}: no BERTScore layer is known for this encoder of {} layers; give one, or name the folder as the \
             model it is ({})",
            folder.display(),
            config.num_hidden_layers,
            known_names().collect::<Vec<_>>().join(", ")
        ))
    })?;
    let name = known.map(|(name, _)| name).or_else(|| names.into_iter().flatten().next());
    let name = name.unwrap_or_else(|| folder.display().to_string());
    let baseline = match &options.rescale {
        None => None,
        Some(Rescale::File(path)) => {
            Some(Baseline::from_file(path, layer).map_err(|e| Error::Data(e.to_string()))?)
        }
        Some(Rescale::BuiltIn) => Some(Baseline::built_in(&name, layer).ok_or_else(|| {
            Error::Data(format!(
                "no baseline is built in for {name}, layer {layer} (roberta-large, layer 17 is); give a file with \
                 lines LAYER,P,R,F"
            ))
        })?),
    };
    let inner = BertEncoder::open(folder, Some(layer), device)?;
    let encoder = Encoder { inner, name: format!("{name} L{layer}") };
    Ok(BertScorer::new(Box::new(encoder)).with_idf(options.idf).with_baseline(baseline))
}

/// Last component, where it is a name and not `.` or `..`.
fn folder_name(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_string_lossy().into_owned())
}
