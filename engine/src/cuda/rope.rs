use super::Cuda;
use super::cast::typed;
use crate::cpu::inverse_frequencies;
use crate::ops::{Rope, RopeKind};
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Rope> for Cuda {
    fn run(&self, op: &Rope, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = Rope::NAME;
        let y = &outputs[0];
        let count = y.layout.count();
        if count == 0 {
            return Ok(());
        }
        let key = (name, u64::from(op.theta.to_bits()) << 32 | y.layout.dims[3] as u64);
        let frequencies = self.constant_data(key, || {
            bytemuck::cast_slice(&inverse_frequencies(op.theta, y.layout.dims[3])).to_vec()
        })?;
        let positions = self.dense(name, &inputs[1])?;
        self.with_contiguous_rows(name, &inputs[0], |x| {
            let mut k = self.kernel(name, typed(name, y.dtype), name);
            k.output(y).heads(x).at(positions.address).buffer(&frequencies).words(&y.layout.dims);
            k.word(usize::from(op.kind == RopeKind::Interleaved)).float(if op.inverse { -1.0 } else { 1.0 });
            k.run_elements(count / 2)
        })
    }
}
