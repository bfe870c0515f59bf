use std::collections::BTreeSet;

use engine::ops::{self, GeluKind, Lora, LoraTerm, RopeKind};
use engine::{Application, Codebook, DType, Device, QuantConfig, Quantized, Rng, Tensor, apply, capture};

use super::*;

struct Source(Rng);

impl Source {
    fn normal(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        Tensor::randn(dims, 1.0, dtype, &mut self.0, &Device::cpu()).unwrap()
    }

    fn below(&mut self, most: usize, dims: &[usize], dtype: DType) -> Tensor {
        let n = dims.iter().product();
        let values: Vec<f64> = (0..n).map(|_| self.0.below(most) as f64).collect();
        Tensor::from_f64(&values, dims, dtype, &Device::cpu()).unwrap()
    }
}

/// Forward and backward of everything, in shapes that leave tails everywhere.
fn everything(dtype: DType) -> Vec<Application> {
    let mut s = Source(Rng::new(5));
    let device = Device::cpu();
    let run = |s: &mut Source| -> Result<()> {
        let x = s.normal(&[37, 192], dtype).tracked();
        let w = s.normal(&[70, 192], dtype).tracked();
        let bias = s.normal(&[70], dtype).tracked();
        let back = |y: Tensor| y.backward_from(&y.detach()).map(drop);
        back(x.linear(&w, Some(&bias))?)?;
        back(s.normal(&[3, 5, 33], dtype).tracked().matmul(&s.normal(&[3, 33, 9], dtype).tracked())?)?;

        let quantized = Quantized::quantize(&s.normal(&[96, 192], DType::F32), &QuantConfig::default())?;
        quantized.dequantize(dtype)?;
        let single = QuantConfig { codebook: Codebook::Fp4, block: 32, double: false };
        let single = Quantized::quantize(&s.normal(&[70, 192], DType::F32), &single)?;
        back(x.linear_nf4(&single, Some(&bias), None)?)?;
        let ys = x.linear_nf4_group(&[&quantized, &single])?;
        back(Tensor::concat(&[&ys[0], &ys[1]], 1)?)?;
        let (a, b) = (s.normal(&[8, 192], DType::F32).tracked(), s.normal(&[96, 8], DType::F32).tracked());
        for dropout in [None, Some(ops::Dropout { p: 0.2, seed: 3 })] {
            let term = LoraTerm { scale: 0.5, dropout };
            back(x.linear_nf4(&quantized, None, Some(Lora { a: &a, b: &b, term }))?)?;
        }

        let q = s.normal(&[2, 19, 6, 16], dtype).tracked();
        let (k, v) = (s.normal(&[2, 23, 2, 16], dtype).tracked(), s.normal(&[2, 23, 2, 16], dtype).tracked());
        let mask = s.below(4, &[2, 23], DType::U8);
        for (mask, causal) in [(None, true), (Some(&mask), false)] {
            back(q.attention(&k, &v, mask, 0.25, causal)?)?;
        }
        let positions = s.below(2000, &[19], DType::U32);
        for kind in [RopeKind::Half, RopeKind::Interleaved] {
            back(q.rope(&positions, 10_000.0, kind)?)?;
            let new = |t: &Tensor| t.detach().narrow(1, 0, 19);
            let cache = || Tensor::zeros(&[2, 40, 2, 16], DType::BF16, &device)?.narrow(1, 8, 19);
            let op = ops::RopeWrite { theta: 10_000.0, kind };
            Tensor::rope_write([&q.detach(), &new(&k)?, &new(&v)?], &positions, [&cache()?, &cache()?], &op)?;
        }

        let (n, b) = (s.normal(&[192], dtype).tracked(), s.normal(&[192], dtype).tracked());
        back(x.rms_norm(&n, 1e-5)?)?;
        let (sum, normed) = x.add_rms_norm(&s.normal(&[37, 192], dtype).tracked(), &n, 1e-5)?;
        back(sum.add(&normed)?)?;
        back(x.layer_norm(&n, &b, 1e-5)?)?;
        for kind in [GeluKind::Tanh, GeluKind::Erf] {
            back(x.gelu(kind)?)?;
        }
        let y = s.normal(&[37, 192], dtype).tracked();
        back(x.gated_silu(&y)?)?;
        back(x.mul(&y)?.sub(&x)?.add(&n)?.affine(0.5, 1.0)?.dropout(0.1, 7)?)?;
        x.detach().affine(1.0, 9.0)?.div(&y.detach().affine(0.1, 5.0)?)?;
        let z = x.detach().affine(0.1, 5.0)?;
        z.exp()?.ln()?.sqrt()?.tanh()?.sigmoid()?.relu()?;
        x.sum(&[0])?;
        x.detach().mean(&[1])?;
        x.detach().max(&[0])?;
        x.detach().sum_squares()?;
        x.detach().t()?.copy()?;
        x.to_dtype(DType::F16)?;
        Tensor::concat(&[&x.detach(), &y.detach(), &x.detach()], 1)?;

        let table = s.normal(&[50, 192], dtype).tracked();
        let ids = s.below(50, &[4, 7], DType::U32);
        back(table.embedding(&ids)?)?;
        let places = Tensor::from_slice(&[3u32, 0, 36], &[3], &device)?;
        back(x.scatter_rows(&s.normal(&[3, 192], dtype).tracked(), &places)?)?;
        let labels: Vec<i32> = (0..37).map(|i| if i % 5 == 0 { -100 } else { i }).collect();
        back(x.cross_entropy(&Tensor::from_slice(&labels, &[37], &device)?, -100)?)?;
        x.detach().argmax()?;
        x.detach().top_k(9)?;

        let numbers = s.normal(&[1280], DType::F32);
        numbers.burst_multiply_adds(32)?;
        numbers.burst_products(32)?;
        numbers.burst_read(64)?;
        numbers.burst_triad(&s.normal(&[1280], DType::F32))?;

        let p = s.normal(&[700], DType::F32);
        let g = s.normal(&[700], dtype);
        let (m, v) = (s.normal(&[700], DType::F32), s.normal(&[700], DType::F32));
        let v = v.mul(&v)?;
        let adamw = ops::AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 3,
            grad_scale: 0.5,
        };
        Tensor::adamw_step(&p, &m, &v, &g, &adamw)?;
        let [p2, m2, v2] = [p.copy()?, m.copy()?, v.copy()?];
        Tensor::adamw_steps(&[[&p, &m, &v, &g], [&p2, &m2, &v2, &g]], &adamw)?;
        let codes = |s: &mut Source| s.below(256, &[700], DType::U8);
        let absmax = |s: &mut Source| s.normal(&[3], DType::F32).mul(&s.normal(&[3], DType::F32))?.exp();
        let state = ops::Moments8bit { m: codes(s), v: codes(s), absmax_m: absmax(s)?, absmax_v: absmax(s)? };
        Tensor::adamw8bit_step(&p, &state, &g, &adamw)?;
        for momentum in [0.0, 0.9] {
            let sgd = ops::Sgd { lr: 0.1, momentum, weight_decay: 0.1, grad_scale: 1.0 };
            Tensor::sgd_step(&p, (momentum > 0.0).then_some(&m), &g, &sgd)?;
        }
        p.narrow(0, 3, 192)?.write(&n.detach())?;
        Ok(())
    };
    let (result, kept) = capture(|| run(&mut s));
    result.unwrap();
    kept
}

