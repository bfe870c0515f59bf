//! `rope` and `rope_write`.

use std::sync::Arc;

use super::cast::typed;
use super::launch::address;
use super::{Cuda, CudaBuffer};
use crate::cpu::inverse_frequencies;
use crate::ops::{Rope, RopeKind, RopeWrite};
use crate::{Input, Kernel, Layout, Op, Output, Result};

impl Cuda {
    /// `theta^(−2i/D)`, i < D/2.
    fn frequencies(&self, theta: f32, d: usize) -> Result<Arc<CudaBuffer>> {
        let key = ("rope", u64::from(theta.to_bits()) << 32 | d as u64);
        self.constant_data(key, || bytemuck::cast_slice(&inverse_frequencies(theta, d)).to_vec())
    }
}

impl Kernel<Rope> for Cuda {
    fn run(&self, op: &Rope, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = Rope::NAME;
        let y = &outputs[0];
        let count = y.layout.count();
        if count == 0 {
            return Ok(());
        }
        let frequencies = self.frequencies(op.theta, y.layout.dims[3])?;
        let positions = self.dense(name, &inputs[1])?;
        self.with_contiguous_rows(name, &inputs[0], |x| {
            let mut k = self.kernel(name, typed(name, y.dtype), name);
            k.output(y).heads(x).at(positions.address).buffer(&frequencies).words(&y.layout.dims);
            k.word(usize::from(op.kind == RopeKind::Interleaved)).float(if op.inverse { -1.0 } else { 1.0 });
            k.run_elements(count / 2)
        })
    }
}

/// Strides of `[B, S, H, D]`.
fn strides(layout: &Layout) -> [u32; 4] {
    // That of a single thing is never used.
    std::array::from_fn(|i| if layout.dims[i] == 1 { 0 } else { layout.strides[i] as u32 })
}

impl Kernel<RopeWrite> for Cuda {
    fn run(
        &self,
        op: &RopeWrite,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = RopeWrite::NAME;
        let (q, k) = (&inputs[0], &inputs[1]);
        let count = q.layout.count() + 2 * k.layout.count();
        if count == 0 {
            return Ok(());
        }
        let [batch, tokens, heads, d] = q.layout.dims[..] else {
            unreachable!("four dimensions by the rule")
        };
        let frequencies = self.frequencies(op.theta, d)?;
        let positions = self.dense(name, &inputs[3])?;
        let mut launch = self.kernel(name, format!("{name}_{}_{}", q.dtype, outputs[0].dtype), name);
        for y in &*outputs {
            launch.at(address(y.buffer, y.layout, y.dtype)).layout(&strides(y.layout)).fits(y.layout.span());
        }
        for x in &inputs[..3] {
            launch.at(address(x.buffer, x.layout, x.dtype)).layout(&strides(x.layout)).fits(x.layout.span());
        }
        launch.at(positions.address).buffer(&frequencies);
        launch.words(&[batch, tokens, heads, k.layout.dims[2], d]);
        launch.word(usize::from(op.kind == RopeKind::Interleaved)).run_elements(count / 2)
    }
}
