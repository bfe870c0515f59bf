//! Arithmetic and cache of a model by its sizes alone, for plans without weights (spec smolvlm §4).

use serde::Serialize;

use super::{Config, Part};

/// Floating-point operations of a forward pass; a multiply-add counts two. Norms, activations and softmax
/// are left out: they are a few thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Products with weights.
    pub linear: u64,
    /// Products of queries with keys and of probabilities with values.
    pub attention: u64,
}

impl Work {
    /// The sum.
    pub fn total(self) -> u64 {
        self.linear + self.attention
    }
}

impl Config {
    /// The vision tower on `tiles` tiles; zero for a text model.
    pub fn vision_work(&self, tiles: u64) -> Work {
        let Some(image) = &self.image else { return Work::default() };
        let patches = (image.vision.grid() as u64).pow(2);
        let layers = image.vision.num_hidden_layers as u64;
        let width = image.vision.hidden_size as u64;
        Work {
            linear: 2 * tiles * patches * self.multiplied(Part::Vision),
            attention: 4 * tiles * layers * patches * patches * width,
        }
    }

    /// The connector on `tiles` tiles.
    pub fn connector_work(&self, tiles: u64) -> u64 {
        let tokens = self.image.as_ref().map_or(0, |image| tiles * image.tokens_per_tile() as u64);
        2 * tokens * self.multiplied(Part::Connector)
    }

    /// The decoder's layers on a prompt of `tokens`, attention causal; without the head, which prefill needs
    /// for the last token only.
    pub fn prefill_work(&self, tokens: u64) -> Work {
        Work {
            linear: 2 * tokens * self.multiplied(Part::Decoder),
            attention: self.attention_of_one(1) * (tokens * (tokens + 1) / 2),
        }
    }

    /// The head on one token.
    pub fn head_work(&self) -> u64 {
        2 * self.text.vocab_size as u64 * self.text.hidden_size as u64
    }

    /// One more token after `context` others, with the head.
    pub fn decode_work(&self, context: u64) -> Work {
        Work {
            linear: 2 * self.multiplied(Part::Decoder) + self.head_work(),
            attention: self.attention_of_one(context + 1),
        }
    }

    /// Bytes of keys and values of one token, for elements of `element_bytes`.
    pub fn kv_cache_bytes_per_token(&self, element_bytes: u64) -> u64 {
        let text = &self.text;
        let elements = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim;
        elements as u64 * element_bytes
    }

    /// One query of every head and layer against `keys` keys.
    fn attention_of_one(&self, keys: u64) -> u64 {
        let text = &self.text;
        4 * keys * (text.num_hidden_layers * text.num_attention_heads * text.head_dim) as u64
    }

    /// Elements of a part's matrices that every token is multiplied with: no norms, biases or position table.
    fn multiplied(&self, part: Part) -> u64 {
        let matrix = |shape: &[usize], name: &str| shape.len() > 1 && !name.contains("position_embedding");
        let tensors = self.tensors();
        tensors
            .iter()
            .filter(|t| t.part == part && matrix(&t.shape, &t.name))
            .map(super::TensorShape::elements)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three digits, as the table of spec smolvlm §4 gives them.
    fn near(found: u64, wanted: f64) {
        let relative = (found as f64 / wanted - 1.0).abs();
        assert!(relative < 0.008, "{found} against {wanted}");
    }

    #[test]
    fn the_work_table_of_the_specification() {
        let large = Config::known("SmolVLM-Instruct").unwrap();
        let vision = large.vision_work(1);
        near(vision.linear, 599e9);
        near(vision.attention, 66e9);
        near(large.vision_work(17).total(), 11.3e12);
        let prefill = large.prefill_work(1560);
        near(prefill.linear, 5.03e12);
        near(prefill.attention, 0.24e12);
        near(large.decode_work(0).total(), 3.42e9);
        assert_eq!(large.kv_cache_bytes_per_token(2), 196_608);

        let small = Config::known("SmolVLM-256M-Instruct").unwrap();
        near(small.vision_work(1).linear, 174e9);
        near(small.vision_work(1).attention, 38.7e9);
        near(small.decode_work(0).total(), 0.269e9);
        assert_eq!(small.kv_cache_bytes_per_token(2), 23_040);
        let middle = Config::known("SmolVLM-500M-Instruct").unwrap();
        near(middle.decode_work(0).total(), 0.72e9);
        assert_eq!(middle.kv_cache_bytes_per_token(2), 40_960);
    }

    #[test]
    fn a_text_model_has_no_vision_work() {
        let text = Config::known("SmolLM2-135M").unwrap();
        assert_eq!(text.vision_work(17), Work::default());
        assert_eq!(text.connector_work(17), 0);
    }
}
