//! What an operation is, and how it is applied.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::Ordering;

use crate::autograd::{self, GradContext};
use crate::backend::{Compiled, Device, Offers, Placed};
use crate::capture;
use crate::error::{Error, Result, rule};
use crate::layout::{Dims, Layout};
use crate::{DType, Tensor, profile};

/// Shape and element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Sizes.
    pub dims: Dims,
    /// Element type.
    pub dtype: DType,
}

impl Spec {
    /// A shape with an element type.
    pub fn new(dims: &[usize], dtype: DType) -> Result<Self> {
        Ok(Self { dims: Dims::new(dims)?, dtype })
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.dims.count() * self.dtype.size()
    }
}

/// Work of one application: floating-point operations (a multiply-add counts two) and bytes that must
/// cross the memory system if every input is read once and every output written once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

impl Cost {
    /// `flops`, and every input read and every output written once.
    pub fn streaming(flops: usize, inputs: &[Spec], outputs: &[Spec]) -> Self {
        let sum = |specs: &[Spec]| specs.iter().map(|s| s.bytes() as u64).sum();
        Self { flops: flops as u64, read: sum(inputs), written: sum(outputs) }
    }
}

/// An operation is data: its parameters. This trait says everything that does not depend on a backend;
/// the kernel of each backend is [`Kernel<Self>`](crate::Kernel).
pub trait Op: Clone + Debug + Send + Sync + 'static {
    /// Its one name: of the file here, of the kernel file in each backend, in traces and tables.
    const NAME: &'static str;

    /// Outputs for these inputs, or why the inputs break the rule. In-place operations get the targets
    /// first, then the inputs, and return what the targets must be.
    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>>;

    /// Work of one application.
    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost;

    /// Which inputs and outputs the backward pass will read, given which inputs need a gradient. The
    /// others are freed as soon as nobody else holds them.
    fn saves(&self, needs: &[bool]) -> Saves {
        let _ = needs;
        Saves::INPUTS
    }

    /// Gradients of the inputs from those of the outputs, in terms of other operations. Entry `i` is
    /// looked at only if `ctx.needs(i)`; `None` stands for zero.
    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let _ = (ctx, grads);
        Err(Error::Autograd(format!("{} has no gradient; detach its inputs", Self::NAME)))
    }
}

/// Inputs and outputs to keep for the backward pass, as bit sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saves {
    /// Bit `i`: input `i`.
    pub inputs: u32,
    /// Bit `i`: output `i`.
    pub outputs: u32,
}

impl Saves {
    /// Nothing but shapes.
    pub const NOTHING: Self = Self { inputs: 0, outputs: 0 };
    /// All inputs, no outputs.
    pub const INPUTS: Self = Self { inputs: u32::MAX, outputs: 0 };
    /// All outputs, no inputs.
    pub const OUTPUTS: Self = Self { inputs: 0, outputs: u32::MAX };
    /// Everything.
    pub const ALL: Self = Self { inputs: u32::MAX, outputs: u32::MAX };

    /// The given inputs alone.
    pub fn only_inputs(which: &[usize]) -> Self {
        Self { inputs: which.iter().map(|i| 1 << i).sum(), outputs: 0 }
    }
}

fn device_of<O: Op>(inputs: &[&Tensor]) -> Result<Device> {
    let (first, rest) =
        inputs.split_first().ok_or_else(|| rule!(O::NAME, "needs at least one input tensor"))?;
    for other in rest {
        if other.device() != first.device() {
            return Err(Error::Devices {
                op: O::NAME,
                a: first.device().to_string(),
                b: other.device().to_string(),
            });
        }
    }
    Ok(first.device().clone())
}

fn busy<O: Op>() -> Error {
    rule!(O::NAME, "another thread is changing one of these tensors in place")
}

/// A device that is full, or gone, is told with what was to be made.
fn of_operation(error: Error, op: &str, spec: &Spec) -> Error {
    match error {
        Error::OutOfMemory { device, bytes, in_use } => {
            let device = format!("{device}: {op} to {} {:?}", spec.dtype, spec.dims);
            Error::OutOfMemory { device, bytes, in_use }
        }
        Error::Device(text) => Error::Device(format!("{op} to {} {:?}: {text}", spec.dtype, spec.dims)),
        other => other,
    }
}

