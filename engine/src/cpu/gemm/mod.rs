//! Matrix products on the CPU.
//!
//! One entry, [`gemm_batched`], and two ways behind it, chosen from shapes and strides alone:
//!
//! * `thin`: at most eight rows (or columns) against an operand whose `k` runs contiguously, which is then
//!   read in place, once, at memory speed: decoding, and the rank-8 factors of `LoRA`;
//! * `tiled`: everything else. Blocks of B are packed, and a register-tile kernel runs over them.
//!
//! A product may be a sum of several ([`gemm_sum`]), and the right operand of each may be a block-quantised weight
//! ([`Packed`]), whose values exist only in the packed blocks: a linear layer of 4-bit weights with its low-rank
//! adapter is one pass over C.
//!
//! Sums are f32 throughout and are rounded once, at the end. Every element of C is summed in an order
//! that depends on `k` and the way alone, so neither the number of threads nor the tiling changes a bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod kernel;
mod pack;
mod portable;
mod reference;
#[cfg(test)]
mod tests;
mod thin;
mod thin_packed;
mod tiled;

use half::bf16;

use super::isa::{Isa, isa};
pub use super::packed::{Packed, Scales};
use super::threads::Scatter;
use crate::dtype::Float;

/// A strided matrix to read: element `(i, j)` is `data[i * rs + j * cs]`. A stride of 0 repeats.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    /// From element `(0, 0)` on.
    pub data: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub rs: usize,
    /// Elements from one column to the next.
    pub cs: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// A dense row-major matrix.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, rs: cols, cs: 1 }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self { data: self.data, rows: self.cols, cols: self.rows, rs: self.cs, cs: self.rs }
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a, T> {
    /// Elements in memory.
    Dense(MatRef<'a, T>),
    /// A block-quantised weight `[out, in]` as B `[out, in]`.
    Packed(Packed<'a>),
    /// Its transpose `[in, out]`: what a linear layer multiplies by.
    PackedT(Packed<'a>),
}

impl<T> Right<'_, T> {
    fn rows(&self) -> usize {
        match self {
            Self::Dense(b) => b.rows,
            Self::Packed(w) => w.rows,
            Self::PackedT(w) => w.cols,
        }
    }

    fn cols(&self) -> usize {
        match self {
            Self::Dense(b) => b.cols,
            Self::Packed(w) => w.cols,
            Self::PackedT(w) => w.rows,
        }
    }
}

/// One product of a sum.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a, T> {
    /// `[m, k]`
    pub a: MatRef<'a, T>,
    /// `[k, n]`
    pub b: Right<'a, T>,
}

/// A matrix to write: element `(i, j)` is `data[i * rs + j]`.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// From element `(0, 0)` on.
    pub data: &'a mut [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next; at least `cols`.
    pub rs: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A dense row-major matrix.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, rs: cols }
    }
}

/// What the sums start from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a, T> {
    /// C = A·B.
    Zero,
    /// C = A·B + bias, one value per column of C.
    Bias(&'a [T]),
    /// C += A·B.
    Add,
}

/// One batch dimension: `count` products whose matrices lie `a`, `b` and `c` elements apart. A stride of 0
/// repeats an operand (grouped heads); C's must lead to separate elements.
#[derive(Clone, Copy, Debug)]
pub struct BatchDim {
    /// Products along this dimension.
    pub count: usize,
    /// Elements from one A to the next.
    pub a: usize,
    /// Elements from one B to the next.
    pub b: usize,
    /// Elements from one C to the next.
    pub c: usize,
}

/// Element types of the operands: f32 and bf16.
pub trait GemmInput: Float + sealed::Run {}
impl GemmInput for f32 {}
impl GemmInput for bf16 {}

/// C = A·B, `[m, k] × [k, n]`, started from `init`. Sums in f32, output rounded once to nearest even.
///
/// A linear layer with a weight stored `[out, in]` passes `MatRef::new(weight, out, in).t()` as `b`.
///
/// # Panics
/// If shapes disagree or a slice is too short for its matrix: the caller's defect.
pub fn gemm<T: GemmInput, O: Float>(a: MatRef<T>, b: MatRef<T>, c: MatMut<O>, init: Init<T>) {
    gemm_batched(a, b, c, init, &[]);
}

