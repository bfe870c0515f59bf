//! `rms_norm`, `layer_norm` and their gradients; `add_rms_norm`.

use super::argmax::rows_of;
use super::source::Access;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{AddRmsNorm, LayerNorm, LayerNormGrad, RmsNorm, RmsNormGrad};
use crate::{DType, Input, Kernel, Op, Output, Result};

/// Rows that share one partial sum of a weight gradient.
const ROWS_PER_PARTIAL: usize = 64;

impl Wgpu {
    fn norm(
        &self,
        op: &'static str,
        inputs: &[(&'static str, &Input<'_, Self>)],
        eps: f32,
        y: (&'static str, &Output<'_, Self>),
        stats: Option<&WgpuBuffer>,
    ) -> Result<()> {
        let [rows, n] = rows_of(y.1.layout);
        if n == 0 {
            return Ok(());
        }
        let mut k = self.kernel(op, op);
        for (name, x) in inputs {
            k.input(name, x)?;
        }
        k.output_by_rows(y.0, y.1, n.is_multiple_of(y.1.lanes()))?;
        if let Some(stats) = stats {
            k.scratch("stats", stats, DType::F32, Access::Whole)?;
        }
        k.word(rows)?.word(n)?.float(eps).work(4 * rows * n);
        k.run_linear(rows, 1)
    }

    /// Gradients of input, weight and, for a layer norm, bias.
    fn norm_grad(
        &self,
        op: &'static str,
        eps: f32,
        inputs: &[Input<'_, Self>],
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let [x, w, g] = inputs else { unreachable!("three inputs by the rule") };
        let [rows, n] = rows_of(x.layout);
        let layer = outputs.len() == 3;
        let stats = self.temporary(op, rows * 8)?;
        self.norm(op, &[("x", x), ("w", w), ("g", g)], eps, ("dx", &outputs[0]), Some(&stats))?;
        let blocks = rows.div_ceil(ROWS_PER_PARTIAL);
        let partial = outputs[1..].iter().map(|_| self.temporary(op, blocks * n * 4));
        let partial = partial.collect::<Result<Vec<_>>>()?;
        let mut k = self.kernel("norm_grad_weight", op);
        k.constant("LAYER", layer).input("x", x)?.input("g", g)?;
        k.scratch("stats", &stats, DType::F32, Access::Read)?;
        for (name, partial) in ["dw", "db"].into_iter().zip(&partial) {
            k.scratch(name, partial, DType::F32, Access::Whole)?;
        }
        k.word(blocks * n)?.word(rows)?.word(n)?.word(ROWS_PER_PARTIAL)?.work(rows * n);
        k.run_elements(blocks * n, 1)?;
        for (partial, y) in partial.iter().zip(&outputs[1..]) {
            self.sum_blocks(op, partial, [blocks, n], y)?;
        }
        Ok(())
    }
}

impl Kernel<RmsNorm> for Wgpu {
    fn run(&self, op: &RmsNorm, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        self.norm(RmsNorm::NAME, &[("x", &inputs[0]), ("w", &inputs[1])], op.eps, ("y", &outputs[0]), None)
    }
}

impl Kernel<AddRmsNorm> for Wgpu {
    fn run(
        &self,
        op: &AddRmsNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let [sum, normed] = &*outputs else { unreachable!("two outputs by the rule") };
        let [rows, n] = rows_of(sum.layout);
        if n == 0 {
            return Ok(());
        }
        let mut k = self.kernel(AddRmsNorm::NAME, AddRmsNorm::NAME);
        k.input("x", &inputs[0])?.input("y", &inputs[1])?.input("w", &inputs[2])?;
        let aligned = n.is_multiple_of(sum.lanes());
        k.output_by_rows("sum", sum, aligned)?.output_by_rows("z", normed, aligned)?;
        k.word(rows)?.word(n)?.float(op.eps).work(5 * rows * n);
        k.run_linear(rows, 1)
    }
}

impl Kernel<RmsNormGrad> for Wgpu {
    fn run(
        &self,
        op: &RmsNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        self.norm_grad(RmsNormGrad::NAME, op.eps, inputs, outputs)
    }
}

impl Kernel<LayerNorm> for Wgpu {
    fn run(
        &self,
        op: &LayerNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let named = [("x", &inputs[0]), ("w", &inputs[1]), ("b", &inputs[2])];
        self.norm(LayerNorm::NAME, &named, op.eps, ("y", &outputs[0]), None)
    }
}

impl Kernel<LayerNormGrad> for Wgpu {
    fn run(
        &self,
        op: &LayerNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        self.norm_grad(LayerNormGrad::NAME, op.eps, inputs, outputs)
    }
}
