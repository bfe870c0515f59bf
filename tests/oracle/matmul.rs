use super::Array;

/// `A·B (+ bias)` for stacks of matrices with equal leading dimensions.
pub fn matmul(a: &Array, b: &Array, bias: Option<&Array>) -> Array {
    let lead = a.dims.len() - 2;
    assert_eq!(a.dims[..lead], b.dims[..lead]);
    let k = a.dims[lead + 1];
    assert_eq!(b.dims[lead], k);
    let mut dims = a.dims.clone();
    dims[lead + 1] = b.dims[lead + 1];
    Array::from_fn(&dims, |at| {
        let (row, column) = (at[lead], at[lead + 1]);
        let (mut ia, mut ib) = (at.to_vec(), at.to_vec());
        let mut sum = bias.map_or(0.0, |bias| bias.data[column]);
        for l in 0..k {
            (ia[lead], ia[lead + 1]) = (row, l);
            (ib[lead], ib[lead + 1]) = (l, column);
            sum += a.at(&ia) * b.at(&ib);
        }
        sum
    })
}
