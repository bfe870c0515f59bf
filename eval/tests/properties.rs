//! What must hold for any text: scores lie on 0..1, identity is the maximum, swapping the sides swaps precision and
//! recall, and nothing panics.

use eval::bleu::{self, BleuStats, Smoothing, tokenize_13a};
use eval::clinical::{self, Label, Uncertain};
use eval::meteor::Meteor;
use eval::punkt::Punkt;
use eval::rouge::{Rouge, RougeScores};
use eval::word_tokenize::word_tokenize;
use eval::wordnet::NoSynonyms;
use eval::{Prf, bertscore, chinese, coco};
use proptest::prelude::*;

/// Words of a report with the marks that tokenizers treat specially, or anything at all.
fn texts() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "No",
        "the",
        "lungs",
        "effusion",
        "effusions",
        "3.5",
        "x_ray",
        "Dr.",
        "can't",
        "'tis",
        "\"clear\"",
        "-",
        "--",
        "...",
        ".",
        "?",
        "(see",
        ")",
        "&amp;",
        "widen-\n",
        "\n",
        "clear.",
        "No",
        "双肺",
        "İ",
        "K",
        "…",
        "'",
        "ies",
    ]);
    prop_oneof![
        prop::collection::vec(word, 0..25).prop_map(|w| w.join(" ")),
        any::<String>(),
        "[a-z.'\" ?!,()-]{0,40}",
    ]
}

fn all(s: &RougeScores) -> [Prf; 4] {
    [s.rouge1, s.rouge2, s.rouge_l, s.rouge_lsum]
}

fn on_unit(v: f64) -> bool {
    (0.0..=1.0 + 1e-9).contains(&v)
}

