use super::Array;

fn reduce(x: &Array, axes: &[usize], start: f64, f: impl Fn(f64, f64) -> f64) -> Array {
    let kept: Vec<usize> = (0..x.dims.len()).filter(|axis| !axes.contains(axis)).collect();
    let dims: Vec<usize> = kept.iter().map(|&axis| x.dims[axis]).collect();
    let mut out = Array::from_fn(&dims, |_| start);
    Array::from_fn(&x.dims, |index| {
        let at = kept.iter().fold(0, |at, &axis| at * x.dims[axis] + index[axis]);
        out.data[at] = f(out.data[at], x.at(index));
        0.0
    });
    out
}

/// Sum over `axes`, which go away.
pub fn sum(x: &Array, axes: &[usize]) -> Array {
    reduce(x, axes, 0.0, |a, b| a + b)
}

/// Largest over `axes`, which go away; NaN wins, nothing is −∞.
pub fn max(x: &Array, axes: &[usize]) -> Array {
    reduce(x, axes, f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b })
}
