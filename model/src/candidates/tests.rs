use engine::{Device, Tensor};

use super::*;

/// Logits as a model's: a few likely tokens over a long tail, with ties and zeros of both signs.
fn drawn(rng: &mut Rng, tokens: usize, spread: f32) -> Vec<f32> {
    let mut logits: Vec<f32> = (0..tokens).map(|_| (rng.normal() * spread * 4.0).round() / 4.0).collect();
    logits[0] = 0.0;
    logits[1] = -0.0;
    logits
}

/// Settings with every combination of filters.
fn settings() -> Vec<Sampling> {
    let mut all = Vec::new();
    for repetition_penalty in [1.0, 1.3, 0.8] {
        for temperature in [0.0, 0.7, 1.5] {
            for (top_k, top_p, min_p) in [
                (0, 1.0, 0.0),
                (0, 0.9, 0.0),
                (0, 0.3, 0.05),
                (0, 1.0, 0.05),
                (20, 1.0, 0.0),
                (20, 0.8, 0.02),
                (5000, 0.8, 0.0),
            ] {
                all.push(Sampling { repetition_penalty, temperature, top_k, top_p, min_p });
            }
        }
    }
    all
}

/// The devices of this machine.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu()];
    match Device::wgpu(None) {
        Ok(gpu) => devices.push(gpu),
        Err(e) if std::env::var("REQUIRE_WGPU").is_ok_and(|v| v == "1") => panic!("{e}"),
        Err(e) => println!("SKIP: {e}"),
    }
    devices
}

/// The token of all logits, with the same random numbers, on every device; and how often the few decide.
#[test]
fn the_few_give_what_all_give() {
    let tokens = 3000;
    for device in devices() {
        for (case, sampling) in settings().into_iter().enumerate() {
            let mut source = Rng::new(case as u64);
            let rows: Vec<Vec<f32>> =
                [1.0, 2.5].into_iter().map(|spread| drawn(&mut source, tokens + 8, spread)).collect();
            let logits = Tensor::from_slice(&rows.concat(), &[2, 1, tokens + 8], &device).unwrap();
            // Likely tokens among them, an unlikely one, one twice, and one that may not be chosen.
            let likeliest = crate::sample::argmax(&rows[1]).unwrap();
            let seen: [&[u32]; 2] = [&[5, 9, 5, 0], &[likeliest, 7, tokens as u32 + 3]];
            let few = Logits::new(&logits, tokens, &sampling, &seen).unwrap();
            let (mut one, mut other) = (Rng::new(9), Rng::new(9));
            for _ in 0..20 {
                for (i, row) in rows.iter().enumerate() {
                    let want = sampling.choose(&mut row[..tokens].to_vec(), seen[i], &mut other).unwrap();
                    let got = few.choose(i, &sampling, seen[i], &mut one).unwrap();
                    assert_eq!(got, want, "{sampling:?}, sequence {i} on {}", device.description());
                    assert_eq!(one, other, "{sampling:?}: random numbers");
                }
            }
        }
    }
}

/// A peaked distribution, as a trained model's mostly is: no setting reads all logits.
#[test]
fn few_decide_where_the_model_is_sure() {
    let mut source = Rng::new(1);
    let tokens = 5000;
    let mut logits: Vec<f32> = (0..tokens).map(|_| source.normal()).collect();
    for (i, x) in logits.iter_mut().enumerate().take(12) {
        *x = 20.0 - i as f32 / 2.0;
    }
    for sampling in settings() {
        let tensor = Tensor::from_slice(&logits, &[1, 1, tokens], &Device::cpu()).unwrap();
        let few = Logits::new(&tensor, tokens, &sampling, &[&[0, 3, 700]]).unwrap();
        assert!(few.values.len() <= 5000.min(sampling.top_k.max(1) + 2 * FEW), "{sampling:?}");
        let mut decided = 0;
        for seed in 0..500 {
            let token = few.candidates(0).choose(&sampling, &mut Rng::new(seed)).unwrap();
            decided += usize::from(token.is_some());
        }
        assert!(decided >= 480, "{sampling:?}: {decided} of 500");
    }
}

#[test]
fn the_mass_is_as_exact_as_is_taken_for_granted() {
    for device in devices() {
        let mut source = Rng::new(2);
        let tokens = 49_152;
        let logits: Vec<f32> = (0..tokens).map(|_| source.normal() * 3.0).collect();
        let tensor = Tensor::from_slice(&logits, &[1, 1, tokens], &device).unwrap();
        for temperature in [0.2f32, 1.0, 3.0] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let few = Logits::new(&tensor, tokens, &sampling, &[&[]]).unwrap();
            let largest = f64::from(few.values[0]);
            let want: f64 =
                logits.iter().map(|&x| ((f64::from(x) - largest) / f64::from(temperature)).exp()).sum();
            let got = f64::from(few.mass.unwrap()[0]);
            let off = (got / want - 1.0).abs();
            assert!(off < MASS_ERROR / 8.0, "{temperature}: off by {off} on {}", device.description());
        }
    }
}

#[test]
fn what_is_not_finite_is_an_error() {
    let tensor = |x: &[f32]| Tensor::from_slice(x, &[1, 1, x.len()], &Device::cpu()).unwrap();
    for sampling in [Sampling::default(), Sampling { temperature: 1.0, ..Sampling::default() }] {
        for bad in [f32::NAN, f32::INFINITY] {
            let few = Logits::new(&tensor(&[0.0, bad, 1.0]), 3, &sampling, &[&[]]).unwrap();
            let error = few.choose(0, &sampling, &[], &mut Rng::new(0)).unwrap_err();
            assert!(error.to_string().contains("logit 1"), "{error}");
        }
    }
    // Equal ones of a small vocabulary, and tokens that are never chosen.
    let warm = Sampling { temperature: 1.0, ..Sampling::default() };
    let few = Logits::new(&tensor(&[0.0, f32::NEG_INFINITY]), 2, &warm, &[&[]]).unwrap();
    assert_eq!(few.choose(0, &warm, &[], &mut Rng::new(0)).unwrap(), 0);
}