#[test]
fn every_operation_has_an_oracle_and_agrees_with_it() {
    let mut names = BTreeSet::new();
    for dtype in [DType::F32, DType::BF16] {
        for application in everything(dtype) {
            names.insert(application.name());
            let checked = check(&application).unwrap();
            let checked = checked
                .unwrap_or_else(|failed| panic!("{} {application:?}: {failed}", application.parameters()));
            assert!(checked.elements > 0 && checked.worst <= 1.0, "{application:?}");
        }
    }
    let all: BTreeSet<&str> = ops::NAMES.into_iter().collect();
    assert_eq!(names, all, "operations that no case of this test applies, or that are not in `ops::NAMES`");
}

/// A change of an output that an oracle must see: everything, or its last element only, off by a tenth of the largest.
fn spoilt(tensor: &Tensor, last: bool) -> Option<Tensor> {
    let mut values = tensor.to_f64_vec().unwrap();
    let finite = values.iter().copied().filter(|x| x.is_finite());
    let by =
        if tensor.dtype().is_float() { 0.1 * finite.fold(1.0, |m: f64, x| m.max(x.abs())) } else { 101.0 };
    let from = if last { values.len().checked_sub(1)? } else { 0 };
    for x in &mut values[from..] {
        *x = if tensor.dtype() == DType::U8 { (*x + by) % 256.0 } else { *x + by };
    }
    Tensor::from_f64(&values, &tensor.dims(), tensor.dtype(), tensor.device()).ok()
}

#[test]
fn a_wrong_output_is_found() {
    for dtype in [DType::F32, DType::BF16] {
        for application in everything(dtype) {
            let own = application.duplicate().unwrap();
            let values = |a: &Application| a.inputs().iter().map(Values::of).collect::<Result<Vec<_>>>();
            let before = || values(&application.duplicate().unwrap()).unwrap();
            let good = own.run().unwrap();
            for output in 0..good.len() {
                for last in [false, true] {
                    let mut after: Vec<Tensor> = good.clone();
                    let Some(bad) = spoilt(&good[output], last) else { continue };
                    after[output] = bad;
                    let outcome = compare(&application, before(), &after).unwrap();
                    let Err(Failed::Wrong { output: found, .. }) = outcome else {
                        panic!("{application:?}: output {output} (last: {last}) was spoilt: {outcome:?}")
                    };
                    // What an output is checked by may be another output (the adapter's inner product).
                    assert!(found == output || application.name() == "linear_nf4", "{application:?}");
                }
            }
        }
    }
}

#[test]
fn an_unknown_operation_gets_no_pass() {
    let device = Device::cpu();
    let x = Tensor::zeros(&[2], DType::F32, &device).unwrap();
    let (_, kept) = capture(|| apply(ops::Affine { mul: 1.0, add: 0.0 }, &[&x]).unwrap());
    assert!(check(&kept[0]).unwrap().is_ok());
    let failed = Failed::NoOracle("cube");
    assert!(failed.to_string().contains("cube"));
}

#[test]
fn samples_hold_both_ends_and_no_period() {
    assert_eq!(spread(3, 8), [0, 1, 2]);
    for n in [9, 100, 4097] {
        let picks = spread(n, 8);
        assert_eq!((picks[0], picks[7], picks.len()), (0, n - 1, 8));
        assert!(picks.windows(2).all(|w| w[0] < w[1]));
    }
    let at = runs(100_001);
    assert!(at.contains(&0) && at.contains(&100_000) && at.len() > 3000);
    assert_eq!(runs(5), [0, 1, 2, 3, 4]);
}
