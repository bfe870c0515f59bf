//! `rms_norm`, `layer_norm` and their gradients; `add_rms_norm`.

use super::Cuda;
use super::cast::typed;
use super::reduce::Sums;
use super::top_k::rows_of;
use crate::ops::{AddRmsNorm, LayerNorm, LayerNormGrad, RmsNorm, RmsNormGrad};
use crate::{Input, Kernel, Op, Output, Result};

/// Rows that share one partial sum of a weight's gradient.
const ROWS_PER_PART: usize = 64;

impl Cuda {
    /// `y` from `x [rows…, n]` and parameters `[n]`.
    fn norm(
        &self,
        op: &'static str,
        eps: f32,
        inputs: &[Input<'_, Self>],
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let [rows, n] = rows_of(y.layout);
        if n == 0 {
            return Ok(());
        }
        let parameters = inputs[1..].iter().map(|w| self.dense(op, w)).collect::<Result<Vec<_>>>()?;
        let mut k = self.kernel(op, typed(op, y.dtype), op);
        k.output(y).rows(&inputs[0]);
        for w in &parameters {
            k.at(w.address);
        }
        k.word(n).float(eps).run_rows(rows)
    }

    /// Gradients of input, weight and, for a layer norm, bias.
    fn norm_grad(
        &self,
        op: &'static str,
        weight_kernel: &'static str,
        eps: f32,
        inputs: &[Input<'_, Self>],
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let [x, w, g] = inputs else { unreachable!("three inputs by the rule") };
        let [rows, n] = rows_of(x.layout);
        if n == 0 {
            return Ok(());
        }
        let stats = self.temporary(op, rows * 8)?;
        let w = self.dense(op, w)?;
        let mut k = self.kernel(op, typed(op, x.dtype), op);
        k.output(&outputs[0]).buffer(&stats).rows(x).at(w.address).rows(g);
        k.word(n).float(eps).run_rows(rows)?;
        let count = rows.div_ceil(ROWS_PER_PART);
        let parts = outputs[1..].iter().map(|_| self.temporary(op, count * n * 4));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let mut k = self.kernel(op, typed(weight_kernel, x.dtype), op);
        for part in &parts {
            k.buffer(part);
        }
        k.rows(x).rows(g).buffer(&stats).words(&[rows, n, ROWS_PER_PART]);
        k.run([n.div_ceil(32), count, 1], [32, 8], 2048)?;
        for (parts, y) in parts.iter().zip(&outputs[1..]) {
            self.sum_parts(op, parts, [count, n], &Sums::to(y))?;
        }
        Ok(())
    }
}

impl Kernel<RmsNorm> for Cuda {
    fn run(&self, op: &RmsNorm, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        self.norm(RmsNorm::NAME, op.eps, inputs, &outputs[0])
    }
}

impl Kernel<AddRmsNorm> for Cuda {
    fn run(
        &self,
        op: &AddRmsNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = AddRmsNorm::NAME;
        let [rows, n] = rows_of(outputs[0].layout);
        if n == 0 {
            return Ok(());
        }
        let w = self.dense(name, &inputs[2])?;
        let mut k = self.kernel(name, typed(name, outputs[0].dtype), name);
        k.output(&outputs[0]).output(&outputs[1]).rows(&inputs[0]).rows(&inputs[1]).at(w.address);
        k.word(n).float(op.eps).run_rows(rows)
    }
}

impl Kernel<LayerNorm> for Cuda {
    fn run(
        &self,
        op: &LayerNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        self.norm(LayerNorm::NAME, op.eps, inputs, &outputs[0])
    }
}

impl Kernel<RmsNormGrad> for Cuda {
    fn run(
        &self,
        op: &RmsNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        self.norm_grad(RmsNormGrad::NAME, "rms_norm_grad_weight", op.eps, inputs, outputs)
    }
}

impl Kernel<LayerNormGrad> for Cuda {
    fn run(
        &self,
        op: &LayerNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        self.norm_grad(LayerNormGrad::NAME, "layer_norm_grad_weight", op.eps, inputs, outputs)
    }
}
