//! The linear layer: a dense or 4-bit weight, a compute type, and what an adapter puts on it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use engine::profile::module;
use engine::{DType, Quantized, Tensor, ops};

use crate::error::Result;
use crate::loader::{Init, Loader};
use crate::nn::Lora;

/// A weight `[out, in]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// In floats.
    Dense(Tensor),
    /// In 4-bit blocks.
    Quantized(Arc<Quantized>),
}

impl Weight {
    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(w) => [w.dims()[0], w.dims()[1]],
            Self::Quantized(w) => w.dims(),
        }
    }

    /// Element type; of a quantised weight, that which it had before.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(w) => w.dtype(),
            Self::Quantized(w) => w.parts().source,
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(w) => w.bytes(),
            Self::Quantized(w) => w.bytes(),
        }
    }

    /// The values in `dtype`, a tensor of their own for a quantised weight.
    pub fn to_dense(&self, dtype: DType) -> engine::Result<Tensor> {
        match self {
            Self::Dense(w) => w.detach().to_dtype(dtype),
            Self::Quantized(w) => w.dequantize(dtype),
        }
    }

    /// The tensors that a product streams through.
    fn streams(&self) -> impl Iterator<Item = &Tensor> {
        let [first, second] = match self {
            Self::Dense(w) => [Some(w), None],
            Self::Quantized(w) => [Some(&w.parts().codes), Some(&w.parts().absmax)],
        };
        first.into_iter().chain(second)
    }

    /// `x·Wᵀ (+ bias)` in the type of `x`.
    pub(crate) fn apply(&self, x: &Tensor, bias: Option<&Tensor>) -> engine::Result<Tensor> {
        match self {
            Self::Dense(w) => x.linear(w, bias),
            Self::Quantized(w) => x.linear_nf4(w, bias, None),
        }
    }

    /// `x·Wᵀ (+ bias) + scale·(dropout(x)·Aᵀ)·Bᵀ` in the type of `x`.
    pub(crate) fn apply_lora(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        lora: ops::Lora<'_>,
    ) -> engine::Result<Tensor> {
        match self {
            Self::Quantized(w) => x.linear_nf4(w, bias, Some(lora)),
            Self::Dense(w) => {
                let dropped = match lora.term.dropout {
                    Some(dropout) => x.dropout(dropout.p, dropout.seed)?,
                    None => x.clone(),
                };
                let low = dropped.linear(lora.a, None)?.linear(lora.b, None)?;
                x.linear(w, bias)?.add(&low.affine(lora.term.scale, 0.0)?)
            }
        }
    }
}

/// What an adapter puts on a layer.
#[derive(Clone, Debug)]
pub enum Attached {
    /// A low-rank term beside the weight.
    Lora(Arc<Lora>),
    /// A weight of its own, and with the layer's bias one of that (`modules_to_save` of PEFT).
    Full(Arc<Full>),
}

impl From<Arc<Lora>> for Attached {
    fn from(lora: Arc<Lora>) -> Self {
        Self::Lora(lora)
    }
}

impl From<Arc<Full>> for Attached {
    fn from(full: Arc<Full>) -> Self {
        Self::Full(full)
    }
}

/// A dense weight that stands in for a layer's own.
#[derive(Clone, Debug)]
pub struct Full {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
}

/// `y = x·Wᵀ (+ b) (+ adapter)`: `weight [out, in]`, `bias [out]`.
pub struct Linear {
    /// Path of the module, as `model.text_model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// `[out, in]`
    pub weight: Weight,
    /// `[out]`
    pub bias: Option<Tensor>,
    /// Multiply in this type whatever `x` is in, and give the result in the type of `x`.
    pub compute: Option<DType>,
    attached: RwLock<Option<Attached>>,
}

impl Linear {
    /// A layer of these tensors.
    pub fn new(path: &str, weight: Weight, bias: Option<Tensor>, compute: Option<DType>) -> Self {
        Self { path: path.to_owned(), weight, bias, compute, attached: RwLock::default() }
    }

    /// Tensors `{name}.weight` and, with `bias`, `{name}.bias`.
    pub fn load(loader: &Loader, name: &str, inner: usize, outer: usize, bias: bool) -> Result<Self> {
        let weight = loader.linear(name, [outer, inner])?;
        let bias = if bias {
            Some(loader.get(&format!("{name}.bias"), &[outer], Init::Constant(0.0))?)
        } else {
            None
        };
        Ok(Self::new(name, weight, bias, loader.compute()))
    }

    /// `x [rows…, in]` to `[rows…, out]`, in the type of `x`.
    pub fn forward(&self, x: &Tensor) -> engine::Result<Tensor> {
        let _module = module(&self.path);
        let input = self.compute.map_or_else(|| Ok(x.clone()), |dtype| x.to_dtype(dtype))?;
        let y = match self.attached() {
            None => self.weight.apply(&input, self.bias.as_ref())?,
            Some(Attached::Lora(lora)) => lora.forward(&self.weight, self.bias.as_ref(), &input)?,
            Some(Attached::Full(full)) => input.linear(&full.weight, full.bias.as_ref())?,
        };
        y.to_dtype(x.dtype())
    }

    /// The outputs of layers that read the same `x`: of 4-bit weights alone in one operation, else one by one.
    pub fn forward_group<const N: usize>(layers: [&Self; N], x: &Tensor) -> engine::Result<[Tensor; N]> {
        let compute = layers[0].compute;
        let alone =
            |&layer: &&Self| layer.bias.is_none() && layer.compute == compute && layer.attached().is_none();
        let weights = layers.iter().map(|layer| match &layer.weight {
            Weight::Quantized(w) => Some(&**w),
            Weight::Dense(_) => None,
        });
        let weights: Option<Vec<&Quantized>> = weights.collect();
        let ys: Vec<Tensor> = if let Some(weights) = weights.filter(|_| layers.iter().all(alone)) {
            let input = compute.map_or_else(|| Ok(x.clone()), |dtype| x.to_dtype(dtype))?;
            let ys = input.linear_nf4_group(&weights)?.into_iter();
            ys.map(|y| y.to_dtype(x.dtype())).collect::<engine::Result<_>>()?
        } else {
            layers.iter().map(|layer| layer.forward(x)).collect::<engine::Result<_>>()?
        };
        Ok(ys.try_into().unwrap_or_else(|_| unreachable!("one output for each layer")))
    }

    /// Says that these layers come next, so that their weights can be fetched while small operations run. Worth while
    /// for few rows only, whose products wait for memory.
    pub fn come_next(layers: &[&Self]) {
        let Some(first) = layers.first().and_then(|layer| layer.weight.streams().next()) else { return };
        first.device().will_read(layers.iter().flat_map(|layer| layer.weight.streams()));
    }

    /// What an adapter has put on this layer.
    pub fn attached(&self) -> Option<Attached> {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts an adapter on the layer, or takes it off. Passes that have begun keep what they have. Shapes are checked
    /// by [`crate::lora::Adapter`].
    pub fn attach(&self, adapter: Option<impl Into<Attached>>) {
        *self.attached.write().unwrap_or_else(PoisonError::into_inner) = adapter.map(Into::into);
    }
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.path, self.weight)
    }
}
