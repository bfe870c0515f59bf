use super::Wgpu;
use super::source::Access;
use crate::ops::{Rope, RopeKind};
use crate::{DType, Input, Kernel, Op, Output, Result};

/// `theta^(−2i/D)`, i < D/2, each rounded to f32 as `1 / theta^(2i/D)` is.
fn inverse_frequencies(theta: f32, d: usize) -> Vec<f32> {
    let power = |i: usize| f64::from(theta).powf(f64::from(2.0 * i as f32 / d as f32)) as f32;
    (0..d / 2).map(|i| 1.0 / power(i)).collect()
}

impl Kernel<Rope> for Wgpu {
    fn run(&self, op: &Rope, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let count = y.layout.count();
        if count == 0 {
            return Ok(());
        }
        let (heads, d) = (y.layout.dims[2], y.layout.dims[3]);
        let key = ("rope", u64::from(op.theta.to_bits()) << 32 | d as u64);
        let frequencies =
            self.constant_data(key, || bytemuck::cast_slice(&inverse_frequencies(op.theta, d)).to_vec())?;
        let mut k = self.kernel(Rope::NAME, Rope::NAME);
        k.constant("HALF", op.kind == RopeKind::Half);
        k.input("x", &inputs[0])?.input("positions", &inputs[1])?;
        k.scratch("frequencies", &frequencies, DType::F32, Access::Read)?.output("y", y)?;
        k.word(count)?.word(d)?.word(heads * d)?.float(if op.inverse { -1.0 } else { 1.0 });
        k.run_elements(count, y.lanes())
    }
}
