use super::Array;

impl Array {
    /// Other sizes, same order.
    #[must_use]
    pub fn reshape(&self, dims: &[usize]) -> Self {
        Self::new(dims, self.data.clone())
    }

    /// Dimension `i` of the result is dimension `axes[i]` of this.
    #[must_use]
    pub fn permute(&self, axes: &[usize]) -> Self {
        let dims: Vec<usize> = axes.iter().map(|&axis| self.dims[axis]).collect();
        let mut from = vec![0; axes.len()];
        Self::from_fn(&dims, |index| {
            for (&axis, &i) in axes.iter().zip(index) {
                from[axis] = i;
            }
            self.at(&from)
        })
    }

    /// The part `start .. start + len` of dimension `axis`.
    #[must_use]
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Self {
        let mut dims = self.dims.clone();
        dims[axis] = len;
        Self::from_fn(&dims, |index| {
            let mut from = index.to_vec();
            from[axis] += start;
            self.at(&from)
        })
    }

    /// Index `i` of dimension `axis`, which goes away.
    #[must_use]
    pub fn select(&self, axis: usize, i: usize) -> Self {
        let mut dims = self.dims.clone();
        dims.remove(axis);
        self.narrow(axis, i, 1).reshape(&dims)
    }

    /// Repeats sizes of 1, and adds leading dimensions.
    #[must_use]
    pub fn expand(&self, dims: &[usize]) -> Self {
        let lead = dims.len() - self.dims.len();
        Self::from_fn(dims, |index| {
            let from: Vec<usize> =
                self.dims.iter().zip(&index[lead..]).map(|(&d, &i)| if d == 1 { 0 } else { i }).collect();
            self.at(&from)
        })
    }
}
