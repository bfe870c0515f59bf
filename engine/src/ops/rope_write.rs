//! Rotary position embedding of queries and keys, with the step into the key-value cache, in place.

use crate::Tensor;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::{Cost, Op, Spec, apply_in_place};
use crate::ops::{Rope, RopeKind, arity, float, same_dtype, shape};

/// Rotates `q` into `rotated` and `k` into `keys`, and copies `v` into `values`: the bits of
/// [`Rope`] and then [`Write`](crate::ops::Write) (for q, a conversion), in one launch where decoding took four.
///
/// Targets `rotated [B, S, H, D]`, `keys` and `values` `[B, S, Hkv, D]` (views of the cache), of one float type;
/// inputs `q`, `k` and `v` of the targets' shapes and of one float type, in which is rotated; `positions` u32
/// `[B, S]`. The tape does not see it.
#[derive(Clone, Debug)]
pub struct RopeWrite {
    /// Base of the frequencies.
    pub theta: f32,
    /// Which elements form a pair.
    pub kind: RopeKind,
}

impl Op for RopeWrite {
    const NAME: &'static str = "rope_write";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 7)?;
        let [rotated, keys, values, q, k, v, positions] = inputs else { unreachable!("seven by the arity") };
        float(Self::NAME, "rotated", rotated)?;
        same_dtype(Self::NAME, ["rotated", "keys"], rotated, keys)?;
        same_dtype(Self::NAME, ["rotated", "values"], rotated, values)?;
        same_dtype(Self::NAME, ["q", "k"], q, k)?;
        same_dtype(Self::NAME, ["q", "v"], q, v)?;
        let rope = Rope { theta: self.theta, kind: self.kind, inverse: false };
        rope.check(Self::NAME, "q", q, positions)?;
        rope.check(Self::NAME, "k", k, positions)?;
        let [b, s, heads, _] = k.dims[..] else { unreachable!("four dimensions by the check") };
        shape(Self::NAME, "k", k, &[b, s, heads, q.dims[3]])?;
        shape(Self::NAME, "v", v, &k.dims)?;
        let into = |x: &Spec| Spec { dims: x.dims, dtype: rotated.dtype };
        Ok(vec![into(q), into(k), into(v)])
    }

    fn cost(&self, inputs: &[Spec], _: &[Spec]) -> Cost {
        let turned = inputs[3].dims.count() + inputs[4].dims.count();
        Cost::streaming(3 * turned, &inputs[3..], &inputs[..3])
    }
}

impl Tensor {
    /// Writes `k`, rotated at `positions` (u32 `[B, S]`, or `[S]` for all samples alike), to `keys` and `v` to
    /// `values`, and gives `q` rotated, in the type of `keys`: [`RopeWrite`].
    ///
    /// # Errors
    /// If shapes and types break the rule, or a gradient would have to flow through q, k or v.
    pub fn rope_write(
        [q, k, v]: [&Self; 3],
        positions: &Self,
        [keys, values]: [&Self; 2],
        op: &RopeWrite,
    ) -> Result<Self> {
        if [q, k, v].iter().any(|x| x.is_tracked()) {
            return Err(Error::Autograd("rope_write has no gradient; detach q, k and v".into()));
        }
        let positions = positions.expand(&[q.dim(0)?, q.dim(1)?])?;
        let spec = Spec { dims: q.dims(), dtype: keys.dtype() };
        let rotated = q.device().allocate(spec.bytes(), false)?;
        let rotated = Self::from_storage(rotated, Layout::contiguous(spec.dims), spec.dtype);
        apply_in_place(op.clone(), &[&rotated, keys, values], &[q, k, v, &positions])?;
        Ok(rotated)
    }
}
