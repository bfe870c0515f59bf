//! Operands, and the comparison of an operation with its oracle on every device.

use engine::cpu::threads;
use engine::{DType, Device, Result, Rng, Tensor};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use crate::oracle::{Array, round};
use crate::tolerance::close;

pub(crate) use roentgen_oracle::tolerance::Expect;

/// Outcome of a check; `?` turns engine errors into failures too.
pub(crate) type Check = std::result::Result<(), TestCaseError>;

/// Element types that carry gradients.
pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Threads that the suite asks for, so that a machine with one core runs the parallel code too.
const THREADS: usize = 3;

/// Which device the suite runs on: `cpu`, unless this says `wgpu`.
pub(crate) const DEVICE: &str = "ROENTGEN_TEST_DEVICE";

pub(crate) use roentgen_oracle::gpu::gpu;

/// The device that the suite runs on. `paths` runs it again on the GPU, with fewer draws: software ones are slow.
pub(crate) fn devices() -> Vec<Device> {
    // Only the first call before the first kernel counts; later ones change nothing.
    threads::set_threads(THREADS);
    match std::env::var(DEVICE).as_deref() {
        Err(_) | Ok("cpu") => vec![Device::cpu()],
        Ok("wgpu") => gpu().into_iter().collect(),
        Ok(other) => panic!("{DEVICE}={other}: expected cpu or wgpu"),
    }
}

/// `cases` draws of a property, or what `PROPTEST_CASES` says.
pub(crate) fn cases(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// A float type.
pub(crate) fn float() -> impl Strategy<Value = DType> {
    prop::sample::select(&FLOATS[..])
}

/// A seed; shrinking it would mean nothing.
pub(crate) fn seed() -> impl Strategy<Value = u64> {
    any::<u64>().no_shrink()
}

/// Sizes of `rank` dimensions up to `most`, now and then 0.
pub(crate) fn dims(rank: std::ops::RangeInclusive<usize>, most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![30 => 1..=most, 1 => Just(0)], rank)
}

/// As [`dims`], never 0.
pub(crate) fn full_dims(
    rank: std::ops::RangeInclusive<usize>,
    most: usize,
) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..=most, rank)
}

#[derive(Clone, Debug)]
enum Step {
    Permute(Vec<usize>),
    Narrow { axis: usize, start: usize, len: usize },
    Select { axis: usize, i: usize },
    Expand(Vec<usize>),
}

/// One input: values that its element type holds exactly, and a way to lie in memory.
#[derive(Clone)]
pub(crate) struct Operand {
    pub(crate) values: Array,
    pub(crate) dtype: DType,
    stored: Array,
    steps: Vec<Step>,
}

impl std::fmt::Debug for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}, stored as {:?}", self.dtype, self.values.dims, self.stored.dims)?;
        self.steps.iter().try_for_each(|step| write!(f, ", {step:?}"))
    }
}

impl Operand {
    /// Contiguous, from the given values (rounded).
    pub(crate) fn dense(values: &Array, dtype: DType) -> Self {
        let values = values.map(|x| round(x, dtype));
        Self { stored: values.clone(), values, dtype, steps: Vec::new() }
    }

    /// The tensor on a device: the stored array, seen through the steps.
    pub(crate) fn on(&self, device: &Device) -> Result<Tensor> {
        let mut t = Tensor::from_f64(&self.stored.data, &self.stored.dims, self.dtype, device)?;
        for step in &self.steps {
            t = match step {
                Step::Permute(axes) => t.permute(axes)?,
                Step::Narrow { axis, start, len } => t.narrow(*axis, *start, *len)?,
                Step::Select { axis, i } => t.select(*axis, *i)?,
                Step::Expand(dims) => t.expand(dims)?,
            };
        }
        Ok(t)
    }
}

