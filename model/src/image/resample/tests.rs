use engine::cpu::threads::with_threads;
use proptest::prelude::*;

use super::*;

/// The rule of spec smolvlm §3, pixel by pixel, one plane.
fn by_the_rule(source: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let pass = |from: usize, to: usize, at: &dyn Fn(usize) -> u8, o: usize| -> u8 {
        if from == to {
            return at(o);
        }
        let scale = from as f64 / to as f64;
        let f = scale.max(1.0);
        let c = (o as f64 + 0.5) * scale;
        let x0 = (c - 3.0 * f + 0.5).trunc().max(0.0) as usize;
        let x1 = ((c + 3.0 * f + 0.5).trunc() as usize).min(from);
        let weight = |x: usize| lanczos3((x as f64 - c + 0.5) / f);
        let total: f64 = (x0..x1).map(weight).sum();
        let sum: i64 = (x0..x1)
            .map(|x| {
                let w = weight(x) / total * f64::from(1 << 22);
                i64::from(at(x)) * (w + 0.5f64.copysign(w)).trunc() as i64
            })
            .sum();
        ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
    };
    let mut middle = Vec::new();
    for row in source.chunks_exact(from.0) {
        middle.extend((0..to.0).map(|o| pass(from.0, to.0, &|x| row[x], o)));
    }
    let mut out = Vec::new();
    for o in 0..to.1 {
        out.extend((0..to.0).map(|x| pass(from.1, to.1, &|y| middle[y * to.0 + x], o)));
    }
    out
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Extremes, so that overshoot is clamped.
            [0, 255, (state >> 56) as u8][(state >> 33) as usize % 3]
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn pixels_are_those_of_the_rule(
        from in (1usize..90, 1usize..90), to in (1usize..150, 1usize..150), seed: u64, grey: bool,
    ) {
        let area = from.0 * from.1;
        let planes = noise(if grey { area } else { 3 * area }, seed);
        let image = Image::from_planes(from.0, from.1, planes.clone());
        let resized = resize(&image, to.0, to.1);
        let expected: Vec<u8> =
            planes.chunks_exact(area).flat_map(|plane| by_the_rule(plane, from, to)).collect();
        prop_assert_eq!(&resized.planes, &expected);
        let alone = with_threads(1, || resize(&image, to.0, to.1));
        prop_assert_eq!(alone.planes, expected);
    }

    #[test]
    fn the_portable_loop_and_the_wide_one_agree(
        lanes in 1usize..200, taps in 0usize..30, seed: u64, first in -(1i32 << 21)..(1i32 << 22),
    ) {
        let source = noise(lanes * taps.max(1), seed);
        let weights: Vec<i32> = (0..taps as i32).map(|j| if j == 0 { first } else { (j % 7 - 3) * 9001 }).collect();
        let (mut portable, mut wide) = (vec![1; lanes], vec![2; lanes]);
        weigh(&source, lanes, &weights, &mut portable);
        weigher()(&source, lanes, &weights, &mut wide);
        prop_assert_eq!(portable, wide);
    }
}

#[test]
fn a_flat_image_stays_flat() {
    for value in [0, 1, 127, 255] {
        for (from, to) in [((1, 1), (200, 3)), ((300, 2), (7, 90)), ((64, 64), (64, 64))] {
            let image = Image::from_grey(from.0, from.1, vec![value; from.0 * from.1]).unwrap();
            let resized = resize(&image, to.0, to.1);
            assert_eq!((resized.width(), resized.height()), to);
            assert!(resized.planes.iter().all(|&v| v == value), "{value} {from:?} {to:?}");
        }
    }
}

#[test]
fn sums_cannot_overflow() {
    // The worst input of any window: white where the weight is positive.
    for (from, to) in [(1, 7), (3, 2), (5, 9), (20_000, 2048), (2048, 512), (1000, 999), (7, 2048)] {
        let weights = Weights::new(from, to);
        for o in 0..to {
            let (first, window) = weights.of(o);
            assert!(first + window.len() <= from && !window.is_empty());
            for sign in [1, -1] {
                let sum: i64 = window.iter().map(|&w| i64::from((w * sign).max(0)) * 255).sum();
                assert!(sum + (1 << 21) <= i64::from(i32::MAX), "{from} to {to}, output {o}");
            }
        }
    }
}
