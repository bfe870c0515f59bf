//! Every number of the fixtures, made by rouge-score, sacrebleu, nltk, pycocoevalcap, scikit-learn, `bert_score` and
//! rouge-chinese, against this crate. Not covered: METEOR 1.5 (not built) and bootstrap medians (unseeded upstream).

use std::path::{Path, PathBuf};

use eval::bleu::{self, BleuStats, ReferenceLength, Smoothing, tokenize_13a};
use eval::meteor::Meteor;
use eval::punkt::Punkt;
use eval::rouge::{Rouge, RougeScores};
use eval::word_tokenize::{treebank, word_tokenize};
use eval::wordnet::{NoSynonyms, WordNet};
use eval::{Prf, bertscore, chinese, clinical, coco};
use serde_json::Value;

/// The metrics are sums and ratios of small counts; only the order of summation differs from Python's.
const TOLERANCE: f64 = 1e-9;
/// `bert_score` matches in f32 by batched matrix products.
const TOLERANCE_F32: f64 = 1e-5;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn english() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("metrics-en.json")).unwrap()).unwrap()
}

fn pairs(doc: &Value) -> &Vec<Value> {
    doc["pairs"].as_array().unwrap()
}

fn text<'v>(pair: &'v Value, side: &str) -> &'v str {
    pair[side].as_str().unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(found: f64, expected: &Value, what: &str) {
    close_to(found, expected.as_f64().unwrap_or_else(|| panic!("{what}: no number: {expected}")), what);
}

#[track_caller]
fn close_to(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
        "{what}: {found} instead of {expected}"
    );
}

#[track_caller]
fn close_all(found: &[f64], expected: &Value, what: &str) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        close_to(*f, e, what);
    }
}

fn prf(score: Prf) -> [f64; 3] {
    [score.precision, score.recall, score.f1]
}

fn check_rouge(found: &RougeScores, expected: &Value, what: &str) {
    for (name, score) in [
        ("rouge1", found.rouge1),
        ("rouge2", found.rouge2),
        ("rougeL", found.rouge_l),
        ("rougeLsum", found.rouge_lsum),
    ] {
        close_all(&prf(score), &expected[name], &format!("{what} {name}"));
    }
}

#[test]
fn rouge_pairs_corpus_and_multiple_references() {
    let doc = english();
    for (key, tokens, stem) in [("rouge", "tok_rouge", false), ("rouge_stem", "tok_rouge_stem", true)] {
        let rouge = Rouge::new(stem);
        let mut all = Vec::new();
        for pair in pairs(&doc) {
            let id = text(pair, "id");
            for (i, side) in ["hyp", "ref"].into_iter().enumerate() {
                assert_eq!(rouge.tokenize(text(pair, side)), strings(&pair[tokens][i]), "{id} {side}");
            }
            let score = rouge.score(text(pair, "hyp"), text(pair, "ref"));
            check_rouge(&score, &pair[key], id);
            all.push(score);
        }
        let mean = RougeScores::mean(&all);
        let expected = &doc["corpus"][format!("{key}_mean_f")];
        for (name, score) in [
            ("rouge1", mean.rouge1),
            ("rouge2", mean.rouge2),
            ("rougeL", mean.rouge_l),
            ("rougeLsum", mean.rouge_lsum),
        ] {
            close(score.f1, &expected[name], name);
        }
    }
    for case in doc["multi_reference"].as_array().unwrap() {
        let references = strings(&case["refs"]);
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let score = Rouge::new(false).score_multi(text(case, "hyp"), &references);
        check_rouge(&score, &case["rouge_multi"], text(case, "id"));
    }
}

#[test]
fn porter_stems() {
    let doc = english();
    let stemmer = nltk_porter::PorterStemmer::new(nltk_porter::Mode::Nltk);
    let stems = doc["porter_nltk"].as_object().unwrap();
    assert_eq!(stems.len(), 286);
    for (word, stem) in stems {
        assert_eq!(&stemmer.stem(word), stem.as_str().unwrap(), "{word}");
    }
}

#[test]
fn tokens_of_bleu_and_nltk() {
    let (doc, punkt) = (english(), Punkt::english());
    for pair in pairs(&doc) {
        for (i, side) in ["hyp", "ref"].into_iter().enumerate() {
            let (id, line) = (text(pair, "id"), text(pair, side));
            assert_eq!(tokenize_13a(line), strings(&pair["tok_13a"][i]), "{id} {side} 13a");
            assert_eq!(word_tokenize(&punkt, line), strings(&pair["tok_nltk"][i]), "{id} {side} nltk");
        }
    }
}

