use super::Array;

/// `mul·x + add`.
pub fn affine(x: &Array, mul: f64, add: f64) -> Array {
    x.map(|x| mul * x + add)
}
