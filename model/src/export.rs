//! A model folder written tensor by tensor, from weights that may be larger than memory.

use std::collections::BTreeMap;
use std::path::Path;

use engine::weights::{Entry, FileDType, SafetensorsWriter, TensorSpec, replace_file};
use engine::{DType, Device, QuantConfig, Quantized, Tensor, no_grad};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::quantize::{self, Written};

/// Makes a tensor when its turn comes; the same one each time.
pub type Make<'a> = Box<dyn Fn() -> Result<Tensor> + 'a>;

/// A tensor to be written.
pub enum Job<'a> {
    /// As another file has it.
    Stored(&'a Entry),
    /// In floats.
    Float {
        /// Name.
        name: String,
        /// Shape.
        shape: Vec<usize>,
        /// f32, bf16 or f16.
        dtype: DType,
        /// The values.
        make: Make<'a>,
    },
    /// In 4-bit blocks, as several tensors.
    Quantized {
        /// Name of the weight.
        name: String,
        /// How.
        config: QuantConfig,
        /// The matrix.
        make: Make<'a>,
    },
}

/// How far a quantised weight lies from what it was.
#[derive(Clone, Debug, Serialize)]
pub struct QuantError {
    /// Name of the weight.
    pub name: String,
    /// `[out, in]`
    pub shape: [usize; 2],
    /// Bytes of codes and scales.
    pub bytes: usize,
    /// Root of the mean squared difference.
    pub rmse: f64,
    /// Largest difference.
    pub max: f64,
    /// `rmse` relative to the root mean square of the weight.
    pub relative: f64,
}

impl Job<'_> {
    /// Name of the tensor.
    pub fn name(&self) -> &str {
        match self {
            Job::Stored(entry) => entry.name(),
            Job::Float { name, .. } | Job::Quantized { name, .. } => name,
        }
    }

    /// Names, types and shapes in the file.
    fn announce(&self) -> Result<Vec<(String, FileDType, Vec<usize>)>> {
        Ok(match self {
            Job::Stored(entry) => vec![(entry.name().to_owned(), entry.dtype(), entry.shape().to_vec())],
            Job::Float { name, shape, dtype, .. } => vec![(name.clone(), file_dtype(*dtype)?, shape.clone())],
            // The text beside the codes holds a number whose length is known only now.
            Job::Quantized { name, config, make } => {
                let weight = no_grad(|| Ok::<_, Error>(Quantized::quantize(&make()?, config)?))?;
                quantize::tensors(name, &weight)?.into_iter().map(|(n, d, s, _)| (n, d, s)).collect()
            }
        })
    }

    fn content(&self) -> Result<(Vec<Written>, Option<QuantError>)> {
        Ok(match self {
            Job::Stored(_) => (Vec::new(), None),
            Job::Float { name, shape, dtype, make } => {
                let tensor = no_grad(|| Ok::<_, Error>(make()?.to_dtype(*dtype)?))?;
                if *tensor.dims() != shape[..] {
                    let (found, wanted) = (tensor.dims().to_vec(), shape.clone());
                    return Err(Error::Shape { path: "export".into(), name: name.clone(), found, wanted });
                }
                (vec![(name.clone(), file_dtype(*dtype)?, shape.clone(), tensor.to_bytes()?)], None)
            }
            Job::Quantized { name, config, make } => no_grad(|| {
                let dense = make()?;
                let weight = Quantized::quantize(&dense, config)?;
                let error = difference(name, &dense, &weight)?;
                Ok::<_, Error>((quantize::tensors(name, &weight)?, Some(error)))
            })?,
        })
    }
}

fn file_dtype(dtype: DType) -> Result<FileDType> {
    match dtype {
        DType::F32 => Ok(FileDType::F32),
        DType::BF16 => Ok(FileDType::BF16),
        DType::F16 => Ok(FileDType::F16),
        other => Err(Error::Input(format!("weights are written as f32, bf16 or f16, not {other}"))),
    }
}

fn difference(name: &str, dense: &Tensor, weight: &Quantized) -> Result<QuantError> {
    let (before, after) = (dense.to_f32_vec()?, weight.dequantize(DType::F32)?.to_f32_vec()?);
    let (mut squares, mut own, mut max) = (0.0, 0.0, 0.0f64);
    for (a, b) in before.iter().zip(&after) {
        let (a, d) = (f64::from(*a), f64::from(*a) - f64::from(*b));
        squares += d * d;
        own += a * a;
        max = max.max(d.abs());
    }
    let n = before.len().max(1) as f64;
    let relative = if own > 0.0 { (squares / own).sqrt() } else { 0.0 };
    let (shape, bytes) = (weight.dims(), weight.bytes());
    Ok(QuantError { name: name.to_owned(), shape, bytes, rmse: (squares / n).sqrt(), max, relative })
}