#[test]
fn treebank_rules_beyond_the_fixture() {
    for (line, tokens) in [
        ("'Tis said he can't, gonna wanna go.", "' Tis said he ca n't , gon na wan na go ."),
        ("It's the 'old' film's \"edge\"", "It 's the ' old ' film 's `` edge ''"),
        ("We'll say 'll", "We 'll say 'll"),
        ("", ""),
    ] {
        assert_eq!(treebank(line).join(" "), tokens, "{line:?}");
    }
}

#[test]
fn bleu_of_evaluate_sacrebleu_and_nltk() {
    let (doc, punkt) = (english(), Punkt::english());
    let corpus = &doc["corpus"];
    let (mut sum, mut lower, mut words, mut split) =
        (BleuStats::default(), BleuStats::default(), BleuStats::default(), BleuStats::default());
    let mut method1 = 0.0;
    for pair in pairs(&doc) {
        let (id, hyp, re) = (text(pair, "id"), text(pair, "hyp"), text(pair, "ref"));
        let count = |tokens: fn(&str) -> Vec<String>| {
            BleuStats::segment(&tokens(hyp), &[tokens(re)], ReferenceLength::Closest)
        };
        let stats = count(tokenize_13a);
        for (key, smooth) in [("bleu_evaluate", false), ("bleu_evaluate_smooth", true)] {
            match bleu::evaluate(&stats, smooth) {
                Some(b) => close(b.score, &pair[key], id),
                // Only `ratio = hyp / ref` can divide by zero upstream for an empty reference; an empty
                // hypothesis divides by that ratio.
                None => assert_eq!(pair[key]["error"], "ZeroDivisionError", "{id} {key}"),
            }
        }
        let sacre = bleu::sacrebleu(&stats, Smoothing::Exp, true);
        close(sacre.score, &pair["sacrebleu_sentence"], id);
        let nltk = bleu::nltk_segment(&word_tokenize(&punkt, hyp), &[word_tokenize(&punkt, re)]);
        close(bleu::nltk(&nltk, false), &pair["nltk_bleu_nosmooth"], id);
        close(bleu::nltk(&nltk, true), &pair["nltk_bleu_method1"], id);
        method1 += bleu::nltk(&nltk, true);
        sum += stats;
        words += nltk;
        lower += count(|t| tokenize_13a(&t.to_lowercase()));
        let ws = |t: &str| -> Vec<String> { t.split_whitespace().map(str::to_owned).collect() };
        split += bleu::nltk_segment(&ws(hyp), &[ws(re)]);
    }
    for (key, smooth) in [("bleu_evaluate", false), ("bleu_evaluate_smooth", true)] {
        let b = bleu::evaluate(&sum, smooth).unwrap();
        close(b.score, &corpus[key]["bleu"], key);
        close_all(&b.precisions, &corpus[key]["precisions"], key);
        close(b.brevity_penalty, &corpus[key]["bp"], key);
        close(b.hyp_len as f64, &corpus[key]["hyp_len"], key);
        close(b.ref_len as f64, &corpus[key]["ref_len"], key);
    }
    let sacre = bleu::sacrebleu(&sum, Smoothing::Exp, false);
    close(sacre.score, &corpus["sacrebleu"]["score"], "sacrebleu");
    close_all(&sacre.precisions, &corpus["sacrebleu"]["precisions"], "sacrebleu");
    close(sacre.brevity_penalty, &corpus["sacrebleu"]["bp"], "sacrebleu");
    close_all(&sum.matches.map(|m| m as f64), &corpus["sacrebleu"]["counts"], "sacrebleu");
    close_all(&sum.totals.map(|t| t as f64), &corpus["sacrebleu"]["totals"], "sacrebleu");
    for (key, smoothing) in
        [("none", Smoothing::None), ("floor", Smoothing::Floor(0.1)), ("add-k", Smoothing::AddK(1.0))]
    {
        let score = bleu::sacrebleu(&sum, smoothing, false).score;
        close(score, &corpus[format!("sacrebleu_smooth_{key}")], key);
    }
    close(
        bleu::sacrebleu(&lower, Smoothing::Exp, false).score,
        &corpus["sacrebleu_lowercase"],
        "lower-cased",
    );
    close(bleu::nltk(&words, false), &corpus["nltk_corpus_bleu"], "nltk corpus");
    close(bleu::nltk(&split, false), &corpus["nltk_corpus_bleu_split"], "nltk corpus, split()");
    close(method1 / pairs(&doc).len() as f64, &corpus["nltk_mean_sentence_bleu_method1"], "nltk mean");
}

