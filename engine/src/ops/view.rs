//! Views: the same storage under other sizes and strides. They cost nothing and have no kernels.

use crate::Tensor;
use crate::autograd::{GradContext, record_op};
use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{Cost, Op, Saves, Spec};

/// A change of view, as the tape remembers it.
#[derive(Clone, Debug)]
pub enum View {
    /// Other sizes, same elements in row-major order.
    Reshape,
    /// Dimensions in another order.
    Permute(Dims),
    /// A range of one dimension.
    Narrow {
        /// The dimension.
        axis: usize,
        /// First index kept.
        start: usize,
    },
    /// Dimensions of size 1 (or absent leading ones) repeated.
    Expand,
}

impl Op for View {
    const NAME: &'static str = "view";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        Ok(inputs.to_vec())
    }

    fn cost(&self, _: &[Spec], _: &[Spec]) -> Cost {
        Cost::default()
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::NOTHING
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None]) };
        let dims = ctx.input_spec(0).dims;
        let dx = match self {
            Self::Reshape => g.reshape(&dims)?,
            Self::Permute(axes) => {
                let mut inverse = *axes;
                for (to, &from) in axes.iter().enumerate() {
                    inverse[from] = to;
                }
                g.permute(&inverse)?
            }
            Self::Narrow { axis, start } => {
                let whole = Tensor::zeros(&dims, g.dtype(), g.device())?;
                whole.narrow(*axis, *start, g.dims()[*axis])?.write(g)?;
                whole
            }
            Self::Expand => {
                let lead = g.rank() - dims.len();
                let axes: Vec<usize> = (0..g.rank())
                    .filter(|&i| i < lead || (dims[i - lead] == 1 && g.dims()[i] != 1))
                    .collect();
                if axes.is_empty() { g.reshape(&dims)? } else { g.sum_keep(&axes)?.reshape(&dims)? }
            }
        };
        Ok(vec![Some(dx)])
    }
}

impl Tensor {
    fn viewed(&self, op: View, layout: crate::Layout) -> Self {
        record_op(op, &[self], vec![self.view(layout)]).swap_remove(0)
    }

    /// Other sizes for the same elements in row-major order; copies only if the strides force it.
    pub fn reshape(&self, dims: &[usize]) -> Result<Self> {
        let to = Dims::new(dims)?;
        if to.count() != self.count() {
            return Err(rule!(
                "reshape",
                "{:?} has {} elements, {dims:?} has {}",
                self.dims(),
                self.count(),
                to.count()
            ));
        }
        match self.layout().reshape(to) {
            Some(layout) => Ok(self.viewed(View::Reshape, layout)),
            None => self.contiguous()?.reshape(dims),
        }
    }

    /// Dimensions in the order `axes`.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let layout = self.layout().permute(axes)?;
        Ok(self.viewed(View::Permute(Dims::new(axes)?), layout))
    }

    /// Two dimensions exchanged.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        let mut axes: Vec<usize> = (0..self.rank()).collect();
        if a >= axes.len() || b >= axes.len() {
            return Err(rule!("transpose", "no dimensions {a} and {b} in {:?}", self.dims()));
        }
        axes.swap(a, b);
        self.permute(&axes)
    }

    /// The last two dimensions exchanged: the matrix transpose.
    pub fn t(&self) -> Result<Self> {
        match self.rank() {
            0 | 1 => Err(rule!("t", "{:?} is no matrix", self.dims())),
            n => self.transpose(n - 2, n - 1),
        }
    }

    /// The part `start .. start + len` of dimension `axis`.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let layout = self.layout().narrow(axis, start, len)?;
        Ok(self.viewed(View::Narrow { axis, start }, layout))
    }

    /// Index `i` of dimension `axis`, which goes away.
    pub fn select(&self, axis: usize, i: usize) -> Result<Self> {
        let part = self.narrow(axis, i, 1)?;
        let dims: Vec<usize> =
            part.dims().iter().enumerate().filter(|&(a, _)| a != axis).map(|(_, &d)| d).collect();
        part.reshape(&dims)
    }

    /// Repeats dimensions of size 1 and adds leading ones up to the shape `dims`.
    pub fn expand(&self, dims: &[usize]) -> Result<Self> {
        let to = Dims::new(dims)?;
        if to == self.dims() {
            return Ok(self.clone());
        }
        let layout = self.layout().expand(to)?;
        Ok(self.viewed(View::Expand, layout))
    }

    /// A new dimension of size 1 before `axis`.
    pub fn unsqueeze(&self, axis: usize) -> Result<Self> {
        let mut dims = self.dims().to_vec();
        if axis > dims.len() {
            return Err(rule!("unsqueeze", "no place {axis} in {:?}", self.dims()));
        }
        dims.insert(axis, 1);
        self.reshape(&dims)
    }

    /// Itself if the elements lie row-major without gaps, else a copy that does.
    pub fn contiguous(&self) -> Result<Self> {
        if self.layout().is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }
}
