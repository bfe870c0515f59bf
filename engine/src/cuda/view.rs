//! Layouts as kernels take them: the structs of `cuda/common/layout.cuh`.

use crate::Layout;
use crate::layout::MAX_RANK;

/// Strides of a view without sizes of 1 and with dimensions that continue each other joined. Sizes and strides fit in 32 bits: launches check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    sizes: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
    rank: u32,
}

impl View {
    pub(super) fn new(layout: &Layout) -> Self {
        Self::of(layout.dims.iter().copied().zip(layout.strides.iter().copied()))
    }

    /// Of dimensions `(size, stride)`, outermost first.
    pub(super) fn of(dims: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut view = Self { sizes: [1; MAX_RANK], strides: [0; MAX_RANK], rank: 0 };
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

    pub(super) fn words(&self) -> [u32; 2 * MAX_RANK + 1] {
        let mut words = [self.rank; 2 * MAX_RANK + 1];
        words[..MAX_RANK].copy_from_slice(&self.sizes);
        words[MAX_RANK..2 * MAX_RANK].copy_from_slice(&self.strides);
        words
    }
}

/// A view of all dimensions but the last, and the stride of the last.
pub(super) struct Rows {
    rows: View,
    step: u32,
}

impl Rows {
    /// Of a layout of at least one dimension.
    pub(super) fn new(layout: &Layout) -> Self {
        let last = layout.dims.len() - 1;
        let lead = layout.dims[..last].iter().copied().zip(layout.strides[..last].iter().copied());
        // A row of one element has no step; kernels take the way for neighbours.
        let step = if layout.dims[last] == 1 { 1 } else { layout.strides[last] as u32 };
        Self { rows: View::of(lead), step }
    }

    pub(super) fn words(&self) -> [u32; 2 * MAX_RANK + 2] {
        let mut words = [self.step; 2 * MAX_RANK + 2];
        words[..=2 * MAX_RANK].copy_from_slice(&self.rows.words());
        words
    }
}

/// Strides of `[B, S, H, D]`, whose last dimension is contiguous.
#[derive(Clone, Copy)]
pub(super) struct Heads([u32; 3]);

impl Heads {
    pub(super) fn new(layout: &Layout) -> Self {
        // The stride of a single thing is never used; 0 is a multiple of all that kernels ask for.
        Self(std::array::from_fn(|i| if layout.dims[i] == 1 { 0 } else { layout.strides[i] as u32 }))
    }

    pub(super) fn words(self) -> [u32; 3] {
        self.0
    }

    pub(super) fn multiples_of(self, n: u32) -> bool {
        self.0.iter().all(|stride| stride.is_multiple_of(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dims;

    fn layout(dims: &[usize]) -> Layout {
        Layout::contiguous(Dims::new(dims).unwrap())
    }

    #[test]
    fn dimensions_that_continue_each_other_are_one() {
        let view = View::new(&layout(&[2, 3, 1, 4]));
        assert_eq!((view.rank, view.sizes[0], view.strides[0]), (1, 24, 1));
        let part = View::new(&layout(&[2, 3, 1, 4]).narrow(3, 2, 2).unwrap());
        assert_eq!(
            (part.rank, part.sizes[..2].to_vec(), part.strides[..2].to_vec()),
            (2, vec![6, 2], vec![4, 1])
        );
        let scalar = View::new(&layout(&[]));
        assert_eq!((scalar.rank, scalar.sizes[0]), (1, 1));
        assert_eq!((view.words()[12], view.words()[0], view.words()[6]), (1, 24, 1));
    }

    #[test]
    fn rows_and_heads_have_the_outer_strides() {
        let x = layout(&[2, 3, 5]).permute(&[1, 0, 2]).unwrap();
        let words = Rows::new(&x).words();
        assert_eq!((words[12], words[13]), (2, 1));
        assert_eq!((words[0], words[6], words[1], words[7]), (3, 5, 2, 15));
        let heads = Heads::new(&layout(&[1, 7, 2, 8]));
        assert_eq!(heads.words(), [0, 16, 8]);
        assert!(heads.multiples_of(8) && !heads.multiples_of(32));
    }
}
