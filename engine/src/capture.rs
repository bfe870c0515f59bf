//! Applications of operations, kept so that each can be run again alone.
//!
//! While [`capture`] runs a model, every [`apply`](crate::apply) and [`apply_in_place`](crate::apply_in_place) of the
//! thread keeps its operation beside handles of its inputs. What comes back knows everything that [`Op`] says and can
//! run again, on the same inputs or on others: measurements and checks of single operations with the shapes, strides
//! and integers that a model really uses are written once, for all operations. When nobody captures, an application
//! pays for one look at a thread-local flag.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use crate::backend::{Compiled, Offers};
use crate::error::Result;
use crate::op::{Cost, Op, Spec, apply, apply_in_place};
use crate::{Tensor, no_grad};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static KEPT: RefCell<Vec<Application>> = const { RefCell::new(Vec::new()) };
}

/// An operation without its type.
trait Kept: Send + Sync {
    fn name(&self) -> &'static str;
    fn parameters(&self) -> String;
    fn any(&self) -> &dyn Any;
    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>>;
    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost;
    fn run(&self, targets: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Tensor>>;
}

impl<O: Op> Kept for O
where
    Compiled: Offers<O>,
{
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn parameters(&self) -> String {
        format!("{self:?}")
    }
    fn any(&self) -> &dyn Any {
        self
    }
    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        Op::infer(self, inputs)
    }
    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Op::cost(self, inputs, outputs)
    }
    fn run(&self, targets: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        if targets.is_empty() {
            return apply(self.clone(), inputs);
        }
        apply_in_place(self.clone(), targets, inputs)?;
        Ok(targets.iter().map(|&t| t.clone()).collect())
    }
}

/// One application of an operation to tensors.
#[derive(Clone)]
pub struct Application {
    op: Arc<dyn Kept>,
    targets: usize,
    inputs: Vec<Tensor>,
}

impl Application {
    /// [`Op::NAME`].
    pub fn name(&self) -> &'static str {
        self.op.name()
    }

    /// The operation's parameters, as `Debug` shows them.
    pub fn parameters(&self) -> String {
        self.op.parameters()
    }

    /// The operation, if it is an `O`.
    pub fn op<O: Op>(&self) -> Option<&O> {
        self.op.any().downcast_ref()
    }

    /// How many of the inputs, the first ones, are overwritten; 0 unless the operation works in place.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Targets, then inputs; without history. They share memory with the tensors of the captured run, and what was
    /// changed in place since then has its new values.
    pub fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    /// Shapes and types of the inputs.
    pub fn input_specs(&self) -> Vec<Spec> {
        self.inputs.iter().map(Tensor::spec).collect()
    }

    /// Shapes and types of the outputs, or of the targets.
    pub fn output_specs(&self) -> Result<Vec<Spec>> {
        self.op.infer(&self.input_specs())
    }

    /// What the operation declares ([`Op::cost`]), with elements that a view repeats by stride 0 counted once: the
    /// rule sees shapes only, memory is read once.
    pub fn cost(&self) -> Result<Cost> {
        let mut cost = self.op.cost(&self.input_specs(), &self.output_specs()?);
        for input in &self.inputs {
            let layout = input.layout();
            let repeated = layout.dims.iter().zip(layout.strides.iter()).filter(|&(&d, &s)| d > 1 && s == 0);
            let times: usize = repeated.map(|(&d, _)| d).product();
            let bytes = input.bytes();
            cost.read = cost.read.saturating_sub((bytes - bytes / times.max(1)) as u64);
        }
        Ok(cost)
    }

    /// Runs it again; without recording. In-place operations change their targets once more and return them.
    pub fn run(&self) -> Result<Vec<Tensor>> {
        let all: Vec<&Tensor> = self.inputs.iter().collect();
        let (targets, inputs) = all.split_at(self.targets);
        no_grad(|| self.op.run(targets, inputs))
    }

    /// The same with every input in memory of its own, laid out as before: strides, gaps and the place within a cache
    /// line.
    pub fn duplicate(&self) -> Result<Self> {
        let inputs = self.inputs.iter().map(Tensor::duplicate).collect::<Result<_>>()?;
        Ok(Self { inputs, ..self.clone() })
    }

    /// The same operation on other tensors.
    ///
    /// # Errors
    /// If they break the operation's rule.
    pub fn on(&self, inputs: &[Tensor]) -> Result<Self> {
        let inputs: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
        let other = Self { inputs, ..self.clone() };
        other.output_specs()?;
        Ok(other)
    }
}

/// `matmul (f32 [2, 3] on cpu, f32 [3, 4] on cpu)`
impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name(), self.inputs)
    }
}

