//! Four rows are learned by heart, and the exported folder is a model that says them.

mod common;

use common::options;
use model::bundle::Bundle;
use roentgen_oracle::gpu::device;
use train::baseline::majority;
use train::data::Cases;
use train::evaluate::{Inputs, generate_reports, score};
use train::run;

#[test]
fn four_rows_are_learned_and_the_export_says_them() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    let config = common::config(folder.path(), &[("training.epochs", "150")]);
    let summary = run(&config, &options()).unwrap();
    let loss = summary.loss.unwrap();
    assert!(loss < 0.05, "loss {loss} after {} steps", summary.steps);
    assert_eq!((summary.steps, summary.total_steps, summary.stopped), (150, 150, false));

    let exported = summary.model.unwrap();
    let bundle = Bundle::open(&exported, None, device()).unwrap();
    assert_eq!(bundle.weights.iter().map(|(_, t)| t.count()).sum::<usize>(), summary.parameters);
    assert!(bundle.weights.iter().all(|(_, t)| t.dtype() == engine::DType::BF16));
    let cases = Cases::read(&config.data).unwrap();
    let all = generate_reports(&bundle, &cases.cases, Inputs::ALL, &mut |_| {}).unwrap();
    for p in &all {
        assert_eq!(p.generated, p.expected);
    }
    let scorer = eval::text::TextScorer::new(None);
    assert_eq!(score(&scorer, &all).unwrap().findings.f1, 1.0);

    // The rows differ in their images alone: without them one answer is given to all.
    let blind =
        generate_reports(&bundle, &cases.cases, Inputs { image: false, case: true }, &mut |_| {}).unwrap();
    assert!(blind.iter().all(|p| p.generated == blind[0].generated));
    assert!(score(&scorer, &blind).unwrap().findings.f1 <= 0.25);
    assert_eq!(majority(&cases.cases).age, Some(41.0));
    assert!(folder.path().join("run/index.html").is_file());
}

/// The two averages of an accumulated batch differ where micro-batches count different numbers of tokens.
#[test]
fn losses_are_averaged_as_asked() {
    let first_loss = |overrides: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        common::data(folder.path());
        let mut all = vec![("training.epochs", "1")];
        all.extend(overrides);
        run(&common::config(folder.path(), &all), &options()).unwrap().loss.unwrap()
    };
    let whole = first_loss(&[("training.batch_size", "4"), ("training.accumulation", "1")]);
    let tokens = first_loss(&[("training.batch_size", "1"), ("training.accumulation", "4")]);
    let means = first_loss(&[
        ("training.batch_size", "1"),
        ("training.accumulation", "4"),
        ("loss.normalisation", "micro_batches"),
    ]);
    assert!((whole - tokens).abs() < 1e-5, "{whole} {tokens}");
    assert!((whole - means).abs() > 1e-4, "{whole} {means}");
    let all_tokens = first_loss(&[("loss.over", "all")]);
    assert!((whole - all_tokens).abs() > 1e-3, "{whole} {all_tokens}");
}
