use super::{Array, rms_norm};

/// `x + y` as it is stored, which is what `store` makes of each element, and the normalisation of that.
pub fn add_rms_norm(x: &Array, y: &Array, w: &Array, eps: f64, store: impl Fn(f64) -> f64) -> [Array; 2] {
    let sum = x.zip(y, |x, y| store(x + y));
    let normed = rms_norm(&sum, w, eps);
    [sum, normed]
}