proptest! {
    #[test]
    fn rouge_ranges_identity_and_symmetry(a in texts(), b in texts(), stem: bool) {
        let rouge = Rouge::new(stem);
        let (ab, ba) = (rouge.score(&a, &b), rouge.score(&b, &a));
        // ROUGE-Lsum is not symmetric: the union is taken over lines of the reference.
        for (s, t) in all(&ab).iter().zip(&all(&ba)).take(3) {
            prop_assert_eq!((s.precision, s.recall), (t.recall, t.precision));
            prop_assert!((s.f1 - t.f1).abs() < 1e-12);
        }
        for s in all(&ab) {
            prop_assert!(on_unit(s.precision) && on_unit(s.recall) && on_unit(s.f1));
        }
        let tokens = rouge.tokenize(&a).len();
        let own = rouge.score(&a, &a);
        let found = all(&own).map(|s| s.f1 > 1.0 - 1e-12);
        prop_assert_eq!(found, [tokens > 0, tokens > 1, tokens > 0, tokens > 0]);
        prop_assert!(ab.rouge2.f1 <= ab.rouge1.f1 + 1.0 / tokens.max(1) as f64);
        prop_assert!(ab.rouge_l.f1 <= ab.rouge1.f1 + 1e-12);
    }

    #[test]
    fn bleu_ranges_and_identity(a in texts(), b in texts()) {
        let (x, y) = (tokenize_13a(&a), tokenize_13a(&b));
        let stats = BleuStats::pair(&x, &y);
        let plain = bleu::evaluate(&stats, false);
        prop_assert_eq!(plain.is_none(), x.is_empty() || y.is_empty());
        if let Some(p) = plain {
            prop_assert!(on_unit(p.score) && on_unit(p.brevity_penalty));
        }
        for smoothing in [Smoothing::None, Smoothing::Exp, Smoothing::Floor(0.1), Smoothing::AddK(1.0)] {
            let s = bleu::sacrebleu(&stats, smoothing, true).score;
            prop_assert!((0.0..=100.000_001).contains(&s), "{smoothing:?} {s}");
        }
        let nltk = bleu::nltk_segment(&x, &[&y]);
        prop_assert!(on_unit(bleu::nltk(&nltk, false)) && on_unit(bleu::nltk(&nltk, true)));
        let own = BleuStats::pair(&x, &x);
        if x.len() >= 4 {
            prop_assert!((bleu::evaluate(&own, false).unwrap().score - 1.0).abs() < 1e-9);
        }
        if !x.is_empty() {
            prop_assert!((bleu::sacrebleu(&own, Smoothing::Exp, true).score - 100.0).abs() < 1e-9);
        }
        // The tokenizer only moves white space (after entities and hyphenation): a second run changes no token.
        prop_assert!(x.iter().all(|t| !t.is_empty() && !t.contains(char::is_whitespace)));
    }

    #[test]
    fn meteor_and_nltk_tokens(a in texts(), b in texts()) {
        let punkt = Punkt::english();
        let (x, y) = (word_tokenize(&punkt, &a), word_tokenize(&punkt, &b));
        let meteor = Meteor::new(NoSynonyms);
        prop_assert!(on_unit(meteor.score(&x, &y)));
        let alignment = meteor.align(&x, &y);
        let distinct: std::collections::HashSet<_> = alignment.iter().map(|p| p.1).collect();
        prop_assert_eq!(distinct.len(), alignment.len());
        prop_assert_eq!(alignment.len(), meteor.align(&y, &x).len());
        if !x.is_empty() {
            let m = x.len() as f64;
            prop_assert!((meteor.score(&x, &x) - (1.0 - 0.5 / m.powi(3))).abs() < 1e-9);
        }
        let letters = |t: &str| t.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
        prop_assert_eq!(letters(&x.concat()), letters(&a));
    }

    #[test]
    fn punkt_loses_no_letter(a in texts()) {
        let punkt = Punkt::english();
        let dense = |t: &str| t.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        prop_assert_eq!(dense(&punkt.sentences(&a).concat()), dense(&a));
    }

    #[test]
    fn coco_and_chinese(a in texts(), b in texts()) {
        for score in coco::bleu(&coco::bleu_segment(&a, &[&b])) {
            prop_assert!(on_unit(score));
        }
        prop_assert!(on_unit(coco::rouge_l(&a, &[&b])));
        prop_assert!((coco::rouge_l(&a, &[&a]) - 1.0).abs() < 1e-12);
        let (mean, each) = coco::cider(&[(&a, vec![&b]), (&b, vec![&b])]);
        prop_assert!((0.0..=10.0 + 1e-9).contains(&mean) && each.len() == 2);
        let characters = |t: &str| t.chars().map(String::from).collect::<Vec<_>>();
        let (x, y) = (characters(&a), characters(&b));
        let s = chinese::score(
            chinese::Segmented { text: &a, tokens: &x },
            chinese::Segmented { text: &b, tokens: &y },
        );
        for v in [s.rouge1, s.rouge2, s.rouge_l, s.bleu4] {
            prop_assert!((0.0..=100.0).contains(&v));
        }
    }

    #[test]
    fn bertscore_swaps_precision_and_recall(
        values in prop::collection::vec(-2f32..2.0, 12 * 4),
        cut in 3usize..9,
    ) {
        let side = |rows: std::ops::Range<usize>| -> (Vec<f32>, Vec<f32>) {
            let mut weights = vec![1.0; rows.len()];
            weights[0] = 0.0;
            weights[rows.len() - 1] = 0.0;
            (values[rows.start * 4..rows.end * 4].to_vec(), weights)
        };
        let ((hv, hw), (rv, rw)) = (side(0..cut), side(cut..12));
        let h = bertscore::Embeddings { values: &hv, dim: 4, weights: &hw };
        let r = bertscore::Embeddings { values: &rv, dim: 4, weights: &rw };
        let (a, b) = (bertscore::greedy(h, r).unwrap(), bertscore::greedy(r, h).unwrap());
        prop_assert!((a.precision - b.recall).abs() < 1e-6 && (a.recall - b.precision).abs() < 1e-6);
        prop_assert!(a.precision.abs() <= 1.0 + 1e-5 && a.recall.abs() <= 1.0 + 1e-5);
    }

    #[test]
    fn clinical_identity_and_swap(
        p in prop::collection::vec(prop::collection::vec(-1i8..3, 14), 1..8),
        seed in prop::collection::vec(-1i8..3, 14 * 8),
    ) {
        let label = |c: i8| Label::from_code((c < 2).then_some(c));
        let rows: Vec<Vec<Label>> = p.iter().map(|r| r.iter().map(|&c| label(c)).collect()).collect();
        let truth: Vec<Vec<Label>> =
            seed.chunks(14).take(rows.len()).map(|r| r.iter().map(|&c| label(c)).collect()).collect();
        let columns: Vec<usize> = (0..14).collect();
        for uncertain in [Uncertain::Negative, Uncertain::Positive] {
            let ab = clinical::score(&rows, &truth, &columns, uncertain).unwrap();
            let ba = clinical::score(&truth, &rows, &columns, uncertain).unwrap();
            prop_assert_eq!(ab.micro.precision, ba.micro.recall);
            prop_assert!((ab.macro_average.f1 - ba.macro_average.f1).abs() < 1e-12);
            prop_assert!(on_unit(ab.samples.f1) && on_unit(ab.weighted.f1) && on_unit(ab.accuracy));
            let own = clinical::score(&rows, &rows, &columns, uncertain).unwrap();
            prop_assert_eq!(own.accuracy, 1.0);
            prop_assert!(own.micro.f1 == 1.0 || own.micro == Prf::default());
        }
    }
}
