//! An inspection as text.

use std::fmt::Write as _;

use super::Inspection;
use crate::output::{Align, bytes, flops, grouped, table};

impl Inspection {
    /// Architecture, parts, memory, work and what the file has otherwise.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}", self.origin, self.config.model_type.name());
        text.push_str(&self.architecture());
        let _ = write!(text, "\n{}\n{}", self.sizes(), self.costs());
        text.push_str(&self.plans.text(self.tensors.is_some()));
        if let Some(file) = self.file_text() {
            let _ = write!(text, "\n{file}");
        }
        if let Some(list) = &self.tensors {
            let rows: Vec<_> = list
                .iter()
                .map(|t| vec![t.name.clone(), format!("{:?}", t.shape), grouped(t.elements())])
                .collect();
            let head = [("tensor", Align::Left), ("shape", Align::Left), ("parameters", Align::Right)];
            let _ = write!(text, "\n{}", table(&head, &rows));
        }
        text
    }

    fn architecture(&self) -> String {
        let mut rows = Vec::new();
        if let Some(image) = &self.config.image {
            let v = &image.vision;
            rows.push(vec![
                "  vision".into(),
                format!(
                    "{} layers, {} wide, {} heads of {}, feed-forward {}; tiles of {} pixels, {} × {} patches of {}",
                    v.num_hidden_layers,
                    v.hidden_size,
                    v.num_attention_heads,
                    v.head_dim(),
                    v.intermediate_size,
                    v.image_size,
                    v.grid(),
                    v.grid(),
                    v.patch_size
                ),
            ]);
            let s = image.scale_factor;
            rows.push(vec![
                "  connector".into(),
                format!("{s} × {s} patches to a token, {} tokens a tile", image.tokens_per_tile()),
            ]);
        }
        let t = &self.config.text;
        rows.push(vec![
            "  decoder".into(),
            format!(
                "{} layers, {} wide, {} heads of {} ({} for keys and values), feed-forward {}",
                t.num_hidden_layers,
                t.hidden_size,
                t.num_attention_heads,
                t.head_dim,
                t.num_key_value_heads,
                t.intermediate_size
            ),
        ]);
        let tied = if self.config.tie_word_embeddings { "the embedding" } else { "a matrix of its own" };
        rows.push(vec![
            "  text".into(),
            format!(
                "{} tokens, {} positions; head: {tied}",
                grouped(t.vocab_size as u64),
                grouped(t.max_position_embeddings as u64)
            ),
        ]);
        table(&[("", Align::Left), ("", Align::Left)], &rows)
    }

    fn sizes(&self) -> String {
        let head = [
            ("part", Align::Left),
            ("tensors", Align::Right),
            ("parameters", Align::Right),
            ("f32", Align::Right),
            ("bf16", Align::Right),
        ];
        let rows: Vec<_> = self
            .parts
            .iter()
            .chain([&self.total])
            .map(|part| {
                vec![
                    part.part.to_owned(),
                    part.tensors.to_string(),
                    grouped(part.parameters),
                    bytes(part.f32_bytes),
                    bytes(part.bf16_bytes),
                ]
            })
            .collect();
        table(&head, &rows)
    }

    fn costs(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String, note: String| rows.push(vec![name.to_owned(), value, note]);
        if let Some(image) = &self.image {
            let cut = if image.rows == 0 {
                "the image as one tile".into()
            } else {
                format!("{} × {} tiles and the image as a whole", image.rows, image.cols)
            };
            row(
                "image",
                format!("{} {}", image.tiles, if image.tiles == 1 { "tile" } else { "tiles" }),
                format!("{} × {} pixels: {cut}; {} tokens", image.width, image.height, grouped(image.tokens)),
            );
            row(
                "vision",
                flops(image.vision.total()),
                format!("linear {}, attention {}", flops(image.vision.linear), flops(image.vision.attention)),
            );
            row("connector", flops(image.connector), String::new());
        }
        let prefill = &self.prefill;
        row(
            "decoder",
            flops(prefill.decoder.total()),
            format!(
                "{} prompt tokens ({} image, {} text): linear {}, causal attention {}",
                grouped(prefill.tokens),
                grouped(prefill.image_tokens),
                grouped(prefill.text_tokens),
                flops(prefill.decoder.linear),
                flops(prefill.decoder.attention)
            ),
        );
        row("prefill", flops(prefill.total_flops), "all of the above and the head on the last token".into());
        let decode = &self.decode_per_token;
        row(
            "decode",
            flops(decode.total()),
            format!(
                "a token, with the head: linear {}, attention to the prompt {}",
                flops(decode.linear),
                flops(decode.attention)
            ),
        );
        let memory = &self.memory;
        row("weights", bytes(memory.weight_bytes), format!("in {}", memory.dtype));
        row(
            "KV cache",
            bytes(memory.kv_cache_bytes_of_prompt),
            format!("{} bytes a token in {}", grouped(memory.kv_cache_bytes_per_token), memory.dtype),
        );
        let head = [("", Align::Left), ("", Align::Right), ("", Align::Left)];
        table(&head, &rows)
    }

    fn file_text(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        let dtypes: Vec<_> = file.dtypes.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let mut text =
            format!("file: {} tensors ({}), {}", file.tensors, dtypes.join(", "), bytes(file.bytes as u64));
        text.push_str(if file.fits() { "; names and shapes agree\n" } else { "\n" });
        for (what, names) in
            [("missing", &file.missing), ("wrong shape", &file.wrong_shape), ("not used", &file.unknown)]
        {
            for name in names {
                let _ = writeln!(text, "  {what}: {name}");
            }
        }
        Some(text)
    }
}
