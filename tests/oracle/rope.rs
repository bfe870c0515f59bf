use super::Array;

/// Rotation of `x [B, S, H, D]` at `positions [B, S]`. The frequency and the angle are f32, as the models'
/// definition says; the rest is f64. `half`: pairs `(i, i + D/2)`, else `(2i, 2i + 1)`.
pub fn rope(x: &Array, positions: &Array, theta: f32, half: bool) -> Array {
    let d = x.dims[3];
    Array::from_fn(&x.dims, |at| {
        let e = at[3];
        let (pair, first) = if half { (e % (d / 2), e < d / 2) } else { (e / 2, e % 2 == 0) };
        let partner = match (half, first) {
            (true, true) => e + d / 2,
            (true, false) => e - d / 2,
            (false, true) => e + 1,
            (false, false) => e - 1,
        };
        let power = f64::from(theta).powf(f64::from(2.0 * pair as f32 / d as f32)) as f32;
        let angle = f64::from(positions.at(&at[..2]) as f32 * (1.0 / power));
        let other = x.at(&[at[0], at[1], at[2], partner]);
        x.at(at) * angle.cos() + if first { -other } else { other } * angle.sin()
    })
}