#[test]
fn bleu_of_multiple_references() {
    let (doc, punkt) = (english(), Punkt::english());
    for case in doc["multi_reference"].as_array().unwrap() {
        let (id, hyp, references) = (text(case, "id"), text(case, "hyp"), strings(&case["refs"]));
        let thirteen: Vec<_> = references.iter().map(|r| tokenize_13a(r)).collect();
        let hyp13 = tokenize_13a(hyp);
        let b =
            bleu::evaluate(&BleuStats::segment(&hyp13, &thirteen, ReferenceLength::Shortest), false).unwrap();
        close(b.score, &case["bleu_evaluate"]["bleu"], id);
        close_all(&b.precisions, &case["bleu_evaluate"]["precisions"], id);
        close(b.ref_len as f64, &case["bleu_evaluate"]["ref_len"], id);
        let closest = BleuStats::segment(&hyp13, &thirteen, ReferenceLength::Closest);
        close(bleu::sacrebleu(&closest, Smoothing::Exp, true).score, &case["sacrebleu_sentence"], id);
        let words: Vec<_> = references.iter().map(|r| word_tokenize(&punkt, r)).collect();
        let nltk = bleu::nltk_segment(&word_tokenize(&punkt, hyp), &words);
        close(bleu::nltk(&nltk, true), &case["nltk_bleu_method1"], id);
    }
}

#[test]
fn meteor_scores_and_alignments() {
    let (doc, punkt) = (english(), Punkt::english());
    let meteor = Meteor::new(WordNet::open(&fixture("wordnet")).unwrap());
    let (mut sum, mut sum_split) = (0.0, 0.0);
    for pair in pairs(&doc) {
        let id = text(pair, "id");
        let words = |side| word_tokenize(&punkt, text(pair, side));
        let split =
            |side| -> Vec<String> { text(pair, side).split_whitespace().map(str::to_owned).collect() };
        let alignment = meteor.align(&words("hyp"), &words("ref"));
        let expected: Vec<(usize, usize)> =
            serde_json::from_value(pair["meteor_alignment"].clone()).expect("pairs of positions");
        assert_eq!(alignment, expected, "{id}");
        let score = meteor.score(&words("hyp"), &words("ref"));
        close(score, &pair["meteor_nltk"], id);
        let on_split = meteor.score(&split("hyp"), &split("ref"));
        close(on_split, &pair["meteor_nltk_split"], id);
        sum += score;
        sum_split += on_split;
        assert!(Meteor::new(NoSynonyms).score(&words("hyp"), &words("ref")) <= score + TOLERANCE, "{id}");
    }
    let n = pairs(&doc).len() as f64;
    close(sum / n, &doc["corpus"]["meteor_nltk_mean"], "mean");
    close(sum_split / n, &doc["corpus"]["meteor_nltk_split_mean"], "mean on split()");
    for case in doc["multi_reference"].as_array().unwrap() {
        let references: Vec<_> = strings(&case["refs"]).iter().map(|r| word_tokenize(&punkt, r)).collect();
        let score = meteor.score_multi(&word_tokenize(&punkt, text(case, "hyp")), &references);
        close(score, &case["meteor_nltk"], text(case, "id"));
    }
}

#[test]
fn pycocoevalcap_on_both_tokenisations() {
    let (doc, punkt) = (english(), Punkt::english());
    for key in ["radialog", "coco_ptb"] {
        let prepared: Vec<(String, String)> = pairs(&doc)
            .iter()
            .map(|pair| {
                let side = |i: usize, name| match key {
                    "radialog" => coco::radialog_text(&punkt, text(pair, name)),
                    _ => strings(&pair["tok_ptb"][i]).join(" "),
                };
                (side(0, "hyp"), side(1, "ref"))
            })
            .collect();
        let items: Vec<(&str, Vec<&str>)> =
            prepared.iter().map(|(h, r)| (h.as_str(), vec![r.as_str()])).collect();
        let (cider, ciders) = coco::cider(&items);
        let (mut stats, mut rouge) = (BleuStats::default(), 0.0);
        for (i, (pair, (hyp, references))) in pairs(&doc).iter().zip(&items).enumerate() {
            let id = format!("{} {key}", text(pair, "id"));
            let segment = coco::bleu_segment(hyp, references);
            close_all(&coco::bleu(&segment), &pair[key]["bleu1_4"], &id);
            let r = coco::rouge_l(hyp, references);
            close(r, &pair[key]["rougeL"], &id);
            close(ciders[i], &pair[key]["cider"], &id);
            stats += segment;
            rouge += r;
        }
        let corpus = &doc["corpus"][key];
        close_all(&coco::bleu(&stats), &corpus["bleu1_4"], key);
        close(rouge / items.len() as f64, &corpus["rougeL"], key);
        close(cider, &corpus["cider"], key);
    }
    for case in doc["multi_reference"].as_array().unwrap() {
        let references: Vec<_> =
            strings(&case["refs"]).iter().map(|r| coco::radialog_text(&punkt, r)).collect();
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let hyp = coco::radialog_text(&punkt, text(case, "hyp"));
        let id = text(case, "id");
        close_all(&coco::bleu(&coco::bleu_segment(&hyp, &references)), &case["radialog"]["bleu"], id);
        close(coco::rouge_l(&hyp, &references), &case["radialog"]["rougeL"], id);
    }
}

