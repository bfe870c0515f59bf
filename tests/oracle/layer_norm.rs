use super::Array;

/// `(x − mean) / √(var + eps) · w + b` over the last dimension, biased variance.
pub fn layer_norm(x: &Array, w: &Array, b: &Array, eps: f64) -> Array {
    x.map_rows(|row| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let normal = row.iter().map(|x| (x - mean) / (variance + eps).sqrt());
        normal.zip(&w.data).zip(&b.data).map(|((x, w), b)| x * w + b).collect()
    })
}
