//! Memory of a model in 4 bits, and of a training step with an adapter on it, by sizes alone (spec smolvlm §7).
//!
//! # The formula
//!
//! Bytes of a step = weights + adapter + gradients + optimiser + activations, where `P` counts the adapter's parameters:
//!
//! * weights: of a quantised layer of `n` values ⌈n/2⌉ codes, ⌈n/64⌉ scales of one byte and 4·⌈blocks/256⌉ of the second
//!   level (4·⌈n/64⌉ without double quantisation); every other parameter in the type of the rest;
//! * adapter 4·P, its gradients 4·P, `AdamW` 8·P, or with 8-bit states 2·P + 8·⌈P/256⌉;
//! * activations: what the tape keeps of each layer, `T` rows of width `d` in the stream's type of `s` bytes and in the
//!   compute type of `c` bytes, feed-forward width `i`, query and key widths `q` and `k`, `h` heads, rank `r`:
//!   * decoder: 2·T·d·s (inputs of the norms) + copies·T·d·c (inputs of q, k, v, gate, up that have a term; one copy for
//!     each group where s = c) + T·(2q + 2k)·c + 4·T·h (attention) + 2·T·i·s (gate and up) + T·i·c (input of down)
//!     \+ terms·T·r·c;
//!   * vision: the same without the gate: T·i·s for the activation's input, nothing for layers without a term;
//!   * with checkpointing the layer's input T·d·s only, and the above once, for the largest layer, while it is computed
//!     again;
//! * while a layer runs backward, gradients of its widest values: decoder 3·T·i·s + T·i·c, vision T·i·(s + c);
//! * loss: per counted token three rows of the vocabulary in f32 (logits, probabilities, gradient) and one in `c`;
//! * connector: pixel-shuffled features and tokens, with their gradients.
//!
//! Allocator slack, kernels' scratch memory and the images on their way are not in it.

use engine::QuantConfig;
use serde::Serialize;

use super::{Config, TextConfig, VisionConfig};
use crate::lora::{Target, TargetKind};
use crate::quantize::skips;

/// Sizes of a model whose linear layers are in 4-bit blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuantizedSizes {
    /// Quantised layers.
    pub layers: u64,
    /// Their weights.
    pub weights: u64,
    /// Bytes of codes.
    pub code_bytes: u64,
    /// Bytes of first-level scales.
    pub scale_bytes: u64,
    /// Bytes of second-level scales.
    pub second_level_bytes: u64,
    /// Parameters that stay as they are.
    pub other_parameters: u64,
}

impl QuantizedSizes {
    /// Bytes of the quantised layers.
    pub fn quantized_bytes(&self) -> u64 {
        self.code_bytes + self.scale_bytes + self.second_level_bytes
    }

    /// Bits for each quantised weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.quantized_bytes() as f64 / (self.weights as f64).max(1.0)
    }

    /// Bytes of the model with the rest in elements of `element` bytes.
    pub fn total_bytes(&self, element: u64) -> u64 {
        self.quantized_bytes() + self.other_parameters * element
    }
}

/// A training step to plan for.
#[derive(Clone, Copy, Debug)]
pub struct TrainingStep {
    /// Samples of a micro-batch.
    pub batch: u64,
    /// Tiles of a sample.
    pub tiles: u64,
    /// Tokens of a sample, those of its image included.
    pub tokens: u64,
    /// Tokens of a sample that the loss counts.
    pub counted: u64,
    /// Keep only each layer's input.
    pub checkpointing: bool,
    /// Bytes of an element of the residual stream and of what is not quantised.
    pub stream: u64,
    /// Bytes of an element that products are made in.
    pub compute: u64,
    /// `AdamW` states in 8 bits.
    pub eight_bit: bool,
}

/// Bytes of a training step, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// The frozen model.
    pub weights: u64,
    /// Factors of the adapter.
    pub adapter: u64,
    /// Their gradients.
    pub gradients: u64,
    /// Moments of the optimiser.
    pub optimizer: u64,
    /// What the tape keeps of the layers.
    pub kept: u64,
    /// The layer that runs backward: what is computed again, and gradients.
    pub layer: u64,
    /// Logits and what belongs to the loss.
    pub loss: u64,
    /// The connector's input and output.
    pub connector: u64,
}

impl TrainingMemory {
    /// The peak: layers run backward when the loss is done, so the larger of the two counts.
    pub fn total(&self) -> u64 {
        let Self { weights, adapter, gradients, optimizer, kept, layer, loss, connector } = *self;
        weights + adapter + gradients + optimizer + kept + connector + layer.max(loss)
    }
}

/// What the tape keeps of a layer, and what its backward pass adds.
#[derive(Clone, Copy)]
struct LayerBytes {
    kept: u64,
    transient: u64,
}

