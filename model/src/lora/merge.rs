//! An adapter folded into the weight of its layer.

use engine::{DType, Tensor, no_grad};

use super::Module;
use crate::nn::Linear;

/// The weight of `layer` with what `module` adds, f32 `[out, in]`: W + s·B·A, with a magnitude m
/// (m/‖W + s·B·A‖)·(W + s·B·A); or the module's own weight.
pub fn merged(layer: &Linear, module: &Module) -> engine::Result<Tensor> {
    no_grad(|| match module {
        Module::Full(full) => full.weight.detach().to_dtype(DType::F32),
        Module::Lora(lora) => {
            let term = lora.b.detach().matmul(&lora.a.detach())?.affine(lora.scale, 0.0)?;
            // In the type that the weight has, or had before quantisation, as PEFT.
            let w = layer.weight.to_dense(layer.weight.dtype())?.to_dtype(DType::F32)?;
            let sum = w.add(&term)?;
            match lora.magnitude_factor(&layer.weight)? {
                None => Ok(sum),
                Some(factor) => sum.mul(&factor.unsqueeze(1)?),
            }
        }
    })
}
