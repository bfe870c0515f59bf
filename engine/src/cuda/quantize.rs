//! `quantize_blockwise`, `dequantize_blockwise`, and quantised operands of other kernels.

use std::sync::Arc;

use super::cast::{Dense, typed};
use super::launch::Launch;
use super::{Cuda, CudaBuffer};
use crate::ops::{DequantizeBlockwise, QuantizeBlockwise};
use crate::quantized::BlockFormat;
use crate::{Input, Kernel, Op, Output, Result};

/// A block-quantised operand: the pointers codes, absmax, `nested_absmax`, map, table, and the layout `Blocks`.
pub(super) struct Packed {
    format: BlockFormat,
    parts: Vec<Dense>,
    table: Arc<CudaBuffer>,
}

impl Cuda {
    /// The value that `inputs` (codes, scales, and so on) hold.
    pub(super) fn packed(
        &self,
        op: &'static str,
        format: &BlockFormat,
        inputs: &[Input<'_, Self>],
    ) -> Result<Packed> {
        let count = if format.nested.is_some() { 4 } else { 2 };
        let parts = inputs[..count].iter().map(|x| self.dense(op, x)).collect::<Result<_>>()?;
        let table = self.constant_data(("codebook", format.codebook as u64), || {
            bytemuck::cast_slice(format.codebook.values()).to_vec()
        })?;
        Ok(Packed { format: *format, parts, table })
    }
}

impl Packed {
    /// Codes, absmax, `nested_absmax`, map, table.
    pub(super) fn pointers(&self) -> [u64; 5] {
        let part = |i: usize| self.parts.get(i).map_or(0, |part| part.address);
        [part(0), part(1), part(2), part(3), self.table.address()]
    }

    /// The struct `Blocks`.
    pub(super) fn blocks(&self) -> [u32; 3] {
        let (block, offset) = self.format.nested.map_or((0, 0.0), |nested| (nested.block, nested.offset));
        [self.format.block as u32, block as u32, offset.to_bits()]
    }

    /// Whether kernels that expand 16 bytes of codes at a time can read rows of `inner` values.
    pub(super) fn wide(&self, inner: usize) -> bool {
        inner.is_multiple_of(16)
            && self.format.block.is_power_of_two()
            && self.format.block >= 32
            && self.format.nested.is_none_or(|nested| nested.block.is_power_of_two())
            && self.parts[0].address.is_multiple_of(16)
    }
}

impl Launch<'_> {
    /// The pointers and the layout of a quantised operand.
    pub(super) fn packed(&mut self, packed: &Packed) -> &mut Self {
        for address in packed.pointers() {
            self.at(address);
        }
        self.fits(packed.format.block).fits(packed.format.nested.map_or(0, |nested| nested.block));
        self.layout(&packed.blocks())
    }
}

impl Kernel<DequantizeBlockwise> for Cuda {
    fn run(
        &self,
        op: &DequantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let (name, y) = (DequantizeBlockwise::NAME, &outputs[0]);
        let packed = self.packed(name, &op.format, inputs)?;
        let count = y.layout.count();
        let mut k = self.kernel(name, typed(name, y.dtype), name);
        k.output(y).packed(&packed).words(&[count, op.format.codebook.bits()]).run_elements(count)
    }
}

impl Kernel<QuantizeBlockwise> for Cuda {
    fn run(
        &self,
        op: &QuantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = QuantizeBlockwise::NAME;
        let x = &inputs[0];
        let count = x.layout.count();
        let dense = self.dense(name, x)?;
        let (codes, midpoints) = op.codebook.sorted().parts();
        let key = op.codebook as u64;
        let entry_codes = self.constant_data(("entry codes", key), || codes.to_vec())?;
        let middles = self.constant_data(("midpoints", key), || bytemuck::cast_slice(midpoints).to_vec())?;
        let mut k = self.kernel(name, typed(name, x.dtype), name);
        k.output(&outputs[0]).output(&outputs[1]).at(dense.address).buffer(&middles).buffer(&entry_codes);
        k.words(&[count, op.block, codes.len(), op.codebook.bits()]).run_warps(count.div_ceil(op.block))
    }
}
