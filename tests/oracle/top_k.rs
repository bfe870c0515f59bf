use super::Array;

/// Places of the `k` largest of each row in descending order: NaN first, then by value, then the lower place.
pub fn top_k(x: &Array, k: usize) -> (Array, Array) {
    let n = x.row_len();
    let rows: usize = x.dims[..x.dims.len() - 1].iter().product();
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for r in 0..rows {
        let row = &x.data[r * n..][..n];
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| {
            let by_value = row[b].partial_cmp(&row[a]);
            by_value.unwrap_or_else(|| row[b].is_nan().cmp(&row[a].is_nan())).then(a.cmp(&b))
        });
        values.extend(order[..k].iter().map(|&i| row[i]));
        places.extend(order[..k].iter().map(|&i| i as f64));
    }
    let dims = [&x.dims[..x.dims.len() - 1], &[k]].concat();
    (Array::new(&dims, values), Array::new(&dims, places))
}
