//! `unary`, `affine`, `binary`, `gelu`, `gated_silu`, their gradients, and `dropout`.

use super::Cuda;
use super::cast::typed;
use super::launch::Launch;
use crate::ops::{Affine, Binary, Dropout, GatedSilu, GatedSiluGrad, Gelu, GeluGrad, Unary};
use crate::{Input, Kernel, Op, Output, Result, Rng};

impl Cuda {
    /// Element by element: `outputs` from `inputs`, of one type, by the kernel `<name>_<type>`.
    fn map(
        &self,
        source: &'static str,
        name: &'static str,
        kind: Option<usize>,
        inputs: &[Input<'_, Self>],
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let count = outputs[0].layout.count();
        let mut k = self.kernel(source, typed(name, outputs[0].dtype), name);
        for y in outputs {
            k.output(y);
        }
        for x in inputs {
            k.view(x);
        }
        k.word(count);
        if let Some(kind) = kind {
            k.word(kind);
        }
        k.run_elements(count)
    }
}

macro_rules! maps {
    ($($op:ident of $source:literal $(by $kind:ident)?;)*) => {$(
        impl Kernel<$op> for Cuda {
            fn run(&self, op: &$op, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
                let _ = op;
                let kind = None::<usize>;
                $(let kind = kind.or(Some(op.$kind as usize));)?
                self.map($source, $op::NAME, kind, inputs, outputs)
            }
        }
    )*};
}

maps! {
    Unary of "unary" by kind;
    Binary of "binary" by kind;
    Gelu of "gelu" by kind;
    GeluGrad of "gelu_grad" by kind;
    GatedSilu of "gated_silu";
    GatedSiluGrad of "gated_silu_grad";
}

impl Kernel<Affine> for Cuda {
    fn run(&self, op: &Affine, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let count = y.layout.count();
        let mut k = self.kernel(Affine::NAME, typed(Affine::NAME, y.dtype), Affine::NAME);
        k.output(y).view(&inputs[0]).word(count).float(op.mul).float(op.add).run_elements(count)
    }
}

/// A mask as kernels take it: halves of the key, threshold, and what kept elements are multiplied with.
pub(super) struct Mask {
    words: [usize; 3],
    keep: f32,
}

impl Mask {
    pub(super) fn new(dropout: Option<&Dropout>) -> Self {
        let Some(dropout) = dropout else { return Self { words: [0; 3], keep: 1.0 } };
        let key = Rng::new(dropout.seed).bits();
        let (low, high) = (key as u32 as usize, (key >> 32) as usize);
        Self { words: [low, high, dropout.threshold() as usize], keep: dropout.scale() }
    }
}

impl Mask {
    /// No dropout.
    pub(super) fn keeps_all(&self) -> bool {
        self.words[2] == 0 && self.keep == 1.0
    }
}

impl Launch<'_> {
    /// The words and the factor of a mask, the last scalars of a kernel.
    pub(super) fn mask(&mut self, mask: &Mask) -> &mut Self {
        self.words(&mask.words).float(mask.keep)
    }
}

impl Kernel<Dropout> for Cuda {
    fn run(&self, op: &Dropout, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let count = y.layout.count();
        let mut k = self.kernel(Dropout::NAME, typed(Dropout::NAME, y.dtype), Dropout::NAME);
        k.output(y).view(&inputs[0]).word(count).mask(&Mask::new(Some(op))).run_elements(count)
    }
}
