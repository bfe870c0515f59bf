use engine::ops::RopeKind;
use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{
    Expect, Operand, Source, cases, check, devices, dims, float, full_dims, same_bits, seed,
};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const THETA: f32 = 273_768.0;

/// Text positions, small, and as far as contexts go.
fn positions(source: &mut Source, dims: &[usize]) -> Operand {
    let most = [4, 16_384][source.rng.below(2)];
    source.operand(dims, DType::U32, |rng| rng.below(most) as f64)
}

fn expect(x: &Operand, positions: &Array, half: bool) -> Expect {
    // An element and its partner, each at most the row's largest.
    let scale = x.values.map_rows(|row| {
        let largest = row.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        vec![2.0 * largest; row.len()]
    });
    Expect::new(oracle::rope(&x.values, positions, THETA, half), x.dtype, Class::Rotation).scale(scale)
}

fn kind(half: bool) -> RopeKind {
    if half { RopeKind::Half } else { RopeKind::Interleaved }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        lead in dims(3..=3, 5), pairs in 0usize..40, half in any::<bool>(), dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let x = source.normal(&[&lead[..], &[2 * pairs]].concat(), dtype);
        let at = positions(&mut source, &lead[..2]);
        check(&[&x, &at], |t| t[0].rope(&t[1], THETA, kind(half)), &expect(&x, &at.values, half))?;
    }

    #[test]
    fn gradient_matches_differences(
        lead in full_dims(3..=3, 3), pairs in 1usize..4, half in any::<bool>(), dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let x = source.normal(&[&lead[..], &[2 * pairs]].concat(), dtype);
        let at = positions(&mut source, &lead[..2]);
        gradient::check(seed, &[&x],
            |t| t[0].rope(&at.on(t[0].device())?, THETA, kind(half)),
            |v| oracle::rope(&v[0], &at.values, THETA, half), gradient::Slack { terms: 2, scale: 1.0 })?;
    }
}

#[test]
fn positions_of_one_row_serve_all_and_threads_change_nothing() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(3);
        let x = source.normal(&[2, 150, 9, 64], dtype);
        let at = positions(&mut source, &[150]);
        let want = expect(&x, &at.values.expand(&[2, 150]), true);
        check(&[&x, &at], |t| t[0].rope(&t[1], THETA, RopeKind::Half), &want).unwrap();
        same_bits(|device| Ok(vec![x.on(device)?.rope(&at.on(device)?, THETA, RopeKind::Half)?])).unwrap();
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let (x, at) = (zeros(&[1, 2, 3, 4], DType::F32), zeros(&[1, 2], DType::U32));
    for (x, at, theta, says) in [
        (zeros(&[1, 2, 3, 5], DType::F32), at.clone(), THETA, "5 elements"),
        (zeros(&[1, 2, 4], DType::F32), at.clone(), THETA, "[1, 2, 4]"),
        (x.clone(), zeros(&[1, 3], DType::U32), THETA, "[1, 3]"),
        (x.clone(), zeros(&[1, 2], DType::I32), THETA, "i32"),
        (x, at, f32::NAN, "theta"),
    ] {
        let text = x.rope(&at, theta, RopeKind::Half).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}

/// Angles come from a table up to 65,536 positions and are computed in place beyond: a far position elsewhere
/// in the tensor must not change a row.
#[test]
fn a_far_position_changes_no_other_row() {
    for device in devices() {
        let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
        let rope = |at: &[u32]| {
            let x = Tensor::from_slice(&row.repeat(at.len()), &[1, at.len(), 1, 64], &device).unwrap();
            let at = Tensor::from_slice(at, &[1, at.len()], &device).unwrap();
            x.rope(&at, THETA, RopeKind::Half).unwrap().to_vec::<f32>().unwrap()
        };
        let near = rope(&[7, 16_000, 65_535]);
        let far = rope(&[7, 16_000, 65_535, 65_536, 3_000_000]);
        assert_eq!(near, far[..near.len()]);
        assert_ne!(far[3 * 64..4 * 64], far[4 * 64..]);
    }
}
