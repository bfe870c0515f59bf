//! `rope` and `rope_write`.

use std::sync::Arc;

use super::cast::type_number;
use super::source::Access;
use super::view::View;
use super::{Wgpu, WgpuBuffer};
use crate::cpu::inverse_frequencies;
use crate::ops::{Rope, RopeKind, RopeWrite};
use crate::{DType, Input, Kernel, Op, Output, Result};

impl Wgpu {
    /// `theta^(−2i/D)`, i < D/2.
    fn frequencies(&self, theta: f32, d: usize) -> Result<Arc<WgpuBuffer>> {
        let key = ("rope", u64::from(theta.to_bits()) << 32 | d as u64);
        self.constant_data(key, || bytemuck::cast_slice(&inverse_frequencies(theta, d)).to_vec())
    }
}

impl Kernel<Rope> for Wgpu {
    fn run(&self, op: &Rope, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let count = y.layout.count();
        if count == 0 {
            return Ok(());
        }
        let (heads, d) = (y.layout.dims[2], y.layout.dims[3]);
        let frequencies = self.frequencies(op.theta, d)?;
        let mut k = self.kernel(Rope::NAME, Rope::NAME);
        k.constant("HALF", op.kind == RopeKind::Half);
        k.input("x", &inputs[0])?.input("positions", &inputs[1])?;
        k.scratch("frequencies", &frequencies, DType::F32, Access::Read)?.output("y", y)?;
        k.word(count)?.word(d)?.word(heads * d)?.float(if op.inverse { -1.0 } else { 1.0 });
        k.run_elements(count, y.lanes())
    }
}

impl Kernel<RopeWrite> for Wgpu {
    fn run(
        &self,
        op: &RopeWrite,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let [q, k, v, positions] = inputs else { unreachable!("four inputs by the rule") };
        let [q_count, k_count] = [q.layout.count(), k.layout.count()];
        if q_count + k_count == 0 {
            return Ok(());
        }
        let (d, name) = (q.layout.dims[3], RopeWrite::NAME);
        let frequencies = self.frequencies(op.theta, d)?;
        let mut launch = self.kernel(name, name);
        launch.constant("HALF", op.kind == RopeKind::Half);
        launch.constant("FROM", type_number(q.dtype)).constant("TO", type_number(outputs[0].dtype));
        launch.input("q", q)?.input("k", k)?.input("v", v)?.input("positions", positions)?;
        launch.scratch("frequencies", &frequencies, DType::F32, Access::Read)?;
        let mut words = 0;
        for (name, together, target) in [
            ("rotated", "ROTATED_TOGETHER", &outputs[0]),
            ("keys", "KEYS_TOGETHER", &outputs[1]),
            ("values", "VALUES_TOGETHER", &outputs[2]),
        ] {
            // Words that hold other elements too are written an element at a time.
            let aligned = View::new(target.layout).word_aligned(target.lanes() as u32);
            let lanes = if aligned { target.lanes() } else { 1 };
            launch.constant(together, lanes as u32).target(name, target)?;
            words += target.layout.count() / lanes;
        }
        launch.word(q_count)?.word(k_count)?.word(d)?;
        launch.word(q.layout.dims[2] * d)?.word(k.layout.dims[2] * d)?;
        launch.run_elements(words, 1)
    }
}
