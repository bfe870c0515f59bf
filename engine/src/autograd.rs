//! Reverse-mode differentiation.
//!
//! Applying an operation to tracked tensors leaves a [`Node`] that knows the operation, the nodes that
//! made its inputs, and the few tensors that its gradient will read ([`Op::saves`]). The backward pass
//! walks nodes from the newest to the oldest; a node's saved tensors are freed when it is done. Leaves
//! are tensors made by [`Tensor::tracked`]; nothing is recorded or computed for what no leaf feeds.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::Tensor;
use crate::backend::{Compiled, Offers};
use crate::error::{Error, Result};
use crate::op::{Op, Saves, Spec};
use crate::profile::current_module;

thread_local! {
    static DISABLED: Cell<bool> = const { Cell::new(false) };
    /// Set when an operation met a tracked input, recorded or not; see [`checkpoint`].
    static MET_TRACKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` without recording.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            DISABLED.set(self.0);
        }
    }
    let _restore = Restore(DISABLED.replace(!on));
    f()
}

pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Where a tensor came from.
#[derive(Clone)]
pub(crate) enum History {
    /// Not tracked.
    None,
    /// A leaf that wants its gradient, under this id.
    Leaf(u64),
    /// Output number `.1` of a recorded application.
    Made(Arc<Node>, usize),
}

/// One recorded application.
pub(crate) struct Node {
    id: u64,
    record: Box<dyn Record>,
    edges: Vec<History>,
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
    saved: Mutex<Option<Saved>>,
    /// The module that it ran in, if someone listens: its gradient belongs there, too.
    module: tracing::Span,
}

/// A long chain of nodes is unlinked in a loop: dropping it by recursion would overflow the stack.
impl Drop for Node {
    fn drop(&mut self) {
        let mut edges = std::mem::take(&mut self.edges);
        while let Some(edge) = edges.pop() {
            if let History::Made(node, _) = edge
                && let Some(mut node) = Arc::into_inner(node)
            {
                edges.append(&mut node.edges);
            }
        }
    }
}

struct Saved {
    inputs: Vec<Option<(Tensor, u64)>>,
    outputs: Vec<Option<(Tensor, u64)>>,
}

trait Record: Send + Sync {
    fn name(&self) -> &'static str;
    fn backward(
        &self,
        ctx: &GradContext<'_>,
        grads: Vec<Option<Tensor>>,
        sink: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>>;
}

struct OpRecord<O>(O);

impl<O: Op> Record for OpRecord<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn backward(
        &self,
        ctx: &GradContext<'_>,
        grads: Vec<Option<Tensor>>,
        _: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        self.0.grad(ctx, &grads)
    }
}

/// What a gradient rule may look at.
pub struct GradContext<'a> {
    node: &'a Node,
    saved: &'a Saved,
}

impl GradContext<'_> {
    /// True if input `i` needs a gradient.
    pub fn needs(&self, i: usize) -> bool {
        !matches!(self.node.edges.get(i), None | Some(History::None))
    }

    /// Shape and dtype of input `i`.
    pub fn input_spec(&self, i: usize) -> Spec {
        self.node.inputs[i]
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    fn fetch(&self, slot: Option<&Option<(Tensor, u64)>>, what: &str, i: usize) -> Result<Tensor> {
        let name = self.node.record.name();
        let Some(Some((tensor, version))) = slot else {
            return Err(Error::Autograd(format!("{name} reads {what} {i} but did not save it")));
        };
        if tensor.storage().version() != *version {
            return Err(Error::Autograd(format!(
                "{what} {i} of {name} was changed in place after it was used"
            )));
        }
        Ok(tensor.clone())
    }

    /// Input `i`, if [`Op::saves`] asked for it.
    pub fn input(&self, i: usize) -> Result<Tensor> {
        self.fetch(self.saved.inputs.get(i), "input", i)
    }

    /// Output `i`, if [`Op::saves`] asked for it.
    pub fn output(&self, i: usize) -> Result<Tensor> {
        self.fetch(self.saved.outputs.get(i), "output", i)
    }
}

/// Gradients of leaves.
#[derive(Default)]
pub struct Gradients {
    by_leaf: HashMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of `leaf`, if one reached it.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        match leaf.history() {
            History::Leaf(id) => self.by_leaf.get(id),
            _ => None,
        }
    }

    /// Takes the gradient of `leaf` out.
    pub fn take(&mut self, leaf: &Tensor) -> Option<Tensor> {
        match leaf.history() {
            History::Leaf(id) => self.by_leaf.remove(id),
            _ => None,
        }
    }

    /// Adds another set of gradients to this one (gradient accumulation over micro-batches).
    pub fn accumulate(&mut self, other: Self) -> Result<()> {
        // In a fixed order, though each sum has only two terms.
        let other: BTreeMap<u64, Tensor> = other.by_leaf.into_iter().collect();
        other.into_iter().try_for_each(|(id, grad)| self.add(id, grad))
    }

    /// Multiplies all gradients by `factor`.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        for grad in self.by_leaf.values_mut() {
            *grad = grad.affine(factor, 0.0)?;
        }
        Ok(())
    }

    /// Number of leaves reached.
    pub fn len(&self) -> usize {
        self.by_leaf.len()
    }

    /// True if no leaf was reached.
    pub fn is_empty(&self) -> bool {
        self.by_leaf.is_empty()
    }

    fn add(&mut self, id: u64, grad: Tensor) -> Result<()> {
        let sum = match self.by_leaf.remove(&id) {
            Some(old) => old.add(&grad)?,
            None => grad,
        };
        self.by_leaf.insert(id, sum);
        Ok(())
    }
}

/// Attaches history to the outputs of an application of `op`, if recording is on and an input is tracked.
pub(crate) fn record<O: Op>(op: O, inputs: &[&Tensor], outputs: Vec<Tensor>) -> Vec<Tensor>
where
    Compiled: Offers<O>,
{
    record_op(op, inputs, outputs)
}

/// As [`record`], for operations without kernels (views).
pub(crate) fn record_op<O: Op>(op: O, inputs: &[&Tensor], outputs: Vec<Tensor>) -> Vec<Tensor> {
    let needs: Vec<bool> = inputs.iter().map(|t| t.is_tracked()).collect();
    if !needs.contains(&true) {
        return outputs;
    }
    MET_TRACKED.set(true);
    if DISABLED.get() {
        return outputs;
    }
    let saves = op.saves(&needs);
    attach(Box::new(OpRecord(op)), inputs, outputs, saves)
}

fn attach(record: Box<dyn Record>, inputs: &[&Tensor], outputs: Vec<Tensor>, saves: Saves) -> Vec<Tensor> {
    let keep = |mask: u32, tensors: &[&Tensor]| {
        tensors
            .iter()
            .enumerate()
            .map(|(i, t)| (mask & (1 << i.min(31)) != 0).then(|| (t.detach(), t.storage().version())))
            .collect()
    };
    let saved = Saved {
        inputs: keep(saves.inputs, inputs),
        outputs: keep(saves.outputs, &outputs.iter().collect::<Vec<_>>()),
    };
    let node = Arc::new(Node {
        id: next_id(),
        record,
        edges: inputs.iter().map(|t| t.history().clone()).collect(),
        inputs: inputs.iter().map(|t| t.spec()).collect(),
        outputs: outputs.iter().map(Tensor::spec).collect(),
        saved: Mutex::new(Some(saved)),
        module: current_module(),
    });
    outputs
        .into_iter()
        .enumerate()
        // Integer outputs carry no gradient.
        .map(|(i, t)| if t.dtype().is_float() { t.with_history(History::Made(node.clone(), i)) } else { t })
        .collect()
}

impl Tensor {
    /// Gradients of this scalar with respect to every leaf that it depends on. Frees what the tape saved:
    /// a second backward pass through the same part is an error.
    pub fn backward(&self) -> Result<Gradients> {
        if self.count() != 1 {
            return Err(Error::Autograd(format!(
                "backward needs a scalar, not {:?}; reduce it or use backward_from",
                self.dims()
            )));
        }
        self.backward_from(&Self::full(&self.dims(), 1.0, self.dtype(), self.device())?)
    }

    /// As [`Self::backward`], for any shape, from the given gradient of this tensor.
    pub fn backward_from(&self, grad: &Self) -> Result<Gradients> {
        if grad.dims() != self.dims() {
            return Err(Error::Autograd(format!(
                "a gradient of shape {:?} for a tensor of shape {:?}",
                grad.dims(),
                self.dims()
            )));
        }
        if grad.device() != self.device() {
            return Err(Error::Autograd(format!(
                "a gradient on device {} for a tensor on {}",
                grad.device(),
                self.device()
            )));
        }
        let mut gradients = Gradients::default();
        no_grad(|| walk(&[(self.history().clone(), grad.to_dtype(self.dtype())?)], &mut gradients))?;
        Ok(gradients)
    }
}

/// Pending gradients of one node's outputs.
type Pending = BTreeMap<u64, (Arc<Node>, Vec<Option<Tensor>>)>;

fn deliver(pending: &mut Pending, to: &History, grad: Tensor, sink: &mut Gradients) -> Result<()> {
    match to {
        History::None => Ok(()),
        History::Leaf(id) => sink.add(*id, grad),
        History::Made(node, i) => {
            let (_, slots) =
                pending.entry(node.id).or_insert_with(|| (node.clone(), vec![None; node.outputs.len()]));
            slots[*i] = Some(match slots[*i].take() {
                Some(old) => old.add(&grad)?,
                None => grad,
            });
            Ok(())
        }
    }
}

fn walk(seeds: &[(History, Tensor)], sink: &mut Gradients) -> Result<()> {
    let mut pending = Pending::new();
    for (to, grad) in seeds {
        deliver(&mut pending, to, grad.clone(), sink)?;
    }
    // Ids grow with time, so a node comes after everything that used its outputs.
    while let Some((_, (node, grads))) = pending.pop_last() {
        let saved = node.saved.lock().unwrap().take().ok_or_else(|| {
            Error::Autograd(format!(
                "{} was already differentiated once; its inputs are freed",
                node.record.name()
            ))
        })?;
        let _module = node.module.enter();
        let ctx = GradContext { node: &node, saved: &saved };
        let results = node.record.backward(&ctx, grads, sink)?;
        drop(saved);
        for (i, grad) in results.into_iter().enumerate() {
            let (Some(grad), Some(to)) = (grad, node.edges.get(i)) else { continue };
            let want = node.inputs[i];
            if grad.dims() != want.dims {
                return Err(Error::Autograd(format!(
                    "the gradient of input {i} of {} has shape {:?}, not {:?}",
                    node.record.name(),
                    grad.dims(),
                    want.dims
                )));
            }
            let grad = if grad.dtype() == want.dtype { grad } else { grad.to_dtype(want.dtype)? };
            deliver(&mut pending, to, grad, sink)?;
        }
    }
    Ok(())
}

type Block = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

struct Recompute(Box<Block>);

impl Record for Recompute {
    fn name(&self) -> &'static str {
        "checkpoint"
    }
    fn backward(
        &self,
        ctx: &GradContext<'_>,
        mut grads: Vec<Option<Tensor>>,
        sink: &mut Gradients,
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = (0..ctx.inputs())
            .map(|i| {
                let input = ctx.input(i)?;
                Ok(if ctx.needs(i) { input.tracked() } else { input })
            })
            .collect::<Result<Vec<_>>>()?;
        let output = with_recording(true, || (self.0)(&inputs))?;
        let Some(grad) = grads.pop().flatten() else { return Ok(vec![None; inputs.len()]) };
        // Leaves that the block captured (its weights) go straight to the caller's gradients.
        let mut inner = Gradients::default();
        walk(&[(output.history().clone(), grad)], &mut inner)?;
        drop(output);
        let own = inputs.iter().map(|t| inner.take(t)).collect();
        sink.accumulate(inner)?;
        Ok(own)
    }
}

/// Runs `block` on `inputs` and keeps nothing of its inside: the backward pass computes it again (Chen
/// et al. 2016, arXiv 1604.06174). `block` must give the same result each time; anything random in it
/// takes a fixed seed. If neither the inputs nor the weights in it are tracked, nothing is recorded.
pub fn checkpoint(
    inputs: &[&Tensor],
    block: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let plain: Vec<Tensor> = inputs.iter().map(|t| t.detach()).collect();
    if DISABLED.get() {
        let tracked: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
        return block(&tracked);
    }
    let before = MET_TRACKED.replace(false);
    let output = no_grad(|| block(&plain));
    let met = MET_TRACKED.replace(before) || inputs.iter().any(|t| t.is_tracked());
    let output = output?.detach();
    if !met {
        return Ok(output);
    }
    MET_TRACKED.set(true);
    Ok(attach(Box::new(Recompute(Box::new(block))), inputs, vec![output], Saves::INPUTS).swap_remove(0))
}
