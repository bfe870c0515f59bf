use engine::ops::Burst;

use super::Array;

/// Sums that each element has.
const SUMS: f64 = 8.0;

/// What a burst of `x [n]`, and `c [n]` for the triad, computes.
pub fn burst(op: Burst, x: &Array, c: Option<&Array>) -> Array {
    match op {
        Burst::MultiplyAdds { rounds } => x.map(|x| SUMS * (0..rounds).fold(x, |s, _| s / 2.0 + 0.5)),
        Burst::Products { rounds } => x.map(|x| SUMS * (x + rounds as f64 / 256.0)),
        Burst::Read { sums } => {
            Array::from_fn(&[sums], |at| x.data.iter().skip(at[0]).step_by(sums).sum::<f64>())
        }
        Burst::Triad => x.zip(c.expect("two tensors"), |x, c| x + 3.0 * c),
    }
}

/// Size of what is summed for each element.
pub fn burst_scale(op: Burst, x: &Array, c: Option<&Array>) -> Array {
    let size = |a: &Array| a.map(f64::abs);
    match op {
        // Halves of the sum before, down to the first.
        Burst::MultiplyAdds { .. } => x.map(|x| SUMS * (x.abs() + 1.0)),
        _ => burst(op, &size(x), c.map(size).as_ref()),
    }
}
