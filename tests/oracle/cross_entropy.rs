use super::Array;

/// Losses and log-sum-exp of each row of `logits [R, V]`; `None` in `labels` is ignored.
pub fn cross_entropy(logits: &Array, labels: &[Option<usize>]) -> (Array, Array) {
    let v = logits.dims[1];
    let rows = labels.iter().enumerate().map(|(r, label)| {
        let Some(label) = label else { return (0.0, 0.0) };
        let row = &logits.data[r * v..][..v];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        (lse - row[*label], lse)
    });
    let (losses, lse): (Vec<f64>, Vec<f64>) = rows.unzip();
    (Array::new(&[labels.len()], losses), Array::new(&[labels.len()], lse))
}
