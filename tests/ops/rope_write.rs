use engine::ops::{RopeKind, RopeWrite};
use engine::{DType, Device, Result, Tensor, apply_in_place};
use proptest::prelude::*;

use crate::harness::{
    Expect, FLOATS, Operand, Source, cases, compare, devices, dims, float, same_bits, seed,
};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const THETA: f32 = 273_768.0;

fn kind(half: bool) -> RopeKind {
    if half { RopeKind::Half } else { RopeKind::Interleaved }
}

/// A cache `[B, C, H, D]` of old values whose dimensions lie in memory in the order of `axes`.
struct Drawn {
    old: Operand,
    axes: Vec<usize>,
}

impl Drawn {
    fn new(source: &mut Source, dims: &[usize], dtype: DType) -> Self {
        let mut axes = vec![0, 1, 2, 3];
        // As models have it, or anyhow.
        if source.rng.below(2) == 0 {
            source.rng.shuffle(&mut axes);
        }
        let stored: Vec<usize> = axes.iter().map(|&a| dims[a]).collect();
        let old = source.normal(&stored, dtype);
        Self { old, axes }
    }

    fn on(&self, device: &Device) -> Result<Tensor> {
        let mut inverse = vec![0; 4];
        for (i, &a) in self.axes.iter().enumerate() {
            inverse[a] = i;
        }
        self.old.on(device)?.copy()?.permute(&inverse)
    }
}

