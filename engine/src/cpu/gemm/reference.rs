//! The product as it is defined: three loops, one thread, values of a packed weight looked up one by one. The bottom
//! rung of `docs/kernels/matmul.md` and `linear_nf4.md`, there to be read and to be measured against.

use super::{Gemm, Init, Right, Term};
use crate::dtype::Float;

pub(super) fn run<T: Float, O: Float>(g: &Gemm<T, O>) {
    for p in 0..g.products {
        let (a0, b0, c0) = g.product(p);
        for i in 0..g.m {
            for j in 0..g.n {
                // SAFETY: the only thread; `checked` saw that C reaches as far.
                let out = &mut unsafe { g.c.slice(c0 + i * g.c_rs + j, 1) }[0];
                let mut sum = match g.init {
                    Init::Zero => 0.0,
                    Init::Bias(bias) => bias[j].to_f32(),
                    Init::Add => out.to_f32(),
                };
                for Term { a, b } in g.terms {
                    for k in 0..a.cols {
                        sum += a.data[a0 + i * a.rs + k * a.cs].to_f32() * element(b, b0, k, j);
                    }
                }
                *out = O::from_f32(sum);
            }
        }
    }
}

/// Element `(k, j)` of the B that begins at `start`.
fn element<T: Float>(b: &Right<T>, start: usize, k: usize, j: usize) -> f32 {
    let (weight, at) = match b {
        Right::Dense(b) => return b.data[start + k * b.rs + j * b.cs].to_f32(),
        Right::Packed(w) => (w, k * w.cols + j),
        Right::PackedT(w) => (w, j * w.cols + k),
    };
    let mut value = [T::from_f32(0.0)];
    weight.one_by_one(at, &mut value);
    value[0].to_f32()
}
