//! The tensors that a checkpoint of a configuration holds (spec smolvlm §2).

use serde::Serialize;

use super::{Config, TextConfig, VisionConfig};

/// Part of a model that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The vision tower.
    Vision,
    /// The projection of image features into the decoder's width.
    Connector,
    /// The decoder's layers and last norm.
    Decoder,
    /// The token embedding.
    Embedding,
    /// The output projection, where it is a tensor of its own.
    Head,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorShape {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Dimensions; linear weights are `[out, in]`.
    pub shape: Vec<usize>,
    /// Where it belongs.
    pub part: Part,
}

impl TensorShape {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// Parameters of a model, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// Of the vision tower.
    pub vision: u64,
    /// Of the connector.
    pub connector: u64,
    /// Of the decoder without its embedding and head.
    pub decoder: u64,
    /// Of the token embedding.
    pub embedding: u64,
    /// Of the head; 0 where it is tied to the embedding.
    pub head: u64,
}

impl ParameterCount {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.vision + self.connector + self.decoder + self.embedding + self.head
    }
}

impl Config {
    /// Every tensor of a checkpoint, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut list = List(Vec::new());
        if let Some(image) = &self.image {
            list.vision(&image.vision);
            let shape = [self.text.hidden_size, image.connector_input()];
            list.push(Part::Connector, "model.connector.modality_projection.proj.weight", &shape);
            list.text("model.text_model", &self.text);
        } else {
            list.text("model", &self.text);
        }
        if !self.tie_word_embeddings {
            list.push(Part::Head, "lm_head.weight", &[self.text.vocab_size, self.text.hidden_size]);
        }
        list.0
    }

    /// Path and `[out, in]` of every linear layer that has a weight of its own, in the order of the forward pass.
    pub fn linears(&self) -> Vec<(String, [usize; 2])> {
        let mut all = Vec::new();
        for TensorShape { name, shape, .. } in self.tensors() {
            let table = name.ends_with("embed_tokens.weight") || name.contains("position_embedding");
            if let (Some(path), &[out, inner], false) = (name.strip_suffix(".weight"), &shape[..], table) {
                all.push((path.to_owned(), [out, inner]));
            }
        }
        all
    }

    /// Parameters by part.
    pub fn parameter_count(&self) -> ParameterCount {
        let mut count = ParameterCount::default();
        for tensor in self.tensors() {
            *match tensor.part {
                Part::Vision => &mut count.vision,
                Part::Connector => &mut count.connector,
                Part::Decoder => &mut count.decoder,
                Part::Embedding => &mut count.embedding,
                Part::Head => &mut count.head,
            } += tensor.elements();
        }
        count
    }

    /// As [`Self::parameter_count`], for sizes that were not checked against each other yet.
    pub(super) fn parameter_count_u128(&self) -> u128 {
        self.tensors().iter().map(|t| t.shape.iter().map(|&n| n as u128).product::<u128>()).sum()
    }
}

struct List(Vec<TensorShape>);

impl List {
    fn push(&mut self, part: Part, name: impl Into<String>, shape: &[usize]) {
        self.0.push(TensorShape { name: name.into(), shape: shape.to_vec(), part });
    }

    /// A linear map or norm with its bias.
    fn with_bias(&mut self, name: &str, shape: &[usize]) {
        self.push(Part::Vision, format!("{name}.weight"), shape);
        self.push(Part::Vision, format!("{name}.bias"), &shape[..1]);
    }

    fn vision(&mut self, c: &VisionConfig) {
        let (d, patch) = (c.hidden_size, c.patch_size);
        let root = "model.vision_model";
        let patches = format!("{root}.embeddings.patch_embedding");
        self.with_bias(&patches, &[d, c.num_channels, patch, patch]);
        let positions = format!("{root}.embeddings.position_embedding.weight");
        self.push(Part::Vision, positions, &[c.grid().pow(2), d]);
        for i in 0..c.num_hidden_layers {
            let layer = format!("{root}.encoder.layers.{i}");
            self.with_bias(&format!("{layer}.layer_norm1"), &[d]);
            for map in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.with_bias(&format!("{layer}.self_attn.{map}"), &[d, d]);
            }
            self.with_bias(&format!("{layer}.layer_norm2"), &[d]);
            self.with_bias(&format!("{layer}.mlp.fc1"), &[c.intermediate_size, d]);
            self.with_bias(&format!("{layer}.mlp.fc2"), &[d, c.intermediate_size]);
        }
        self.with_bias(&format!("{root}.post_layernorm"), &[d]);
    }

    fn text(&mut self, root: &str, c: &TextConfig) {
        let d = c.hidden_size;
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        self.push(Part::Embedding, format!("{root}.embed_tokens.weight"), &[c.vocab_size, d]);
        for i in 0..c.num_hidden_layers {
            let maps: [(&str, &[usize]); 9] = [
                ("input_layernorm", &[d]),
                ("self_attn.q_proj", &[queries, d]),
                ("self_attn.k_proj", &[keys, d]),
                ("self_attn.v_proj", &[keys, d]),
                ("self_attn.o_proj", &[d, queries]),
                ("post_attention_layernorm", &[d]),
                ("mlp.gate_proj", &[c.intermediate_size, d]),
                ("mlp.up_proj", &[c.intermediate_size, d]),
                ("mlp.down_proj", &[d, c.intermediate_size]),
            ];
            for (map, shape) in maps {
                self.push(Part::Decoder, format!("{root}.layers.{i}.{map}.weight"), shape);
            }
        }
        self.push(Part::Decoder, format!("{root}.norm.weight"), &[d]);
    }
}