/// As [`gemm`], for each product of the batch dimensions in one fork. `a`, `b` and `c` are the first
/// product's matrices; their slices reach over the whole batch.
///
/// # Panics
/// As [`gemm`], and if two products would write the same element.
pub fn gemm_batched<T: GemmInput, O: Float>(
    a: MatRef<T>,
    b: MatRef<T>,
    c: MatMut<O>,
    init: Init<T>,
    batch: &[BatchDim],
) {
    gemm_with(isa(), a, b, c, init, batch);
}

/// As [`gemm_batched`], on a path of one's choice.
///
/// # Panics
/// As [`gemm_batched`], and if this machine does not offer `isa`.
pub fn gemm_with<T: GemmInput, O: Float>(
    isa: Isa,
    a: MatRef<T>,
    b: MatRef<T>,
    c: MatMut<O>,
    init: Init<T>,
    batch: &[BatchDim],
) {
    run(isa, &[Term { a, b: Right::Dense(b) }], c, init, batch);
}

/// C = Σ A·B over `terms` (the same `m` and `n`, each its own `k`), started from `init`, summed in f32 in the order
/// of the terms and rounded once.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_sum<T: GemmInput, O: Float>(terms: &[Term<T>], c: MatMut<O>, init: Init<T>) {
    run(isa(), terms, c, init, &[]);
}

/// C = A·Wᵀ for each of `weights` and its C of `outs`. Of few rows this is one walk through all the weights.
///
/// # Panics
/// As [`gemm`], and if there are not as many outputs as weights.
pub fn gemm_group<T: GemmInput, O: Float>(a: MatRef<T>, weights: &[Packed], outs: Vec<MatMut<O>>) {
    assert_eq!(weights.len(), outs.len(), "gemm: one output per weight");
    let terms: Vec<_> = weights.iter().map(|&w| [Term { a, b: Right::PackedT(w) }]).collect();
    let group: Vec<_> =
        terms.iter().zip(outs).filter_map(|(terms, c)| checked(terms, c, Init::Zero, &[])).collect();
    T::run(isa(), &group);
}

fn run<T: GemmInput, O: Float>(isa: Isa, terms: &[Term<T>], c: MatMut<O>, init: Init<T>, batch: &[BatchDim]) {
    assert!(isa <= Isa::detect(), "this machine does not offer {}", isa.name());
    if let Some(g) = checked(terms, c, init, batch) {
        T::run(isa, &[g]);
    }
}

/// Checks a call; `None` if there is nothing to compute.
fn checked<'a, T: GemmInput, O: Float>(
    terms: &'a [Term<'a, T>],
    c: MatMut<'_, O>,
    init: Init<'a, T>,
    batch: &'a [BatchDim],
) -> Option<Gemm<'a, T, O>> {
    let MatMut { data, rows: m, cols: n, rs: c_rs } = c;
    let products = batch.iter().map(|d| d.count).product();
    assert!(batch.is_empty() || terms.len() == 1, "gemm: a batch has one term");
    for Term { a, b } in terms {
        assert!(a.rows == m && b.cols() == n && b.rows() == a.cols, "gemm: shapes disagree");
    }
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n, "gemm: one bias per column");
    }
    if products == 0 || m == 0 || n == 0 {
        return None;
    }
    for Term { a, b } in terms {
        let batch_a = batch.iter().map(|d| (d.count, d.a));
        check_reach("A", a.data.len(), [(a.rows, a.rs), (a.cols, a.cs)], batch_a);
        match b {
            Right::Dense(b) => {
                let batch_b = batch.iter().map(|d| (d.count, d.b));
                check_reach("B", b.data.len(), [(b.rows, b.rs), (b.cols, b.cs)], batch_b);
            }
            Right::Packed(_) | Right::PackedT(_) => {
                assert!(batch.is_empty(), "gemm: a packed weight in a batch");
            }
        }
    }
    check_reach("C", data.len(), [(m, c_rs), (n, 1)], batch.iter().map(|d| (d.count, d.c)));
    check_disjoint([(n, 1), (m, c_rs)], batch);
    Some(Gemm { m, n, terms, c: Scatter::new(data), c_rs, init, batch, products })
}

