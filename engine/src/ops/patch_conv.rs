//! Convolution whose stride is its kernel size: the patch embedding of a vision transformer.
//!
//! Not an operation of its own. Patches do not overlap, so cutting the image into them is a view, and one
//! copy lays each patch out as a row of `C·p·p` values; the rest is a matrix product with the flattened
//! weight. Gradients, cost and kernels are those of the parts.

use crate::Tensor;
use crate::error::{Result, rule};

impl Tensor {
    /// Patches of `self [B, C, H, W]` times `weight [E, C, p, p]` plus `bias [E]`, as
    /// `[B, (H/p)·(W/p), E]`: patches row by row. No padding; rows and columns beyond the last whole patch are
    /// dropped. f32 or bf16; weight and bias are converted to the dtype of the pixels.
    pub fn patch_conv(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let (x, w) = (self.dims(), weight.dims());
        let ([b, c, height, width], [e, channels, p, q]) = (&x[..], &w[..]) else {
            return Err(rule!(
                "patch_conv",
                "pixels {x:?} and weight {w:?}; expected [B, C, H, W] and [E, C, p, p]"
            ));
        };
        let (b, c, e, p) = (*b, *c, *e, *p);
        if *channels != c || *q != p || p == 0 {
            return Err(rule!(
                "patch_conv",
                "weight {w:?} does not fit pixels {x:?}; expected [E, {c}, p, p]"
            ));
        }
        let (down, across) = (height / p, width / p);
        let patches = self
            .narrow(2, 0, down * p)?
            .narrow(3, 0, across * p)?
            .reshape(&[b, c, down, p, across, p])?
            .permute(&[0, 2, 4, 1, 3, 5])?
            .reshape(&[b, down * across, c * p * p])?;
        patches.linear(&weight.reshape(&[e, c * p * p])?, bias)
    }
}
