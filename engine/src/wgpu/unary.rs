use super::Wgpu;
use crate::ops::{Unary, UnaryKind};
use crate::{Input, Kernel, Op, Output, Result};

impl Output<'_, Wgpu> {
    /// Elements in a word.
    pub(super) fn lanes(&self) -> usize {
        4 / self.dtype.size()
    }
}

impl Wgpu {
    /// `y = f(x)`: the kernel's constant `KIND` says which function.
    pub(super) fn map(
        &self,
        kernel: &'static str,
        kind: u32,
        inputs: &[(&'static str, &Input<'_, Self>)],
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let mut k = self.kernel(kernel, kernel);
        k.constant("KIND", kind);
        for (name, x) in inputs {
            k.input(name, x)?;
        }
        k.output("y", y)?.word(y.layout.count())?;
        k.run_elements(y.layout.count(), y.lanes())
    }
}

impl Kernel<Unary> for Wgpu {
    fn run(&self, op: &Unary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let kind = match op.kind {
            UnaryKind::Exp => 0,
            UnaryKind::Ln => 1,
            UnaryKind::Sqrt => 2,
            UnaryKind::Tanh => 3,
            UnaryKind::Sigmoid => 4,
            UnaryKind::Relu => 5,
            UnaryKind::Step => 6,
        };
        self.map(Unary::NAME, kind, &[("x", &inputs[0])], &outputs[0])
    }
}
