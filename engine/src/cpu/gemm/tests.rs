//! Every path against f64.

use proptest::prelude::*;

use super::*;
use crate::cpu::threads::with_threads;
use crate::dtype::{DType, Element};

const PATHS: [Isa; 5] = Isa::ALL;

/// Values in ±1, a different sequence for each seed.
fn values<T: Element>(n: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            T::from_f64((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
        })
        .collect()
}

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Rows,
    Columns,
    PaddedRows,
    PaddedColumns,
    EverySecond,
    RepeatedRow,
    RepeatedColumn,
}

use Layout::*;
const LAYOUTS: [Layout; 7] =
    [Rows, Columns, PaddedRows, PaddedColumns, EverySecond, RepeatedRow, RepeatedColumn];

impl Layout {
    /// Row stride, column stride.
    fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        match self {
            Rows => (cols, 1),
            Columns => (1, rows),
            PaddedRows => (cols + 3, 1),
            PaddedColumns => (1, rows + 5),
            EverySecond => (2 * cols + 1, 2),
            RepeatedRow => (0, 1),
            RepeatedColumn => (1, 0),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Zero,
    Bias,
    Add,
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    layouts: [Layout; 2],
    start: Start,
    /// Products, whether B is shared by all, whether they interleave in C as heads do.
    batch: (usize, bool, bool),
    seed: u64,
}

fn span(rows: usize, cols: usize, (rs, cs): (usize, usize)) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * rs + (cols - 1) * cs + 1 }
}

/// The operands of a case and what f64 makes of them.
struct Problem<'a, T> {
    case: &'a Case,
    strides: [(usize, usize); 2],
    dim: BatchDim,
    c_rs: usize,
    a: Vec<T>,
    b: Vec<T>,
    bias: Vec<T>,
    /// C before: bf16 values, which every output type holds exactly.
    before: Vec<bf16>,
    /// For each place that C's elements take: the sum and the sum of magnitudes.
    wanted: Vec<Option<(f64, f64)>>,
}

impl<'a, T: GemmInput> Problem<'a, T> {
    fn new(case: &'a Case) -> Self {
        let &Case { m, n, k, layouts, batch: (products, shared_b, interleaved), seed, .. } = case;
        let (sa, sb) = (layouts[0].strides(m, k), layouts[1].strides(k, n));
        let (a_span, b_span) = (span(m, k, sa), span(k, n, sb));
        Self {
            case,
            strides: [sa, sb],
            dim: BatchDim {
                count: products,
                a: a_span,
                b: if shared_b { 0 } else { b_span },
                c: if interleaved { n } else { m * (n + 1) },
            },
            c_rs: if interleaved { n * products + 2 } else { n + 1 },
            a: values(a_span * products, seed),
            b: values(b_span * products, seed + 1),
            bias: values(n, seed + 2),
            before: values(m * (n * products + 2) + products * m * (n + 1), seed + 3),
            wanted: Vec::new(),
        }
    }

    fn run<O: Float>(&self, isa: Isa) -> Vec<O> {
        let &Case { m, n, k, start, .. } = self.case;
        let [sa, sb] = self.strides;
        let mut c: Vec<O> = self.before.iter().map(|x| O::from_f32(x.to_f32())).collect();
        let init = match start {
            Start::Zero => Init::Zero,
            Start::Bias => Init::Bias(&self.bias),
            Start::Add => Init::Add,
        };
        gemm_with(
            isa,
            MatRef { data: &self.a, rows: m, cols: k, rs: sa.0, cs: sa.1 },
            MatRef { data: &self.b, rows: k, cols: n, rs: sb.0, cs: sb.1 },
            MatMut { data: &mut c, rows: m, cols: n, rs: self.c_rs },
            init,
            &[self.dim],
        );
        c
    }

