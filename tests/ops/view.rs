use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, devices, dims, full_dims, seed};
use crate::oracle::Array;
use crate::tolerance::Class;

/// A random view of `x`, as the engine and the oracle do it.
#[derive(Clone, Debug)]
enum Change {
    Reshape(Vec<usize>),
    Permute(Vec<usize>),
    Narrow(usize, usize, usize),
    Select(usize, usize),
    Expand(Vec<usize>),
    Transpose,
}

fn change(dims: &[usize], source: &mut Source) -> Change {
    let rng = &mut source.rng;
    let axis = rng.below(dims.len().max(1));
    match rng.below(6) {
        1 if dims.len() >= 2 => {
            let mut axes: Vec<usize> = (0..dims.len()).collect();
            rng.shuffle(&mut axes);
            Change::Permute(axes)
        }
        2 if !dims.is_empty() => {
            let start = rng.below(dims[axis] + 1);
            Change::Narrow(axis, start, rng.below(dims[axis] - start + 1))
        }
        3 if !dims.is_empty() && dims[axis] > 0 => Change::Select(axis, rng.below(dims[axis])),
        4 => {
            let mut to: Vec<usize> =
                dims.iter().map(|&d| if d == 1 { 1 + rng.below(3) } else { d }).collect();
            if to.len() < engine::MAX_RANK {
                to.insert(0, 1 + rng.below(3));
            }
            Change::Expand(to)
        }
        5 if dims.len() >= 2 => Change::Transpose,
        _ => {
            let count: usize = dims.iter().product();
            let divisors: Vec<usize> = (1..=count.max(1)).filter(|a| count.is_multiple_of(*a)).collect();
            let a = divisors[rng.below(divisors.len())];
            let b = if count == 0 { 0 } else { count / a };
            Change::Reshape(match rng.below(3) {
                0 => vec![a, b],
                1 => vec![1, b, a, 1],
                _ => vec![count],
            })
        }
    }
}

fn on_tensor(change: &Change, x: &Tensor) -> engine::Result<Tensor> {
    match change {
        Change::Reshape(dims) => x.reshape(dims),
        Change::Permute(axes) => x.permute(axes),
        Change::Narrow(axis, start, len) => x.narrow(*axis, *start, *len),
        Change::Select(axis, i) => x.select(*axis, *i),
        Change::Expand(dims) => x.expand(dims),
        Change::Transpose => x.t(),
    }
}

fn on_array(change: &Change, x: &Array) -> Array {
    match change {
        Change::Reshape(dims) => x.reshape(dims),
        Change::Permute(axes) => x.permute(axes),
        Change::Narrow(axis, start, len) => x.narrow(*axis, *start, *len),
        Change::Select(axis, i) => x.select(*axis, *i),
        Change::Expand(dims) => x.expand(dims),
        Change::Transpose => {
            let mut axes: Vec<usize> = (0..x.dims.len()).collect();
            axes.swap(x.dims.len() - 2, x.dims.len() - 1);
            x.permute(&axes)
        }
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn chains_of_views_match(
        dims in dims(0..=4, 5), dtype in prop::sample::select(&DType::ALL[..]), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let x = source.uniform(&dims, dtype, 0.0, 100.0);
        let mut want = x.values.clone();
        let mut chain = Vec::new();
        for _ in 0..4 {
            let next = change(&want.dims, &mut source);
            want = on_array(&next, &want);
            chain.push(next);
        }
        let run = |t: &[Tensor]| chain.iter().try_fold(t[0].clone(), |t, c| on_tensor(c, &t));
        check(&[&x], run, &Expect::new(want.clone(), dtype, Class::Exact))
            .map_err(|e| TestCaseError::fail(format!("{e}, through {chain:?}")))?;
        check(&[&x], |t| run(t)?.contiguous(), &Expect::new(want, dtype, Class::Exact))?;
    }

    #[test]
    fn gradients_flow_back(dims in full_dims(0..=3, 4), seed in seed()) {
        let mut source = Source::new(seed);
        let x = source.normal(&dims, DType::F32);
        let mut chain = Vec::new();
        let mut shape = x.values.clone();
        for _ in 0..3 {
            let next = change(&shape.dims, &mut source);
            shape = on_array(&next, &shape);
            chain.push(next);
        }
        let terms = (shape.data.len() / x.values.data.len().max(1)).max(1);
        gradient::check(seed, &[&x],
            |t| chain.iter().try_fold(t[0].clone(), |t, c| on_tensor(c, &t)),
            |v| chain.iter().fold(v[0].clone(), |a, c| on_array(c, &a)),
            gradient::Slack { terms, scale: 1.0 })?;
    }
}

#[test]
fn views_share_their_storage() {
    for device in devices() {
        let x = Tensor::zeros(&[2, 3, 4], DType::F32, &device).unwrap();
        let view = x.permute(&[2, 0, 1]).unwrap().narrow(0, 1, 2).unwrap();
        let five = Tensor::full(&[2, 2, 3], 5.0, DType::F32, &device).unwrap();
        view.write(&five).unwrap();
        let want: Vec<f64> = (0..24).map(|i| if (1..3).contains(&(i % 4)) { 5.0 } else { 0.0 }).collect();
        assert_eq!(x.to_f64_vec().unwrap(), want);
    }
}

#[test]
fn errors_name_the_view_and_the_shape() {
    let x = Tensor::zeros(&[2, 3], DType::F32, &Device::cpu()).unwrap();
    for (name, result) in [
        ("reshape", x.reshape(&[5])),
        ("permute", x.permute(&[0, 0])),
        ("permute", x.permute(&[0])),
        ("transpose", x.transpose(0, 2)),
        ("narrow", x.narrow(1, 2, 2)),
        ("narrow", x.narrow(1, usize::MAX, 2)),
        ("narrow", x.narrow(2, 0, 1)),
        ("narrow", x.select(1, 3)),
        ("expand", x.expand(&[2, 4])),
        ("expand", x.expand(&[3])),
        ("unsqueeze", x.unsqueeze(3)),
    ] {
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with(name) && text.contains("[2, 3]"), "{text}");
    }
    let text = x.reshape(&[1, 1, 1, 1, 1, 2, 3]).unwrap_err().to_string();
    assert!(text.contains("at most 6"), "{text}");
    assert!(x.reshape(&[usize::MAX, 2]).is_err());
}
