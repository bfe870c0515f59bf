//! Views as kernels see them.

use crate::Layout;
use crate::layout::MAX_RANK;

/// A strided view without sizes of 1 and with dimensions that continue each other joined: `View` of
/// `shaders/common/view.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    sizes: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
    pub(super) offset: u32,
    rank: u32,
}

impl View {
    /// Bytes in a uniform.
    pub(super) const BYTES: usize = 64;

    pub(super) fn new(layout: &Layout) -> Self {
        Self::of(layout.dims.iter().copied().zip(layout.strides.iter().copied()), layout.offset)
    }

    /// Of dimensions `(size, stride)`. Sizes fit in 32 bits: launches check counts.
    pub(super) fn of(dims: impl Iterator<Item = (usize, usize)>, offset: usize) -> Self {
        let mut view = Self { sizes: [1; MAX_RANK], strides: [0; MAX_RANK], offset: offset as u32, rank: 0 };
        for (size, stride) in dims.filter(|&(size, _)| size != 1) {
            let (size, stride) = (size as u32, stride as u32);
            let last = view.rank.wrapping_sub(1) as usize;
            if view.rank > 0 && u64::from(view.strides[last]) == u64::from(size) * u64::from(stride) {
                view.sizes[last] *= size;
                view.strides[last] = stride;
            } else {
                view.sizes[view.rank as usize] = size;
                view.strides[view.rank as usize] = stride;
                view.rank += 1;
            }
        }
        view.rank = view.rank.max(1);
        view
    }

    /// Whether all elements lie as far from each other as the first two.
    pub(super) fn flat(&self) -> bool {
        self.rank == 1
    }

    /// Whether element `i` lies at `offset + i`.
    pub(super) fn dense(&self) -> bool {
        self.rank == 1 && (self.strides[0] == 1 || self.sizes[0] <= 1)
    }

    /// Whether each `lanes` elements from a multiple of `lanes` on lie in one word that holds nothing else.
    pub(super) fn word_aligned(&self, lanes: u32) -> bool {
        let inner = self.rank as usize - 1;
        lanes == 1
            || (self.strides[inner] == 1
                && self.sizes[inner].is_multiple_of(lanes)
                && self.offset.is_multiple_of(lanes)
                && self.strides[..inner].iter().all(|s| s.is_multiple_of(lanes)))
    }

    pub(super) fn words(&self) -> [u32; Self::BYTES / 4] {
        let mut words = [0; Self::BYTES / 4];
        words[..6].copy_from_slice(&self.sizes);
        words[6..12].copy_from_slice(&self.strides);
        words[12] = self.offset;
        words[13] = self.rank;
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dims;

    #[test]
    fn dimensions_that_continue_each_other_are_one() {
        let layout = Layout::contiguous(Dims::new(&[2, 3, 1, 4]).unwrap());
        let view = View::new(&layout);
        assert!(view.dense() && view.sizes[0] == 24);
        let part = View::new(&layout.narrow(3, 2, 2).unwrap());
        assert_eq!((part.rank, part.offset, part.sizes[0], part.strides[0]), (2, 2, 6, 4));
        assert!(!part.dense() && part.word_aligned(2) && !part.word_aligned(4));
        assert!(!View::new(&layout.narrow(3, 1, 2).unwrap()).word_aligned(2));
        assert!(View::new(&Layout::contiguous(Dims::new(&[]).unwrap())).dense());
    }
}
