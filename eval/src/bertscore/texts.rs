//! `BERTScore` of texts, over an encoder that the caller brings.

use std::collections::BTreeSet;

use super::{Baseline, Embeddings, Idf, greedy};
use crate::error::paired;
use crate::{Error, Prf};

/// A text encoder with its tokenizer. This crate knows no tensors; whoever has a model implements this.
pub trait TextEncoder {
    /// Model and layer, as they are printed beside the score (`roberta-large L17`).
    fn name(&self) -> &str;
    /// Width of a token vector.
    fn width(&self) -> usize;
    /// Ids of a text, the special tokens at both ends included, cut to what the encoder takes.
    ///
    /// # Errors
    /// Whatever keeps the text from being tokenised, in words.
    fn ids(&self, text: &str) -> Result<Vec<u32>, String>;
    /// Token vectors `[tokens, width]`, row-major, of each text. Texts of one call are of similar length.
    ///
    /// # Errors
    /// Whatever keeps the encoder from running, in words.
    fn vectors(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, String>;
}

/// Pairs whose vectors are in memory at a time.
const PAIRS: usize = 128;
/// Tokens of a batch, padding included.
const BATCH_TOKENS: usize = 4096;

/// Scores texts as `bert_score` does.
pub struct BertScorer {
    encoder: Box<dyn TextEncoder>,
    idf: bool,
    baseline: Option<Baseline>,
}

impl BertScorer {
    /// Every word weighs 1, and scores are not rescaled: `bert_score`'s defaults.
    pub fn new(encoder: Box<dyn TextEncoder>) -> Self {
        Self { encoder, idf: false, baseline: None }
    }

    /// Weighs pieces by their inverse document frequency in the references of a call.
    #[must_use]
    pub fn with_idf(self, idf: bool) -> Self {
        Self { idf, ..self }
    }

    /// Rescales each pair's scores; below the baseline they are negative.
    #[must_use]
    pub fn with_baseline(self, baseline: Option<Baseline>) -> Self {
        Self { baseline, ..self }
    }

    /// What the scores are, for a table: `bert_score, roberta-large L17, idf, not rescaled`.
    pub fn describe(&self) -> String {
        let idf = if self.idf { ", idf" } else { "" };
        let scale = if self.baseline.is_some() { "rescaled" } else { "not rescaled" };
        format!("bert_score, {}{idf}, {scale}", self.encoder.name())
    }

    /// Score of each pair. White space around a text is not read; a side without words gives zeros (before
    /// rescaling).
    ///
    /// # Errors
    /// [`Error::Unpaired`], or [`Error::Encoder`] if the encoder fails.
    pub fn score<H: AsRef<str>, R: AsRef<str>>(
        &self,
        hypotheses: &[H],
        references: &[R],
    ) -> Result<Vec<Prf>, Error> {
        paired(hypotheses.len(), references.len())?;
        let ids = |text: &str| self.encoder.ids(text.trim()).map_err(Error::Encoder);
        let hyp: Vec<Vec<u32>> = hypotheses.iter().map(|t| ids(t.as_ref())).collect::<Result<_, _>>()?;
        let re: Vec<Vec<u32>> = references.iter().map(|t| ids(t.as_ref())).collect::<Result<_, _>>()?;
        let idf = self.idf.then(|| Idf::fit(&re));
        let mut scores = Vec::with_capacity(hyp.len());
        for (hyp, re) in hyp.chunks(PAIRS).zip(re.chunks(PAIRS)) {
            let known = Vectors::of(&*self.encoder, hyp.iter().chain(re))?;
            for (h, r) in hyp.iter().zip(re) {
                let (hw, rw) = (weights(h, idf.as_ref()), weights(r, idf.as_ref()));
                let score = greedy(known.embeddings(h, &hw), known.embeddings(r, &rw))?;
                scores.push(self.baseline.map_or(score, |b| b.rescale(score)));
            }
        }
        Ok(scores)
    }
}

/// 1 or the piece's idf, 0 for the special tokens at both ends.
fn weights(ids: &[u32], idf: Option<&Idf>) -> Vec<f32> {
    let last = ids.len().saturating_sub(1);
    let weight = |(i, &id): (usize, &u32)| match idf {
        _ if i == 0 || i == last => 0.0,
        Some(idf) => idf.weight(id),
        None => 1.0,
    };
    ids.iter().enumerate().map(weight).collect()
}

/// Vectors of a set of texts, each encoded once.
struct Vectors<'t> {
    /// Sorted by length, then ids, as [`Self::key`] has it.
    texts: Vec<&'t [u32]>,
    vectors: Vec<Vec<f32>>,
    width: usize,
}

impl<'t> Vectors<'t> {
    fn key(ids: &[u32]) -> (usize, &[u32]) {
        (ids.len(), ids)
    }

    fn of(encoder: &dyn TextEncoder, texts: impl Iterator<Item = &'t Vec<u32>>) -> Result<Self, Error> {
        let texts: Vec<&[u32]> = texts
            .map(|ids| Self::key(ids))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|(_, ids)| ids)
            .collect();
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = &texts[..];
        while !rest.is_empty() {
            // Lengths rise, so the batch's last text is its longest.
            let fits = |n: &usize| n * rest[n - 1].len() <= BATCH_TOKENS;
            let n = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
            let (batch, after) = rest.split_at(n);
            let found = encoder.vectors(batch).map_err(Error::Encoder)?;
            if found.len() != n {
                let what = format!("vectors of {}, one matrix a text", encoder.name());
                return Err(Error::Shape { what, expected: n, found: found.len() });
            }
            vectors.extend(found);
            rest = after;
        }
        Ok(Self { texts, vectors, width: encoder.width() })
    }

    fn embeddings<'v>(&'v self, ids: &[u32], weights: &'v [f32]) -> Embeddings<'v> {
        let found = self.texts.binary_search_by_key(&Self::key(ids), |text| Self::key(text));
        let values = found.map_or(&[][..], |i| &self.vectors[i][..]);
        Embeddings { values, dim: self.width, weights }
    }
}
