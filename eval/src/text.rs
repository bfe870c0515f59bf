//! The metrics of a report paper's table in one call: ROUGE, BLEU and METEOR over a corpus of texts.

use serde::{Deserialize, Serialize};

use crate::bleu::{self, BleuStats, Smoothing, tokenize_13a};
use crate::error::paired;
use crate::meteor::Meteor;
use crate::ngram::mean;
use crate::punkt::Punkt;
use crate::rouge::{Rouge, RougeScores};
use crate::table::Metric;
use crate::word_tokenize::word_tokenize;
use crate::wordnet::{NoSynonyms, Synonyms, WordNet};
use crate::{Error, Prf};

/// Scores whole corpora of texts.
pub struct TextScorer {
    rouge: Rouge,
    punkt: Punkt,
    meteor: Meteor<Box<dyn Synonyms + Send + Sync>>,
    wordnet: bool,
}

impl TextScorer {
    /// With `WordNet` 3.0 METEOR equals nltk's; without it the score is lower and its name in the table says so.
    pub fn new(wordnet: Option<WordNet>) -> Self {
        let known = wordnet.is_some();
        let synonyms: Box<dyn Synonyms + Send + Sync> = match wordnet {
            Some(wordnet) => Box::new(wordnet),
            None => Box::new(NoSynonyms),
        };
        Self {
            rouge: Rouge::new(false),
            punkt: Punkt::english(),
            meteor: Meteor::new(synonyms),
            wordnet: known,
        }
    }

    /// Takes another set of Punkt parameters, e.g. NLTK's complete one by [`Punkt::from_dir`].
    #[must_use]
    pub fn with_punkt(self, punkt: Punkt) -> Self {
        Self { punkt, ..self }
    }

    /// Scores hypotheses against one reference each.
    ///
    /// # Errors
    /// [`Error::Unpaired`] if the two sides differ in number.
    pub fn score<H: AsRef<str>, R: AsRef<str>>(
        &self,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<TextScores, Error> {
        paired(hypotheses.len(), references.len())?;
        let mut stats = BleuStats::default();
        let (mut rouge, mut meteor) = (Vec::new(), Vec::new());
        for (h, r) in hypotheses.iter().zip(references) {
            let (h, r) = (h.as_ref(), r.as_ref());
            rouge.push(self.rouge.score(h, r));
            stats += BleuStats::pair(&tokenize_13a(h), &tokenize_13a(r));
            meteor.push(self.meteor.score(&word_tokenize(&self.punkt, h), &word_tokenize(&self.punkt, r)));
        }
        Ok(TextScores {
            pairs: hypotheses.len(),
            rouge: RougeScores::mean(&rouge),
            bleu: bleu::evaluate(&stats, false).map_or(0.0, |b| b.score),
            sacrebleu: bleu::sacrebleu(&stats, Smoothing::Exp, false).score,
            meteor: mean(meteor),
            wordnet: self.wordnet,
            bertscore: None,
        })
    }
}

/// Corpus scores, on 0..1 except sacrebleu.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextScores {
    /// Pairs scored.
    pub pairs: usize,
    /// Mean over pairs, no stemming.
    pub rouge: RougeScores,
    /// `evaluate`'s bleu; 0 where `evaluate` would raise (a side without any token).
    pub bleu: f64,
    /// sacrebleu's `corpus_bleu`, on 0..100.
    pub sacrebleu: f64,
    /// Mean of nltk's METEOR.
    pub meteor: f64,
    /// Whether METEOR had `WordNet`.
    pub wordnet: bool,
    /// Mean `BERTScore`, where an encoder was at hand.
    pub bertscore: Option<Prf>,
}

impl TextScores {
    /// The rows of a result table in the order of the `SmolVLM` report paper's Table III, five decimals as there.
    pub fn rows(&self) -> Vec<(Metric, f64)> {
        let row = |name: &str, by: &str, value| (Metric::new(name, by), value);
        let rouge = "rouge-score 0.1.2, mean F1";
        let meteor =
            if self.wordnet { "nltk 3.10, mean" } else { "nltk 3.10 without WordNet: exact and stem" };
        let mut rows = vec![
            row("ROUGE-1", rouge, self.rouge.rouge1.f1),
            row("ROUGE-2", rouge, self.rouge.rouge2.f1),
            row("ROUGE-L", rouge, self.rouge.rouge_l.f1),
            row("BLEU", "evaluate, 13a tokens", self.bleu),
            row("METEOR", meteor, self.meteor),
        ];
        if let Some(b) = self.bertscore {
            let by = "bert_score, not rescaled";
            rows.push(row("BERTScore P", by, b.precision));
            rows.push(row("BERTScore R", by, b.recall));
            rows.push(row("BERTScore F1", by, b.f1));
        }
        rows
    }
}
