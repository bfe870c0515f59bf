//! What must hold for intervals and p-values of any scores, and what statistics says about them.

use eval::bleu::{self, BleuStats, tokenize_13a};
use eval::bootstrap::{Bootstrap, Samples};
use eval::text::TextScorer;
use proptest::prelude::*;

fn bootstrap(resamples: usize, seed: u64) -> Bootstrap {
    Bootstrap { resamples, seed, ..Bootstrap::default() }
}

fn values() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(0.0f64..1.0, 2..40)
}

proptest! {
    #[test]
    fn an_interval_lies_within_the_values_and_repeats(values in values(), seed: u64) {
        let samples = Samples::Mean(values.clone());
        let b = bootstrap(200, seed);
        let i = b.interval(&samples).unwrap();
        let (least, most) = values.iter().fold((1.0f64, 0.0f64), |(a, b), &v| (a.min(v), b.max(v)));
        prop_assert!(least <= i.low + 1e-12 && i.low <= i.high && i.high <= most + 1e-12);
        prop_assert_eq!(b.interval(&samples), Some(i));
        let wider = Bootstrap { level: 0.99, ..b }.interval(&samples).unwrap();
        prop_assert!(wider.low <= i.low && i.high <= wider.high);
    }

    #[test]
    fn a_scaled_score_has_a_scaled_interval(values in values(), seed: u64) {
        let b = bootstrap(100, seed);
        let i = b.interval(&Samples::Mean(values.clone())).unwrap();
        let j = b.interval(&Samples::Mean(values.iter().map(|v| 2.0 * v + 1.0).collect())).unwrap();
        prop_assert!((2.0 * i.low + 1.0 - j.low).abs() < 1e-9 && (2.0 * i.high + 1.0 - j.high).abs() < 1e-9);
        // A mean is a ratio over ones.
        let k = b.interval(&Samples::Ratio(values.iter().map(|&v| (v, 1.0)).collect())).unwrap();
        prop_assert!((i.low - k.low).abs() < 1e-12 && (i.high - k.high).abs() < 1e-12);
    }

    #[test]
    fn p_is_a_probability_and_does_not_know_which_is_first(
        pairs in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 2..40),
        seed: u64,
    ) {
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let (a, b) = (Samples::Mean(a), Samples::Mean(b));
        let boot = bootstrap(200, seed);
        let p = boot.p_value(&a, &b).unwrap();
        prop_assert!(p > 0.0 && p <= 1.0);
        prop_assert_eq!(boot.p_value(&b, &a), Some(p));
        prop_assert_eq!(boot.p_value(&a, &a), Some(1.0));
    }

    #[test]
    fn a_constant_has_no_width_and_a_constant_gain_the_smallest_p(n in 2usize..30, gain in 0.25f64..1.0) {
        let boot = bootstrap(99, 1);
        let flat = |v: f64| Samples::Mean(vec![v; n]);
        let i = boot.interval(&flat(0.5)).unwrap();
        prop_assert!((i.low - 0.5).abs() < 1e-12 && (i.high - 0.5).abs() < 1e-12);
        prop_assert_eq!(boot.p_value(&flat(0.0), &flat(gain)), Some(1.0 / 100.0));
    }

    #[test]
    fn corpus_bleu_is_recombined_from_counts(
        texts in prop::collection::vec(("[a-d]( [a-d]){0,8}", "[a-d]( [a-d]){0,8}"), 2..12),
    ) {
        let stats: Vec<BleuStats> =
            texts.iter().map(|(h, r)| BleuStats::pair(&tokenize_13a(h), &tokenize_13a(r))).collect();
        let mut sum = BleuStats::default();
        for s in &stats {
            sum += *s;
        }
        let samples = Samples::Bleu(stats);
        prop_assert_eq!(samples.value(), bleu::evaluate(&sum, false).map_or(0.0, |b| b.score));
        let i = bootstrap(100, 3).interval(&samples).unwrap();
        prop_assert!(0.0 <= i.low && i.low <= i.high && i.high <= 1.0);
    }

    #[test]
    fn rows_of_texts_are_their_scores(
        texts in prop::collection::vec(("[a-d]( [a-d]){0,8}", "[a-d]( [a-d]){0,8}"), 1..6),
    ) {
        let (h, r): (Vec<String>, Vec<String>) = texts.into_iter().unzip();
        let samples = TextScorer::new(None).samples(&h, &r).unwrap();
        let (scores, rows) = (samples.scores(), samples.measures());
        let values: Vec<f64> = rows.iter().map(eval::bootstrap::Measure::value).collect();
        let rouge = &scores.rouge;
        let wanted = [rouge.rouge1.f1, rouge.rouge2.f1, rouge.rouge_l.f1, scores.bleu, scores.meteor];
        for (v, w) in values.iter().zip(wanted) {
            prop_assert!((v - w).abs() < 1e-12);
        }
    }
}

/// Deterministic numbers that look normal: sums of twelve uniform ones.
fn normal(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

#[test]
fn a_wide_sample_has_the_interval_of_the_normal_distribution() {
    let n = 400;
    let values = normal(5, n);
    let mean = values.iter().sum::<f64>() / n as f64;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
    let i = bootstrap(4000, 11).interval(&Samples::Mean(values)).unwrap();
    let half = 1.96 * deviation / (n as f64).sqrt();
    assert!(
        (i.low - (mean - half)).abs() < 0.1 * half && (i.high - (mean + half)).abs() < 0.1 * half,
        "{i:?}"
    );
}

#[test]
fn intervals_cover_the_truth_about_as_often_as_they_say() {
    let covered = (0..300).filter(|&seed| {
        let i = bootstrap(300, seed).interval(&Samples::Mean(normal(seed + 1, 40))).unwrap();
        i.low <= 0.0 && 0.0 <= i.high
    });
    let share = covered.count() as f64 / 300.0;
    assert!((0.88..=0.98).contains(&share), "{share}");
}

#[test]
fn without_a_difference_small_p_values_are_rare() {
    let small = (0..300).filter(|&seed| {
        let (a, b) = (Samples::Mean(normal(seed + 1, 40)), Samples::Mean(normal(seed + 1001, 40)));
        bootstrap(300, seed).p_value(&a, &b).unwrap() < 0.05
    });
    let share = small.count() as f64 / 300.0;
    assert!(share < 0.1, "{share}");
    // And a difference of one deviation is seen.
    let (a, b) = (normal(1, 40), normal(2, 40).iter().map(|v| v + 1.0).collect());
    assert!(bootstrap(1000, 1).p_value(&Samples::Mean(a), &Samples::Mean(b)).unwrap() < 0.01);
}

#[test]
fn too_little_to_say_anything_gives_nothing() {
    let b = Bootstrap::default();
    assert_eq!(b.interval(&Samples::Mean(vec![])), None);
    assert_eq!(b.interval(&Samples::Mean(vec![0.5])), None);
    assert_eq!(Bootstrap { resamples: 0, ..b }.interval(&Samples::Mean(vec![0.5, 0.6])), None);
    assert_eq!(b.interval(&Samples::Ratio(vec![(0.0, 0.0); 5])), None);
    assert_eq!(b.p_value(&Samples::Mean(vec![0.5, 0.6]), &Samples::Mean(vec![0.5])), None);
    assert!(Samples::Ratio(vec![(0.0, 0.0); 5]).value().is_nan());
    assert_eq!(Samples::Bleu(vec![BleuStats::default(); 3]).value(), 0.0);
}
