//! `cast`, `write` and `concat`: values moved, and converted on the way.

use super::launch::address;
use super::{Cuda, CudaBuffer};
use crate::ops::{Cast, Concat, Write};
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

impl Kernel<Cast> for Cuda {
    fn run(&self, _: &Cast, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut k = self.kernel("cast", format!("cast_{}_{}", x.dtype, y.dtype), Cast::NAME);
        k.output(y).view(x).word(y.layout.count()).run_elements(y.layout.count())
    }
}

impl Kernel<Write> for Cuda {
    fn run(&self, _: &Write, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut k = self.kernel("write", format!("write_{}_{}", x.dtype, y.dtype), Write::NAME);
        k.target(y).view(x).word(y.layout.count()).run_elements(y.layout.count())
    }
}

impl Kernel<Concat> for Cuda {
    fn run(&self, op: &Concat, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let size = y.dtype.size();
        let inner: usize = y.layout.dims[op.axis + 1..].iter().product();
        let pitch = inner * y.layout.dims[op.axis];
        let mut to = address(y.buffer, y.layout, y.dtype);
        for x in inputs {
            let run = inner * x.layout.dims[op.axis];
            let mut k = self.kernel(Concat::NAME, format!("concat_{size}"), Concat::NAME);
            k.at(to).view(x).words(&[x.layout.count(), run, pitch]).run_elements(x.layout.count())?;
            to += (run * size) as u64;
        }
        Ok(())
    }
}

/// An operand as a kernel wants it: where it lies, or a contiguous copy.
pub(super) struct Dense {
    pub(super) address: u64,
    /// Must live until the kernel is launched.
    _copy: Option<CudaBuffer>,
}

impl Cuda {
    /// Where the elements of `x` lie one after the other, in its own type.
    pub(super) fn dense(&self, op: &'static str, x: &Input<'_, Self>) -> Result<Dense> {
        if x.layout.is_contiguous() {
            return Ok(Dense { address: address(x.buffer, x.layout, x.dtype), _copy: None });
        }
        let copy = self.dense_copy(op, x)?;
        Ok(Dense { address: copy.address(), _copy: Some(copy) })
    }

    /// A contiguous copy of `x`, in its own type.
    pub(super) fn dense_copy(&self, op: &'static str, x: &Input<'_, Self>) -> Result<CudaBuffer> {
        let count = x.layout.count();
        let copy = self.temporary(op, count * x.dtype.size())?;
        let mut k = self.kernel("cast", format!("cast_{0}_{0}", x.dtype), op);
        k.buffer(&copy).view(x).word(count).run_elements(count)?;
        Ok(copy)
    }

    /// `x`, or if its last dimension is not contiguous a copy for which `f` gets a layout of its own.
    pub(super) fn with_contiguous_rows<R>(
        &self,
        op: &'static str,
        x: &Input<'_, Self>,
        f: impl FnOnce(&Input<'_, Self>) -> Result<R>,
    ) -> Result<R> {
        let last = x.layout.dims.len() - 1;
        if x.layout.strides[last] == 1 || x.layout.dims[last] == 1 {
            return f(x);
        }
        let copy = self.dense_copy(op, x)?;
        let layout = Layout::contiguous(x.layout.dims);
        f(&Input { layout: &layout, dtype: x.dtype, buffer: &copy })
    }
}

/// Suffix of entries by element type.
pub(super) fn typed(name: &str, dtype: DType) -> String {
    format!("{name}_{dtype}")
}
