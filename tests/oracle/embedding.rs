use super::Array;

/// Rows of `table [V, n]` named by `ids`.
pub fn embedding(table: &Array, ids: &Array) -> Array {
    let n = table.dims[1];
    let data = ids.data.iter().flat_map(|&id| &table.data[id as usize * n..][..n]).copied().collect();
    Array::new(&[&ids.dims[..], &[n]].concat(), data)
}
