use engine::ops::{AdamW, AdamW8bit, Moments8bit};
use engine::weights::Weights;
use engine::{Codebook, DType, Device, Tensor, apply_in_place};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::harness::{Check, Expect, Operand, Source, cases, compare, devices, fixture, same_bits, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const BETAS: [f64; 2] = [0.9, 0.999];

fn op(lr: f64, weight_decay: f64, step: u32) -> AdamW {
    AdamW { lr, beta1: BETAS[0], beta2: BETAS[1], eps: 1e-8, weight_decay, step, grad_scale: 1.0 }
}

fn f32_or_bf16() -> impl Strategy<Value = DType> {
    prop::sample::select(&[DType::F32, DType::BF16][..])
}

/// The moments as they were drawn, and what they stand for.
struct Drawn {
    codes: [Vec<u8>; 2],
    absmax: [Vec<f32>; 2],
}

const MAPS: [Codebook; 2] = [Codebook::Dynamic, Codebook::DynamicUnsigned];

fn floats(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

impl Drawn {
    fn new(count: usize, source: &mut Source) -> Self {
        let blocks = count.div_ceil(oracle::BLOCK);
        let rng = &mut source.rng;
        // Now and then a block of zeros, as before the first step.
        let mut scale =
            |low: f64| if rng.below(5) == 0 { 0.0 } else { 10f64.powf(low * rng.uniform()) as f32 };
        let absmax = [-6.0, -8.0].map(|low| (0..blocks).map(|_| scale(low)).collect());
        let codes = [0, 1].map(|_| (0..count).map(|_| source.rng.below(256) as u8).collect());
        Self { codes, absmax }
    }

    fn values(&self, which: usize) -> Vec<f64> {
        let codes: Vec<f64> = self.codes[which].iter().map(|&c| f64::from(c)).collect();
        oracle::decode(MAPS[which].values(), &codes, &floats(&self.absmax[which]))
    }

    fn on(&self, dims: &[usize], device: &Device) -> engine::Result<Moments8bit> {
        let codes = |i: usize| Tensor::from_slice(&self.codes[i], dims, device);
        let absmax = |i: usize| Tensor::from_slice(&self.absmax[i], &[self.absmax[i].len()], device);
        Ok(Moments8bit { m: codes(0)?, v: codes(1)?, absmax_m: absmax(0)?, absmax_v: absmax(1)? })
    }
}

/// Each code is the one of a value nearest to the true moment, up to the roundings of the moment.
fn nearest(codes: &Tensor, absmax: &Tensor, map: Codebook, want: &[f64], scale: &[f64]) -> Check {
    let (codes, absmax) = (codes.to_f64_vec()?, absmax.to_f64_vec()?);
    for (i, (&code, (&want, &scale))) in codes.iter().zip(want.iter().zip(scale)).enumerate() {
        let most = absmax[i / oracle::BLOCK];
        if most == 0.0 {
            // f32 rounds to 0 what the oracle does not.
            prop_assert!(want.abs() < 1e-38, "element {i}: {want} in a block of zeros");
            continue;
        }
        let x = want / most;
        let off = (f64::from(map.values()[code as usize]) - x).abs();
        let best = oracle::distance(map.values(), x);
        let slack = 2f64.powi(-21) * scale / most + 2f64.powi(-22) * x.abs();
        prop_assert!(off <= best + slack, "element {i}: code {code} is {off:e} off {x}, the best {best:e}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn matches_the_oracle(
        rows in 1usize..4, columns in 1usize..400, p_type in f32_or_bf16(), g_type in f32_or_bf16(),
        lr in 1e-5..0.1f64, decay in 0.0..0.2f64, step in 1u32..2000, clip in 0.01..1.0f32, seed in seed(),
    ) {
        let dims = [rows, columns];
        let mut source = Source::new(seed);
        let p = source.normal(&dims, p_type);
        let size = 10f64.powf(-6.0 * source.rng.uniform());
        let g = source.operand(&dims, g_type, |rng| size * f64::from(rng.normal()));
        let state = Drawn::new(rows * columns, &mut source);
        let before = [state.values(0), state.values(1)];
        let scaled: Vec<f64> = g.values.data.iter().map(|g| g * f64::from(clip)).collect();
        let hyper = oracle::AdamW { lr, betas: BETAS, eps: 1e-8, weight_decay: decay, step: step as i32 };
        let [want_p, want_m, want_v] =
            oracle::adamw8bit(&hyper, [&p.values.data, &before[0], &before[1]], &scaled);
        // A moment is off by roundings of what was added; so is the update that follows from it.
        let m_scale: Vec<f64> = before[0].iter().zip(&scaled).map(|(m, g)| m.abs() + g.abs()).collect();
        let corrections = BETAS.map(|b| 1.0 - b.powi(step as i32));
        let p_scale = (0..scaled.len()).map(|i| {
            let denominator = (want_v[i] / corrections[1]).sqrt() + 1e-8;
            2.0 * p.values.data[i].abs() + want_p[i].abs() + lr * m_scale[i] / corrections[0] / denominator
        });
        let expect = Expect::new(Array::new(&dims, want_p.clone()), p_type, Class::Function)
            .scale(Array::new(&dims, p_scale.collect()));
        let largest = |values: &[f64], scale: &[f64]| {
            let blocks = values.len().div_ceil(oracle::BLOCK);
            Expect::new(Array::new(&[blocks], oracle::absmax(values)), DType::F32, Class::Function)
                .scale(Array::new(&[blocks], oracle::absmax(scale)))
        };
        for device in devices() {
            let target = p.on(&device)?.copy()?;
            let moments = state.on(&dims, &device)?;
            let op = AdamW { grad_scale: clip, ..op(lr, decay, step) };
            Tensor::adamw8bit_step(&target, &moments, &g.on(&device)?, &op)?;
            compare(&target, &expect)?;
            compare(&moments.absmax_m, &largest(&want_m, &m_scale))?;
            compare(&moments.absmax_v, &largest(&want_v, &want_v))?;
            nearest(&moments.m, &moments.absmax_m, MAPS[0], &want_m, &m_scale)?;
            nearest(&moments.v, &moments.absmax_v, MAPS[1], &want_v, &want_v)?;
        }
    }
}

/// Three steps of bitsandbytes' CPU backend, each from its own state before.
#[test]
fn agrees_with_bitsandbytes() {
    let file = Weights::open(fixture("optim/adamw8bit_cpu.safetensors")).unwrap();
    let device = Device::cpu();
    let tensor = |name: &str| {
        let entry = file.require(name).unwrap();
        let dtype = if name.starts_with("state") { DType::U8 } else { DType::F32 };
        Tensor::from_bytes(entry.bytes(), entry.shape(), dtype, &device).unwrap()
    };
    for (map, name) in MAPS.iter().zip(["qmap1", "qmap2"]) {
        assert_eq!(tensor(name).to_vec::<f32>().unwrap(), map.values());
    }
    for step in 1..=3u32 {
        let before = |name: &str| tensor(&format!("{name}_{}", step - 1)).copy().unwrap();
        let state = if step == 1 {
            let zeros = |n, dtype| Tensor::zeros(&[n], dtype, &device).unwrap();
            let (codes, absmax) = (|| zeros(4224, DType::U8), || zeros(17, DType::F32));
            Moments8bit { m: codes(), v: codes(), absmax_m: absmax(), absmax_v: absmax() }
        } else {
            Moments8bit {
                m: before("state1"),
                v: before("state2"),
                absmax_m: before("absmax1"),
                absmax_v: before("absmax2"),
            }
        };
        let p = tensor(&format!("p{}", step - 1)).copy().unwrap();
        Tensor::adamw8bit_step(&p, &state, &tensor(&format!("g{step}")), &op(1e-3, 0.01, step)).unwrap();

        let want = tensor(&format!("p{step}")).to_f64_vec().unwrap();
        for (i, (got, want)) in p.to_f64_vec().unwrap().iter().zip(&want).enumerate() {
            // An ulp, or the documented distance of the formulas.
            let allowed = 1.5e-8 + want.abs() * 2f64.powi(-23);
            assert!((got - want).abs() <= allowed, "step {step}, element {i}: {got}, want {want}");
        }
        for (moment, codes, absmax, map) in
            [(1, &state.m, &state.absmax_m, MAPS[0]), (2, &state.v, &state.absmax_v, MAPS[1])]
        {
            let want = tensor(&format!("absmax{moment}_{step}")).to_f64_vec().unwrap();
            for (got, want) in absmax.to_f64_vec().unwrap().iter().zip(&want) {
                assert!((got - want).abs() <= 2e-7 * want, "step {step}: absmax {got}, want {want}");
            }
            let want = tensor(&format!("state{moment}_{step}")).to_vec::<u8>().unwrap();
            let got = codes.to_vec::<u8>().unwrap();
            for (&got, &want) in got.iter().zip(&want) {
                // That backend's search tells nothing apart within 1/65535 of the range on both sides.
                let [a, b] = [got, want].map(|code| map.values()[code as usize]);
                let close = got.abs_diff(want) <= 1 || (a - b).abs() <= 4.0 / 65535.0;
                assert!(close, "step {step}, moment {moment}: code {got}, want {want}");
            }
            let other = got.iter().zip(&want).filter(|(a, b)| a != b).count();
            assert!(other * 100 <= 8 * got.len(), "step {step}, moment {moment}: {other} codes differ");
        }
    }
}

/// Elements with a gradient that is no number keep their parameter and lose their moments; the others see nothing
/// of it.
#[test]
fn a_gradient_that_is_not_finite_stays_with_its_element() {
    let device = devices().remove(0);
    let n = 600;
    let bad = [(0, f32::NAN), (255, f32::INFINITY), (256, f32::NEG_INFINITY), (599, 1e30)];
    let mut source = Source::new(9);
    let clean: Vec<f32> = (0..n).map(|_| source.rng.normal()).collect();
    let mut spoilt = clean.clone();
    for (i, x) in bad {
        spoilt[i] = x;
    }
    let step = |g: &[f32]| {
        let p = Tensor::full(&[n], 0.5, DType::F32, &device).unwrap();
        let state = Drawn::new(n, &mut Source::new(4)).on(&[n], &device).unwrap();
        let g = Tensor::from_slice(g, &[n], &device).unwrap();
        Tensor::adamw8bit_step(&p, &state, &g, &op(0.1, 0.1, 3)).unwrap();
        (p.to_vec::<f32>().unwrap(), state)
    };
    let ((want, _), (got, state)) = (step(&clean), step(&spoilt));
    let (m, v) = (state.m.to_vec::<u8>().unwrap(), state.v.to_vec::<u8>().unwrap());
    for i in 0..n {
        if bad.iter().any(|&(at, _)| at == i) {
            assert_eq!((got[i], m[i], v[i]), (0.5, 127, 0), "element {i}");
        } else {
            assert_eq!(got[i], want[i], "element {i}");
        }
    }
    assert!(state.absmax_m.to_f64_vec().unwrap().iter().all(|x| x.is_finite()));
    assert!(state.absmax_v.to_f64_vec().unwrap().iter().all(|x| x.is_finite()));
}

/// Many parameters at once get the bits that each gets alone.
#[test]
fn a_list_is_each_alone() {
    let mut source = Source::new(12);
    let sizes = [1, 255, 256, 257, 0, 20_000, 700];
    let types = [DType::F32, DType::F32, DType::BF16];
    let drawn: Vec<_> = sizes
        .iter()
        .zip(types.iter().cycle())
        .map(|(&n, &dtype)| {
            let state = Drawn::new(n, &mut source);
            (n, source.normal(&[n], dtype), state, source.normal(&[n], types[n % 3]))
        })
        .collect();
    for device in devices() {
        let load = || -> Vec<(Tensor, Moments8bit, Tensor)> {
            let one = |(n, p, state, g): &(usize, Operand, Drawn, Operand)| {
                let p = p.on(&device)?.copy()?;
                Ok((p, state.on(&[*n], &device)?, g.on(&device)?))
            };
            drawn.iter().map(one).collect::<engine::Result<_>>().unwrap()
        };
        let (alone, together) = (load(), load());
        let op = op(0.1, 0.1, 3);
        for (p, state, g) in &alone {
            Tensor::adamw8bit_step(p, state, g, &op).unwrap();
        }
        let list: Vec<_> = together.iter().map(|(p, state, g)| (p, state, g)).collect();
        Tensor::adamw8bit_steps(&list, &op).unwrap();
        let bits = |(p, s, _): &(Tensor, Moments8bit, Tensor)| {
            [p, &s.m, &s.v, &s.absmax_m, &s.absmax_v].map(|t| t.to_bytes().unwrap())
        };
        for (i, (one, two)) in alone.iter().zip(&together).enumerate() {
            assert!(bits(one) == bits(two), "{device}: parameter {i}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    let mut source = Source::new(2);
    let dims = [70, 900];
    let p = source.normal(&dims, DType::F32);
    let g = source.normal(&dims, DType::F32);
    let state = Drawn::new(70 * 900, &mut source);
    same_bits(|device| {
        let (p, s) = (p.on(device)?.copy()?, state.on(&dims, device)?);
        Tensor::adamw8bit_step(&p, &s, &g.on(device)?, &op(0.1, 0.1, 3))?;
        Ok(vec![p, s.m, s.v, s.absmax_m, s.absmax_v])
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    for device in devices() {
        let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
        let state = |codes: &[usize], blocks: usize| Moments8bit {
            m: zeros(codes, DType::U8),
            v: zeros(codes, DType::U8),
            absmax_m: zeros(&[blocks], DType::F32),
            absmax_v: zeros(&[blocks], DType::F32),
        };
        let p = zeros(&[2, 200], DType::F32);
        let text = |p: &Tensor, state: &Moments8bit, op: &AdamW| {
            Tensor::adamw8bit_step(p, state, &zeros(&[2, 200], DType::F32), op).unwrap_err().to_string()
        };
        assert!(text(&p, &state(&[2, 200], 2), &op(0.1, 0.0, 0)).contains("step"));
        assert!(text(&p, &state(&[2, 200], 3), &op(0.1, 0.0, 1)).contains("expected [2]"));
        assert!(text(&p, &state(&[400], 2), &op(0.1, 0.0, 1)).contains("[400]"));
        let wrong = Moments8bit { v: zeros(&[2, 200], DType::F32), ..state(&[2, 200], 2) };
        assert!(text(&p, &wrong, &op(0.1, 0.0, 1)).contains("v is f32, not u8"));
        let turned = zeros(&[200, 2], DType::F32).t().unwrap();
        assert!(text(&turned, &state(&[2, 200], 2), &op(0.1, 0.0, 1)).contains("side by side"));
        // Too few tensors, by the raw operation.
        let said = apply_in_place(AdamW8bit(op(0.1, 0.0, 1)), &[&p], &[&p]).unwrap_err().to_string();
        assert!(said.contains("takes 6"), "{said}");
        let empty = zeros(&[0], DType::F32);
        Tensor::adamw8bit_step(&empty, &state(&[0], 0), &zeros(&[0], DType::F32), &op(0.1, 0.0, 1)).unwrap();
        // A gradient may lie in any way.
        let g = zeros(&[200, 2], DType::F32).t().unwrap();
        Tensor::adamw8bit_step(&p, &state(&[2, 200], 2), &g, &op(0.1, 0.0, 1)).unwrap();
    }
}

/// The state is decoded before a step and encoded after it: the error of both together, after many steps on one
/// scale of gradients, stays small beside the parameter's way.
#[test]
fn fifty_steps_stay_near_those_with_whole_moments() {
    for device in devices() {
        let n = 4096;
        let mut source = Source::new(3);
        let p8 = Tensor::from_slice(&vec![1f32; n], &[n], &device).unwrap();
        let p32 = p8.copy().unwrap();
        let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
        let state = Moments8bit {
            m: zeros(&[n], DType::U8),
            v: zeros(&[n], DType::U8),
            absmax_m: zeros(&[16], DType::F32),
            absmax_v: zeros(&[16], DType::F32),
        };
        let (m, v) = (zeros(&[n], DType::F32), zeros(&[n], DType::F32));
        for step in 1..=50 {
            let g: Vec<f32> = (0..n).map(|i| 0.5 + (i % 7) as f32 * 0.1 + source.rng.normal()).collect();
            let g = Tensor::from_slice(&g, &[n], &device).unwrap();
            Tensor::adamw8bit_step(&p8, &state, &g, &op(1e-3, 0.0, step)).unwrap();
            Tensor::adamw_step(&p32, &m, &v, &g, &op(1e-3, 0.0, step)).unwrap();
        }
        let pairs = p8.to_f64_vec().unwrap().into_iter().zip(p32.to_f64_vec().unwrap());
        let (mut off, mut way) = (0.0, 0.0);
        for (a, b) in pairs {
            off += (a - b).powi(2);
            way += (b - 1.0).powi(2);
        }
        let relative = (off / way).sqrt();
        assert!(relative > 0.0 && relative < 0.05, "{relative}");
    }
}

#[test]
fn errors_are_those_of_a_test_case() {
    // `nearest` must be able to fail: one code off is found.
    let device = Device::cpu();
    let codes = Tensor::from_slice(&[200u8], &[1], &device).unwrap();
    let absmax = Tensor::from_slice(&[1f32], &[1], &device).unwrap();
    let x = f64::from(Codebook::Dynamic.values()[201]);
    let found: Result<(), TestCaseError> = nearest(&codes, &absmax, Codebook::Dynamic, &[x], &[x]);
    assert!(found.is_err());
}