    fn solve(mut self) -> Self {
        let &Case { m, n, k, start, .. } = self.case;
        let [sa, sb] = self.strides;
        let [a, b] = [&self.a, &self.b].map(|v| v.iter().map(|x| x.to_f64()).collect::<Vec<f64>>());
        let mut wanted = vec![None; self.before.len()];
        for p in 0..self.dim.count {
            for i in 0..m {
                let mut sums = vec![(0.0, 0.0); n];
                for l in 0..k {
                    let x = a[p * self.dim.a + i * sa.0 + l * sa.1];
                    for (j, (sum, magnitude)) in sums.iter_mut().enumerate() {
                        let y = b[p * self.dim.b + l * sb.0 + j * sb.1];
                        *sum += x * y;
                        *magnitude += (x * y).abs();
                    }
                }
                for (j, (sum, magnitude)) in sums.into_iter().enumerate() {
                    let at = p * self.dim.c + i * self.c_rs + j;
                    let first = match start {
                        Start::Zero => 0.0,
                        Start::Bias => self.bias[j].to_f64(),
                        Start::Add => self.before[at].to_f64(),
                    };
                    wanted[at] = Some((first + sum, first.abs() + magnitude));
                }
            }
        }
        self.wanted = wanted;
        self
    }

    /// Each of at most k products and k + 1 additions errs by at most half a unit in the last place of a
    /// partial sum, none of which exceeds the sum of magnitudes (`vdpbf16ps` may flush a subnormal besides);
    /// then the output is rounded.
    fn check<O: Float>(&self, isa: Isa) {
        let unit = |dtype| if dtype == DType::BF16 { 2f64.powi(-8) } else { 2f64.powi(-24) };
        for (at, (c, before)) in self.run::<O>(isa).into_iter().zip(&self.before).enumerate() {
            let Some((sum, magnitude)) = self.wanted[at] else {
                assert_eq!(c.to_f64(), before.to_f64(), "{:?}: wrote outside of C at {at}", self.case);
                continue;
            };
            let summed = (2 * self.case.k + 1) as f64 * unit(DType::F32) * magnitude;
            let bound = summed + unit(O::DTYPE) * (sum.abs() + summed) + 1e-37;
            assert!(
                (c.to_f64() - sum).abs() <= bound,
                "{:?} on {isa:?}, {} to {}: {c:?} at {at}, not {sum} ± {bound}",
                self.case,
                T::DTYPE,
                O::DTYPE
            );
        }
    }
}

fn paths() -> impl Iterator<Item = Isa> {
    PATHS.into_iter().filter(|&isa| isa <= Isa::detect())
}

/// All paths that this machine has, all types.
fn check_all(case: &Case) {
    let (f32s, bf16s) = (Problem::<f32>::new(case).solve(), Problem::<bf16>::new(case).solve());
    for isa in paths() {
        f32s.check::<f32>(isa);
        f32s.check::<bf16>(isa);
        bf16s.check::<bf16>(isa);
        bf16s.check::<f32>(isa);
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..4usize, 4..20usize, 20..80usize]
}

