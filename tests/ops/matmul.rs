use engine::ops::MatMul;
use engine::{DType, Device, Tensor, Wgpu};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{
    Expect, Operand, Source, cases, check, cuda, devices, dims, full_dims, same_bits, seed,
};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

fn expect(a: &Array, b: &Array, bias: Option<&Array>, out: DType) -> Expect {
    let abs = |x: &Array| x.map(f64::abs);
    let k = a.row_len();
    Expect::new(oracle::matmul(a, b, bias), out, Class::Sum(k)).scale(oracle::matmul(
        &abs(a),
        &abs(b),
        bias.map(abs).as_ref(),
    ))
}

fn f32_or_bf16() -> impl Strategy<Value = DType> {
    prop::sample::select(&[DType::F32, DType::BF16][..])
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn stacks_with_bias_match_the_oracle(
        lead in dims(0..=2, 3), m in 0usize..20, k in 0usize..40, n in 0usize..20,
        dtype in f32_or_bf16(), out in f32_or_bf16(), with_bias in any::<bool>(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let a = source.normal(&[&lead[..], &[m, k]].concat(), dtype);
        let b = source.normal(&[&lead[..], &[k, n]].concat(), dtype);
        let bias = source.normal(&[n], dtype);
        let op = MatMul { out };
        let bias = with_bias.then_some(&bias);
        let want = expect(&a.values, &b.values, bias.map(|b| &b.values), out);
        let operands: Vec<_> = [&a, &b].into_iter().chain(bias).collect();
        check(&operands, |t| engine::apply_one(op.clone(), &t.iter().collect::<Vec<_>>()), &want)?;
    }

    #[test]
    fn transposed_views_match(m in 1usize..20, k in 1usize..20, n in 1usize..20, dtype in f32_or_bf16(), seed in seed()) {
        let mut source = Source::new(seed);
        let a = source.normal(&[2, k, m], dtype);
        let b = source.normal(&[2, n, k], dtype);
        let want = expect(&a.values.permute(&[0, 2, 1]), &b.values.permute(&[0, 2, 1]), None, dtype);
        check(&[&a, &b], |t| t[0].t()?.matmul(&t[1].t()?), &want)?;
    }

    /// Few rows and columns and a long inner dimension: a GPU cuts it in parts.
    #[test]
    fn long_inner_dimensions_match(
        m in 1usize..20, k in 1usize..2500, n in 1usize..70, by_k in any::<[bool; 2]>(), dtype in f32_or_bf16(),
        out in f32_or_bf16(), with_bias in any::<bool>(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        // Sums of a thousand terms: each within the tolerance of sums, which grows with k.
        let mut stored = |rows: usize, columns: usize, turned: bool| {
            let dims = if turned { [columns, rows] } else { [rows, columns] };
            source.normal(&dims, dtype)
        };
        let (a, b) = (stored(m, k, !by_k[0]), stored(k, n, by_k[1]));
        let bias = source.normal(&[n], dtype);
        let turn = |x: &Array, turned: bool| if turned { x.permute(&[1, 0]) } else { x.clone() };
        let bias = with_bias.then_some(&bias);
        let want = expect(&turn(&a.values, !by_k[0]), &turn(&b.values, by_k[1]), bias.map(|b| &b.values), out);
        let operands: Vec<_> = [&a, &b].into_iter().chain(bias).collect();
        let op = MatMul { out };
        check(&operands, |t| {
            let a = if by_k[0] { t[0].clone() } else { t[0].t()? };
            let b = if by_k[1] { t[1].t()? } else { t[1].clone() };
            engine::apply_one(op.clone(), &[&a, &b].into_iter().chain(t.get(2)).collect::<Vec<_>>())
        }, &want)?;
    }

    #[test]
    fn leading_dimensions_broadcast(m in 0usize..5, k in 0usize..5, n in 0usize..5, dtype in f32_or_bf16(), seed in seed()) {
        let mut source = Source::new(seed);
        let shapes: [(&[usize], &[usize], &[usize]); 5] = [
            (&[], &[], &[]), (&[3, 2], &[], &[3, 2]), (&[3, 1], &[1, 2], &[3, 2]),
            (&[], &[3], &[3]), (&[2], &[3, 2], &[3, 2]),
        ];
        for (la, lb, lead) in shapes {
            let a = source.normal(&[la, &[m, k]].concat(), dtype);
            let b = source.normal(&[lb, &[k, n]].concat(), dtype);
            let want = expect(&a.values.expand(&[lead, &[m, k]].concat()),
                &b.values.expand(&[lead, &[k, n]].concat()), None, dtype);
            check(&[&a, &b], |t| t[0].matmul(&t[1]), &want)?;
        }
    }

    #[test]
    fn gradient_matches_differences(
        lead in full_dims(0..=1, 2), m in 1usize..5, k in 1usize..5, n in 1usize..5,
        dtype in f32_or_bf16(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let a = source.normal(&[&lead[..], &[m, k]].concat(), dtype);
        let b = source.normal(&[&lead[..], &[k, n]].concat(), dtype);
        let bias = source.normal(&[n], dtype);
        let op = MatMul { out: dtype };
        let rows = m * lead.iter().product::<usize>();
        gradient::check(seed, &[&a, &b, &bias],
            |t| engine::apply_one(op.clone(), &[&t[0], &t[1], &t[2]]),
            |v| oracle::matmul(&v[0], &v[1], Some(&v[2])),
            gradient::Slack { terms: rows.max(n), scale: (rows.max(n) as f64).sqrt() })?;
    }
}

/// Sizes around the edges of register and cache tiles.
#[test]
fn tile_edges_match() {
    for (seed, (m, k, n)) in [
        (1, 300, 257),
        (2, 64, 512),
        (17, 33, 65),
        (65, 129, 127),
        (128, 576, 96),
        (33, 1000, 31),
        (7, 2049, 3),
        (136, 72, 264),
    ]
    .into_iter()
    .enumerate()
    {
        for dtype in [DType::F32, DType::BF16] {
            let mut source = Source::new(seed as u64);
            let (a, b) = (source.normal(&[m, k], dtype), source.normal(&[k, n], dtype));
            let want = expect(&a.values, &b.values, None, DType::F32);
            let op = MatMul { out: DType::F32 };
            check(&[&a, &b], |t| engine::apply_one(op.clone(), &[&t[0], &t[1]]), &want).unwrap();
        }
    }
}

/// Larger than what a GPU binds at once if it is asked to bind little (`paths` asks): by columns where B lies column by column, by terms
/// where it lies row by row; and more work than one dispatch.
#[test]
fn products_in_pieces_match() {
    if devices().iter().all(|device| device.backend::<Wgpu>().is_none()) {
        return;
    }
    for (seed, turned) in [false, true].into_iter().enumerate() {
        let mut source = Source::new(seed as u64);
        let mut dense =
            |dims: [usize; 2]| Operand::dense(&source.normal(&dims, DType::F32).values, DType::F32);
        let (a, b) = (dense([70, 520]), dense(if turned { [530, 520] } else { [520, 530] }));
        let bias = Operand::dense(&source.normal(&[530], DType::F32).values, DType::F32);
        let values = if turned { b.values.permute(&[1, 0]) } else { b.values.clone() };
        for out in [DType::F32, DType::BF16] {
            let want = expect(&a.values, &values, Some(&bias.values), out);
            let product = |t: &[Tensor]| {
                let b = if turned { t[1].t()? } else { t[1].clone() };
                engine::apply_one(MatMul { out }, &[&t[0], &b, &t[2]])
            };
            check(&[&a, &b, &bias], product, &want).unwrap();
        }
    }
}

/// Large enough for every rung of the tensor cores, with either operand lying either way.
#[test]
fn tiles_of_transposed_operands_match() {
    let dtype = DType::BF16;
    for (seed, (a_turned, b_turned)) in
        [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
    {
        let mut source = Source::new(seed as u64);
        let mut stored = |rows: usize, columns: usize, turned: bool| {
            let drawn = source.normal(&if turned { [columns, rows] } else { [rows, columns] }, dtype);
            let made = Operand::dense(&drawn.values, dtype);
            let values = if turned { made.values.permute(&[1, 0]) } else { made.values.clone() };
            (made, values)
        };
        let ((a, a_values), (b, b_values)) = (stored(136, 72, a_turned), stored(72, 264, b_turned));
        let want = expect(&a_values, &b_values, None, dtype);
        let turn = |t: &Tensor, turned| if turned { t.t() } else { Ok(t.clone()) };
        check(&[&a, &b], |t| turn(&t[0], a_turned)?.matmul(&turn(&t[1], b_turned)?), &want).unwrap();
    }
    // The rung that was asked for, and no other.
    if let Some((device, _)) = cuda()
        && let Ok(rung) = std::env::var("ROENTGEN_CUDA_WGMMA")
    {
        let gpu: &engine::Cuda = device.backend().unwrap();
        let kernels = gpu.kernels();
        for ways in ["nn", "nt", "tn", "tt"] {
            let ran = kernels.contains(&format!("matmul_{rung}_{ways}_bf16"));
            assert_eq!(ran, gpu.facts().capability[0] == 9, "{kernels:?}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(9);
        let (a, b) = (source.normal(&[130, 190], dtype), source.normal(&[190, 170], dtype));
        same_bits(|device| Ok(vec![a.on(device)?.matmul(&b.on(device)?)?])).unwrap();
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let a = zeros(&[2, 3], DType::F32);
    let text = a.matmul(&zeros(&[4, 5], DType::F32)).unwrap_err().to_string();
    assert!(text.contains("matmul") && text.contains("[2, 3]") && text.contains("[4, 5]"), "{text}");
    let text = a.matmul(&zeros(&[3, 5], DType::BF16)).unwrap_err().to_string();
    assert!(text.contains("matmul") && text.contains("bf16"), "{text}");
    let half = zeros(&[3, 3], DType::F16);
    let text = half.matmul(&half).unwrap_err().to_string();
    assert!(text.contains("f16"), "{text}");
    let text = a.matmul(&zeros(&[3], DType::F32)).unwrap_err().to_string();
    assert!(text.contains("[3]"), "{text}");
}
