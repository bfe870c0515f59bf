//! The metrics of a report paper's table in one call: ROUGE, BLEU, METEOR and `BERTScore` over a corpus
//! of texts.

use serde::{Deserialize, Serialize};

use crate::bertscore::BertScorer;
use crate::bleu::{self, BleuStats, Smoothing, tokenize_13a};
use crate::bootstrap::{Measure, Samples};
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
    bertscore: Option<BertScorer>,
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
            bertscore: None,
        }
    }

    /// Takes another set of Punkt parameters, e.g. NLTK's complete one by [`Punkt::from_dir`].
    #[must_use]
    pub fn with_punkt(self, punkt: Punkt) -> Self {
        Self { punkt, ..self }
    }

    /// Adds `BERTScore` to what is computed.
    #[must_use]
    pub fn with_bertscore(self, bertscore: BertScorer) -> Self {
        Self { bertscore: Some(bertscore), ..self }
    }

    /// Scores hypotheses against one reference each.
    ///
    /// # Errors
    /// As [`Self::samples`].
    pub fn score<H: AsRef<str>, R: AsRef<str>>(
        &self,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<TextScores, Error> {
        Ok(self.samples(hypotheses, references)?.scores())
    }

    /// The numbers of each pair, of which corpus scores and their intervals are made.
    ///
    /// # Errors
    /// [`Error::Unpaired`] if the two sides differ in number, [`Error::Encoder`] if `BERTScore`'s encoder fails.
    pub fn samples<H: AsRef<str>, R: AsRef<str>>(
        &self,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<TextSamples, Error> {
        paired(hypotheses.len(), references.len())?;
        let mut samples = TextSamples { wordnet: self.wordnet, ..TextSamples::default() };
        for (h, r) in hypotheses.iter().zip(references) {
            let (h, r) = (h.as_ref(), r.as_ref());
            samples.rouge.push(self.rouge.score(h, r));
            samples.bleu.push(BleuStats::pair(&tokenize_13a(h), &tokenize_13a(r)));
            let (h, r) = (word_tokenize(&self.punkt, h), word_tokenize(&self.punkt, r));
            samples.meteor.push(self.meteor.score(&h, &r));
        }
        if let Some(scorer) = &self.bertscore {
            samples.bertscore = Some((scorer.describe(), scorer.score(hypotheses, references)?));
        }
        Ok(samples)
    }
}

/// Numbers of each pair of a corpus.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextSamples {
    /// ROUGE of each pair.
    pub rouge: Vec<RougeScores>,
    /// BLEU's counts of each pair, on 13a tokens.
    pub bleu: Vec<BleuStats>,
    /// METEOR of each pair.
    pub meteor: Vec<f64>,
    /// Whether METEOR had `WordNet`.
    pub wordnet: bool,
    /// How `BERTScore` was computed, and that of each pair, where an encoder was at hand.
    pub bertscore: Option<(String, Vec<Prf>)>,
}

impl TextSamples {
    /// The corpus scores.
    pub fn scores(&self) -> TextScores {
        let mut stats = BleuStats::default();
        for segment in &self.bleu {
            stats += *segment;
        }
        TextScores {
            pairs: self.bleu.len(),
            rouge: RougeScores::mean(&self.rouge),
            bleu: bleu::evaluate(&stats, false).map_or(0.0, |b| b.score),
            sacrebleu: bleu::sacrebleu(&stats, Smoothing::Exp, false).score,
            meteor: mean(self.meteor.iter().copied()),
            wordnet: self.wordnet,
            bertscore: self.bertscore.as_ref().map(|(_, scores)| Prf::mean(scores)),
        }
    }

    /// The rows of a result table in the order of the `SmolVLM` report paper's Table III, five decimals as there.
    pub fn measures(&self) -> Vec<Measure> {
        let row = |name: &str, by: &str, samples| Measure::new(Metric::new(name, by), samples);
        let rouge = |name: &str, pick: fn(&RougeScores) -> f64| {
            row(name, "rouge-score 0.1.2, mean F1", Samples::Mean(self.rouge.iter().map(pick).collect()))
        };
        let meteor =
            if self.wordnet { "nltk 3.10, mean" } else { "nltk 3.10 without WordNet: exact and stem" };
        let mut rows = vec![
            rouge("ROUGE-1", |s| s.rouge1.f1),
            rouge("ROUGE-2", |s| s.rouge2.f1),
            rouge("ROUGE-L", |s| s.rouge_l.f1),
            row("BLEU", "evaluate, 13a tokens", Samples::Bleu(self.bleu.clone())),
            row("METEOR", meteor, Samples::Mean(self.meteor.clone())),
        ];
        if let Some((by, scores)) = &self.bertscore {
            let part = |name: &str, pick: fn(&Prf) -> f64| {
                row(name, by, Samples::Mean(scores.iter().map(pick).collect()))
            };
            rows.push(part("BERTScore P", |s| s.precision));
            rows.push(part("BERTScore R", |s| s.recall));
            rows.push(part("BERTScore F1", |s| s.f1));
        }
        rows
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