/// Writes `jobs` as one safetensors file, whole or not at all. Only one tensor is in memory at a time; a quantised
/// one is made twice. `on_tensor` hears of each before it is written.
///
/// Returns the errors of the quantised weights in the order of `jobs`.
pub fn write_weights(
    path: &Path,
    jobs: &[Job<'_>],
    on_tensor: &mut dyn FnMut(&str),
) -> Result<Vec<QuantError>> {
    let mut specs = Vec::new();
    for job in jobs {
        specs.extend(job.announce()?);
    }
    specs.sort_by(|a, b| a.0.cmp(&b.0));
    let specs: Vec<_> =
        specs.iter().map(|(name, dtype, shape)| TensorSpec { name, dtype: *dtype, shape }).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut errors = Vec::new();
    // What stopped the writer, where it is not the file: `replace_file` speaks of files only.
    let mut stopped = None;
    let written = replace_file(path, |file| {
        let mut writer = SafetensorsWriter::new(file, path, &specs, &metadata)?;
        for job in jobs {
            on_tensor(job.name());
            if let Job::Stored(entry) = job {
                writer.write(entry.name(), entry.bytes())?;
                continue;
            }
            match job.content() {
                Ok((tensors, error)) => {
                    for (name, _, _, bytes) in &tensors {
                        writer.write(name, bytes)?;
                    }
                    errors.extend(error);
                }
                Err(error) => {
                    let text = error.to_string();
                    stopped = Some(error);
                    return Err(engine::weights::WeightError::File { path: path.to_owned(), reason: text });
                }
            }
        }
        writer.finish()?;
        Ok(())
    });
    match (written, stopped) {
        (_, Some(error)) => Err(error),
        (written, None) => Ok(written.map(|()| errors)?),
    }
}

/// The values of an entry where they lie, or decoded to f32 if they are of a type that tensors do not have.
pub fn entry_tensor(entry: &Entry, device: &Device) -> Result<Tensor> {
    Ok(match entry.dtype() {
        FileDType::F32 | FileDType::BF16 | FileDType::F16 => {
            let dtype = entry.dtype().element().unwrap_or(DType::F32);
            Tensor::from_mapped(entry.mapping(), entry.range(), entry.shape(), dtype, device)?
        }
        _ => Tensor::from_slice(&entry.to_f32()?, entry.shape(), device)?,
    })
}

/// Files of a model folder that go along unchanged.
const ALONG: [&str; 14] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "video_preprocessor_config.json",
];

/// Copies tokenizer, template and the like from one model folder to another.
pub fn copy_along(from: &Path, to: &Path) -> Result<()> {
    for name in ALONG {
        let source = from.join(name);
        match std::fs::read(&source) {
            Ok(bytes) => crate::files::write(&to.join(name), &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::Input(format!("{}: cannot read: {e}", source.display()))),
        }
    }
    Ok(())
}

/// Fails where `to` is the folder `from` itself, whose weights are mapped while the new ones are written.
pub fn apart(from: &Path, to: &Path) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(from).is_some() && real(from) == real(to) {
        return Err(Error::Input(format!("{}: is the model itself; name another folder", to.display())));
    }
    Ok(())
}

/// `config.json` of `folder` with its `torch_dtype` and `quantization_config` replaced; `None` keeps the one, removes the
/// other.
pub fn edited_config(
    folder: &Path,
    dtype: Option<DType>,
    quantization: Option<serde_json::Value>,
) -> Result<serde_json::Value> {
    let path = folder.join("config.json");
    let wrong = |e: String| Error::Input(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let mut value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let map = value.as_object_mut().ok_or_else(|| wrong("is no object".into()))?;
    match dtype {
        Some(DType::F32) => drop(map.insert("torch_dtype".into(), "float32".into())),
        Some(DType::BF16) => drop(map.insert("torch_dtype".into(), "bfloat16".into())),
        _ => {}
    }
    map.remove("quantization_config");
    if let Some(quantization) = quantization {
        map.insert("quantization_config".into(), quantization);
    }
    Ok(value)
}
