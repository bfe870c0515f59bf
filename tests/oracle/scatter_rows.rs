use super::Array;

/// `base [R, n]` with row `index[j]` replaced by `rows[j]`.
pub fn scatter_rows(base: &Array, rows: &Array, index: &Array) -> Array {
    let mut out = base.clone();
    for (j, &i) in index.data.iter().enumerate() {
        for c in 0..base.dims[1] {
            out.data[i as usize * base.dims[1] + c] = rows.at(&[j, c]);
        }
    }
    out
}
