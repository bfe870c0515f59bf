//! Shapes and strided views.

use std::fmt;
use std::ops::Deref;

use crate::error::{Result, rule};

/// Most dimensions that a tensor can have. Patch extraction and pixel shuffle need six.
pub const MAX_RANK: usize = 6;

/// A short list of sizes or strides, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    len: u8,
    values: [usize; MAX_RANK],
}

impl Dims {
    /// Copies `values`; an error if there are more than [`MAX_RANK`].
    pub fn new(values: &[usize]) -> Result<Self> {
        if values.len() > MAX_RANK {
            return Err(rule!("shape", "{values:?} has {} dimensions; at most {MAX_RANK}", values.len()));
        }
        if values
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
            .is_none_or(|n| n > isize::MAX as usize / 8)
        {
            return Err(rule!("shape", "{values:?} has more elements than can be addressed"));
        }
        Ok(Self::inline(values))
    }

    /// Copies `values`, known to be few.
    pub(crate) fn inline(values: &[usize]) -> Self {
        let mut inline = [0; MAX_RANK];
        inline[..values.len()].copy_from_slice(values);
        Self { len: values.len() as u8, values: inline }
    }

    /// Product: the number of elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// Row-major strides of a contiguous tensor of this shape, in elements.
    #[must_use]
    pub fn contiguous_strides(&self) -> Self {
        let mut strides = *self;
        let mut step = 1;
        for i in (0..self.len()).rev() {
            strides.values[i] = step;
            step *= self.values[i].max(1);
        }
        strides
    }
}

impl Deref for Dims {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.values[..self.len as usize]
    }
}

impl std::ops::DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [usize] {
        &mut self.values[..self.len as usize]
    }
}

impl AsRef<[usize]> for Dims {
    fn as_ref(&self) -> &[usize] {
        self
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Where the elements of a tensor lie in its storage: element `(i, j, …)` at
/// `offset + i·strides[0] + j·strides[1] + …`, counted in elements. A stride of 0 repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Sizes.
    pub dims: Dims,
    /// Steps, in elements.
    pub strides: Dims,
    /// First element.
    pub offset: usize,
}

impl Layout {
    /// Row-major, from the start of the storage.
    pub fn contiguous(dims: Dims) -> Self {
        Self { dims, strides: dims.contiguous_strides(), offset: 0 }
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims.count()
    }

    /// True if the elements lie row-major without gaps (sizes of 1 may have any stride).
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        for (&d, &s) in self.dims.iter().zip(self.strides.iter()).rev() {
            if d != 1 && s != step {
                return self.count() == 0;
            }
            step *= d;
        }
        true
    }

    /// Elements from `offset` up to and including the farthest one.
    pub fn span(&self) -> usize {
        if self.count() == 0 {
            return 0;
        }
        1 + self.dims.iter().zip(self.strides.iter()).map(|(&d, &s)| (d - 1) * s).sum::<usize>()
    }