/// Every index below must be in bounds: the kernels read and write through pointers.
fn check_reach(
    name: &str,
    len: usize,
    dims: [(usize, usize); 2],
    batch: impl Iterator<Item = (usize, usize)>,
) {
    if dims.iter().any(|d| d.0 == 0) {
        return;
    }
    let last = dims
        .into_iter()
        .chain(batch)
        .try_fold(0usize, |reach, (count, stride)| reach.checked_add((count - 1).checked_mul(stride)?));
    assert!(last.is_some_and(|last| last < len), "gemm: {name} reaches beyond its slice");
}

/// Tasks write C without looking at each other, so no two places may coincide: in order of stride, each
/// dimension must step over all that the smaller ones span.
fn check_disjoint(dims: [(usize, usize); 2], batch: &[BatchDim]) {
    let mut span = 1;
    let mut below = 0;
    let dims = || dims.into_iter().chain(batch.iter().map(|d| (d.count, d.c))).filter(|d| d.0 > 1);
    for _ in 0..dims().count() {
        // Selection by stride: no allocation. Equal strides of two dimensions fail the assertion.
        let Some((count, stride)) = dims().filter(|d| d.1 > below).min_by_key(|d| d.1) else {
            panic!("gemm: two dimensions of C share a stride");
        };
        assert!(stride >= span, "gemm: products of the batch overlap in C");
        span += (count - 1) * stride;
        below = stride;
    }
}

/// A checked call: everything the ways need.
struct Gemm<'a, T, O> {
    m: usize,
    n: usize,
    terms: &'a [Term<'a, T>],
    c: Scatter<O>,
    c_rs: usize,
    init: Init<'a, T>,
    batch: &'a [BatchDim],
    products: usize,
}

impl<'a, T: Copy, O> Gemm<'a, T, O> {
    /// Offsets of A, B and C of product `p`.
    fn product(&self, mut p: usize) -> (usize, usize, usize) {
        let (mut a, mut b, mut c) = (0, 0, 0);
        for dim in self.batch.iter().rev() {
            let i = p % dim.count;
            p /= dim.count;
            a += i * dim.a;
            b += i * dim.b;
            c += i * dim.c;
        }
        (a, b, c)
    }

    /// The operands, if there is one term and both are in memory.
    fn dense(&self) -> Option<(MatRef<'a, T>, MatRef<'a, T>)> {
        match self.terms {
            [Term { a, b: Right::Dense(b) }] => Some((*a, *b)),
            _ => None,
        }
    }

    fn flops(&self) -> usize {
        let k = self.terms.iter().map(|t| t.a.cols).sum();
        2usize.saturating_mul(self.m).saturating_mul(self.n).saturating_mul(k).saturating_mul(self.products)
    }
}

/// From `offset` on; with k = 0 an operand may be empty.
fn from<T>(data: &[T], offset: usize) -> &[T] {
    &data[offset.min(data.len())..]
}

/// One instruction set's products; several only if they share A and each has one packed term.
fn drive<T: GemmInput, O: Float, K: kernel::Kernel<T>>(group: &[Gemm<T, O>]) {
    if thin_packed::run::<T, O, K>(group) {
        return;
    }
    for g in group {
        if !thin::run::<T, O, K>(g) {
            tiled::run::<T, O, K>(g);
        }
    }
}

mod sealed {
    use super::{Float, Gemm, GemmInput, Isa, bf16, drive, portable::Plain, reference};
    #[cfg(target_arch = "x86_64")]
    use super::{
        avx2::Fma256,
        avx512::{Dot512, Fma512},
    };

    pub trait Run: Sized {
        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn run<O: Float>(isa: Isa, group: &[Gemm<Self, O>])
        where
            Self: GemmInput;
    }

    impl Run for f32 {
        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn run<O: Float>(isa: Isa, group: &[Gemm<Self, O>]) {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx512Bf16 => drive::<Self, O, Fma512>(group),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => drive::<Self, O, Fma256>(group),
                Isa::Reference => group.iter().for_each(reference::run),
                _ => drive::<Self, O, Plain>(group),
            }
        }
    }

    impl Run for bf16 {
        #[expect(private_interfaces, reason = "the trait is sealed")]
        fn run<O: Float>(isa: Isa, group: &[Gemm<Self, O>]) {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Bf16 => drive::<Self, O, Dot512>(group),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => drive::<Self, O, Fma512>(group),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => drive::<Self, O, Fma256>(group),
                Isa::Reference => group.iter().for_each(reference::run),
                _ => drive::<Self, O, Plain>(group),
            }
        }
    }
}