/// Applies `op`: checks the rule, allocates the outputs, runs the device's kernel, and records the
/// application on the tape if a gradient can flow through it.
pub fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Vec<Tensor>>
where
    Compiled: Offers<O>,
{
    let specs: Vec<Spec> = inputs.iter().map(|t| t.spec()).collect();
    let made = op.infer(&specs)?;
    let device = device_of::<O>(inputs)?;
    let outputs: Vec<Tensor> = made
        .iter()
        .map(|spec| {
            let storage = device.allocate(spec.bytes(), false).map_err(|e| of_operation(e, O::NAME, spec))?;
            Ok(Tensor::from_storage(storage, Layout::contiguous(spec.dims), spec.dtype))
        })
        .collect::<Result<_>>()?;
    {
        let _span = profile::operation(&op, &device, &specs, &made).entered();
        let _guards: Vec<_> = inputs
            .iter()
            .map(|t| t.storage().access.try_read().map_err(|_| busy::<O>()))
            .collect::<Result<_>>()?;
        let placed: Vec<Placed<'_>> = inputs.iter().map(|t| t.placed()).collect();
        let targets: Vec<Placed<'_>> = outputs.iter().map(Tensor::placed).collect();
        Compiled::dispatch(&device, &op, &placed, &targets)?;
    }
    capture::keep(&op, &[], inputs);
    Ok(autograd::record(op, inputs, outputs))
}

/// Applies an operation that has one output.
pub fn apply_one<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor>
where
    Compiled: Offers<O>,
{
    Ok(apply(op, inputs)?.swap_remove(0))
}

/// Applies `op` onto existing tensors: `targets` hold the old values and receive the new ones. The tape
/// does not see it: targets must be leaves or untracked, and a saved tensor that is changed this way
/// makes a later backward pass fail with a clear error instead of giving a wrong gradient.
#[allow(clippy::needless_pass_by_value, reason = "as `apply`, which keeps the operation")]
pub fn apply_in_place<O: Op>(op: O, targets: &[&Tensor], inputs: &[&Tensor]) -> Result<()>
where
    Compiled: Offers<O>,
{
    let all: Vec<&Tensor> = targets.iter().chain(inputs).copied().collect();
    let specs: Vec<Spec> = all.iter().map(|t| t.spec()).collect();
    let wanted = op.infer(&specs)?;
    for (target, want) in targets.iter().zip(&wanted) {
        if target.spec() != *want {
            return Err(rule!(O::NAME, "writes {} {:?} but the target is {target:?}", want.dtype, want.dims));
        }
        if target.has_history() {
            return Err(rule!(
                O::NAME,
                "would change a tensor that the tape computed ({target:?}); detach it first"
            ));
        }
        if target.layout().dims.iter().zip(target.layout().strides.iter()).any(|(&d, &s)| d > 1 && s == 0) {
            return Err(rule!(
                O::NAME,
                "the target {target:?} is an expanded view: several elements share a place"
            ));
        }
    }
    let device = device_of::<O>(&all)?;
    // Optimisers have thousands of arguments: no search through all of them for each.
    let mut held: HashSet<_> = inputs.iter().map(|t| std::ptr::from_ref(t.storage())).collect();
    for target in targets {
        if !held.insert(std::ptr::from_ref(target.storage())) {
            return Err(rule!(
                O::NAME,
                "the target {target:?} shares memory with another argument; copy it first"
            ));
        }
    }
    let _span = profile::operation(&op, &device, &specs, &wanted).entered();
    let _reads: Vec<_> = inputs
        .iter()
        .map(|t| t.storage().access.try_read().map_err(|_| busy::<O>()))
        .collect::<Result<_>>()?;
    let _writes: Vec<_> = targets
        .iter()
        .map(|t| t.storage().access.try_write().map_err(|_| busy::<O>()))
        .collect::<Result<_>>()?;
    let placed: Vec<Placed<'_>> = inputs.iter().map(|t| t.placed()).collect();
    let outputs: Vec<Placed<'_>> = targets.iter().map(|t| t.placed()).collect();
    Compiled::dispatch(&device, &op, &placed, &outputs)?;
    capture::keep(&op, targets, inputs);
    for target in targets {
        target.storage().version.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}