    /// The same elements with dimensions in the order `axes`.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let rank = self.dims.len();
        let mut seen = [false; MAX_RANK];
        let valid = axes.len() == rank
            && axes.iter().all(|&a| a < rank && !std::mem::replace(&mut seen[a.min(MAX_RANK - 1)], true));
        if !valid {
            return Err(rule!(
                "permute",
                "{axes:?} is not an order of the {rank} dimensions of {:?}",
                self.dims
            ));
        }
        let pick = |from: &Dims| {
            let mut to = *from;
            for (t, &a) in to.iter_mut().zip(axes) {
                *t = from[a];
            }
            to
        };
        Ok(Self { dims: pick(&self.dims), strides: pick(&self.strides), offset: self.offset })
    }

    /// The part `start .. start + len` of dimension `axis`.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let size =
            *self.dims.get(axis).ok_or_else(|| rule!("narrow", "no dimension {axis} in {:?}", self.dims))?;
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(rule!(
                "narrow",
                "{start}..{start}+{len} is outside dimension {axis} of {:?}",
                self.dims
            ));
        }
        let mut out = *self;
        out.dims[axis] = len;
        // Without elements there is nothing to point at; the offset must not run past a small storage.
        if out.count() > 0 {
            out.offset += start * self.strides[axis];
        }
        Ok(out)
    }

    /// Repeats dimensions of size 1, and adds leading ones, without copying (`NumPy`'s broadcasting).
    pub fn expand(&self, to: Dims) -> Result<Self> {
        let fail = || rule!("expand", "{:?} does not broadcast to {to:?}", self.dims);
        let lead = to.len().checked_sub(self.dims.len()).ok_or_else(fail)?;
        let mut strides = to;
        for i in 0..to.len() {
            strides[i] = match i.checked_sub(lead) {
                None => 0,
                Some(j) if self.dims[j] == to[i] => self.strides[j],
                Some(j) if self.dims[j] == 1 => 0,
                Some(_) => return Err(fail()),
            };
        }
        Ok(Self { dims: to, strides, offset: self.offset })
    }

    /// The same elements, in row-major order, under other sizes; `None` if that needs a copy.
    pub fn reshape(&self, to: Dims) -> Option<Self> {
        debug_assert_eq!(self.count(), to.count());
        if self.count() == 0 {
            return Some(Self { dims: to, strides: to.contiguous_strides(), offset: self.offset });
        }
        // Walk both shapes from the right; each run of old dimensions that is one arithmetic progression
        // may be cut anew.
        let mut strides = to.contiguous_strides();
        let old: Vec<(usize, usize)> =
            self.dims.iter().copied().zip(self.strides.iter().copied()).filter(|&(d, _)| d != 1).collect();
        let (mut i, mut j) = (old.len(), to.len());
        while i > 0 {
            let step = old[i - 1].1;
            let mut size = old[i - 1].0;
            i -= 1;
            let mut left = 1;
            let mut next = step;
            loop {
                while j > 0 && (left < size || to[j - 1] == 1) {
                    strides[j - 1] = next;
                    next *= to[j - 1];
                    left *= to[j - 1];
                    j -= 1;
                }
                if left == size {
                    break;
                }
                // The new dimension reaches over the next old one: they must be one progression.
                if i == 0 || old[i - 1].1 != step * size {
                    return None;
                }
                size *= old[i - 1].0;
                i -= 1;
            }
        }
        Some(Self { dims: to, strides, offset: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn indices(layout: &Layout) -> Vec<usize> {
        let mut out = vec![layout.offset];
        for (&d, &s) in layout.dims.iter().zip(layout.strides.iter()) {
            out = out.iter().flat_map(|&base| (0..d).map(move |i| base + i * s)).collect();
        }
        out
    }

    proptest! {
        #[test]
        fn reshape_keeps_the_order(dims in proptest::collection::vec(1usize..5, 1..5), seed in any::<u64>()) {
            let base = Layout::contiguous(Dims::new(&dims).unwrap());
            // A random permutation and narrowing, then every factorisation that two cuts give.
            let mut axes: Vec<usize> = (0..dims.len()).collect();
            axes.rotate_left(seed as usize % dims.len());
            let mut view = if seed & 1 == 0 { base } else { base.permute(&axes).unwrap() };
            let axis = (seed >> 8) as usize % dims.len();
            if view.dims[axis] > 1 && seed & 2 == 0 {
                view = view.narrow(axis, 1, view.dims[axis] - 1).unwrap();
            }
            let n = view.count();
            for a in 1..=n {
                if n % a == 0 {
                    for shape in [vec![a, n / a], vec![1, a, 1, n / a], vec![n / a, a]] {
                        if let Some(r) = view.reshape(Dims::new(&shape).unwrap()) {
                            prop_assert_eq!(indices(&r), indices(&view));
                        } else {
                            prop_assert!(!view.is_contiguous());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn scalars_and_empty_shapes() {
        let scalar = Layout::contiguous(Dims::new(&[]).unwrap());
        assert_eq!((scalar.count(), scalar.span()), (1, 1));
        assert!(scalar.reshape(Dims::new(&[1, 1]).unwrap()).is_some());
        let empty = Layout::contiguous(Dims::new(&[3, 0]).unwrap());
        assert_eq!((empty.count(), empty.span()), (0, 0));
        assert!(Dims::new(&[1; 7]).is_err());
        assert!(Dims::new(&[usize::MAX, 2]).is_err());
    }
}
