use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{
    Expect, Operand, Source, cases, check, devices, dims, float, full_dims, same_bits, seed,
};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

/// The dimensions that the bits of `mask` choose.
fn chosen(rank: usize, mask: u8) -> Vec<usize> {
    (0..rank).filter(|axis| mask >> axis & 1 == 1).collect()
}

fn terms(x: &Array, axes: &[usize]) -> usize {
    axes.iter().map(|&axis| x.dims[axis]).product()
}

/// Sum, mean, maximum and sum of squares of `x` over `axes`.
fn all_kinds(x: &Operand, axes: &[usize]) -> Result<(), TestCaseError> {
    let n = terms(&x.values, axes);
    let abs = oracle::sum(&x.values.map(f64::abs), axes);
    let sum = oracle::sum(&x.values, axes);
    check(&[x], |t| t[0].sum(axes), &Expect::new(sum.clone(), x.dtype, Class::Sum(n)).scale(abs.clone()))?;
    let kept: Vec<usize> =
        x.values.dims.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    check(
        &[x],
        |t| t[0].sum_keep(axes),
        &Expect::new(sum.reshape(&kept), x.dtype, Class::Sum(n)).scale(abs.reshape(&kept)),
    )?;
    let max = oracle::max(&x.values, axes);
    check(&[x], |t| t[0].max(axes), &Expect::new(max, x.dtype, Class::Exact))?;
    if n > 0 {
        // One rounding to the element type, after the division: an f16 sum would overflow.
        let over = 1.0 / n as f64;
        check(
            &[x],
            |t| t[0].mean(axes),
            &Expect::new(sum.map(|s| s * over), x.dtype, Class::Sum(n)).scale(abs.map(|s| s * over)),
        )?;
    }
    let all: Vec<usize> = (0..x.values.dims.len()).collect();
    let squares = oracle::sum(&x.values.map(|x| x * x), &all);
    let count = x.values.data.len();
    check(&[x], |t| t[0].sum_squares(), &Expect::new(squares, DType::F32, Class::Sum(count)))
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(dims in dims(0..=5, 6), dtype in float(), mask in any::<u8>(), seed in seed()) {
        let x = Source::new(seed).normal(&dims, dtype);
        all_kinds(&x, &chosen(dims.len(), mask))?;
    }

    #[test]
    fn long_runs_match(
        shape in prop::sample::select(&[[1, 1, 9000], [1, 70_000, 1], [3, 2100, 2], [700, 3, 33], [2, 5, 1000]][..]),
        dtype in float(), mask in 0u8..8, seed in seed(),
    ) {
        // Around 1, so that sums grow: an accumulator of the element type would be far off.
        let x = Source::new(seed).operand(&shape, dtype, |rng| 1.0 + 0.1 * f64::from(rng.normal()));
        all_kinds(&x, &chosen(3, mask))?;
    }

    #[test]
    fn gradient_matches_differences(dims in full_dims(0..=3, 4), dtype in float(), mask in any::<u8>(), seed in seed()) {
        let x = Source::new(seed).normal(&dims, dtype);
        let axes = chosen(dims.len(), mask);
        let slack = gradient::Slack::terms(1);
        gradient::check(seed, &[&x], |t| t[0].sum(&axes), |v| oracle::sum(&v[0], &axes), slack)?;
        let over = 1.0 / terms(&x.values, &axes) as f64;
        gradient::check(seed, &[&x], |t| t[0].mean(&axes),
            |v| oracle::sum(&v[0], &axes).map(|s| s * over), slack)?;
        if dtype == DType::F32 {
            let all: Vec<usize> = (0..dims.len()).collect();
            gradient::check(seed, &[&x], |t| t[0].sum_squares(),
                |v| oracle::sum(&v[0].map(|x| x * x), &all), slack)?;
        }
    }
}

#[test]
fn sums_of_nothing_and_nan() {
    for device in devices() {
        let empty = Tensor::zeros(&[2, 0], DType::F32, &device).unwrap();
        assert_eq!(empty.sum(&[1]).unwrap().to_f64_vec().unwrap(), [0.0, 0.0]);
        assert_eq!(empty.max(&[1]).unwrap().to_f64_vec().unwrap(), [f64::NEG_INFINITY; 2]);
        for n in [3, 40, 40_000] {
            let mut values = vec![1.0f32; n];
            values[n / 2] = f32::NAN;
            let x = Tensor::from_slice(&values, &[n], &device).unwrap();
            assert!(x.max(&[0]).unwrap().item().unwrap().is_nan(), "{n}");
            assert!(x.sum(&[0]).unwrap().item().unwrap().is_nan(), "{n}");
        }
    }
}

#[test]
fn gradient_of_the_maximum_is_refused() {
    // A silent zero would look like a converged model.
    let x = Tensor::from_slice(&[1f32, 2.0], &[2], &Device::cpu()).unwrap().tracked();
    let text = x.max(&[0]).unwrap().backward().err().unwrap().to_string();
    assert!(text.contains("reduce"), "{text}");
}

#[test]
fn threads_change_nothing() {
    let x = Source::new(1).normal(&[70, 1501], DType::F32);
    same_bits(|device| {
        let x = x.on(device)?;
        Ok(vec![x.sum(&[0])?, x.sum(&[1])?, x.sum(&[0, 1])?, x.max(&[0, 1])?, x.sum_squares()?])
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let x = Tensor::zeros(&[2, 3], DType::F32, &Device::cpu()).unwrap();
    let text = x.sum(&[2]).unwrap_err().to_string();
    assert!(text.contains("reduce") && text.contains("[2, 3]"), "{text}");
    let ids = x.to_dtype(DType::U32).unwrap();
    let text = ids.sum(&[0]).unwrap_err().to_string();
    assert!(text.contains("reduce") && text.contains("u32"), "{text}");
}