proptest! {
    #![proptest_config(cases(96))]

    /// Elements of the caches beside the new ones stay, and all bits are those of `rope` and `write`; where nothing is
    /// converted the oracle agrees.
    #[test]
    fn has_the_bits_of_rope_and_write(
        lead in dims(2..=2, 4), heads in 0usize..5, kv_heads in 1usize..4, pairs in 0usize..40, room in 0usize..4,
        half in any::<bool>(), from in float(), to in prop::sample::select(&FLOATS[..]), seed in seed(),
    ) {
        let (b, s, d) = (lead[0], lead[1], 2 * pairs);
        let mut source = Source::new(seed);
        let q = source.normal(&[b, s, heads, d], from);
        let [k, v] = [(); 2].map(|()| source.normal(&[b, s, kv_heads, d], from));
        let most = [4, 16_384][source.rng.below(2)];
        let at = source.operand(&[b, s], DType::U32, |rng| rng.below(most) as f64);
        let start = source.rng.below(room + 1);
        let caches = [(); 2].map(|()| Drawn::new(&mut source, &[b, s + room, kv_heads, d], to));
        let want = oracle::rope_write([&q.values, &k.values, &v.values], &at.values, THETA, half);
        for device in devices() {
            let [q, k, v, at] = [&q, &k, &v, &at].map(|x| x.on(&device));
            let [q, k, v, at] = [q?, k?, v?, at?];
            let make = || -> Result<[Tensor; 2]> { Ok([caches[0].on(&device)?, caches[1].on(&device)?]) };
            let (apart, together) = (make()?, make()?);
            let op = RopeWrite { theta: THETA, kind: kind(half) };
            let [keys, values] = [together[0].narrow(1, start, s)?, together[1].narrow(1, start, s)?];
            let rotated = Tensor::rope_write([&q, &k, &v], &at, [&keys, &values], &op)?;
            let turned = q.rope(&at, THETA, kind(half))?;
            apart[0].narrow(1, start, s)?.write(&k.rope(&at, THETA, kind(half))?)?;
            apart[1].narrow(1, start, s)?.write(&v)?;
            prop_assert_eq!(rotated.dtype(), to);
            prop_assert!(rotated.to_bytes()? == turned.to_dtype(to)?.to_bytes()?, "q, {q:?}");
            prop_assert!(together[0].to_bytes()? == apart[0].to_bytes()?, "keys, {:?}", together[0]);
            prop_assert!(together[1].to_bytes()? == apart[1].to_bytes()?, "values, {:?}", together[1]);
            if from == to {
                // An element and its partner, each at most the row's largest.
                let scale = |x: &Array| x.map_rows(|row| {
                    let largest = row.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                    vec![2.0 * largest; row.len()]
                });
                for (got, want) in [&rotated, &keys].into_iter().zip(&want) {
                    // Rotation keeps lengths: the result's largest bounds the operands' to a factor.
                    let expect = Expect::new(want.clone(), to, Class::Rotation);
                    compare(got, &expect.scale(scale(want).map(|s| 2.0 * s)))?;
                }
                compare(&values, &Expect::new(want[2].clone(), to, Class::Exact))?;
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    for (from, to) in [(DType::F32, DType::BF16), (DType::BF16, DType::BF16)] {
        let mut source = Source::new(3);
        let q = source.normal(&[2, 150, 9, 64], from);
        let [k, v] = [(); 2].map(|()| source.normal(&[2, 150, 3, 64], from));
        let at = source.operand(&[150], DType::U32, |rng| rng.below(2000) as f64);
        same_bits(|device| {
            let cache = || Tensor::zeros(&[2, 160, 3, 64], to, device)?.narrow(1, 5, 150);
            let (keys, values) = (cache()?, cache()?);
            let op = RopeWrite { theta: THETA, kind: RopeKind::Half };
            let [q, k, v] = [&q, &k, &v].map(|x| x.on(device));
            let rotated = Tensor::rope_write([&q?, &k?, &v?], &at.on(device)?, [&keys, &values], &op)?;
            Ok(vec![rotated, keys, values])
        })
        .unwrap();
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    for device in devices() {
        let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
        let f = |dims: &[usize]| zeros(dims, DType::F32);
        let op = RopeWrite { theta: THETA, kind: RopeKind::Half };
        let (q, kv) = (f(&[1, 2, 3, 4]), f(&[1, 2, 1, 4]));
        let (at, cache) = (zeros(&[2], DType::U32), [f(&[1, 2, 1, 4]), f(&[1, 2, 1, 4])]);
        let text = |q: &Tensor, k: &Tensor, v: &Tensor, at: &Tensor, cache: [&Tensor; 2], op: &RopeWrite| {
            Tensor::rope_write([q, k, v], at, cache, op).unwrap_err().to_string()
        };
        let both = [&cache[0], &cache[1]];
        assert!(text(&f(&[1, 2, 3, 5]), &kv, &kv, &at, both, &op).contains("5 elements"));
        assert!(text(&q, &f(&[1, 2, 1, 6]), &kv, &at, both, &op).contains("expected [1, 2, 1, 4]"));
        assert!(text(&q, &kv, &q, &at, both, &op).contains("v has shape"));
        assert!(text(&q, &kv, &kv, &zeros(&[2], DType::I32), both, &op).contains("i32"));
        assert!(text(&q, &kv, &zeros(&[1, 2, 1, 4], DType::BF16), &at, both, &op).contains("bf16"));
        assert!(
            text(&q, &kv, &kv, &at, [&cache[0], &zeros(&[1, 2, 1, 4], DType::BF16)], &op).contains("bf16")
        );
        assert!(text(&q, &kv, &kv, &at, [&cache[0], &f(&[1, 3, 1, 4])], &op).contains("[1, 3, 1, 4]"));
        assert!(text(&q, &kv, &kv, &at, [&cache[0], &cache[0]], &op).contains("shares memory"));
        assert!(text(&q.tracked(), &kv, &kv, &at, both, &op).contains("no gradient"));
        assert!(
            text(&q, &kv, &kv, &at, both, &RopeWrite { theta: f32::NAN, ..op.clone() }).contains("theta")
        );
        let said = apply_in_place(op, &[&q], &[&kv]).unwrap_err().to_string();
        assert!(said.contains("takes 7"), "{said}");
    }
}