fn cases() -> impl Strategy<Value = Case> {
    let layout = || proptest::sample::select(LAYOUTS.to_vec());
    let start = proptest::sample::select(vec![Start::Zero, Start::Bias, Start::Add]);
    let shape = (size(), size(), prop_oneof![size(), 500..700usize]);
    let batch = (0..4usize, any::<bool>(), any::<bool>());
    (shape, layout(), layout(), start, batch, 0..1000u64).prop_map(|((m, n, k), a, b, start, batch, seed)| {
        Case { m, n, k, layouts: [a, b], start, batch, seed }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_f64(case in cases()) {
        check_all(&case);
    }
}

#[test]
fn agrees_with_f64_beyond_one_block() {
    // More than one block along k, several tasks both ways, ragged edges; then decoding and its mirror.
    for (m, n, k) in [(100, 301, 1111), (1, 999, 1537), (7, 130, 2049), (300, 5, 1025)] {
        for layouts in [[Rows, Columns], [Rows, Rows], [Columns, Rows]] {
            for start in [Start::Bias, Start::Add] {
                check_all(&Case { m, n, k, layouts, start, batch: (1, false, false), seed: 7 });
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (m, n, k) in [(164, 192, 576), (300, 310, 1111), (1, 3000, 333), (5, 1000, 65), (500, 8, 100)] {
        for layouts in [[Rows, Columns], [Columns, Rows]] {
            let case = Case { m, n, k, layouts, start: Start::Add, batch: (3, true, true), seed: 3 };
            let (f32s, bf16s) = (Problem::<f32>::new(&case), Problem::<bf16>::new(&case));
            for isa in paths() {
                let one = with_threads(1, || (f32s.run::<f32>(isa), bf16s.run::<bf16>(isa)));
                assert_eq!(one, (f32s.run(isa), bf16s.run(isa)), "{isa:?} {case:?}");
            }
        }
    }
}

#[test]
fn batch_dimensions_nest() {
    // Four query heads in two groups, two sequences: B repeats within a group, C interleaves heads.
    let (s, d, groups, per_group, seqs) = (5, 3, 2, 2, 2);
    let heads = groups * per_group;
    let q: Vec<f32> = values(seqs * s * heads * d, 1);
    let kv: Vec<f32> = values(seqs * s * groups * d, 2);
    let mut c = vec![0f32; seqs * heads * s * s];
    gemm_batched(
        MatRef { data: &q, rows: s, cols: d, rs: heads * d, cs: 1 },
        MatRef { data: &kv, rows: d, cols: s, rs: 1, cs: groups * d },
        MatMut { data: &mut c, rows: s, cols: s, rs: s },
        Init::Zero,
        &[
            BatchDim { count: seqs, a: s * heads * d, b: s * groups * d, c: heads * s * s },
            BatchDim { count: groups, a: per_group * d, b: d, c: per_group * s * s },
            BatchDim { count: per_group, a: d, b: 0, c: s * s },
        ],
    );
    for seq in 0..seqs {
        for h in 0..heads {
            for (i, j) in (0..s).flat_map(|i| (0..s).map(move |j| (i, j))) {
                let sum: f64 = (0..d)
                    .map(|l| {
                        f64::from(q[((seq * s + i) * heads + h) * d + l])
                            * f64::from(kv[((seq * s + j) * groups + h / per_group) * d + l])
                    })
                    .sum();
                assert!((f64::from(c[((seq * heads + h) * s + i) * s + j]) - sum).abs() < 1e-6);
            }
        }
    }
}

#[test]
#[should_panic(expected = "overlap")]
fn overlapping_products_are_refused() {
    let (x, mut c) = ([1f32; 64], [0f32; 64]);
    let dim = BatchDim { count: 2, a: 0, b: 0, c: 2 };
    gemm_batched(MatRef::new(&x, 4, 4), MatRef::new(&x, 4, 4), MatMut::new(&mut c, 4, 4), Init::Zero, &[dim]);
}

#[test]
#[should_panic(expected = "beyond")]
fn short_slices_are_refused() {
    let (x, mut c) = ([1f32; 15], [0f32; 16]);
    gemm(MatRef::new(&x, 4, 4), MatRef::new(&x[..12], 4, 3), MatMut::new(&mut c, 4, 3), Init::Zero);
}

#[test]
fn non_finite_values_pass_through() {
    for isa in paths() {
        for n in [3, 40] {
            let mut a = vec![1f32; 20 * 50];
            (a[0], a[50], a[100]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
            let a: Vec<bf16> = a.into_iter().map(bf16::from_f32).collect();
            let b = vec![bf16::ONE; n * 50];
            let mut c = vec![bf16::ZERO; 20 * n];
            gemm_with(
                isa,
                MatRef::new(&a, 20, 50),
                MatRef::new(&b, n, 50).t(),
                MatMut::new(&mut c, 20, n),
                Init::Zero,
                &[],
            );
            for j in 0..n {
                assert!(c[j].is_nan() && c[n + j] == bf16::INFINITY && c[2 * n + j] == bf16::NEG_INFINITY);
                assert_eq!(c[3 * n + j].to_f32(), 50.0);
            }
        }
    }
}

/// A random 4-bit weight with double-quantised scales, and its values by the rule of the format.
struct Weight {
    codes: Vec<u8>,
    scale_codes: Vec<u8>,
    absmax: Vec<f32>,
    map: [f32; 256],
    block: usize,
    rows: usize,
    cols: usize,
}

impl Weight {
    fn random(rows: usize, cols: usize, block: usize, seed: u64) -> Self {
        let bytes = |n: usize, seed: u64| -> Vec<u8> {
            values::<f32>(n, seed).iter().map(|v| ((v + 1.0) * 127.9) as u8).collect()
        };
        let blocks = (rows * cols).div_ceil(block);
        Self {
            codes: bytes((rows * cols).div_ceil(2), seed),
            scale_codes: bytes(blocks, seed + 1),
            absmax: values::<f32>(blocks.div_ceil(256), seed + 2).iter().map(|v| v.abs()).collect(),
            map: crate::Codebook::Dynamic.values().try_into().unwrap(),
            block,
            rows,
            cols,
        }
    }

    fn packed(&self) -> Packed<'_> {
        Packed {
            codes: &self.codes,
            scales: Scales::Nested {
                codes: &self.scale_codes,
                absmax: &self.absmax,
                map: &self.map,
                block: 256,
                offset: 0.125,
            },
            block: self.block,
            table: crate::Codebook::Nf4.values().try_into().unwrap(),
            rows: self.rows,
            cols: self.cols,
        }
    }

    fn values<T: Float>(&self) -> Vec<T> {
        (0..self.rows * self.cols)
            .map(|i| {
                let code = if i % 2 == 0 { self.codes[i / 2] >> 4 } else { self.codes[i / 2] & 15 };
                let b = i / self.block;
                let scale = self.map[self.scale_codes[b] as usize] * self.absmax[b / 256] + 0.125;
                T::from_f32(crate::Codebook::Nf4.values()[code as usize] * scale)
            })
            .collect()
    }
}

/// Sums of a packed product equal those of the expanded weight: bit for bit where both take the same way.
fn packed_equals_expanded<T: GemmInput>(
    (m, rows, cols): (usize, usize, usize),
    block: usize,
    r: usize,
    seed: u64,
    exact: bool,
) -> Result<(), TestCaseError> {
    let weight = Weight::random(rows, cols, block, seed);
    let dense = weight.values::<T>();
    for path in PATHS.into_iter().filter(|&p| p <= Isa::detect()) {
        for transposed in [true, false] {
            let (k, n) = if transposed { (cols, rows) } else { (rows, cols) };
            let (x, h, low) =
                (values::<T>(m * k, seed + 3), values::<T>(m * r, seed + 4), values::<T>(r * n, 5));
            let packed =
                if transposed { Right::PackedT(weight.packed()) } else { Right::Packed(weight.packed()) };
            let stored = MatRef::new(&dense[..], rows, cols);
            let stored = Right::Dense(if transposed { stored.t() } else { stored });
            let product = |b| {
                let terms = [
                    Term { a: MatRef::new(&x[..], m, k), b },
                    Term { a: MatRef::new(&h[..], m, r), b: Right::Dense(MatRef::new(&low[..], r, n)) },
                ];
                let mut out = vec![0f32; m * n];
                let terms = if r == 0 { &terms[..1] } else { &terms[..] };
                run(path, terms, MatMut::new(&mut out, m, n), Init::Zero, &[]);
                out
            };
            let (ours, wanted) = (product(packed), product(stored));
            for (i, (a, b)) in ours.iter().zip(&wanted).enumerate() {
                // Few rows or columns of a weight in memory go another way than packed ones.
                let fits = if exact && m.min(n) > 8 {
                    a == b
                } else {
                    (a - b).abs() <= 2e-5 * (k as f32).sqrt() * 2.0
                };
                prop_assert!(fits, "{} transposed {transposed} element {i}: {a} and {b}", path.name());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packed_weights_are_multiplied_as_their_values(
        m in prop_oneof![1usize..10, 11usize..70],
        rows in 1usize..90,
        cols in prop_oneof![1usize..150, (1usize..8).prop_map(|n| 64 * n), (1usize..12).prop_map(|n| 16 * n)],
        block in prop_oneof![Just(32usize), Just(64), Just(64), Just(128)],
        r in prop_oneof![Just(0usize), 1usize..10],
        seed in 0u64..1000,
    ) {
        packed_equals_expanded::<f32>((m, rows, cols), block, r, seed, true)?;
        packed_equals_expanded::<bf16>((m, rows, cols), block, r, seed, true)?;
    }
}

#[test]
fn a_long_packed_product_takes_several_blocks_of_k() {
    packed_equals_expanded::<bf16>((13, 70, 4304), 64, 8, 7, true).unwrap();
    packed_equals_expanded::<f32>((9, 1100, 192), 64, 8, 8, true).unwrap();
    packed_equals_expanded::<bf16>((1, 600, 2048), 64, 8, 9, true).unwrap();
}
