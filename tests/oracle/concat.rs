use super::Array;

/// `parts` one after the other along `axis`.
pub fn concat(parts: &[Array], axis: usize) -> Array {
    let mut dims = parts[0].dims.clone();
    dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
    Array::from_fn(&dims, |at| {
        let mut at = at.to_vec();
        let part = parts
            .iter()
            .find(|p| {
                let here = at[axis] < p.dims[axis];
                at[axis] -= if here { 0 } else { p.dims[axis] };
                here
            })
            .expect("an index inside the sum of the sizes");
        part.at(&at)
    })
}