#[test]
fn clinical_efficacy_averages() {
    let doc = english();
    let ce = &doc["clinical_efficacy"];
    let table = |name: &str| -> Vec<Vec<clinical::Label>> {
        let rows: Vec<Vec<i8>> = serde_json::from_value(ce[name].clone()).unwrap();
        rows.iter().map(|r| r.iter().map(|&c| clinical::Label::from_code(Some(c))).collect()).collect()
    };
    let (predicted, truth) = (table("pred"), table("true"));
    let columns: Vec<usize> = (0..14).collect();
    let scores = clinical::score(&predicted, &truth, &columns, clinical::Uncertain::Negative).unwrap();
    for (name, average) in [
        ("macro", scores.macro_average),
        ("micro", scores.micro),
        ("weighted", scores.weighted),
        ("samples", scores.samples),
    ] {
        close_all(&prf(average), &ce["scores"][name], name);
    }
    let subset: Vec<usize> = serde_json::from_value(ce["subset5_columns"].clone()).unwrap();
    let scores = clinical::score(&predicted, &truth, &subset, clinical::Uncertain::Negative).unwrap();
    close(scores.micro.f1, &ce["subset5_micro_f1"], "micro of five");
    close(scores.macro_average.f1, &ce["subset5_macro_f1"], "macro of five");
}

#[test]
fn bertscore_greedy_matching() {
    let bytes = std::fs::read(fixture("bertscore_greedy.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = tensors.tensor(name).unwrap().data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let lengths = |name: &str| -> Vec<usize> {
        let tensor = tensors.tensor(name).unwrap();
        let ones = |row: &[u8]| row.chunks_exact(8).filter(|b| b[0] == 1).count();
        tensor.data().chunks_exact(tensor.shape()[1] * 8).map(ones).collect()
    };
    let (hyp_len, ref_len) = (lengths("hyp_mask"), lengths("ref_mask"));
    let (hyp, re) = (floats("hyp_emb"), floats("ref_emb"));
    let dim = 16;
    for suffix in ["", "_idf"] {
        let (hyp_w, ref_w) = (floats(&format!("hyp_w{suffix}")), floats(&format!("ref_w{suffix}")));
        let expected = ["P", "R", "F"].map(|n| floats(&format!("{n}{suffix}")));
        for b in 0..3 {
            let side = |values: &'_ [f32], weights: &'_ [f32], lengths: &[usize]| {
                let width = weights.len() / 3;
                let (v, w) = (b * width * dim, b * width);
                (values[v..v + lengths[b] * dim].to_vec(), weights[w..w + lengths[b]].to_vec())
            };
            let (hv, hw) = side(&hyp, &hyp_w, &hyp_len);
            let (rv, rw) = side(&re, &ref_w, &ref_len);
            let score = bertscore::greedy(
                bertscore::Embeddings { values: &hv, dim, weights: &hw },
                bertscore::Embeddings { values: &rv, dim, weights: &rw },
            )
            .unwrap();
            for (found, expected) in prf(score).into_iter().zip(&expected) {
                let expected = f64::from(expected[b]);
                assert!((found - expected).abs() < TOLERANCE_F32, "row {b}{suffix}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn chinese_rouge_and_bleu() {
    let doc: Value = serde_json::from_slice(&std::fs::read(fixture("metrics-zh.json")).unwrap()).unwrap();
    let mut all = Vec::new();
    for pair in pairs(&doc) {
        let name = text(pair, "name");
        let (hyp_tokens, ref_tokens) = (strings(&pair["hyp_tokens"]), strings(&pair["ref_tokens"]));
        assert_eq!(chinese::rouge_words(&hyp_tokens), strings(&pair["hyp_words"]), "{name}");
        assert_eq!(chinese::rouge_words(&ref_tokens), strings(&pair["ref_words"]), "{name}");
        let (hyp, re) = (text(pair, "hyp"), text(pair, "ref"));
        close(chinese::bleu4(hyp, re), &pair["bleu_raw"], name);
        let score = chinese::score(
            chinese::Segmented { text: hyp, tokens: &hyp_tokens },
            chinese::Segmented { text: re, tokens: &ref_tokens },
        );
        let expected: chinese::ChineseScores = serde_json::from_value(pair["score"].clone()).unwrap();
        assert_eq!(score, expected, "{name}");
        all.push(score);
    }
    let mean = serde_json::to_value(chinese::corpus(&all)).unwrap();
    for key in ["rouge-1", "rouge-2", "rouge-l", "bleu-4"] {
        close(mean[key].as_f64().unwrap(), &doc["mean"][key], key);
    }
}