/// Draws operands.
pub(crate) struct Source {
    pub(crate) rng: Rng,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }

    /// Standard normal values in a random way of lying in memory.
    pub(crate) fn normal(&mut self, dims: &[usize], dtype: DType) -> Operand {
        self.operand(dims, dtype, |rng| f64::from(rng.normal()))
    }

    /// Uniform in `low .. high`.
    pub(crate) fn uniform(&mut self, dims: &[usize], dtype: DType, low: f64, high: f64) -> Operand {
        self.operand(dims, dtype, |rng| low + (high - low) * rng.uniform())
    }

    /// Values from `f`, contiguous, permuted, a part of something bigger, every second element of
    /// something, or repeated by stride 0.
    pub(crate) fn operand(&mut self, dims: &[usize], dtype: DType, f: impl Fn(&mut Rng) -> f64) -> Operand {
        let mut steps = Vec::new();
        // Worked out backwards: `shape` is what must be stored for `steps` to give `dims`.
        let mut shape = dims.to_vec();
        let rank = dims.len();
        let kind = self.rng.below(6);
        if rank > 0 && kind == 1 {
            let axis = self.rng.below(rank);
            steps.insert(0, Step::Expand(shape.clone()));
            shape[axis] = 1;
        }
        if rank > 0 && (kind == 2 || kind == 5) {
            let axis = self.rng.below(rank);
            let (before, after) = (self.rng.below(4), self.rng.below(3));
            steps.insert(0, Step::Narrow { axis, start: before, len: shape[axis] });
            shape[axis] += before + after;
        }
        if rank < engine::MAX_RANK && kind == 3 {
            let (axis, size) = (rank - self.rng.below(2).min(rank), 1 + self.rng.below(3));
            steps.insert(0, Step::Select { axis, i: self.rng.below(size) });
            shape.insert(axis, size);
        }
        if rank > 1 && (kind == 4 || kind == 5) {
            let mut axes: Vec<usize> = (0..rank).collect();
            self.rng.shuffle(&mut axes);
            let mut before = vec![0; rank];
            for (&axis, &size) in axes.iter().zip(&shape) {
                before[axis] = size;
            }
            steps.insert(0, Step::Permute(axes));
            shape = before;
        }
        let stored = Array::from_fn(&shape, |_| round(f(&mut self.rng), dtype));
        let values = steps.iter().fold(stored.clone(), |a, step| match step {
            Step::Permute(axes) => a.permute(axes),
            Step::Narrow { axis, start, len } => a.narrow(*axis, *start, *len),
            Step::Select { axis, i } => a.select(*axis, *i),
            Step::Expand(dims) => a.expand(dims),
        });
        assert_eq!(values.dims, dims);
        Operand { values, dtype, stored, steps }
    }
}

/// Runs `f` on the operands on the device and compares its one output.
pub(crate) fn check(
    operands: &[&Operand],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    expect: &Expect,
) -> Check {
    for device in devices() {
        let inputs = operands.iter().map(|o| o.on(&device)).collect::<Result<Vec<_>>>()?;
        let got = f(&inputs)?;
        compare(&got, expect)
            .map_err(|e| TestCaseError::fail(format!("{device}: {e}; from {operands:?}")))?;
    }
    Ok(())
}

/// Compares one tensor.
pub(crate) fn compare(got: &Tensor, expect: &Expect) -> Check {
    prop_assert_eq!(&got.dims()[..], &expect.values.dims[..], "shape");
    prop_assert_eq!(got.dtype(), expect.dtype, "element type");
    close(&got.to_f64_vec()?, expect)
}

/// Checks on the CPU that `f` gives the same bits for every number of threads. Use shapes of more than
/// some ten thousand elements: smaller ones are one task.
pub(crate) fn same_bits(f: impl Fn(&Device) -> Result<Vec<Tensor>>) -> Check {
    let device = Device::cpu();
    threads::set_threads(THREADS);
    let run = |n| -> Result<Vec<Vec<u8>>> {
        threads::with_threads(n, || f(&device)?.iter().map(Tensor::to_bytes).collect())
    };
    let alone = run(1)?;
    for n in 2..=THREADS {
        prop_assert!(run(n)? == alone, "{n} threads give other bits than one");
    }
    Ok(())
}