impl Config {
    /// Sizes with all linear layers quantised but those that [`skips`] finds in `skip`.
    pub fn quantized_sizes(&self, config: &QuantConfig, skip: &[String]) -> QuantizedSizes {
        let mut sizes =
            QuantizedSizes { other_parameters: self.parameter_count().total(), ..Default::default() };
        for (_, [out, inner]) in self.linears().into_iter().filter(|(path, _)| !skips(path, skip)) {
            let n = (out * inner) as u64;
            let blocks = n.div_ceil(config.block as u64);
            sizes.layers += 1;
            sizes.weights += n;
            sizes.other_parameters -= n;
            sizes.code_bytes += n.div_ceil(2);
            sizes.scale_bytes += if config.double { blocks } else { 4 * blocks };
            sizes.second_level_bytes += if config.double { 4 * blocks.div_ceil(256) } else { 0 };
        }
        sizes
    }

    /// Memory of a step that trains the `targets` on quantised weights: the formula at the head of this module.
    pub fn training_memory(
        &self,
        sizes: &QuantizedSizes,
        targets: &[Target],
        step: &TrainingStep,
    ) -> TrainingMemory {
        let parameters: u64 = targets.iter().map(Target::parameters).sum();
        let states =
            if step.eight_bit { 2 * parameters + 8 * parameters.div_ceil(256) } else { 8 * parameters };
        let text = (text_layer(&self.text, targets, step), self.text.num_hidden_layers as u64);
        let rows = step.batch * step.tokens;
        let text_input = rows * self.text.hidden_size as u64 * step.stream;
        let mut parts = vec![(text.0, text.1, text_input)];
        let mut connector = 0;
        if let Some(image) = &self.image {
            let v = &image.vision;
            let rows = step.batch * step.tiles * (v.grid() as u64).pow(2);
            let input = rows * v.hidden_size as u64 * step.stream;
            parts.push((vision_layer(v, targets, step), v.num_hidden_layers as u64, input));
            let tokens = step.batch * step.tiles * image.tokens_per_tile() as u64;
            let width = (image.connector_input() + self.text.hidden_size) as u64;
            connector = 2 * tokens * width * step.stream;
        }
        let (mut kept, mut layer) = (0, 0);
        for (bytes, layers, input) in parts {
            if step.checkpointing {
                kept += layers * input;
                layer = layer.max(bytes.kept + bytes.transient);
            } else {
                kept += layers * bytes.kept;
                layer = layer.max(bytes.transient);
            }
        }
        TrainingMemory {
            weights: sizes.total_bytes(step.stream),
            adapter: 4 * parameters,
            gradients: 4 * parameters,
            optimizer: states,
            kept,
            layer,
            loss: step.batch * step.counted * self.text.vocab_size as u64 * (12 + step.compute),
            connector,
        }
    }
}

/// Number of terms in one layer of a tower whose path ends in one of `names`, and the sum of their ranks.
fn terms(targets: &[Target], tower: &str, names: &[&str]) -> (u64, u64) {
    let ranks: Vec<u64> = targets
        .iter()
        .filter(|t| t.path.contains(tower) && names.iter().any(|n| t.path.ends_with(n)))
        .filter_map(|t| match t.kind {
            TargetKind::Lora { rank, .. } => Some(rank as u64),
            TargetKind::Full => None,
        })
        .collect();
    (ranks.len() as u64, ranks.iter().sum())
}

/// Copies of an input that `with` of a layer's maps keep: each casts it for itself where the types differ.
fn copies(with: u64, step: &TrainingStep) -> u64 {
    if step.stream == step.compute { with.min(1) } else { with }
}

fn text_layer(c: &TextConfig, targets: &[Target], step: &TrainingStep) -> LayerBytes {
    let (layers, rows) = (c.num_hidden_layers.max(1) as u64, step.batch * step.tokens);
    let per_layer = |names: &[&str]| {
        let (count, rank) = terms(targets, "layers.", names);
        let (seen, seen_rank) = terms(targets, "vision_model", names);
        ((count - seen) / layers, (rank - seen_rank) / layers)
    };
    let (d, i) = (c.hidden_size as u64, c.intermediate_size as u64);
    let queries = (c.num_attention_heads * c.head_dim) as u64;
    let keys = (c.num_key_value_heads * c.head_dim) as u64;
    let (qkv, up, down) = (
        per_layer(&["q_proj", "k_proj", "v_proj"]),
        per_layer(&["gate_proj", "up_proj"]),
        per_layer(&["down_proj"]),
    );
    let ranks = qkv.1 + up.1 + down.1 + per_layer(&["o_proj"]).1;
    let (s, c_bytes) = (step.stream, step.compute);
    let kept = 2 * d * s
        + (copies(qkv.0, step) + copies(up.0, step)) * d * c_bytes
        + (2 * queries + 2 * keys) * c_bytes
        + 4 * c.num_attention_heads as u64
        + 2 * i * s
        + down.0.min(1) * i * c_bytes
        + ranks * c_bytes;
    LayerBytes { kept: rows * kept, transient: rows * (3 * i * s + i * c_bytes) }
}

