//! What `bert_score` knows of published encoders: the layer that agreed best with people on WMT16, and baselines.

use std::path::Path;

use super::Baseline;
use crate::{Error, Prf};

/// BERT and `RoBERTa` encoders of `bert_score`'s list, with their layers.
const LAYERS: [(&str, usize); 14] = [
    ("bert-base-uncased", 9),
    ("bert-large-uncased", 18),
    ("bert-base-cased-finetuned-mrpc", 9),
    ("bert-base-multilingual-cased", 9),
    ("bert-base-chinese", 8),
    ("roberta-base", 10),
    ("roberta-large", 17),
    ("roberta-large-mnli", 19),
    ("roberta-base-openai-detector", 7),
    ("roberta-large-openai-detector", 15),
    ("scibert_scivocab_uncased", 8),
    ("scibert_scivocab_cased", 9),
    ("scibert_basevocab_uncased", 9),
    ("distilroberta-base", 5),
];

/// The layer of a published encoder by its name; what stands before a `/` does not count.
pub fn default_layer(name: &str) -> Option<usize> {
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
    LAYERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, layer)| *layer)
}

/// Names that [`default_layer`] knows.
pub fn known_names() -> impl Iterator<Item = &'static str> {
    LAYERS.iter().map(|(name, _)| *name)
}

impl Baseline {
    /// English, roberta-large, layer 17 (`rescale_baseline/en/roberta-large.tsv` of `bert_score`).
    pub const ROBERTA_LARGE_17: Self =
        Self(Prf { precision: 0.831_505_84, recall: 0.831_494_1, f1: 0.831_225_75 });

    /// The built-in baseline of an encoder and layer.
    pub fn built_in(name: &str, layer: usize) -> Option<Self> {
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        (name.eq_ignore_ascii_case("roberta-large") && layer == 17).then_some(Self::ROBERTA_LARGE_17)
    }

    /// One layer of a baseline file in `bert_score`'s form: a head `LAYER,P,R,F`, then a line a layer; separated by
    /// commas or tabs.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Format`] with the line if the file has another form or lacks the layer.
    pub fn from_file(path: &Path, layer: usize) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let wrong = |line: usize, reason: String| Error::Format { path: path.into(), line, reason };
        let mut count = 0;
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            count = i + 1;
            let cells: Vec<&str> = line.split([',', '\t']).map(str::trim).collect();
            if cells[0].eq_ignore_ascii_case("layer") {
                continue;
            }
            let number = |c: usize| cells.get(c).and_then(|c| c.parse().ok()).filter(|v: &f64| v.is_finite());
            let (Ok(at), Some(p), Some(r), Some(f), 4) =
                (cells[0].parse::<usize>(), number(1), number(2), number(3), cells.len())
            else {
                return Err(wrong(i + 1, "expected LAYER, P, R and F, four numbers".into()));
            };
            if [p, r, f].iter().any(|b| *b >= 1.0) {
                return Err(wrong(i + 1, "a baseline must be below 1".into()));
            }
            if at == layer {
                return Ok(Self(Prf { precision: p, recall: r, f1: f }));
            }
        }
        Err(wrong(count, format!("the file ends without layer {layer}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_by_name() {
        assert_eq!(default_layer("roberta-large"), Some(17));
        assert_eq!(default_layer("FacebookAI/roberta-large/"), Some(17));
        assert_eq!(default_layer("/models/Bert-Base-Uncased"), Some(9));
        assert_eq!(default_layer("all-MiniLM-L6-v2"), None);
        assert_eq!(Baseline::built_in("x/roberta-large", 17), Some(Baseline::ROBERTA_LARGE_17));
        assert_eq!(Baseline::built_in("roberta-large", 16), None);
    }

    #[test]
    fn baseline_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tsv");
        let read = |text: &str, layer| {
            std::fs::write(&path, text).unwrap();
            Baseline::from_file(&path, layer).map_err(|e| e.to_string())
        };
        let wanted = Ok(Baseline(Prf { precision: 0.3, recall: 0.4, f1: 0.35 }));
        assert_eq!(read("LAYER,P,R,F\n0,0.1,0.1,0.1\n1,0.3,0.4,0.35\n", 1), wanted);
        assert_eq!(read("LAYER\tP\tR\tF\n\n1\t0.3\t0.4\t0.35\n", 1), wanted);
        for (text, said) in [
            ("LAYER,P,R,F\n0,0.1,0.1,0.1\n", "line 2: the file ends without layer 1"),
            ("LAYER,P,R,F\n1,x,0.1,0.1\n", "line 2: expected"),
            ("1,1.0,0.1,0.1\n", "below 1"),
            ("", "without layer 1"),
        ] {
            let error = read(text, 1).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
