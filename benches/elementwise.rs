//! Nanoseconds an element of the operations that touch each element a few times.
//!
//! `cargo bench -p roentgen-engine --bench elementwise [-- <filter>]`; `ROENTGEN_CPU` chooses the path. One
//! thread, tensors of a vision tower's size (1024 rows of 1152), median of repeats over about 0.3 s.

use std::time::Instant;

use engine::cpu::{isa::isa, threads};
use engine::ops::GeluKind;
use engine::{DType, Device, Result, Rng, Tensor};

const ROWS: usize = 1024;
const WIDTH: usize = 1152;

/// Median seconds of one call.
fn time(mut f: impl FnMut() -> Result<Vec<Tensor>>) -> Result<f64> {
    f()?;
    let mut all = Vec::new();
    let start = Instant::now();
    while all.len() < 5 || start.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        std::hint::black_box(f()?);
        all.push(start.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// One operation on `x`, `y` of `[ROWS, WIDTH]` and `w` of `[WIDTH]`.
type Case = (&'static str, fn(&Tensor, &Tensor, &Tensor) -> Result<Vec<Tensor>>);

/// Output and input gradients of `f`, from its own output as the upstream gradient.
fn both(leaves: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let leaves: Vec<Tensor> = leaves.iter().map(Tensor::tracked).collect();
    let y = f(&leaves)?;
    let mut gradients = y.backward_from(&y.detach())?;
    Ok(leaves.iter().filter_map(|leaf| gradients.take(leaf)).collect())
}

const CASES: &[Case] = &[
    ("copy", |x, _, _| Ok(vec![x.copy()?])),
    ("to f32", |x, _, _| Ok(vec![x.to_dtype(DType::F32)?])),
    ("to bf16", |x, _, _| Ok(vec![x.to_dtype(DType::BF16)?])),
    ("affine", |x, _, _| Ok(vec![x.affine(0.5, 1.0)?])),
    ("add", |x, y, _| Ok(vec![x.add(y)?])),
    ("add row", |x, _, w| Ok(vec![x.add(w)?])),
    ("exp", |x, _, _| Ok(vec![x.exp()?])),
    ("tanh", |x, _, _| Ok(vec![x.tanh()?])),
    ("sigmoid", |x, _, _| Ok(vec![x.sigmoid()?])),
    ("gelu tanh", |x, _, _| Ok(vec![x.gelu(GeluKind::Tanh)?])),
    ("gelu erf", |x, _, _| Ok(vec![x.gelu(GeluKind::Erf)?])),
    ("gelu tanh and grad", |x, _, _| both(std::slice::from_ref(x), |t| t[0].gelu(GeluKind::Tanh))),
    ("gated_silu", |x, y, _| Ok(vec![x.gated_silu(y)?])),
    ("gated_silu and grad", |x, y, _| both(&[x.clone(), y.clone()], |t| t[0].gated_silu(&t[1]))),
    ("layer_norm", |x, _, w| Ok(vec![x.layer_norm(w, w, 1e-5)?])),
    ("layer_norm and grad", |x, _, w| {
        both(&[x.clone(), w.clone(), w.clone()], |t| t[0].layer_norm(&t[1], &t[2], 1e-5))
    }),
    ("rms_norm", |x, _, w| Ok(vec![x.rms_norm(w, 1e-5)?])),
    ("rms_norm and grad", |x, _, w| both(&[x.clone(), w.clone()], |t| t[0].rms_norm(&t[1], 1e-5))),
    ("sum rows", |x, _, _| Ok(vec![x.sum(&[1])?])),
    ("sum columns", |x, _, _| Ok(vec![x.sum(&[0])?])),
    ("sum_squares", |x, _, _| Ok(vec![x.sum_squares()?])),
];

fn main() -> Result<()> {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let device = Device::cpu();
    let mut rng = Rng::new(1);
    println!("ns an element, one thread, {} path", isa().name());
    println!("{:<22}{:>8}{:>8}", "", "f32", "bf16");
    for (name, case) in CASES.iter().filter(|(name, _)| filter.iter().all(|f| name.contains(f.as_str()))) {
        print!("{name:<22}");
        for dtype in [DType::F32, DType::BF16] {
            let x = Tensor::randn(&[ROWS, WIDTH], 2.0, dtype, &mut rng, &device)?;
            let y = Tensor::randn(&[ROWS, WIDTH], 1.0, dtype, &mut rng, &device)?;
            let w = Tensor::randn(&[WIDTH], 1.0, dtype, &mut rng, &device)?;
            let seconds = threads::with_threads(1, || time(|| case(&x, &y, &w)))?;
            print!("{:>8.3}", seconds * 1e9 / (ROWS * WIDTH) as f64);
        }
        println!();
    }
    Ok(())
}
