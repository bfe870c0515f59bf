//! Answers and tables of an evaluation, with the demonstration model.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use engine::Device;
use eval::bootstrap::Bootstrap;
use eval::text::TextScorer;
use model::bundle::Bundle;
use model::prompt::report::{INSTRUCTION, Limit};
use train::evaluate::{
    Answer, Answerer, BertScoreOptions, Inputs, PAPER_TUNED, Prediction, Rescale, Row, Scoring, Source,
    SystemSpec, Tables, open_bertscore, open_system,
};

fn demo() -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo");
    open_system(
        &SystemSpec {
            source: Source::Path(path),
            dtype: None,
            quantized: None,
            image: train::config::ImageSection::default(),
            adapter: None,
        },
        &Device::cpu(),
    )
    .unwrap()
}

fn row(image: Option<&Path>) -> Row {
    Row {
        id: "a".into(),
        image: image.map(Path::to_owned),
        instruction: INSTRUCTION.into(),
        clinical_case: "A 40-year-old woman.".into(),
        limit: Limit::default(),
        expected: "x".into(),
    }
}

#[test]
fn rows_with_and_without_an_image_are_answered_and_broken_ones_are_said() {
    let bundle = demo();
    let answerer = Answerer::new(&bundle, 8, None);
    let text = |answer: Answer| match answer {
        Answer::Text { text, cut } => (text, cut),
        other => panic!("{other:?}"),
    };
    // A question about text alone, which a vision model takes as well.
    let (alone, cut) = text(answerer.answer(&row(None), Inputs::ALL).unwrap());
    assert!(cut && !alone.is_empty(), "{alone:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    image::GrayImage::from_fn(90, 80, |x, y| image::Luma([(x * 2 + y) as u8])).save(&path).unwrap();
    let seen = row(Some(&path));
    let (with_image, _) = text(answerer.answer(&seen, Inputs::ALL).unwrap());
    assert_eq!(text(answerer.answer(&seen, Inputs::ALL).unwrap()).0, with_image);
    std::fs::write(&path, "no image").unwrap();
    let Answer::BadImage(why) = answerer.answer(&seen, Inputs::ALL).unwrap() else { panic!("it is read") };
    assert!(why.contains("a.png"), "{why}");
    // Whoever asked to stop gets no half of an answer.
    let stop = AtomicBool::new(true);
    let answer = Answerer::new(&bundle, 8, Some(&stop)).answer(&row(None), Inputs::ALL).unwrap();
    assert_eq!(answer, Answer::Stopped);
}

fn scoring() -> Scoring {
    Scoring { scorer: TextScorer::new(None), bootstrap: Bootstrap::default(), age_within: vec![1.0] }
}

fn predictions(texts: &[(&str, &str)]) -> Vec<Prediction> {
    let prediction = |(i, (expected, generated)): (usize, &(&str, &str))| Prediction {
        id: i.to_string(),
        expected: (*expected).to_owned(),
        generated: (*generated).to_owned(),
    };
    texts.iter().enumerate().map(prediction).collect()
}

#[test]
fn tables_compare_two_systems_and_take_free_texts() {
    const REPORT: &str = "Image Labels: thorax | Gender: Female | Age: 29.0 | Image Caption: Clear lungs.";
    let base = predictions(&[(REPORT, "Clear lungs."), ("No effusion seen.", "An effusion.")]);
    let tuned = predictions(&[(REPORT, REPORT), ("No effusion seen.", "No effusion seen.")]);
    let tables = Tables::of(&[("base", &base), ("tuned", &tuned)], &scoring()).unwrap();
    assert_eq!(tables.whole.value("tuned", "ROUGE-1"), Some(1.0));
    // A free text for a report: no field, and no caption.
    let (caption, fields) = (tables.caption.as_ref().unwrap(), tables.fields.as_ref().unwrap());
    assert_eq!((caption.value("base", "ROUGE-L"), caption.value("tuned", "ROUGE-L")), (Some(0.0), Some(1.0)));
    assert_eq!(
        (fields.value("base", "Well-formed"), fields.value("tuned", "Age exact")),
        (Some(0.0), Some(1.0))
    );
    let text = tables.to_text();
    assert!(text.contains("without 1 pairs whose expected text is no structured report"), "{text}");
    assert!(text.contains("resamples of the 2 pairs") && text.contains("paired, two-sided"), "{text}");
    // Every row that the paper prints is one of ours, but for an encoder.
    for (name, _) in PAPER_TUNED.iter().filter(|(name, _)| !name.starts_with("BERT")) {
        assert!(tables.whole.value("base", name).is_some(), "{name}");
    }

    let free = predictions(&[("No effusion.", "No effusion.")]);
    let tables = Tables::of(&[("score", &free)], &scoring()).unwrap();
    assert!(tables.caption.is_none() && tables.fields.is_none() && tables.all().count() == 1);
    assert!(Tables::of(&[("score", &[])], &scoring()).unwrap_err().to_string().contains("nothing to score"));
    let error = Tables::of(&[("base", &base), ("tuned", &free)], &scoring()).unwrap_err().to_string();
    assert!(error.contains("tuned and base have not the same ids"), "{error}");
}

#[test]
fn encoders_of_no_known_name_need_a_layer_and_a_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, layer, rescale| {
        let model = folder.path().join(name);
        std::fs::create_dir_all(&model).unwrap();
        let config = r#"{"model_type":"roberta","vocab_size":9,"hidden_size":8,"num_hidden_layers":24,
            "num_attention_heads":2,"intermediate_size":8,"max_position_embeddings":16}"#;
        std::fs::write(model.join("config.json"), config).unwrap();
        let options = BertScoreOptions { model, layer, idf: false, rescale };
        open_bertscore(&options, &Device::cpu()).err().unwrap().to_string()
    };
    let said = open("mine", None, None);
    assert!(said.contains("no BERTScore layer is known") && said.contains("roberta-large"), "{said}");
    let said = open("roberta-base", None, Some(Rescale::BuiltIn));
    assert!(said.contains("no baseline is built in for roberta-base, layer 10"), "{said}");
    let said = open("mine", Some(25), None);
    assert!(said.contains("layer 25") && said.contains("has 24"), "{said}");
    // Known by its folder, with a baseline: what is missing now is the vocabulary.
    let said = open("roberta-large", None, Some(Rescale::BuiltIn));
    assert!(said.contains("vocab.json"), "{said}");
}
