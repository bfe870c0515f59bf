use super::threads::{Scatter, parallel_for};
use super::walk::float_type;
use crate::ops::QuantizeBlockwise;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Blocks of one task.
const BLOCKS: usize = 256;

fn quantize<T: Float>(op: &QuantizeBlockwise, x: &[T], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [codes, absmax] = outputs else { unreachable!("two outputs by the rule") };
    let codes = Scatter::new(codes.slice_mut::<u8>()?);
    let absmax = Scatter::new(absmax.slice_mut::<f32>()?);
    let four = op.codebook.bits() == 4;
    let blocks = x.len().div_ceil(op.block);
    let search = op.codebook.sorted();
    let zero = search.nearest(0.0);
    parallel_for(blocks.div_ceil(BLOCKS), |task| {
        for b in task * BLOCKS..((task + 1) * BLOCKS).min(blocks) {
            let x = &x[b * op.block..((b + 1) * op.block).min(x.len())];
            // A NaN would vanish in `max`: it must show in the scale, where callers look.
            let most = x.iter().fold(0f32, |most, x| {
                let x = x.to_f32().abs();
                if x > most || x.is_nan() { x } else { most }
            });
            // As the reference: a block of zeros is not divided by 0.
            let inverse = 1.0 / most.max(1e-38);
            let code = |x: T| search.nearest((x.to_f32() * inverse).clamp(-1.0, 1.0));
            // SAFETY: a block's codes (blocks are even) and scale belong to one task.
            unsafe {
                absmax.set(b, most);
                if four {
                    let codes = codes.slice(b * op.block / 2, x.len().div_ceil(2));
                    for (pair, x) in codes.iter_mut().zip(x.chunks(2)) {
                        *pair = code(x[0]) << 4 | x.get(1).map_or(zero, |&x| code(x));
                    }
                } else {
                    for (c, &x) in codes.slice(b * op.block, x.len()).iter_mut().zip(x) {
                        *c = code(x);
                    }
                }
            }
        }
    });
    Ok(())
}

impl Kernel<QuantizeBlockwise> for Cpu {
    fn run(
        &self,
        op: &QuantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => quantize::<T>(op, &super::rows::flat(&inputs[0]), outputs))
    }
}