fn vision_layer(v: &VisionConfig, targets: &[Target], step: &TrainingStep) -> LayerBytes {
    let layers = v.num_hidden_layers.max(1) as u64;
    let rows = step.batch * step.tiles * (v.grid() as u64).pow(2);
    let per_layer = |names: &[&str]| {
        let (count, rank) = terms(targets, "vision_model", names);
        (count / layers, rank / layers)
    };
    let (d, i) = (v.hidden_size as u64, v.intermediate_size as u64);
    let (qkv, fc1, fc2) =
        (per_layer(&["q_proj", "k_proj", "v_proj"]), per_layer(&["fc1"]), per_layer(&["fc2"]));
    let ranks = qkv.1 + fc1.1 + fc2.1 + per_layer(&["out_proj"]).1;
    let (s, c_bytes) = (step.stream, step.compute);
    let kept = 2 * d * s
        + (copies(qkv.0, step) + copies(fc1.0, step)) * d * c_bytes
        + 4 * d * c_bytes
        + 4 * v.num_attention_heads as u64
        + i * s
        + fc2.0.min(1) * i * c_bytes
        + ranks * c_bytes;
    LayerBytes { kept: rows * kept, transient: rows * i * (s + c_bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::LoraConfig;
    use crate::quantize::SKIPPED;

    fn targets(config: &Config, lora: &LoraConfig) -> Vec<Target> {
        let linears = config.linears();
        lora.targets(linears.iter().map(|(path, dims)| (path.as_str(), *dims))).unwrap()
    }

    #[test]
    fn the_numbers_of_the_specification() {
        let config = Config::known("SmolVLM-Instruct").unwrap();
        let skip = SKIPPED.map(str::to_owned);
        let sizes = config.quantized_sizes(&QuantConfig::default(), &skip);
        assert_eq!((sizes.layers, sizes.weights, sizes.other_parameters), (331, 2_042_916_864, 203_356_016));
        assert_eq!(sizes.code_bytes, 1_021_458_432);
        assert_eq!(sizes.second_level_bytes, 4 * 124_710);
        assert!((sizes.scale_bytes as f64 / 31.9e6 - 1.0).abs() < 2e-3, "{sizes:?}");
        assert!((sizes.bits_per_weight() - 4.127).abs() < 5e-4);
        assert!((sizes.total_bytes(2) as f64 / 1.46e9 - 1.0).abs() < 5e-3);
        assert!((sizes.total_bytes(4) as f64 / 1.87e9 - 1.0).abs() < 5e-3);

        for (name, lora, modules, parameters) in [
            ("SmolVLM-Instruct", LoraConfig::default(), 249, 10_536_960),
            ("SmolVLM-Instruct", LoraConfig { use_dora: true, ..LoraConfig::default() }, 249, 11_269_248),
            ("SmolVLM-256M-Instruct", LoraConfig::default(), 246, 2_884_608),
            ("SmolVLM-500M-Instruct", LoraConfig::default(), 260, 4_784_128),
        ] {
            let config = Config::known(name).unwrap();
            let found = targets(&config, &lora);
            assert_eq!(
                (found.len(), found.iter().map(Target::parameters).sum::<u64>()),
                (modules, parameters)
            );
        }
    }

    #[test]
    fn a_step_of_the_paper_fits_its_machine() {
        let config = Config::known("SmolVLM-Instruct").unwrap();
        let sizes = config.quantized_sizes(&QuantConfig::default(), &SKIPPED.map(str::to_owned));
        let targets = targets(&config, &LoraConfig::default());
        let step = TrainingStep {
            batch: 1,
            tiles: 17,
            tokens: 1780,
            counted: 400,
            checkpointing: true,
            stream: 4,
            compute: 2,
            eight_bit: false,
        };
        let memory = config.training_memory(&sizes, &targets, &step);
        assert_eq!(memory.optimizer, 8 * 10_536_960);
        // Inputs of 27 layers of 17·729 rows and of 24 of 1780.
        assert_eq!(memory.kept, 4 * (27 * 17 * 729 * 1152 + 24 * 1780 * 2048));
        assert!(memory.total() < 10 << 30, "{memory:?}");
        let all = config.training_memory(&sizes, &targets, &TrainingStep { checkpointing: false, ..step });
        assert!(all.total() > 2 * memory.total() && all.total() < 40 << 30, "{all:?}");
        let eight = config.training_memory(&sizes, &targets, &TrainingStep { eight_bit: true, ..step });
        assert!(memory.optimizer > 3 * eight.optimizer);
    }
}
