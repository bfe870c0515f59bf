//! Our own side of a suite, in the format of the rivals' programs.

use std::path::Path;

use ::model::config::{Config, VisionLanguageConfig};
use engine::{DType, Device, Rng, Tensor, no_grad};

use super::line::Line;
use super::registry::{Lengths, Suite};
use crate::model::{Figure, How, Inference, Kind, Meter, Subject, Training, resident};
use crate::{Error, Result};

/// Edge of the product.
const EDGE: usize = 1024;

/// Measures a suite and hands each figure to `done`.
///
/// # Errors
/// If there are no weights, or the engine fails.
pub fn own(
    suite: Suite,
    weights: Option<&Path>,
    lengths: Lengths,
    repeats: usize,
    device: &Device,
    done: &mut dyn FnMut(&Line),
) -> Result<()> {
    let meter = Meter { device: device.clone(), repeats, ceilings: None, overhead: false };
    let how = |nf4| How { dtype: DType::BF16, nf4, mixed: false };
    match suite {
        Suite::TextBf16 | Suite::Text4bit => {
            let path = weights.and_then(Path::to_str);
            let path = path.ok_or_else(|| Error::Input("this suite needs --weights FOLDER".into()))?;
            let subject = Subject::open(path, how(suite == Suite::Text4bit), device)?;
            let Lengths { prefill, decode } = lengths;
            inference(&subject, &name(&subject), vec![prefill], 0, decode, &meter, done)
        }
        Suite::Vision => {
            let subject = Subject::open("smolvlm-256m", how(false), device)?;
            let rows = subject.config.image.as_ref().map_or(0, VisionLanguageConfig::tokens_per_tile) + 100;
            inference(&subject, "SmolVLM-256M shape", vec![rows], rows, 32, &meter, done)
        }
        Suite::Qlora | Suite::QloraCheckpointing => step(suite, how(true), &meter, done),
        Suite::Product => product(repeats, device, done),
    }
}

/// The published model of the same shape, else the name of the folder.
fn name(subject: &Subject) -> String {
    let count = |config: &Config| (config.parameter_count().total(), config.text.num_hidden_layers);
    let same = |name: &&str| Config::known(name).is_some_and(|known| count(&known) == count(&subject.config));
    Config::known_names().find(same).map_or_else(
        || {
            let folder = Path::new(&subject.name).file_name();
            folder.map_or_else(|| subject.name.clone(), |n| n.to_string_lossy().into_owned())
        },
        str::to_owned,
    )
}

fn line(figure: &str, model: &str, weights: String, unit: &str, values: Vec<f64>) -> Line {
    Line {
        system: "roentgen".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        figure: figure.into(),
        model: model.into(),
        weights,
        unit: unit.into(),
        values,
        threads: engine::cpu::threads::threads(),
        about: serde_json::Map::new(),
    }
}

fn inference(
    subject: &Subject,
    model: &str,
    prefill: Vec<usize>,
    depth: usize,
    decode_tokens: usize,
    meter: &Meter,
    done: &mut dyn FnMut(&Line),
) -> Result<()> {
    let what = Inference { vision: true, text_tokens: 100, prefill, decode: vec![depth], decode_tokens };
    let weights = || subject.how.weights();
    what.run(subject, meter, &mut |f: &Figure| done(&line(&f.name, model, weights(), f.unit(), f.values())))?;
    Ok(())
}

fn step(suite: Suite, how: How, meter: &Meter, done: &mut dyn FnMut(&Line)) -> Result<()> {
    let mut subject = Subject::open("smolvlm-256m", how, &meter.device)?;
    let checkpointing = suite == Suite::QloraCheckpointing;
    let training = Training { checkpointing, dropout: 0.1, image: None, text_tokens: 100 };
    // Steps restart it.
    let load_peak = resident().map_or(0, |r| r.peak);
    let (figure, parts) = training.run(&mut subject, meter)?;
    debug_assert_eq!(figure.kind, Kind::Step);
    let mut tell = |name, unit, values| done(&line(name, "SmolVLM-256M shape", how.weights(), unit, values));
    // The suite says whether it is with checkpointing.
    tell("step", "s", figure.values());
    if let Some(peak) = figure.peak_resident {
        tell("peak memory", "B", vec![peak.max(load_peak) as f64]);
        let rise = parts.loaded_resident.map(|loaded| peak.saturating_sub(loaded)).filter(|&rise| rise > 0);
        if let Some(rise) = rise {
            tell("rise over the loaded model", "B", vec![rise as f64]);
        }
    }
    Ok(())
}

fn product(repeats: usize, device: &Device, done: &mut dyn FnMut(&Line)) -> Result<()> {
    let mut rng = Rng::new(1);
    let mut random = || Tensor::randn(&[EDGE, EDGE], 1.0, DType::F32, &mut rng, device);
    let (left, right) = (random()?, random()?);
    let values: Vec<f64> = no_grad(|| {
        (0..=repeats)
            .map(|_| {
                let begun = std::time::Instant::now();
                drop(left.matmul(&right)?);
                device.synchronize()?;
                Ok(2.0 * (EDGE as f64).powi(3) / begun.elapsed().as_secs_f64() / 1e9)
            })
            .skip(1)
            .collect::<Result<_>>()
    })?;
    done(&line(&format!("product {EDGE}"), "random", "f32".into(), "GFLOP/s", values));
    Ok(())
}
