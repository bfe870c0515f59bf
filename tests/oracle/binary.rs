use super::Array;

/// `NumPy`'s rule: shapes are aligned at the right, sizes of 1 repeat.
fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |d: &[usize], i: usize| if i + d.len() < rank { 1 } else { d[i + d.len() - rank] };
    (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (m, n) if m == n => Some(m),
            (1, n) => Some(n),
            (m, 1) => Some(m),
            _ => None,
        })
        .collect()
}

/// `f(a, b)` elementwise, broadcasting.
pub fn binary(a: &Array, b: &Array, f: impl FnMut(f64, f64) -> f64) -> Array {
    let dims = broadcast_dims(&a.dims, &b.dims).expect("shapes that broadcast");
    a.expand(&dims).zip(&b.expand(&dims), f)
}
