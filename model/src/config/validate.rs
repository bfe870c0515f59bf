//! Sizes that no forward pass could survive are refused when the file is read.

use super::{Config, ConfigError, TextConfig, VisionConfig, VisionLanguageConfig};

/// No width, vocabulary or position count of a model this crate could hold comes near.
const LARGEST: usize = 1 << 20;
const MOST_LAYERS: usize = 1024;
const MOST_PARAMETERS: u128 = 1 << 40;

/// Collects `key`, `value` and the file's name for the errors of one section.
struct Section<'a> {
    origin: &'a str,
    name: &'a str,
}

impl Section<'_> {
    fn invalid(&self, key: &str, value: &dyn ToString, reason: impl Into<String>) -> ConfigError {
        ConfigError::invalid(self.origin, format!("{}{key}", self.name), value, reason)
    }

    fn size(&self, key: &str, value: usize, most: usize) -> Result<(), ConfigError> {
        if value == 0 || value > most {
            return Err(self.invalid(key, &value, format!("expected 1 to {most}")));
        }
        Ok(())
    }

    fn positive(&self, key: &str, value: f64) -> Result<(), ConfigError> {
        if !(value.is_finite() && value > 0.0) {
            return Err(self.invalid(key, &value, "expected a positive number"));
        }
        Ok(())
    }
}

impl Config {
    pub(crate) fn validate(&self, origin: &str) -> Result<(), ConfigError> {
        let prefix = if self.image.is_some() { "text_config." } else { "" };
        let section = Section { origin, name: prefix };
        text(&self.text, &section)?;
        if let Some(image) = &self.image {
            vision(&image.vision, &Section { origin, name: "vision_config." })?;
            connector(image, &self.text, &Section { origin, name: "" })?;
        }
        let count = self.parameter_count_u128();
        if count > MOST_PARAMETERS {
            let reason = format!("more than {MOST_PARAMETERS} parameters; a size must be wrong");
            return Err(ConfigError::invalid(
                origin,
                "sizes together",
                &format!("{count} parameters"),
                reason,
            ));
        }
        Ok(())
    }
}

fn text(c: &TextConfig, section: &Section<'_>) -> Result<(), ConfigError> {
    section.size("vocab_size", c.vocab_size, LARGEST)?;
    section.size("hidden_size", c.hidden_size, LARGEST)?;
    section.size("intermediate_size", c.intermediate_size, LARGEST)?;
    section.size("num_hidden_layers", c.num_hidden_layers, MOST_LAYERS)?;
    section.size("num_attention_heads", c.num_attention_heads, LARGEST)?;
    section.size("num_key_value_heads", c.num_key_value_heads, LARGEST)?;
    section.size("head_dim", c.head_dim, LARGEST)?;
    section.size("max_position_embeddings", c.max_position_embeddings, 1 << 28)?;
    section.positive("rms_norm_eps", c.rms_norm_eps)?;
    section.positive("rope_theta", c.rope_theta)?;
    if !c.num_attention_heads.is_multiple_of(c.num_key_value_heads) {
        let reason = format!("must divide num_attention_heads {}", c.num_attention_heads);
        return Err(section.invalid("num_key_value_heads", &c.num_key_value_heads, reason));
    }
    if !c.head_dim.is_multiple_of(2) {
        return Err(section.invalid("head_dim", &c.head_dim, "must be even: rotary positions turn pairs"));
    }
    section.size("num_attention_heads · head_dim", c.num_attention_heads * c.head_dim, LARGEST)
}

fn vision(c: &VisionConfig, section: &Section<'_>) -> Result<(), ConfigError> {
    section.size("hidden_size", c.hidden_size, LARGEST)?;
    section.size("intermediate_size", c.intermediate_size, LARGEST)?;
    section.size("num_hidden_layers", c.num_hidden_layers, MOST_LAYERS)?;
    section.size("num_attention_heads", c.num_attention_heads, LARGEST)?;
    section.size("image_size", c.image_size, 4096)?;
    section.size("patch_size", c.patch_size, c.image_size)?;
    section.positive("layer_norm_eps", c.layer_norm_eps)?;
    if c.num_channels != 3 {
        return Err(section.invalid("num_channels", &c.num_channels, "only 3 (RGB) is supported"));
    }
    if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
        let reason = format!("must divide hidden_size {}", c.hidden_size);
        return Err(section.invalid("num_attention_heads", &c.num_attention_heads, reason));
    }
    Ok(())
}

fn connector(c: &VisionLanguageConfig, text: &TextConfig, section: &Section<'_>) -> Result<(), ConfigError> {
    let grid = c.vision.grid();
    section.size("scale_factor", c.scale_factor, grid)?;
    if !grid.is_multiple_of(c.scale_factor) {
        let reason = format!(
            "must divide the {grid} patches of an edge (image_size {} / patch_size {})",
            c.vision.image_size, c.vision.patch_size
        );
        return Err(section.invalid("scale_factor", &c.scale_factor, reason));
    }
    section.size("vision hidden_size · scale_factor²", c.connector_input(), LARGEST)?;
    if c.image_token_id as usize >= text.vocab_size {
        let reason = format!("not in the vocabulary of {}", text.vocab_size);
        return Err(section.invalid("image_token_id", &c.image_token_id, reason));
    }
    Ok(())
}