/// Runs `f`; returns its result and every application of this thread meanwhile, in order. The inputs stay alive as long
/// as the list does. A capture within a capture takes its applications for itself.
pub fn capture<R>(f: impl FnOnce() -> R) -> (R, Vec<Application>) {
    /// Puts back what was there before, also if `f` panics.
    struct Outer(bool, Vec<Application>);
    impl Drop for Outer {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
            KEPT.set(std::mem::take(&mut self.1));
        }
    }
    let outer = Outer(ACTIVE.replace(true), KEPT.take());
    let result = f();
    let kept = KEPT.take();
    drop(outer);
    (result, kept)
}

/// Called for every application that has succeeded.
#[inline]
pub(crate) fn keep<O: Op>(op: &O, targets: &[&Tensor], inputs: &[&Tensor])
where
    Compiled: Offers<O>,
{
    if ACTIVE.get() {
        let inputs = targets.iter().chain(inputs).map(|t| t.detach()).collect();
        let application = Application { op: Arc::new(op.clone()), targets: targets.len(), inputs };
        KEPT.with_borrow_mut(|kept| kept.push(application));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::{AdamW, MatMul};

    fn tensor(values: &[f32], dims: &[usize]) -> Tensor {
        Tensor::from_slice(values, dims, &Device::cpu()).unwrap()
    }

    #[test]
    fn a_product_is_kept_and_runs_again_on_copies() {
        let (a, b) = (tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), tensor(&[1.0, 0.0, 2.0, 1.0], &[2, 2]));
        let (y, kept) = capture(|| a.matmul(&b.t().unwrap()).unwrap());
        assert_eq!(kept.len(), 1);
        let case = &kept[0];
        assert_eq!((case.name(), case.targets(), case.inputs().len()), ("matmul", 0, 2));
        assert!(case.op::<MatMul>().is_some() && case.op::<AdamW>().is_none());
        assert_eq!(case.cost().unwrap(), Cost { flops: 16, read: 32, written: 16 });
        let copy = case.duplicate().unwrap();
        assert_eq!(copy.inputs()[1].layout().strides, case.inputs()[1].layout().strides);
        for case in [case, &copy] {
            assert_eq!(case.run().unwrap()[0].to_vec::<f32>().unwrap(), y.to_vec::<f32>().unwrap());
        }
        assert!(case.on(std::slice::from_ref(&a)).is_err());
        assert!(capture(|| ()).1.is_empty(), "nothing is kept after the end");
    }

    #[test]
    fn both_passes_are_kept_and_nested_captures_are_apart() {
        let x = tensor(&[1.0, 2.0], &[2]).tracked();
        let ((), kept) = capture(|| {
            let (y, inner) = capture(|| x.mul(&x).unwrap());
            assert_eq!(inner.len(), 1);
            y.sum(&[0]).unwrap().backward().unwrap();
        });
        let names: Vec<_> = kept.iter().map(Application::name).collect();
        assert_eq!(names, ["reduce", "binary", "binary", "binary"]);
        assert!(kept.iter().all(|k| k.inputs().iter().all(|t| !t.is_tracked())));
    }

    #[test]
    fn in_place_operations_change_their_copies_alone() {
        let (p, x) = (tensor(&[0.0; 4], &[4]), tensor(&[1.0, 2.0], &[2]));
        let ((), kept) = capture(|| p.narrow(0, 1, 2).unwrap().write(&x).unwrap());
        let copy = kept[0].duplicate().unwrap();
        p.write(&tensor(&[9.0; 4], &[4])).unwrap();
        copy.run().unwrap();
        assert_eq!(p.to_vec::<f32>().unwrap(), [9.0; 4]);
        assert_eq!(copy.inputs()[0].to_vec::<f32>().unwrap(), [1.0, 2.0]);
        kept[0].run().unwrap();
        assert_eq!(p.to_vec::<f32>().unwrap(), [9.0, 1.0, 2.0, 9.0]);
    }

    #[test]
    fn repeated_elements_cost_once() {
        let (x, b) = (tensor(&[0.0; 12], &[3, 4]), tensor(&[0.0; 4], &[4]));
        let (_, kept) = capture(|| x.add(&b).unwrap());
        assert_eq!(kept[0].cost().unwrap(), Cost { flops: 12, read: 48 + 16, written: 48 });
    }

    #[test]
    fn a_panic_ends_the_capture() {
        let outcome = std::panic::catch_unwind(|| capture(|| panic!("planted")));
        assert!(outcome.is_err());
        assert!(!ACTIVE.get());
    }
}
