use super::rows::flat;
use super::threads::Scatter;
use super::walk::for_row_blocks;
use crate::ops::Burst;
use crate::ops::burst::SUMS;
use crate::{Cpu, Input, Kernel, Output, Result};

impl Kernel<Burst> for Cpu {
    fn run(&self, op: &Burst, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let x = flat::<f32>(&inputs[0]);
        let c = if *op == Burst::Triad { flat::<f32>(&inputs[1]) } else { Vec::new().into() };
        let y = outputs[0].slice_mut::<f32>()?;
        let n = y.len();
        let y = Scatter::new(y);
        let repeat = |x: f32, rounds: usize, step: fn(f32) -> f32| {
            let mut sums = [x; SUMS];
            for _ in 0..rounds {
                sums = sums.map(step);
            }
            sums.iter().sum::<f32>()
        };
        for_row_blocks(n, 1, |first, count| {
            // SAFETY: each task has its own elements.
            let y = unsafe { y.slice(first, count) };
            for (y, i) in y.iter_mut().zip(first..) {
                *y = match *op {
                    Burst::MultiplyAdds { rounds } => repeat(x[i], rounds, |s| s * 0.5 + 0.5),
                    Burst::Products { rounds } => repeat(x[i], rounds, |s| s + 0.0625 * 0.0625),
                    Burst::Read { sums } => x.iter().skip(i).step_by(sums).sum(),
                    Burst::Triad => x[i] + 3.0 * c[i],
                };
            }
        });
        Ok(())
    }
}
