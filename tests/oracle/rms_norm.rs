use super::Array;

/// `x / √(mean(x²) + eps) · w` over the last dimension.
pub fn rms_norm(x: &Array, w: &Array, eps: f64) -> Array {
    x.map_rows(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        row.iter().zip(&w.data).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
    })
}
