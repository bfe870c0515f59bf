//! Models into Hugging Face folders: from GGUF, from another folder, and a decoder into the shape of a vision-language
//! model.

mod graft;
mod source;

use std::path::Path;

use engine::{DType, Device};
use serde_json::json;

pub use graft::Graft;

use crate::error::{Error, Result};
use crate::export::{Job, apart, write_weights};
use crate::files::{create_folder, write, write_json};
use source::Source;

/// How to convert.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// Type of the written weights.
    pub dtype: DType,
    /// Put the decoder into this shape.
    pub into: Option<Graft>,
}

/// Writes the model of `from` (a GGUF file or a Hugging Face folder) to the folder `to`: weights under their published
/// names with the rows of q and k in the order of Hugging Face files, `config.json`, `tokenizer.json`, template and
/// generation settings. 4-bit and block-quantised weights are expanded, one tensor at a time. `on_tensor` gets the
/// number of tensors and the name of each in turn.
pub fn convert(
    from: &Path,
    to: &Path,
    how: &Conversion,
    on_tensor: &mut dyn FnMut(usize, &str),
) -> Result<()> {
    if !matches!(how.dtype, DType::F32 | DType::BF16) {
        return Err(Error::Input(format!("weights are converted to f32 or bf16, not {}", how.dtype)));
    }
    apart(from, to)?;
    let device = Device::cpu();
    let source = Source::open(from)?;
    let mut parts = source.parts()?;
    let plan = match &how.into {
        None => None,
        Some(graft) => Some(graft.plan(&mut parts)?),
    };
    parts.config.torch_dtype = Some(if how.dtype == DType::BF16 { "bfloat16" } else { "float32" }.into());
    let mut jobs = Vec::new();
    for tensor in parts.config.tensors() {
        let (name, shape) = (tensor.name, tensor.shape);
        let make: crate::export::Make<'_> = match &plan {
            None => source.make(&name, &shape, &device)?,
            Some(plan) => plan.make(&source, &name, &shape, &device)?,
        };
        jobs.push(Job::Float { name, shape, dtype: how.dtype, make });
    }
    create_folder(to)?;
    small_files(to, &parts)?;
    write_weights(&to.join("model.safetensors"), &jobs, &mut |name| on_tensor(jobs.len(), name))?;
    Ok(())
}

fn small_files(to: &Path, parts: &source::Parts) -> Result<()> {
    let generation = &parts.generation;
    let eos = match generation.eos_token_ids[..] {
        [one] => json!(one),
        ref all => json!(all),
    };
    write_json(&to.join("config.json"), &parts.config.to_json())?;
    write_json(
        &to.join("generation_config.json"),
        &json!({
            "bos_token_id": generation.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": generation.pad_token_id,
        }),
    )?;
    let content = |id: Option<u32>| {
        parts.tokenizer.specials().iter().find(|s| id.is_some() && parts.tokenizer.special_id(s) == id)
    };
    write_json(
        &to.join("tokenizer_config.json"),
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": content(generation.bos_token_id),
            "eos_token": content(generation.eos_token_ids.first().copied()),
            "pad_token": content(generation.pad_token_id),
            "model_max_length": parts.config.text.max_position_embeddings,
            "clean_up_tokenization_spaces": false,
            "chat_template": parts.template,
        }),
    )?;
    if let Some(template) = &parts.template {
        write(&to.join("chat_template.jinja"), template.as_bytes())?;
        write_json(&to.join("chat_template.json"), &json!({ "chat_template": template }))?;
    }
    if let (Some(preprocessor), Some(image)) = (&parts.preprocessor, &parts.config.image) {
        write_json(&to.join("preprocessor_config.json"), &preprocessor.to_json())?;
        write_json(
            &to.join("processor_config.json"),
            &json!({ "processor_class": "Idefics3Processor", "image_seq_len": image.tokens_per_tile() }),
        )?;
    }
    write(&to.join("tokenizer.json"), parts.tokenizer.to_json()?.as_bytes())
}
