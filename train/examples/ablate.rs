//! Temporary driver until the command line lands.
use engine::Device;
use model::bundle::Bundle;
use std::path::PathBuf;
use train::TrainConfig;
use train::data::{Cases, Split};
use train::evaluate::{Inputs, Prediction, generate_reports, majority, score};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let model = PathBuf::from(args.next().ok_or("MODEL CONFIG SPLIT OUT [key=value …]")?);
    let config = PathBuf::from(args.next().ok_or("CONFIG")?);
    let split = if args.next().as_deref() == Some("test") { Split::Test } else { Split::Validation };
    let out = PathBuf::from(args.next().ok_or("OUT")?);
    let overrides: Vec<_> =
        args.filter_map(|a| a.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    let config = TrainConfig::from_file(&config, &overrides)?;
    let cases = Cases::read(&config.data)?;
    let bundle = Bundle::open(&model, None, &Device::cpu())?;
    let wordnet = eval::wordnet::WordNet::open(std::path::Path::new("/usr/share/wordnet")).ok();
    eprintln!("wordnet {}", wordnet.is_some());
    let scorer = eval::text::TextScorer::new(wordnet);
    let mut all = serde_json::Map::new();
    let mut add = |name: &str, predictions: &[Prediction]| -> Result<(), Box<dyn std::error::Error>> {
        let s = score(&scorer, predictions)?;
        let (l, c) = (&s.report.line, &s.report.caption);
        println!(
            "{name:24} line R1 {:.3} R2 {:.3} RL {:.3} BLEU {:.3} MET {:.3} | cap R1 {:.3} R2 {:.3} RL {:.3} BLEU {:.3} MET {:.3} | well {:.2} gender {:.2} age= {:.2} ageerr {:.1} view {:.2} findF1 {:.3} (P {:.2} R {:.2})",
            l.rouge.rouge1.f1,
            l.rouge.rouge2.f1,
            l.rouge.rouge_l.f1,
            l.bleu,
            l.meteor,
            c.rouge.rouge1.f1,
            c.rouge.rouge2.f1,
            c.rouge.rouge_l.f1,
            c.bleu,
            c.meteor,
            s.report.well_formed,
            s.report.gender.exact_where_given,
            s.report.age.exact_where_given,
            s.report.age_error.unwrap_or(f64::NAN),
            s.view,
            s.findings.f1,
            s.findings.precision,
            s.findings.recall
        );
        all.insert(name.into(), serde_json::json!({"scores": s, "predictions": predictions}));
        Ok(())
    };
    for (name, image, case) in [
        ("image+case", true, true),
        ("case only", false, true),
        ("image only", true, false),
        ("neither", false, false),
    ] {
        let p = generate_reports(&bundle, cases.of(split), Inputs { image, case }, &mut |_| {})?;
        add(name, &p)?;
    }
    let m = majority(cases.of(Split::Train)).format();
    let p: Vec<_> = cases
        .of(split)
        .map(|c| Prediction { id: c.id.clone(), expected: c.report.format(), generated: m.clone() })
        .collect();
    add("majority", &p)?;
    std::fs::write(out, serde_json::to_string_pretty(&all)?)?;
    Ok(())
}
