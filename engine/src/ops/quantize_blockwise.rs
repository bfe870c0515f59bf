//! Block-wise quantisation to the codes of a table.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec};
use crate::ops::{arity, float};
use crate::{Codebook, DType};

/// Codes of `x` (any shape, taken as flat) in blocks that share a scale: `absmax = max |x|` of a block, and the code
/// of the table's entry nearest to `x·(1/absmax)`, one f32 reciprocal per block; a tie takes the lower entry, a block
/// of zeros the code of 0. Outputs: codes U8 (4-bit ones two to a byte, the even element in the high half, the last
/// half of an odd count filled with the code of 0), and absmax F32 `[ceil(n/block)]`. (Spec qlora §1.2, §2.)
#[derive(Clone, Debug)]
pub struct QuantizeBlockwise {
    /// The table.
    pub codebook: Codebook,
    /// Elements that share a scale: even; the last block may be short.
    pub block: usize,
}

impl Op for QuantizeBlockwise {
    const NAME: &'static str = "quantize_blockwise";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "x", &inputs[0])?;
        if self.block < 2 || !self.block.is_multiple_of(2) {
            return Err(rule!(Self::NAME, "blocks of {}; an even number is needed", self.block));
        }
        let n = inputs[0].dims.count();
        let bytes = if self.codebook.bits() == 4 { n.div_ceil(2) } else { n };
        Ok(vec![Spec::new(&[bytes], DType::U8)?, Spec::new(&[n.div_ceil(self.block)], DType::F32)?])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // A maximum, a product and a binary search.
        Cost::streaming((2 + self.codebook.bits()) * inputs[0].dims.count(), inputs, outputs)
    }
}
