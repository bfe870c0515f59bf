//! `BERTScore` of texts, over an encoder of fixed word vectors.

use std::cell::Cell;
use std::rc::Rc;

use eval::bertscore::{Baseline, BertScorer, TextEncoder};
use eval::text::TextScorer;
use eval::{Error, Prf};
use proptest::prelude::*;

/// A vector for each word that does not depend on its neighbours; ids 0 and 1 are the special tokens.
struct Words {
    calls: Rc<Cell<usize>>,
}

impl TextEncoder for Words {
    fn name(&self) -> &'static str {
        "words L0"
    }

    fn width(&self) -> usize {
        3
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        assert_eq!(text, text.trim());
        if text.contains("poison") {
            return Err("poison has no ids".into());
        }
        let words = text.split_whitespace().map(|w| 2 + w.bytes().map(u32::from).sum::<u32>() % 50);
        Ok(std::iter::once(0).chain(words).chain([1]).collect())
    }

    fn vectors(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        self.calls.set(self.calls.get() + texts.len());
        let vector = |&id: &u32| {
            let x = id as f32;
            [(x * 0.7).sin(), (x * 1.3).cos(), (x * 0.31).sin() + 0.1]
        };
        Ok(texts.iter().map(|ids| ids.iter().flat_map(vector).collect()).collect())
    }
}

fn scorer() -> BertScorer {
    BertScorer::new(Box::new(Words { calls: Rc::default() }))
}

#[test]
fn equal_texts_score_one_and_empty_ones_nothing() {
    let scores =
        scorer().score(&[" clear lungs ", "", "clear", ""], &["clear lungs", "clear", " ", ""]).unwrap();
    assert!((scores[0].f1 - 1.0).abs() < 1e-6, "{scores:?}");
    assert_eq!(scores[1..], [Prf::default(); 3]);
}

#[test]
fn each_text_is_encoded_once_and_however_many_there_are() {
    let calls = Rc::new(Cell::new(0));
    let scorer = BertScorer::new(Box::new(Words { calls: calls.clone() }));
    let texts: Vec<String> = (0..100).map(|i| format!("word{} again", i % 5)).collect();
    let scores = scorer.score(&texts, &texts).unwrap();
    assert_eq!(calls.get(), 5);
    assert!(scores.iter().all(|s| (s.f1 - 1.0).abs() < 1e-6));
}

#[test]
fn words_of_every_reference_weigh_nothing_with_idf() {
    let references = ["the lungs", "the heart"];
    let plain = scorer().score(&["the spine", "the heart"], &references).unwrap();
    let idf = scorer().with_idf(true);
    assert!(idf.describe().contains("words L0, idf, not rescaled"));
    let weighed = idf.score(&["the spine", "the heart"], &references).unwrap();
    assert!(weighed[0].precision < plain[0].precision);
    assert!((weighed[1].f1 - 1.0).abs() < 1e-6);
    // Only such words: nothing is left to score.
    assert_eq!(idf.score(&["the", "the"], &["the", "the"]).unwrap(), [Prf::default(); 2]);
}

#[test]
fn rescaling_is_done_pair_by_pair_after_the_zeros() {
    let base = Prf { precision: 0.5, recall: 0.6, f1: 0.55 };
    let rescaled = scorer().with_baseline(Some(Baseline(base)));
    let scores = rescaled.score(&["clear lungs", ""], &["clear lungs", "clear"]).unwrap();
    assert!((scores[0].precision - 1.0).abs() < 1e-5);
    assert_eq!(scores[1], Baseline(base).rescale(Prf::default()));
    assert!(rescaled.describe().ends_with(", rescaled"));
}

#[test]
fn errors_of_the_encoder_come_through() {
    let error = scorer().score(&["poison"], &["x"]).unwrap_err();
    assert!(matches!(&error, Error::Encoder(why) if why.contains("no ids")), "{error}");
    assert!(matches!(scorer().score(&["a"], &["a", "b"]), Err(Error::Unpaired { .. })));
}

#[test]
fn it_becomes_three_rows_of_the_table() {
    let texts = TextScorer::new(None).with_bertscore(scorer());
    let samples = texts.samples(&["clear lungs", "no effusion"], &["clear lungs", "an effusion"]).unwrap();
    let rows = samples.measures();
    let names: Vec<&str> = rows.iter().map(|m| m.metric.name.as_str()).collect();
    assert_eq!(names[5..], ["BERTScore P", "BERTScore R", "BERTScore F1"]);
    assert_eq!(rows[5].metric.implementation, "bert_score, words L0, not rescaled");
    assert!((rows[7].value() - samples.scores().bertscore.unwrap().f1).abs() < 1e-12);
}

proptest! {
    #[test]
    fn swapping_the_sides_swaps_precision_and_recall(
        pairs in prop::collection::vec(("[a-f]{1,4}( [a-f]{1,4}){0,6}", "[a-f]{1,4}( [a-f]{1,4}){0,6}"), 1..5),
    ) {
        let (a, b): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        let (ab, ba) = (scorer().score(&a, &b).unwrap(), scorer().score(&b, &a).unwrap());
        for (x, y) in ab.iter().zip(&ba) {
            prop_assert!((x.precision - y.recall).abs() < 1e-6 && (x.recall - y.precision).abs() < 1e-6);
            prop_assert!(x.precision <= 1.0 + 1e-5 && x.recall <= 1.0 + 1e-5);
        }
    }
}
